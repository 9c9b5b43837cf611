//! The node that test worlds are compiled for, and worlds of any size.

use lb_user::model::{Endpoint, Family, Key, NodeView, Proto, Service, ServicePort, Slice, SlicePort, World};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The node that the worlds are compiled for.
pub fn node() -> NodeView {
    let addresses: Vec<IpAddr> =
        vec![Ipv4Addr::new(10, 192, 0, 1).into(), Ipv6Addr::new(0xfd00, 0xfe, 0, 0, 0, 0, 0, 1).into()];
    NodeView {
        name: "n1".to_string(),
        node_port_addresses: addresses.clone(),
        main_addresses: addresses.clone(),
        local_addresses: addresses,
        zone: Some("a".to_string()),
    }
}

/// `services` Services with a ClusterIP and a NodePort of one family, each with `endpoints` endpoints.
pub fn large(services: u32, endpoints: u32) -> World {
    let mut world = World::default();
    for s in 0..services {
        let key = Key::new("ns", format!("s{s:05}"));
        let ports =
            vec![ServicePort { name: "".into(), proto: Proto::Tcp, port: 80, node_port: 10_000 + s as u16 }];
        let service = Service {
            key: key.clone(),
            uid: String::new(),
            created_unix_s: i64::from(s),
            cluster_ips: vec![Ipv4Addr::from(0x0a60_0000 + s).into()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports,
            internal_local: false,
            external_local: false,
            affinity_timeout_s: None,
            source_ranges: Vec::new(),
            health_check_node_port: 0,
        };
        let endpoint = |e| Endpoint {
            addr: Ipv4Addr::from(0x0b00_0000 + s * endpoints + e).into(),
            ready: true,
            serving: true,
            terminating: false,
            node_name: None,
            hints: None,
        };
        let slice = Slice {
            key: key.clone(),
            service: key.name,
            family: Family::V4,
            ports: vec![SlicePort { name: "".into(), proto: Proto::Tcp, port: 8080 }],
            endpoints: (0..endpoints).map(endpoint).collect(),
        };
        world.services.insert(service);
        world.slices.insert(slice);
    }
    world
}
