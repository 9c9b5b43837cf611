//! The cluster that all rows share: three nodes with two pods each, an API server, an agent on every node, and servers
//! in every pod.
//!
//! Every pod answers on port 80 by its name and on port 8081 as `<name>:8081`. The outside client has a route for
//! ClusterIPs and for [`OUTSIDE_V4`] by way of node 3, where by custom of the rows no endpoint is. The cluster lives as
//! long as any row uses it.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, Result, ensure};
use apiserver::{ApiServer, Kind, Options};
use lab::address::{Dual, SERVICES_V4, SERVICES_V6};
use lab::traffic::PodServer;
use lab::{Agent, AgentSpec, Cluster, ClusterSpec, Node, ServiceBuilder, ServicePort};
use serde_json::{Value, json};

use crate::check::Vantage;

/// Addresses that belong to nobody: for VIPs and externalIPs.
const OUTSIDE_V4: &str = "203.0.113.0/24";
const OUTSIDE_V6: &str = "2001:db8:cb00::/64";

/// A cluster at work.
pub struct Bench {
    agents: Vec<Agent>,
    api: ApiServer,
    _servers: Vec<PodServer>,
    pub cluster: Cluster,
}

/// The cluster; built by the first row that asks.
pub fn shared() -> Result<Arc<Bench>> {
    static SHARED: Mutex<Weak<Bench>> = Mutex::new(Weak::new());
    // A row that failed while it built leaves the old value, which is good.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(bench) = shared.upgrade() {
        return Ok(bench);
    }
    let bench = Arc::new(Bench::build()?);
    *shared = Arc::downgrade(&bench);
    Ok(bench)
}

/// The ports `<name>-tcp` and `<name>-udp` of one number.
pub fn pair(name: &str, port: u16, target: u16) -> [ServicePort; 2] {
    [ServicePort::tcp(&format!("{name}-tcp"), port), ServicePort::udp(&format!("{name}-udp"), port)]
        .map(|port| port.target(target))
}

impl Bench {
    /// A cluster of one's own.
    pub fn build() -> Result<Bench> {
        let cluster = Cluster::build(ClusterSpec::default())?;
        let mut servers = Vec::new();
        for pod in cluster.pods() {
            servers.push(PodServer::start(pod, 80)?);
            servers.push(PodServer::start_in(&pod.ns, &format!("{}:8081", pod.name), 8081)?);
        }
        // The kernel's own refusals, on ports without a Service, must not run out while many rows run.
        let unlimited = ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"].map(|key| (key.into(), "0".into()));
        cluster.nodes().iter().try_for_each(|node| node.ns().sysctl(&unlimited))?;
        let via = cluster.node(3).address();
        let routes = [SERVICES_V4, OUTSIDE_V4].map(|range| format!("route add {range} via {}\n", via.v4));
        let routes6 = [SERVICES_V6, OUTSIDE_V6].map(|range| format!("route add {range} via {}\n", via.v6));
        cluster.client().feed("ip", &["-batch", "-"], &[routes, routes6].concat().concat())?;
        let address = (cluster.control_address().v4, 6443);
        let listener = cluster.control().run(|| TcpListener::bind(address))??;
        let api = ApiServer::start(Options { listener: Some(listener), ..Options::default() })?;
        cluster.nodes().iter().try_for_each(|node| api.apply(node.object()))?;
        api.apply(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [SERVICES_V4, SERVICES_V6]},
        }))?;
        let mut bench = Bench { agents: Vec::new(), api, _servers: servers, cluster };
        bench.start_agents()?;
        Ok(bench)
    }

    /// Starts an agent on every node.
    pub fn start_agents(&mut self) -> Result<()> {
        let outside = format!("{OUTSIDE_V4},{OUTSIDE_V6}");
        let spec = AgentSpec::api(self.api.url()).flags(["--external-ip-cidrs", outside.as_str()]);
        let nodes = self.cluster.nodes().iter();
        let starting = nodes.map(|node| node.launch_agent(&spec)).collect::<Result<Vec<_>>>()?;
        self.agents = starting.into_iter().map(Agent::ready).collect::<Result<_>>()?;
        Ok(())
    }

    /// Kills every agent.
    pub fn kill_agents(&mut self) -> Result<()> {
        self.agents.drain(..).try_for_each(|agent| agent.kill().map(drop))
    }

    /// Describes the Service `name`: port 8088 of its ClusterIPs to port 80 of its pods, TCP and UDP.
    pub fn service(&self, name: &str) -> ServiceBuilder {
        self.cluster.service(name).port(8088)
    }

    /// Creates or replaces a Service and its slices.
    pub fn apply(&self, service: &ServiceBuilder) -> Result<()> {
        self.apply_objects(service.objects())
    }

    /// Creates or replaces objects.
    pub fn apply_objects(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        Ok(objects.into_iter().try_for_each(|object| self.api.apply(object))?)
    }

    /// Deletes a Service and its slices.
    pub fn delete(&self, service: &ServiceBuilder) -> Result<()> {
        for object in service.objects() {
            let kind = Kind::of(&object).context("a kind")?;
            let name = object["metadata"]["name"].as_str().context("a name")?;
            ensure!(self.api.delete(kind, "default", name), "{name} is there");
        }
        Ok(())
    }

    /// What the agents have written, for a failure's report.
    pub fn logs(&self) -> String {
        self.agents.iter().map(|agent| format!("--- {} ---\n{}", agent.node().name(), agent.log())).collect()
    }

    /// A pod as a client.
    pub fn pod(&self, node: usize, pod: usize) -> Vantage {
        let pod = self.cluster.pod(node, pod);
        Vantage::new(&pod.name, &pod.ns, pod.address)
    }

    /// A process of a node as a client, such as a pod on the host's network.
    pub fn host(&self, node: usize) -> Vantage {
        Vantage::on_node(self.cluster.node(node))
    }

    /// The client outside.
    pub fn outside(&self) -> Vantage {
        Vantage::new("outside", self.cluster.client(), self.cluster.client_address())
    }

    /// A pod and a process, each on a node with and on one without endpoints (node 3), and the client outside.
    pub fn everyone(&self) -> Vec<Vantage> {
        vec![self.pod(1, 2), self.pod(3, 1), self.host(1), self.host(3), self.outside()]
    }

    /// The ClusterIPs of the Service `name`, port 8088.
    pub fn cluster_ip(&self, name: &str) -> Vec<SocketAddr> {
        self.cluster_ip_at(name, 8088)
    }

    /// The ClusterIPs of the Service `name`.
    pub fn cluster_ip_at(&self, name: &str, port: u16) -> Vec<SocketAddr> {
        at(self.cluster.cluster_ip(name), port)
    }

    /// A nodePort of one node.
    pub fn node_port(&self, node: usize, port: u16) -> Vec<SocketAddr> {
        at(self.cluster.node(node).address(), port)
    }

    /// A nodePort of every node.
    pub fn node_ports(&self, port: u16) -> Vec<SocketAddr> {
        self.cluster.nodes().iter().map(Node::address).flat_map(|address| at(address, port)).collect()
    }
}

/// A port of an address of each family.
pub fn at(address: Dual, port: u16) -> Vec<SocketAddr> {
    address.both().map(|ip: IpAddr| SocketAddr::new(ip, port)).to_vec()
}

/// An address of [`OUTSIDE_V4`] and one of [`OUTSIDE_V6`]: nobody's.
pub fn nobodys(host: u8) -> Dual {
    Dual {
        v4: std::net::Ipv4Addr::new(203, 0, 113, host),
        v6: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xcb00, 0, 0, 0, 0, host.into()),
    }
}
