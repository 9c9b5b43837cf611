//! The Kubernetes objects of a benchmark: one Service under test among many others.
//!
//! The Service under test has a nodePort and real backends; another has no endpoints at all; all others are
//! ClusterIP Services with endpoints that nobody answers for. All are dual-stack.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::address::Dual;
use serde_json::{Value, json};

use crate::net;

/// The nodePort under test, TCP and UDP.
pub const NODE_PORT: u16 = 30_080;
/// The nodePort of the Service without endpoints.
pub const EMPTY_NODE_PORT: u16 = 30_081;
/// The port of every clusterIP.
pub const PORT: u16 = 80;
/// The port of the backends.
pub const TARGET_PORT: u16 = 8_080;
const NAMESPACE: &str = "bench";

/// What is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// Whose backends: the node the Service under test is reached through.
    pub node: u8,
    /// All Services, the one under test included.
    pub services: u32,
    /// Backends of the Service under test.
    pub backends: u8,
    /// Endpoints of each other Service.
    pub endpoints: u32,
}

impl World {
    /// The clusterIPs of the Service under test.
    pub fn cluster_ip() -> Dual {
        cluster_ip(1)
    }

    /// Every object: Services and their EndpointSlices.
    pub fn objects(&self) -> Vec<Value> {
        let backends = (1..=self.backends).map(|i| net::backend(self.node, i)).map(|d| (d, "far"));
        let mut objects = vec![
            service("bench-target", cluster_ip(1), Some(NODE_PORT), true),
            service("bench-empty", cluster_ip(2), Some(EMPTY_NODE_PORT), true),
        ];
        objects.extend(slices("bench-target", &backends.collect::<Vec<_>>(), TARGET_PORT, true));
        for i in 1..self.services {
            objects.extend(filler(i, self.endpoints));
        }
        objects
    }
}

/// One of the other Services, with its slices.
pub fn filler(i: u32, endpoints: u32) -> Vec<Value> {
    let name = filler_name(i);
    let addresses: Vec<_> =
        (0..endpoints).map(|e| (filler_endpoint(i * endpoints + e), "elsewhere")).collect();
    let mut objects = vec![service(&name, cluster_ip(i + 10), None, false)];
    objects.extend(slices(&name, &addresses, TARGET_PORT, false));
    objects
}

/// The name of one of the other Services.
pub fn filler_name(i: u32) -> String {
    format!("svc-{i:05}")
}

/// The same objects without IPv6.
pub fn ipv4_only(objects: Vec<Value>) -> Vec<Value> {
    let kept = objects.into_iter().filter(|object| object["addressType"] != "IPv6");
    kept.map(|object| if object["kind"] == "Service" { single_stack(object) } else { object }).collect()
}

/// A ClusterIP Service of IPv4.
pub fn ipv4_only_service(name: &str, ips: Dual) -> Value {
    single_stack(service(name, ips, None, false))
}

fn single_stack(mut service: Value) -> Value {
    let spec = &mut service["spec"];
    spec["clusterIPs"] = json!([spec["clusterIP"]]);
    spec["ipFamilies"] = json!(["IPv4"]);
    spec["ipFamilyPolicy"] = json!("SingleStack");
    service
}

/// The clusterIPs of the `i`th Service.
pub fn cluster_ip(i: u32) -> Dual {
    let [_, _, high, low] = i.to_be_bytes();
    Dual {
        v4: Ipv4Addr::new(10, 96 + (i >> 16) as u8, high, low),
        v6: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, (i >> 16) as u16, i as u16),
    }
}

/// An address of its own for the `i`th endpoint of the other Services; nobody has it.
pub fn filler_endpoint(i: u32) -> Dual {
    let [_, a, b, c] = i.to_be_bytes();
    Dual {
        v4: Ipv4Addr::new(11, a, b, c),
        v6: Ipv6Addr::new(0xfd11, 0, 0, 0, 0, 0, (i >> 16) as u16, i as u16),
    }
}

/// A Service object.
pub fn service(name: &str, ips: Dual, node_port: Option<u16>, udp: bool) -> Value {
    let protocols = if udp { &["TCP", "UDP"][..] } else { &["TCP"] };
    let port = |protocol: &&str| {
        let mut port = json!({
            "name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "targetPort": TARGET_PORT,
        });
        if let Some(node_port) = node_port {
            port["nodePort"] = node_port.into();
        }
        port
    };
    let addresses = ips.both().map(|ip| ip.to_string());
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "type": if node_port.is_some() { "NodePort" } else { "ClusterIP" },
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": name},
            "ports": protocols.iter().map(port).collect::<Vec<_>>(),
        },
    })
}

/// The EndpointSlices of a Service: address and node of each endpoint, at most 1,000 in a slice, as Kubernetes
/// would have it at most.
pub fn slices(name: &str, endpoints: &[(Dual, &str)], port: u16, udp: bool) -> Vec<Value> {
    const LARGEST: usize = 1_000;
    let mut objects = Vec::new();
    for (i, part) in endpoints.chunks(LARGEST).enumerate() {
        let v4: Vec<_> = part.iter().map(|(d, node)| (IpAddr::V4(d.v4), *node)).collect();
        let v6: Vec<_> = part.iter().map(|(d, node)| (IpAddr::V6(d.v6), *node)).collect();
        objects.push(slice(name, "IPv4", i, &v4, port, udp));
        objects.push(slice(name, "IPv6", i, &v6, port, udp));
    }
    objects
}

/// One EndpointSlice.
pub fn slice(
    service: &str,
    family: &str,
    number: usize,
    endpoints: &[(IpAddr, &str)],
    port: u16,
    udp: bool,
) -> Value {
    let protocols = if udp { &["TCP", "UDP"][..] } else { &["TCP"] };
    let endpoint = |(address, node): &(IpAddr, &str)| {
        json!({
            "addresses": [address.to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node,
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}-{number}", family.to_lowercase()),
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": family,
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": protocols
            .iter()
            .map(|p| json!({"name": p.to_lowercase(), "protocol": p, "port": port}))
            .collect::<Vec<_>>(),
    })
}
