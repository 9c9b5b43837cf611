//! Everything that plays in the demo: the cluster, the API server, the pods and the agents.
//!
//! Fields are dropped in order: agents and pods end before the API server, and the cluster, which removes all
//! that is left, goes last. That holds on success, on failure and on Ctrl-C alike.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use apiserver::{ApiServer, Options};
use serde::Serialize;

use super::example::Example;
use super::interrupt::Interrupt;
use super::kernel;
use super::screen::{Screen, millis};
use super::workload::Workload;
use crate::address;
use crate::agent::{Agent, AgentSpec};
use crate::cluster::{Cluster, Pod};
use crate::node::Node;
use crate::spec::ClusterSpec;

/// Where the API server listens, on the switch.
const API_PORT: u16 = 6443;

/// The running demo.
#[derive(Debug)]
pub struct Stage {
    /// The agents, by node name.
    pub agents: BTreeMap<String, Agent>,
    /// With `--keep`: the agents that take over from them.
    pub kept_agents: Vec<Agent>,
    /// The programs of the Service's pods, by the pods' names.
    pub workloads: BTreeMap<String, Workload>,
    /// The Kubernetes API.
    pub api: Api,
    /// The objects it serves.
    pub example: Example,
    /// The namespaces.
    pub cluster: Cluster,
}

/// The API server.
pub struct Api(pub ApiServer);

/// The cluster as the document describes it.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterFacts {
    /// The prefix of its namespaces.
    pub name: String,
    /// The Kubernetes API server's URL, inside the cluster.
    pub api: String,
    /// The outside client's addresses.
    pub client: [IpAddr; 2],
    /// The nodes.
    pub nodes: Vec<NodeFacts>,
    /// The pods of the Service.
    pub pods: Vec<PodFacts>,
}

/// One node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: [IpAddr; 2],
    /// What runs on its uplink, such as `xdp-native, tc-ingress, tc-egress`.
    pub uplink_hooks: String,
    /// From the start of the agent to a complete first sync in the kernel.
    pub agent_ready_ms: f64,
}

/// One pod.
#[derive(Debug, Clone, Serialize)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// The name of its node.
    pub node: String,
    /// Its addresses.
    pub addresses: [IpAddr; 2],
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Api").field(&self.0.url()).finish()
    }
}

impl Stage {
    /// Builds everything; agents are ready when this returns.
    pub fn build(objects: &Path, screen: &Screen, interrupt: &Interrupt) -> Result<(Self, ClusterFacts)> {
        let step = screen.step("Making the cluster");
        let cluster = Cluster::build(ClusterSpec::default())?;
        let example = Example::read(objects, &cluster)?;
        step.done("an outside client, a switch, 3 nodes, 6 pods");
        interrupt.check()?;

        let step = screen.step("Starting the Kubernetes API server");
        let api = start_api(&cluster, &example)?;
        step.done(format!("{} serves {}", api.0.url(), objects.display()));

        let step = screen.step("Starting the pods");
        let mut workloads = BTreeMap::new();
        for member in &example.members {
            step.now(member.name.clone());
            let workload =
                Workload::start(&member.pod, &member.name, example.target_port, pod_log(&cluster)?)?;
            workloads.insert(member.name.clone(), workload);
            interrupt.check()?;
        }
        step.done(example.members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "));

        let mut stage =
            Self { agents: BTreeMap::new(), kept_agents: Vec::new(), workloads, api, example, cluster };
        let ready_ms = stage.start_agents(screen, interrupt)?;
        let facts = stage.facts(&ready_ms)?;
        Ok((stage, facts))
    }

    /// How the agents are started.
    pub fn agent_spec(&self) -> AgentSpec {
        agent_spec(&kubeconfig(&self.cluster))
    }

    /// Sends the example's objects, as they are now, to the API server.
    pub fn apply(&self) -> Result<()> {
        self.example.objects().try_for_each(|object| Ok(self.api.0.apply(object.clone())?))
    }

    /// Starts the program of another pod of the Service.
    pub fn start_workload(&mut self, name: &str, pod: &Pod) -> Result<()> {
        let workload = Workload::start(pod, name, self.example.target_port, pod_log(&self.cluster)?)?;
        self.workloads.insert(name.to_owned(), workload);
        Ok(())
    }

    /// The nodePort of `node`, IPv4 then IPv6.
    pub fn node_ports(&self, node: &Node) -> [SocketAddr; 2] {
        node.address().both().map(|ip| SocketAddr::new(ip, self.example.node_port))
    }

    /// The clusterIPs with their port.
    pub fn cluster_ips(&self) -> Vec<SocketAddr> {
        self.example.cluster_ips.iter().map(|ip| SocketAddr::new(*ip, self.example.port)).collect()
    }

    /// Whose address this is, in the demo's words.
    pub fn whose(&self, ip: IpAddr) -> String {
        if let Some(name) = self.example.name_of(ip) {
            return name.to_owned();
        }
        if self.cluster.client_address().both().contains(&ip) {
            return "client".to_owned();
        }
        let own = |node: &&Node| node_addresses(node).contains(&ip);
        if let Some(node) = self.cluster.nodes().iter().find(own) {
            return node.name().to_owned();
        }
        let pod = self.cluster.pods().iter().find(|pod| pod.address.both().contains(&ip));
        pod.map_or_else(|| "nobody here".to_owned(), |pod| pod.name.clone())
    }

    fn start_agents(&mut self, screen: &Screen, interrupt: &Interrupt) -> Result<BTreeMap<String, f64>> {
        let step = screen.step("Starting `fairway run` on every node");
        let spec = self.agent_spec();
        let launched: Vec<(Instant, Agent)> = self
            .cluster
            .nodes()
            .iter()
            .map(|node| Ok((Instant::now(), node.launch_agent(&spec)?)))
            .collect::<Result<_>>()?;
        let mut ready_ms = BTreeMap::new();
        for (started, agent) in launched {
            let name = agent.node().name().to_owned();
            step.now(format!("waiting for {name}"));
            let agent = agent.ready()?;
            ready_ms.insert(name.clone(), super::facts::ms(started.elapsed()));
            self.agents.insert(name, agent);
            interrupt.check()?;
        }
        step.done("programs loaded, first sync complete");
        Ok(ready_ms)
    }

    fn facts(&self, ready_ms: &BTreeMap<String, f64>) -> Result<ClusterFacts> {
        let node = |node: &Node| {
            Ok(NodeFacts {
                name: node.name().to_owned(),
                addresses: node.address().both(),
                uplink_hooks: kernel::uplink_hooks(node)?,
                agent_ready_ms: ready_ms.get(node.name()).copied().unwrap_or_default(),
            })
        };
        let pods = self.example.members.iter().map(|member| PodFacts {
            name: member.name.clone(),
            node: member.pod.node_name.clone(),
            addresses: member.pod.address.both(),
        });
        Ok(ClusterFacts {
            name: self.cluster.name(),
            api: self.api.0.url(),
            client: self.cluster.client_address().both(),
            nodes: self.cluster.nodes().iter().map(node).collect::<Result<_>>()?,
            pods: pods.collect(),
        })
    }
}

/// Shows the cluster.
pub fn show(screen: &Screen, facts: &ClusterFacts) {
    let mut table =
        screen.table(&["NODE", "ADDRESSES", "ITS POD", "POD ADDRESSES", "UPLINK RUNS", "READY IN"]);
    for node in &facts.nodes {
        let pods: Vec<&PodFacts> = facts.pods.iter().filter(|pod| pod.node == node.name).collect();
        let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        let addresses: Vec<String> = pods.iter().map(|pod| lines(pod.addresses)).collect();
        table.add_row([
            node.name.clone(),
            lines(node.addresses),
            names.join("\n"),
            addresses.join("\n"),
            node.uplink_hooks.replace(", ", "\n"),
            millis(node.agent_ready_ms),
        ]);
    }
    screen.show(&table);
}

/// Where the agents' kubeconfig is.
fn kubeconfig(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("kubeconfig")
}

/// How agents are started that follow the API server of `kubeconfig`.
pub fn agent_spec(kubeconfig: &Path) -> AgentSpec {
    AgentSpec::kubeconfig(kubeconfig)
}

/// The address of the API server.
fn api_address(cluster: &Cluster) -> SocketAddr {
    SocketAddr::new(cluster.control_address().both()[0], API_PORT)
}

/// Every address of a node that it may put in place of a client's.
pub fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let (own, gateway) = (node.address().both(), address::gateway(node.number()).both());
    own.into_iter().chain(gateway).collect()
}

fn start_api(cluster: &Cluster, example: &Example) -> Result<Api> {
    let address = api_address(cluster);
    let listener = cluster.control().run(|| TcpListener::bind(address))?;
    let listener = Some(listener.with_context(|| format!("listen on {address}"))?);
    let server = ApiServer::start(Options { listener, tls: true, ..Options::default() })?;
    for node in cluster.nodes() {
        server.apply(node.object())?;
    }
    for object in example.objects() {
        server.apply(object.clone())?;
    }
    fs::write(kubeconfig(cluster), server.kubeconfig()).context("write the kubeconfig")?;
    Ok(Api(server))
}

fn pod_log(cluster: &Cluster) -> Result<File> {
    let path = cluster.dir().join("pods.log");
    let log = OpenOptions::new().create(true).append(true).open(&path);
    log.with_context(|| format!("open {}", path.display()))
}

fn lines(addresses: [IpAddr; 2]) -> String {
    addresses.map(|ip| ip.to_string()).join("\n")
}
