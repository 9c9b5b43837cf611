//! What Services and EndpointSlices are made of: ports, and endpoints with their conditions.
//!
//! Plain data; `objects` turns it into JSON. A port's name is what joins a Service with its slices.

use serde_json::{Value, json};

use super::NAMESPACE;
use crate::address::Dual;
use crate::cluster::Pod;
use crate::node::Node;

/// A port of a Service, and the number it has in the pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub(super) name: String,
    pub(super) protocol: &'static str,
    pub(super) port: u16,
    pub(super) target: u16,
    pub(super) target_name: Option<String>,
    pub(super) node_port: Option<u16>,
}

impl ServicePort {
    /// A TCP port; the pods' number is the same unless told.
    pub fn tcp(name: &str, port: u16) -> Self {
        Self::of(name, "TCP", port)
    }

    /// A UDP port; the pods' number is the same unless told.
    pub fn udp(name: &str, port: u16) -> Self {
        Self::of(name, "UDP", port)
    }

    /// An SCTP port.
    pub fn sctp(name: &str, port: u16) -> Self {
        Self::of(name, "SCTP", port)
    }

    pub(super) fn of(name: &str, protocol: &'static str, port: u16) -> Self {
        Self { name: name.to_owned(), protocol, port, target: port, target_name: None, node_port: None }
    }

    /// The pods' port.
    #[must_use]
    pub fn target(mut self, port: u16) -> Self {
        self.target = port;
        self
    }

    /// The Service asks for this port of the pods by name; the slices have the number.
    #[must_use]
    pub fn named_target(mut self, name: &str) -> Self {
        self.target_name = Some(name.to_owned());
        self
    }

    /// Its nodePort.
    #[must_use]
    pub fn node_port(mut self, port: u16) -> Self {
        self.node_port = Some(port);
        self
    }

    pub(super) fn in_service(&self) -> Value {
        let mut port = json!({"name": self.name, "protocol": self.protocol, "port": self.port});
        port["targetPort"] = self.target_name.clone().map_or_else(|| Value::from(self.target), Value::from);
        if let Some(node_port) = self.node_port {
            port["nodePort"] = node_port.into();
        }
        port
    }

    pub(super) fn in_slice(&self) -> Value {
        json!({"name": self.name, "protocol": self.protocol, "port": self.target})
    }
}

/// The conditions of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// New connections may be sent there.
    pub ready: bool,
    /// It answers, whether or not it terminates.
    pub serving: bool,
    /// It is about to end.
    pub terminating: bool,
}

impl Conditions {
    /// Ready.
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };
    /// Not ready, not serving.
    pub const NOT_READY: Self = Self { ready: false, serving: false, terminating: false };
    /// Terminating, and serves meanwhile.
    pub const TERMINATING: Self = Self { ready: false, serving: true, terminating: true };
    /// Terminating, and its readiness probe fails.
    pub const TERMINATING_UNREADY: Self = Self { ready: false, serving: false, terminating: true };
    /// The same, of a Service with `publishNotReadyAddresses`: the slice controller says ready, whatever is true.
    pub const PUBLISHED: Self = Self { ready: true, serving: false, terminating: true };
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    name: String,
    node_name: Option<String>,
    pub(super) address: Dual,
    conditions: Conditions,
    hints: Option<Value>,
}

impl Endpoint {
    /// A pod, ready.
    pub fn pod(pod: &Pod) -> Self {
        Self {
            name: pod.name.clone(),
            node_name: Some(pod.node_name.clone()),
            address: pod.address,
            conditions: Conditions::READY,
            hints: None,
        }
    }

    /// A ready pod `name` on the network of `node`: its address is the node's.
    pub fn host_network(name: &str, node: &Node) -> Self {
        Self {
            name: name.to_owned(),
            node_name: Some(node.name().to_owned()),
            address: node.address(),
            conditions: Conditions::READY,
            hints: None,
        }
    }

    /// In this condition.
    #[must_use]
    pub fn conditions(mut self, conditions: Conditions) -> Self {
        self.conditions = conditions;
        self
    }

    /// For clients in these zones.
    #[must_use]
    pub fn for_zones(mut self, zones: &[&str]) -> Self {
        self.hint("forZones", zones);
        self
    }

    /// For clients on these nodes.
    #[must_use]
    pub fn for_nodes(mut self, nodes: &[&str]) -> Self {
        self.hint("forNodes", nodes);
        self
    }

    fn hint(&mut self, kind: &str, names: &[&str]) {
        let names: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        self.hints.get_or_insert_with(|| json!({}))[kind] = names.into();
    }

    /// As it stands in a slice of IPv4 or IPv6 addresses; `hand_made` slices do not know nodes and pods.
    pub(super) fn in_slice(&self, v4: bool, hand_made: bool) -> Value {
        let Conditions { ready, serving, terminating } = self.conditions;
        let [four, six] = self.address.both();
        let mut endpoint = json!({
            "addresses": [if v4 { four } else { six }.to_string()],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        });
        if let Some(hints) = &self.hints {
            endpoint["hints"] = hints.clone();
        }
        if !hand_made {
            endpoint["nodeName"] = self.node_name.clone().into();
            endpoint["targetRef"] = json!({"kind": "Pod", "name": self.name, "namespace": NAMESPACE});
        }
        endpoint
    }
}
