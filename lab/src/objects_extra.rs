//! Kubernetes objects that [`ServiceBuilder`](crate::ServiceBuilder) does not describe: load balancers' addresses,
//! hand-made EndpointSlices with hints, single-stack Services, ServiceCIDRs, Nodes in zones.
//!
//! Everything is a plain JSON value, so a test may change any field before it is published.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::Node;
use crate::objects::NAMESPACE;

/// Makes a Service one of type LoadBalancer whose controller has given it these addresses.
#[must_use]
pub fn load_balanced(mut service: Value, vips: &[IpAddr]) -> Value {
    service["spec"]["type"] = "LoadBalancer".into();
    let ingress: Vec<Value> = vips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    service["status"] = json!({"loadBalancer": {"ingress": ingress}});
    service
}

/// Sets one field of a Service's `spec`.
#[must_use]
pub fn with_spec(mut service: Value, field: &str, value: impl Into<Value>) -> Value {
    service["spec"][field] = value.into();
    service
}

/// Gives every port of a Service this nodePort; 0 takes it away.
#[must_use]
pub fn with_node_port(mut service: Value, node_port: u16) -> Value {
    for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
        match node_port {
            0 => drop(port.as_object_mut().map(|port| port.remove("nodePort"))),
            _ => port["nodePort"] = node_port.into(),
        }
    }
    service
}

/// A Service without selector on these clusterIPs, in their order of families.
pub fn bare_service(name: &str, cluster_ips: &[IpAddr], ports: &[Value]) -> Value {
    let families: Vec<&str> = cluster_ips.iter().map(family_of).collect();
    let addresses: Vec<String> = cluster_ips.iter().map(IpAddr::to_string).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilies": families,
            "ipFamilyPolicy": if families.len() == 2 { "RequireDualStack" } else { "SingleStack" },
            "ports": ports,
        },
    })
}

/// One port of a Service.
pub fn service_port(name: &str, protocol: &str, port: u16) -> Value {
    json!({"name": name, "protocol": protocol, "port": port})
}

/// `IPv4` or `IPv6`.
pub fn family_of(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// One endpoint of a hand-made slice: ready, and of no node unless told.
#[derive(Debug, Clone)]
pub struct Endpoint(Value);

impl Endpoint {
    /// An endpoint at this address.
    pub fn at(address: IpAddr) -> Self {
        Self(json!({"addresses": [address.to_string()], "conditions": {"ready": true}}))
    }

    /// It runs on this node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.0["nodeName"] = node.into();
        self
    }

    /// Its conditions.
    #[must_use]
    pub fn conditions(mut self, ready: bool, serving: bool, terminating: bool) -> Self {
        self.0["conditions"] = json!({"ready": ready, "serving": serving, "terminating": terminating});
        self
    }

    /// Clients of these zones shall use it.
    #[must_use]
    pub fn for_zones(mut self, zones: &[&str]) -> Self {
        let names: Vec<Value> = zones.iter().map(|name| json!({"name": name})).collect();
        self.0["hints"]["forZones"] = names.into();
        self
    }

    /// Clients of these nodes shall use it.
    #[must_use]
    pub fn for_nodes(mut self, nodes: &[&str]) -> Self {
        let names: Vec<Value> = nodes.iter().map(|name| json!({"name": name})).collect();
        self.0["hints"]["forNodes"] = names.into();
        self
    }
}

/// An EndpointSlice of a Service: ports as (name, protocol, number), endpoints of one family.
pub fn slice(
    name: &str,
    service: &str,
    family: &str,
    ports: &[(&str, &str, u16)],
    endpoints: impl IntoIterator<Item = Endpoint>,
) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
        .collect();
    let endpoints: Vec<Value> = endpoints.into_iter().map(|endpoint| endpoint.0).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}

/// A ServiceCIDR.
pub fn service_cidr(name: &str, cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": cidrs},
    })
}

/// The Node object with this zone.
pub fn node_in_zone(node: &Node, zone: &str) -> Value {
    let mut object = node.object();
    object["metadata"]["labels"]["topology.kubernetes.io/zone"] = zone.into();
    object
}
