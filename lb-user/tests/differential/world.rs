//! Random clusters and connections: few names and few addresses, so that everything collides with everything.

use lb_user::model::{Endpoint, Family, Hints, Key, Proto, Service, ServicePort, Slice, SlicePort, World};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// 10.NET.0.HOST or fd00:NET::HOST.
pub fn ip(v6: bool, net: u8, host: u8) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(10, net, 0, host).into(),
        true => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host.into()).into(),
    }
}

/// Networks by what lives in them.
pub mod net {
    /// ClusterIPs; /28 of it is the ServiceCIDR.
    pub const CLUSTER: u8 = 96;
    /// VIPs.
    pub const VIP: u8 = 50;
    /// External IPs; hosts 0 to 3 are allowed.
    pub const EXTERNAL: u8 = 51;
    /// Nodes: 1 and 2 are this node's, the rest others'.
    pub const NODE: u8 = 31;
    /// Pods of this node.
    pub const LOCAL: u8 = 244;
    /// Pods of other nodes.
    pub const REMOTE: u8 = 245;
    /// Everything else.
    pub const OUTSIDE: u8 = 7;
}

/// How local pods are told from others (spec Q4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detect {
    /// Not at all.
    Nothing,
    /// By the interface.
    Interface,
    /// By the network of this node's pods.
    NodeCidr,
    /// By the network of all pods.
    ClusterCidr,
}

/// The administrator's choices.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub detect: Detect,
    pub masquerade_all: bool,
    pub masquerade_external: bool,
    pub sockets_of_pods: bool,
    /// NodePorts answer on the node's second address, too.
    pub both_addresses: bool,
}

pub fn options() -> impl Strategy<Value = Options> {
    let detect = prop_oneof![
        1 => Just(Detect::Nothing),
        3 => Just(Detect::Interface),
        1 => Just(Detect::NodeCidr),
        1 => Just(Detect::ClusterCidr)
    ];
    (detect, prop::array::uniform4(any::<bool>())).prop_map(|(detect, [all, external, sockets, both])| {
        Options {
            detect,
            masquerade_all: all,
            masquerade_external: external,
            sockets_of_pods: sockets,
            both_addresses: both,
        }
    })
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// From outside, by the uplink.
    Outside(u8),
    /// Another node's pod, by the uplink.
    RemotePod(u8),
    /// A pod of this node.
    Pod(u8),
    /// The node itself (its address 1 or 2), where packets leave.
    Node(u8),
    /// A new pod, whose interface has no program yet, where packets leave.
    NewPod(u8),
    /// A process of the node, at its socket.
    Socket,
    /// A process of a pod, at its socket.
    PodSocket(u8),
}

/// Where it connects to.
#[derive(Clone, Copy, Debug)]
pub enum To {
    Cluster(u8),
    Vip(u8),
    External(u8),
    Node(u8),
    Other(u8),
    /// Wherever the case says, see [`Connection::again`].
    Exactly(IpAddr),
}

/// One new connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub v6: bool,
    pub proto: Proto,
    pub client: Client,
    pub to: To,
    /// Service ports and NodePorts, and a few that are neither.
    pub port: u16,
    /// XDP rather than tc on the uplink.
    pub xdp: bool,
    /// Seconds since the one before.
    pub after_s: u32,
    /// The client of the last connection that was served comes again, to this of all the frontends of that service port:
    /// so affinity meets another policy's set.
    pub again: Option<u8>,
}

fn proto() -> impl Strategy<Value = Proto> {
    prop_oneof![Just(Proto::Tcp), Just(Proto::Udp)]
}

pub fn connection() -> impl Strategy<Value = Connection> {
    let client = prop_oneof![
        3 => (1u8..4).prop_map(Client::Outside),
        1 => (1u8..4).prop_map(Client::RemotePod),
        4 => (1u8..4).prop_map(Client::Pod),
        2 => (1u8..3).prop_map(Client::Node),
        1 => (1u8..4).prop_map(Client::NewPod),
        2 => Just(Client::Socket),
        1 => (1u8..4).prop_map(Client::PodSocket),
    ];
    let to = prop_oneof![
        5 => (1u8..6).prop_map(To::Cluster),
        3 => (1u8..4).prop_map(To::Vip),
        2 => (2u8..6).prop_map(To::External),
        4 => (1u8..4).prop_map(To::Node),
        1 => (1u8..3).prop_map(To::Other),
    ];
    let port = prop_oneof![4 => 80u16..83, 4 => 30080u16..30083, 1 => Just(9u16)];
    let after_s = prop_oneof![8 => Just(0u32), 1 => 0u32..3];
    let again = prop::option::weighted(0.4, any::<u8>());
    (any::<bool>(), proto(), client, to, port, any::<bool>(), after_s, again).prop_map(
        |(v6, proto, client, to, port, xdp, after_s, again)| Connection {
            again,
            v6,
            proto,
            client,
            to,
            port,
            xdp,
            after_s,
        },
    )
}

/// Source ranges: outside, this node, everything, pods.
const RANGES: [&str; 8] = [
    "10.7.0.0/31",
    "10.31.0.0/24",
    "0.0.0.0/0",
    "10.244.0.0/16",
    "fd00:7::/127",
    "fd00:1f::1/128",
    "fd00:f4::/32",
    "::/0",
];

fn port_name() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just("a".into()), Just("b".into())]
}

fn service(name: u8) -> impl Strategy<Value = Service> {
    let node_port = prop_oneof![Just(0u16), 30080u16..30083];
    let port = (port_name(), proto(), 80u16..83, node_port)
        .prop_map(|(name, proto, port, node_port)| ServicePort { name, proto, port, node_port });
    // A VIP may be a node's address (node-IPAM, ServiceLB).
    let vip = prop_oneof![5 => (1u8..4).prop_map(|h| (net::VIP, h)), 1 => Just((net::NODE, 1u8))];
    (
        (0i64..3, 1u8..5, prop::sample::select(vec![(true, false), (false, true), (true, true)])),
        prop::collection::vec(vip, 0..3),
        prop::collection::vec(2u8..6, 0..2),
        prop::collection::vec(port, 1..4),
        (any::<bool>(), any::<bool>(), prop::option::weighted(0.3, 1u32..5)),
        prop_oneof![2 => Just(Vec::new()), 1 => prop::sample::subsequence(&RANGES[..], 0..4)],
    )
        .prop_map(
            move |((created, host, (v4, v6)), vips, externals, ports, (int, ext, affinity), ranges)| {
                let families: Vec<bool> =
                    [(false, v4), (true, v6)].iter().filter(|f| f.1).map(|f| f.0).collect();
                let of = |list: &[(u8, u8)]| -> Vec<IpAddr> {
                    list.iter().flat_map(|(n, h)| [ip(false, *n, *h), ip(true, *n, *h)]).collect()
                };
                Service {
                    key: Key::new("ns", format!("s{name}")),
                    created_unix_s: created,
                    cluster_ips: families.iter().map(|f| ip(*f, net::CLUSTER, host)).collect(),
                    external_ips: of(&externals.iter().map(|h| (net::EXTERNAL, *h)).collect::<Vec<_>>()),
                    load_balancer_ips: of(&vips),
                    ports,
                    internal_local: int,
                    external_local: ext,
                    affinity_timeout_s: affinity,
                    source_ranges: ranges.iter().map(|text| text.parse().expect("network")).collect(),
                    ..Service::default()
                }
            },
        )
}

fn endpoint(v6: bool) -> impl Strategy<Value = Endpoint> {
    // Its address tells where it is; a hand-made slice may not name the node.
    let place = prop_oneof![
        4 => (1u8..4).prop_map(|h| (net::LOCAL, h, "n1")),
        4 => (1u8..5).prop_map(|h| (net::REMOTE, h, "n2")),
        1 => Just((net::NODE, 1u8, "n1")),
        1 => Just((net::NODE, 9u8, "n3")),
    ];
    let zones =
        prop_oneof![2 => Just(vec![]), 1 => Just(vec!["a".to_string()]), 1 => Just(vec!["b".to_string()])];
    let nodes =
        prop_oneof![3 => Just(vec![]), 1 => Just(vec!["n1".to_string()]), 1 => Just(vec!["n2".to_string()])];
    let conditions = prop_oneof![
        5 => Just((true, true, false)),
        1 => Just((false, false, false)),
        1 => Just((false, true, false)),
        2 => Just((false, true, true)),
        1 => Just((false, false, true)),
        1 => Just((true, true, true)),
    ];
    (place, conditions, prop::bool::weighted(0.9), zones, nodes).prop_map(
        move |((n, host, node), (ready, serving, terminating), named, zones, nodes)| Endpoint {
            addr: ip(v6, n, host),
            ready,
            serving,
            terminating,
            node_name: named.then(|| node.into()),
            hints: Hints::of(zones, nodes),
        },
    )
}

fn slice(name: u8) -> impl Strategy<Value = Slice> {
    let port =
        (port_name(), proto(), 8080u16..8082).prop_map(|(name, proto, port)| SlicePort { name, proto, port });
    (any::<bool>(), 0u8..4, prop::collection::vec(port, 1..4)).prop_flat_map(move |(v6, service, ports)| {
        prop::collection::vec(endpoint(v6), 0..6).prop_map(move |endpoints| Slice {
            key: Key::new("ns", format!("slice{name}")),
            service: format!("s{service}").into(),
            family: if v6 { Family::V6 } else { Family::V4 },
            ports: ports.clone(),
            endpoints,
        })
    })
}

/// A cluster, and what it becomes: each object stays or is another one.
pub fn worlds() -> impl Strategy<Value = (World, World)> {
    (world(), world(), prop::array::uniform12(any::<bool>())).prop_map(|(before, other, changes)| {
        let (services, slices) = changes.split_at(4);
        let mut after = World::default();
        for (i, changed) in services.iter().enumerate() {
            let key = Key::new("ns", format!("s{i}"));
            let from = if *changed { &other } else { &before };
            from.services.get(&key).into_iter().for_each(|o| drop(after.services.insert(o.clone())));
        }
        for (i, changed) in slices.iter().enumerate() {
            let key = Key::new("ns", format!("slice{i}"));
            let from = if *changed { &other } else { &before };
            from.slices.get(&key).into_iter().for_each(|o| drop(after.slices.insert(o.clone())));
        }
        (before, after)
    })
}

/// A cluster.
fn world() -> impl Strategy<Value = World> {
    let service_or_none = |name| prop::option::weighted(0.9, service(name));
    let slice_or_none = |name| prop::option::weighted(0.9, slice(name));
    let services = [0u8, 1, 2, 3].map(service_or_none);
    let slices = [0u8, 1, 2, 3, 4, 5, 6, 7].map(slice_or_none);
    (services, slices).prop_map(|(services, slices)| World {
        services: services.into_iter().flatten().collect(),
        slices: slices.into_iter().flatten().collect(),
        ..World::default()
    })
}
