//! Building a cluster and taking it down.
//!
//! [`Cluster::build`] either returns a complete cluster or removes what it had made. Dropping the cluster runs
//! `fairway cleanup` where an agent ran, ends what still runs inside, and removes every trace.

use std::net::UdpSocket;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::address::{self, Dual};
use crate::node::Node;
use crate::ns::{self, Ns};
use crate::objects::ServiceBuilder;
use crate::offload::{PinnedPass, complete_checksums};
use crate::plumbing;
use crate::residue::Run;
use crate::spec::ClusterSpec;

/// How long the kernel may take to activate all links.
const LINK_DEADLINE: Duration = Duration::from_secs(10);

/// A pod: a namespace with one address in each family.
#[derive(Debug, Clone)]
pub struct Pod {
    /// `pod-<node>-<n>`.
    pub name: String,
    /// The name of its node.
    pub node_name: String,
    /// Its addresses.
    pub address: Dual,
    /// The node's end of its veth.
    pub host_veth: String,
    /// Its namespace.
    pub ns: Ns,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    spec: ClusterSpec,
    switch: Ns,
    client: Ns,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    services: Mutex<Vec<String>>,
    // Last, so that everything above is closed when it removes the rest.
    teardown: Teardown,
}

/// Removes the run when dropped, unless told to keep it.
#[derive(Debug)]
struct Teardown {
    run: Run,
    keep: bool,
}

impl Drop for Teardown {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for failure in self.run.remove() {
            eprintln!("lab: {failure}");
        }
    }
}

impl Cluster {
    /// Builds the cluster that `spec` describes. Needs root.
    pub fn build(spec: ClusterSpec) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab makes network namespaces and needs root: run it with sudo"
        );
        ensure!((1..=99).contains(&spec.nodes), "a cluster has 1 to 99 nodes, not {}", spec.nodes);
        ensure!(spec.pods_per_node <= 99, "a node has at most 99 pods, not {}", spec.pods_per_node);
        ensure!(spec.rp_filter <= 2, "rp_filter is 0, 1 or 2, not {}", spec.rp_filter);
        let teardown = Teardown { run: Run::begin()?, keep: false };
        let run = &teardown.run;
        create_namespaces(&spec, run)?;
        let open = |label: &str| Ns::open(&run.ns_name(label));
        let (switch, client) = (open("switch")?, open("client")?);
        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        for n in plumbing::node_numbers(&spec) {
            let name = plumbing::node_name(n);
            nodes.push(Node::new(&name, n, open(&name)?, run)?);
            for p in plumbing::pod_numbers(&spec) {
                let pod_name = plumbing::pod_name(n, p);
                pods.push(Pod {
                    ns: open(&pod_name)?,
                    name: pod_name,
                    node_name: name.clone(),
                    address: address::pod(n, p),
                    host_veth: plumbing::host_veth(n, p),
                });
            }
        }
        let cluster = Self { spec, switch, client, nodes, pods, services: Mutex::default(), teardown };
        cluster.wire()?;
        Ok(cluster)
    }

    fn wire(&self) -> Result<()> {
        let spec = &self.spec;
        let (passive, forwarding) = (plumbing::settings(false, 0), plumbing::settings(true, spec.rp_filter));
        self.switch.sysctl(&passive)?;
        self.client.sysctl(&passive)?;
        self.pods.iter().try_for_each(|pod| pod.ns.sysctl(&passive))?;
        self.nodes.iter().try_for_each(|node| node.ns().sysctl(&forwarding))?;

        let run = &self.teardown.run;
        ip(&self.switch, &plumbing::cables(spec, |label| run.ns_name(label)))?;
        if !spec.uplink_offload {
            self.prepare_for_xdp()?;
        }
        ip(&self.switch, &plumbing::switch(spec))?;
        ip(&self.client, &plumbing::client())?;
        for node in &self.nodes {
            let (n, ns) = (node.number(), node.ns());
            ip(ns, &plumbing::node(spec, n))?;
            let entries = plumbing::forwarding_entries(spec, n);
            if !entries.is_empty() {
                ns.feed("bridge", &["-batch", "-"], &entries)?;
            }
            for (program, arguments, input) in plumbing::masquerade(spec, n) {
                ns.feed(program, arguments, &input)?;
            }
        }
        let numbers =
            plumbing::node_numbers(spec).flat_map(|n| plumbing::pod_numbers(spec).map(move |p| (n, p)));
        for (pod, (n, p)) in self.pods.iter().zip(numbers) {
            ip(&pod.ns, &plumbing::pod(spec, n, p))?;
        }
        self.wait_for_links()
    }

    /// The kernel activates a link some time after it was set up; until then its IPv6 addresses do not answer.
    fn wait_for_links(&self) -> Result<()> {
        let deadline = Instant::now() + LINK_DEADLINE;
        let outer = [(&self.switch, address::switch()), (&self.client, address::client())];
        let nodes = self.nodes.iter().map(|node| (node.ns(), node.address()));
        let gateways = self.nodes.iter().filter(|_| self.spec.pods_per_node > 0);
        let gateways = gateways.map(|node| (node.ns(), address::gateway(node.number())));
        let pods = self.pods.iter().map(|pod| (&pod.ns, pod.address));
        for (ns, own) in outer.into_iter().chain(nodes).chain(gateways).chain(pods) {
            ns.run(|| {
                while let Err(error) =
                    UdpSocket::bind((own.v6, 0)).and_then(|socket| socket.connect((own.v6, 9)))
                {
                    ensure!(Instant::now() < deadline, "{} in {} is not usable: {error}", own.v6, ns.name());
                    thread::park_timeout(Duration::from_millis(1));
                }
                Ok(())
            })??;
        }
        Ok(())
    }

    fn prepare_for_xdp(&self) -> Result<()> {
        let first = self.nodes.first().context("a cluster has nodes")?;
        let pass = PinnedPass::new(first.bpffs())?;
        let path = pass.path().to_str().context("the pin path is text")?;
        ip(&self.switch, &plumbing::switch_xdp(&self.spec, path))?;
        for ns in self.nodes.iter().map(Node::ns).chain([&self.client]) {
            ns.run(|| complete_checksums("eth0"))?.with_context(|| format!("tx off in {}", ns.name()))?;
        }
        Ok(())
    }

    /// What it was built from.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// `fw<pid>-<n>`: the prefix of its namespaces.
    pub fn name(&self) -> String {
        self.teardown.run.name()
    }

    /// The run's own directory, removed with the cluster.
    pub fn dir(&self) -> std::path::PathBuf {
        self.teardown.run.dir()
    }

    /// The outside client.
    pub fn client(&self) -> &Ns {
        &self.client
    }

    /// The client's addresses.
    pub fn client_address(&self) -> Dual {
        address::client()
    }

    /// The switch, where a control plane can run: every node and the client reach [`Cluster::control_address`].
    pub fn control(&self) -> &Ns {
        &self.switch
    }

    /// The switch's own addresses.
    pub fn control_address(&self) -> Dual {
        address::switch()
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Node `number`, counted from 1.
    ///
    /// # Panics
    /// If there is no such node: the test or demo asks for one it did not build.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// All pods, by node.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Pod `pod` of node `node`, both counted from 1.
    ///
    /// # Panics
    /// If there is no such pod: the test or demo asks for one it did not build.
    pub fn pod(&self, node: usize, pod: usize) -> &Pod {
        assert!(
            pod <= self.spec.pods_per_node,
            "a node of this cluster has {} pods",
            self.spec.pods_per_node
        );
        &self.pods[(node - 1) * self.spec.pods_per_node + pod - 1]
    }

    /// Describes a Service of this cluster; the same name always has the same clusterIPs.
    pub fn service(&self, name: &str) -> ServiceBuilder {
        ServiceBuilder::new(name, self.cluster_ip(name))
    }

    /// The clusterIPs of the Service `name`, given out on first use.
    pub fn cluster_ip(&self, name: &str) -> Dual {
        // A panic elsewhere leaves the list of names whole.
        let mut services = self.services.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let index = services.iter().position(|known| known == name).unwrap_or_else(|| {
            services.push(name.to_owned());
            services.len() - 1
        });
        address::cluster_ip(u16::try_from(index).unwrap_or(u16::MAX - 10))
    }

    /// Leaves the cluster standing when this handle goes; `fairway-lab clean` removes it once this process ended.
    pub fn keep(mut self) {
        self.teardown.keep = true;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.teardown.keep {
            return;
        }
        self.nodes.iter().for_each(Node::clean_up_agent);
    }
}

fn create_namespaces(spec: &ClusterSpec, run: &Run) -> Result<()> {
    let nodes = plumbing::node_numbers(spec).map(plumbing::node_name);
    let pods = plumbing::node_numbers(spec)
        .flat_map(|n| plumbing::pod_numbers(spec).map(move |p| plumbing::pod_name(n, p)));
    let labels = ["switch".to_owned(), "client".to_owned()].into_iter().chain(nodes).chain(pods);
    let batch: String = labels.map(|label| format!("netns add {}\n", run.ns_name(&label))).collect();
    ns::feed(Command::new("ip").args(["-batch", "-"]), &batch).context("create namespaces")
}

fn ip(ns: &Ns, batch: &str) -> Result<()> {
    ns.feed("ip", &["-batch", "-"], batch)
}
