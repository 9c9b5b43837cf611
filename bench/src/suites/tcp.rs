//! What the suites `connect` and `stream` share: contestants on nodes, and the ways a client takes through them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lab::Ns;

use super::Setup;
use crate::fairway::Fairway;
use crate::net::{self, Net, Side};
use crate::rivals::Rival;
use crate::traffic::{self, Server};
use crate::world::{NODE_PORT, PORT, TARGET_PORT, World};

/// Backends of the Service under test.
const BACKENDS: u8 = 4;
/// Endpoints of every other Service: one, as in the comparison that the guide cites.
const ENDPOINTS: u32 = 1;

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contestant {
    /// Fairway with native XDP on its uplinks; senders complete checksums, and nothing is segmented late.
    Xdp,
    /// Fairway at tc, with all offloads.
    Tc,
    /// Somebody else, with all offloads.
    Rival(Rival),
    /// Plain routing behind an empty native XDP program: what XDP on a veth costs by itself.
    RoutingXdp,
}

impl Contestant {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Contestant::Xdp => "fairway",
            Contestant::Tc => "fairway tc",
            Contestant::Rival(rival) => rival.name(),
            Contestant::RoutingXdp => "routing, empty XDP",
        }
    }
}

/// How a client reaches the Service under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// From outside by the node's address.
    NodePort,
    /// From a pod of the node by the clusterIP.
    PodClusterIp,
    /// From the node itself by the clusterIP; for Fairway the client is in the node's cgroup, under its socket hooks.
    NodeClusterIp,
}

impl Via {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Via::NodePort => "nodePort",
            Via::PodClusterIp => "clusterIP from a pod",
            Via::NodeClusterIp => "clusterIP from the node",
        }
    }
}

/// One way of one contestant.
pub struct Way {
    /// Who.
    pub contestant: Contestant,
    /// How.
    pub via: Via,
    /// The client's namespace.
    pub ns: Ns,
    /// The client's cgroup.
    pub cgroup: Option<PathBuf>,
    /// Where it connects to.
    pub to: SocketAddr,
    /// Why it cannot be measured.
    pub wrong: Option<String>,
}

/// The network with all contestants set up and the server running.
pub struct Arena {
    /// The ways, every contestant by every via.
    pub ways: Vec<Way>,
    _server: Server,
    _agents: Vec<Fairway>,
    _links: Vec<OwnedFd>,
    _net: Net,
}

impl Arena {
    /// Builds it with `services` Services; a way that gets no answer says so.
    pub fn build(setup: &Setup, services: u32, contestants: &[Contestant], vias: &[Via]) -> Result<Self> {
        let net = Net::build(contestants.len() as u8)?;
        let (mut agents, mut links) = (Vec::new(), Vec::new());
        let mut not_loaded = BTreeMap::new();
        for (contestant, n) in contestants.iter().zip(1..) {
            let world = World { node: n, services, backends: BACKENDS, endpoints: ENDPOINTS };
            let started = match contestant {
                Contestant::Xdp => Fairway::start(&net, n, world.objects(), &[]).map(|f| agents.push(f)),
                Contestant::Tc => {
                    Fairway::start(&net, n, world.objects(), &["--xdp-mode", "off"]).map(|f| agents.push(f))
                }
                Contestant::Rival(rival) => {
                    rival.load(net.node(n).ns(), &rival.rules(&world)).map(|loaded| {
                        not_loaded.insert(n, loaded.wrong());
                    })
                }
                Contestant::RoutingXdp => empty_xdp(setup, &net, n).map(|made| links.extend(made)),
            };
            started.with_context(|| contestant.name())?;
            if matches!(contestant, Contestant::Xdp | Contestant::RoutingXdp) {
                prepare_for_xdp(&net, n)?;
            }
        }
        let server = Server::start(net.far(), TARGET_PORT, setup.cpus.work())?;
        let mut ways = Vec::new();
        for (contestant, n) in contestants.iter().zip(1..) {
            let wrong = not_loaded.remove(&n).flatten();
            let of_node = vias.iter().filter_map(|via| way(&net, *contestant, n, *via));
            ways.extend(of_node.map(|way| Way { wrong: wrong.clone(), ..way }));
        }
        for way in ways.iter_mut().filter(|way| way.wrong.is_none()) {
            let answer = traffic::answers(&way.ns, way.cgroup.as_deref(), setup.cpus.aside(), way.to);
            way.wrong = answer.err().map(|error| format!("{error:#}"));
        }
        Ok(Self { ways, _server: server, _agents: agents, _links: links, _net: net })
    }
}

fn way(net: &Net, contestant: Contestant, n: u8, via: Via) -> Option<Way> {
    let node = net.node(n);
    let is_fairway = matches!(contestant, Contestant::Xdp | Contestant::Tc);
    let ns = match via {
        Via::NodePort => net.client().clone(),
        Via::PodClusterIp => net.cluster.pod(n.into(), 1).ns.clone(),
        Via::NodeClusterIp => node.ns().clone(),
    };
    let to = match (contestant, via) {
        // Without a Service: the backend itself, by the same node.
        (Contestant::Rival(Rival::Routing) | Contestant::RoutingXdp, _) => {
            SocketAddr::new(net::backend(n, 1).v4.into(), TARGET_PORT)
        }
        (_, Via::NodePort) => SocketAddr::new(net::node_address(n, Side::Client).v4.into(), NODE_PORT),
        (_, Via::PodClusterIp | Via::NodeClusterIp) => SocketAddr::new(World::cluster_ip().v4.into(), PORT),
    };
    // XDP is on uplinks only, and the node's own packets do not come in by them: one Fairway is enough.
    if contestant == Contestant::Tc && via == Via::NodeClusterIp {
        return None;
    }
    let cgroup = (is_fairway && via == Via::NodeClusterIp).then(|| node.cgroup().to_owned());
    Some(Way { contestant, via, ns, cgroup, to, wrong: None })
}

/// Native XDP on a veth rewrites frames as they are, so their checksums must be complete; and frames that it sends
/// are only taken by a far end with NAPI.
fn prepare_for_xdp(net: &Net, n: u8) -> Result<()> {
    for (ns, device) in [(net.client(), format!("in-{n}")), (net.far(), format!("be-{n}"))] {
        net::features(ns, &device, &["tx", "off"])?;
        net::features(ns, &device, &["gro", "on"])?;
    }
    net::features(&net.cluster.pod(n.into(), 1).ns, "eth0", &["tx", "off"])
}

fn empty_xdp(setup: &Setup, net: &Net, n: u8) -> Result<Vec<OwnedFd>> {
    let ns = net.node(n).ns();
    [Side::Client, Side::Far]
        .iter()
        .map(|side| {
            let (index, _) = net::device(ns, side.device())?;
            ns.run(|| setup.object.attach_xdp("bench_xdp_nil", index))?
        })
        .collect()
}
