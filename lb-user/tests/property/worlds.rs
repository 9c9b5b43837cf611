//! Random worlds: few names and few addresses, so that collisions, moves and returns are frequent.

use lb_user::model::{Endpoint, Family, Hints, Key, Proto, Service, ServicePort, Slice, SlicePort, World};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The second one has the test node's own addresses, the third is everything.
const RANGES: [&str; 6] =
    ["10.0.0.0/9", "10.192.0.0/16", "0.0.0.0/0", "fd00::/16", "fd00:fe::/32", "192.0.2.0/24"];

/// A change of one object; `None` deletes it.
#[derive(Clone, Debug)]
pub enum Event {
    Service(Key, Option<Service>),
    Slice(Key, Option<Slice>),
}

fn v4(net: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(10, net, 0, host).into()
}

fn v6(net: u8, host: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host.into()).into()
}

fn proto() -> impl Strategy<Value = Proto> {
    prop_oneof![Just(Proto::Tcp), Just(Proto::Udp)]
}

fn port_name() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just("a".into()), Just("b".into())]
}

fn service(key: Key) -> impl Strategy<Value = Service> {
    let port = (port_name(), proto(), 80u16..83, prop_oneof![Just(0u16), 30080u16..30083])
        .prop_map(|(name, proto, port, node_port)| ServicePort { name, proto, port, node_port });
    (
        (0i64..4, 1u8..5, any::<bool>()),
        prop::collection::vec(1u8..4, 0..2),
        prop::collection::vec(1u8..4, 0..2),
        prop::collection::vec(port, 1..4),
        (any::<bool>(), any::<bool>(), prop::option::of(1u32..3)),
        prop::sample::subsequence(&RANGES[..], 0..3),
    )
        .prop_map(
            move |(
                (created_unix_s, ip, dual),
                vips,
                externals,
                ports,
                (int, ext, affinity_timeout_s),
                ranges,
            )| {
                let mut cluster_ips = vec![v4(0, ip)];
                if dual {
                    cluster_ips.push(v6(0, ip));
                }
                Service {
                    key: key.clone(),
                    uid: String::new(),
                    created_unix_s,
                    cluster_ips,
                    external_ips: externals.iter().map(|h| v4(9, *h)).collect(),
                    load_balancer_ips: vips.iter().flat_map(|h| [v4(9, *h), v6(9, *h)]).collect(),
                    ports,
                    internal_local: int,
                    external_local: ext,
                    affinity_timeout_s,
                    source_ranges: ranges.iter().map(|text| text.parse().expect("network")).collect(),
                    health_check_node_port: 0,
                }
            },
        )
}

fn endpoint(family: Family) -> impl Strategy<Value = Endpoint> {
    let node = prop_oneof![Just(None), Just(Some("n1".into())), Just(Some("n2".into()))];
    let zones = prop_oneof![Just(vec![]), Just(vec!["a".to_string()]), Just(vec!["b".to_string()])];
    let nodes = prop_oneof![3 => Just(vec![]), 1 => Just(vec!["n1".to_string()])];
    let hints = (zones, nodes).prop_map(|(zones, nodes)| Hints::of(zones, nodes));
    (1u8..8, prop::array::uniform3(any::<bool>()), node, hints).prop_map(
        move |(host, [ready, serving, terminating], node_name, hints)| Endpoint {
            addr: if family == Family::V4 { v4(1, host) } else { v6(1, host) },
            ready: ready && !terminating,
            serving: serving || (ready && !terminating),
            terminating,
            node_name,
            hints,
        },
    )
}

fn slice(key: Key) -> impl Strategy<Value = Slice> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let port =
        (port_name(), proto(), 8080u16..8082).prop_map(|(name, proto, port)| SlicePort { name, proto, port });
    (family, 0u8..4, prop::collection::vec(port, 1..3)).prop_flat_map(move |(family, service, ports)| {
        let key = key.clone();
        prop::collection::vec(endpoint(family), 0..6).prop_map(move |endpoints| Slice {
            key: key.clone(),
            service: format!("s{service}").into(),
            family,
            ports: ports.clone(),
            endpoints,
        })
    })
}

/// Up to `n` changes.
pub fn events(n: usize) -> impl Strategy<Value = Vec<Event>> {
    let of_service = (0u8..4).prop_map(|i| Key::new("ns", format!("s{i}"))).prop_flat_map(|key| {
        prop::option::weighted(0.8, service(key.clone())).prop_map(move |s| Event::Service(key.clone(), s))
    });
    let of_slice = (0u8..8).prop_map(|i| Key::new("ns", format!("slice{i}"))).prop_flat_map(|key| {
        prop::option::weighted(0.8, slice(key.clone())).prop_map(move |s| Event::Slice(key.clone(), s))
    });
    prop::collection::vec(prop_oneof![2 => of_service, 3 => of_slice], 1..n)
}

impl Event {
    /// Makes the change.
    pub fn apply(&self, world: &mut World) {
        match self {
            Event::Service(_, Some(s)) => drop(world.services.insert(s.clone())),
            Event::Service(key, None) => drop(world.services.remove(key)),
            Event::Slice(_, Some(s)) => drop(world.slices.insert(s.clone())),
            Event::Slice(key, None) => drop(world.slices.remove(key)),
        }
    }
}

/// The world after all events.
pub fn world_of(events: &[Event]) -> World {
    let mut world = World::default();
    events.iter().for_each(|event| event.apply(&mut world));
    world
}

/// The last event of each object: these may come in any order.
pub fn last_of_each(events: &[Event]) -> Vec<Event> {
    let name = |event: &Event| match event {
        Event::Service(key, _) => (0, key.clone()),
        Event::Slice(key, _) => (1, key.clone()),
    };
    events.iter().map(|e| (name(e), e.clone())).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// Shuffles the lists in objects whose order means nothing.
pub fn shuffle_lists(world: &mut World, seed: u64) {
    let mut numbers = fastrand::Rng::with_seed(seed);
    for service in world.services.clone().values() {
        let mut service = service.clone();
        numbers.shuffle(&mut service.cluster_ips);
        numbers.shuffle(&mut service.external_ips);
        numbers.shuffle(&mut service.load_balancer_ips);
        numbers.shuffle(&mut service.source_ranges);
        world.services.insert(service);
    }
    for slice in world.slices.clone().values() {
        let mut slice = slice.clone();
        numbers.shuffle(&mut slice.ports);
        world.slices.insert(slice);
    }
}
