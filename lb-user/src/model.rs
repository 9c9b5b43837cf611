//! The domain model: what Fairway knows of a cluster, free of Kubernetes, kernel and I/O types.
//!
//! Sources (`kube/`, `sources/`) produce it, `compile/` consumes it. Ordered collections everywhere, so that the
//! same world always compiles to the same result; snapshots share what did not change ([`Objects`]).

mod objects;

pub use objects::{Change, Keyed, Objects};

use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// Namespace and name of an object; copies share the texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name (may begin with a digit since Kubernetes 1.37).
    pub name: Arc<str>,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(a: &IpAddr) -> Family {
        if a.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// Transport protocol that Fairway translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    /// TCP (6).
    Tcp,
    /// UDP (17).
    Udp,
}

impl Proto {
    /// IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Proto::Tcp => 6,
            Proto::Udp => 17,
        }
    }
}

impl std::fmt::Display for Proto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "TCP",
            Proto::Udp => "UDP",
        })
    }
}

/// A Service that is to be programmed (sources already dropped ExternalName, headless and labelled-away ones).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: Key,
    /// Object UID; empty in manifests.
    pub uid: String,
    /// Creation time, seconds since the epoch; 0 when unknown. Older wins a collision.
    pub created_unix_s: i64,
    /// Cluster IPs, at most one per family (spec M2).
    pub cluster_ips: Vec<IpAddr>,
    /// spec.externalIPs that parse (spec M3).
    pub external_ips: Vec<IpAddr>,
    /// status.loadBalancer.ingress IPs with ipMode VIP (spec M4).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// internalTrafficPolicy: Local.
    pub internal_local: bool,
    /// externalTrafficPolicy: Local.
    pub external_local: bool,
    /// sessionAffinity ClientIP: its timeout in seconds.
    pub affinity_timeout_s: Option<u32>,
    /// spec.loadBalancerSourceRanges that parse, both families (spec M5); empty = no filtering.
    pub source_ranges: Vec<IpNet>,
    /// spec.healthCheckNodePort, host byte order; 0 unless type LoadBalancer and eTP=Local (spec M6).
    pub health_check_node_port: u16,
}

impl Keyed for Service {
    fn key(&self) -> &Key {
        &self.key
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty for a single unnamed port.
    pub name: Arc<str>,
    /// Protocol.
    pub proto: Proto,
    /// Service port, host byte order.
    pub port: u16,
    /// NodePort, host byte order; 0 = none.
    pub node_port: u16,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The slice's own namespace and name.
    pub key: Key,
    /// Name of its Service (label `kubernetes.io/service-name`).
    pub service: Arc<str>,
    /// Address family; FQDN slices never get here.
    pub family: Family,
    /// Ports: name, protocol, number.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

impl Keyed for Slice {
    fn key(&self) -> &Key {
        &self.key
    }
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name; matched with the Service port's name (spec M8).
    pub name: Arc<str>,
    /// Protocol.
    pub proto: Proto,
    /// Port, host byte order, never 0.
    pub port: u16,
}

/// One endpoint of a slice: its first address only (spec E2). There may be 100,000 of them: names are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address.
    pub addr: IpAddr,
    /// Condition ready (nil = true).
    pub ready: bool,
    /// Condition serving (nil = true).
    pub serving: bool,
    /// Condition terminating (nil = false).
    pub terminating: bool,
    /// Node it runs on.
    pub node_name: Option<Arc<str>>,
    /// Topology hints, if there are any.
    pub hints: Option<Arc<Hints>>,
}

impl Endpoint {
    /// Hinted zones.
    pub fn hint_zones(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    /// Hinted nodes.
    pub fn hint_nodes(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }
}

/// Where an endpoint's clients should be (spec §1.3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// `hints.forZones`.
    pub zones: Vec<String>,
    /// `hints.forNodes`.
    pub nodes: Vec<String>,
}

impl Hints {
    /// Hints; `None` when both lists are empty.
    pub fn of(zones: Vec<String>, nodes: Vec<String>) -> Option<Arc<Hints>> {
        (!zones.is_empty() || !nodes.is_empty()).then(|| Arc::new(Hints { zones, nodes }))
    }
}

/// What is known of the own node: the Node object joined with the host's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Name of this node.
    pub name: String,
    /// Addresses NodePorts answer on.
    pub node_port_addresses: Vec<IpAddr>,
    /// Every address of the host.
    pub local_addresses: Vec<IpAddr>,
    /// The node's main address of each family (spec Q5).
    pub main_addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// Everything the sources delivered, as one immutable snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Services by namespace and name.
    pub services: Objects<Service>,
    /// Slices by namespace and name.
    pub slices: Objects<Slice>,
    /// What the own Node object says, if one was seen.
    pub node: Option<NodeObject>,
    /// Networks of all ServiceCIDR objects, sorted (spec O6).
    pub service_cidrs: Vec<IpNet>,
}

/// What Fairway takes from the own Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeObject {
    /// Name.
    pub name: String,
    /// InternalIP and ExternalIP addresses.
    pub addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// spec.podCIDRs that parse.
    pub pod_cidrs: Vec<IpNet>,
    /// It has a deletionTimestamp or the taint `ToBeDeletedByClusterAutoscaler` (spec H1).
    pub leaving: bool,
}

/// A ServiceCIDR object: networks that cluster IPs come from (spec O6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Name, with an empty namespace.
    pub key: Key,
    /// spec.cidrs that parse.
    pub cidrs: Vec<IpNet>,
}

impl Keyed for ServiceCidr {
    fn key(&self) -> &Key {
        &self.key
    }
}

/// The networks of several ServiceCIDR objects: sorted, each once.
pub fn union_of<'a>(objects: impl IntoIterator<Item = &'a ServiceCidr>) -> Vec<IpNet> {
    let mut all: Vec<IpNet> = objects.into_iter().flat_map(|object| object.cidrs.iter().copied()).collect();
    all.sort();
    all.dedup();
    all
}

/// Something that is wrong with one object; everything else keeps working.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    /// Which object, for instance `Service default/web` or `file a.yaml document 2`.
    pub object: String,
    /// Field path, or empty.
    pub field: String,
    /// What is wrong, in a sentence.
    pub message: String,
}
