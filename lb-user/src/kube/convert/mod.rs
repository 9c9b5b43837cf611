//! One Kubernetes object, as JSON, to one value of the model: pure and tolerant.
//!
//! Whatever is wrong with an object becomes [`Problem`]s that name the object, the field and the fault; the rest of
//! the object is used where that is safe, and no other object is affected. Objects Fairway is not meant to see
//! (spec O1 to O4, O8) give no value and no problem. Nothing here panics or does I/O.

mod node;
mod service;
mod service_cidr;
mod slice;
mod text;

pub use node::node;
pub use service::service;
pub use service_cidr::service_cidr;
pub use slice::slice;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::{Key, NodeObject, Problem, Proto, Service, ServiceCidr, Slice};

/// Label that hands a Service to another proxy (spec O1).
pub const LABEL_SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of headless Services and their slices (spec O2).
pub const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// Label that names a slice's Service (spec E1).
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a node's zone (spec T3).
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";

/// Which objects are Fairway's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only objects labelled with this service-proxy-name; `None`: only objects without that label.
    pub service_proxy_name: Option<String>,
}

impl Selection {
    /// The same as a Kubernetes label selector, for the API to filter by.
    pub fn label_selector(&self) -> String {
        match &self.service_proxy_name {
            None => format!("!{LABEL_SERVICE_PROXY_NAME},!{LABEL_HEADLESS}"),
            Some(name) => format!("{LABEL_SERVICE_PROXY_NAME}={name},!{LABEL_HEADLESS}"),
        }
    }

    fn admits(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let label = |name| labels.and_then(|labels| labels.get(name));
        label(LABEL_HEADLESS).is_none() && label(LABEL_SERVICE_PROXY_NAME) == self.service_proxy_name.as_ref()
    }
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// The value; `None` if the object is not to be programmed.
    pub value: Option<T>,
    /// What is wrong with the object.
    pub problems: Vec<Problem>,
}

/// A converted object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    Slice(Arc<Slice>),
    /// A Node.
    Node(NodeObject),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

/// Converts an object by its `apiVersion` and `kind`; `None` for kinds that are not used.
pub fn object(json: &Value, selection: &Selection) -> Option<Converted<Object>> {
    fn wrap<T>(converted: Converted<T>, wrap: fn(T) -> Object) -> Option<Converted<Object>> {
        Some(Converted { value: converted.value.map(wrap), problems: converted.problems })
    }
    let text = |field: &str| json.get(field).and_then(Value::as_str).unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("v1", "Service") => wrap(service(json, selection), |service| Object::Service(Arc::new(service))),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            wrap(slice(json, selection), |slice| Object::Slice(Arc::new(slice)))
        }
        ("v1", "Node") => wrap(node(json), Object::Node),
        ("networking.k8s.io/v1", "ServiceCIDR") => wrap(service_cidr(json), Object::ServiceCidr),
        _ => None,
    }
}

/// Fills in what the API server would have filled in, for objects that never passed one: the default namespace, slice
/// port names, and a Service's `clusterIP`, `clusterIPs` and `ipFamilies` from each other.
pub fn fill_defaults(json: &mut Value) {
    let kind = json.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if matches!(kind.as_str(), "Service" | "EndpointSlice")
        && let Some(Value::Object(metadata)) = json.get_mut("metadata")
    {
        metadata.entry("namespace").or_insert_with(|| "default".into());
    }
    match kind.as_str() {
        "EndpointSlice" => {
            for port in json.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Value::Object(port) = port {
                    port.entry("name").or_insert_with(|| "".into());
                }
            }
        }
        "Service" => {
            let Some(Value::Object(spec)) = json.get_mut("spec") else { return };
            if let Some(first) = spec.get("clusterIPs").and_then(|ips| ips.get(0)).cloned() {
                spec.entry("clusterIP").or_insert(first);
            } else if let Some(only) = spec.get("clusterIP").cloned() {
                spec.insert("clusterIPs".into(), Value::Array(vec![only]));
            }
            if let Some(ips) = spec.get("clusterIPs").and_then(Value::as_array) {
                let family =
                    |ip: &Value| if ip.as_str().unwrap_or_default().contains(':') { "IPv6" } else { "IPv4" };
                let families: Vec<Value> = ips.iter().map(|ip| family(ip).into()).collect();
                spec.entry("ipFamilies").or_insert(Value::Array(families));
            }
        }
        _ => {}
    }
}

/// `default/web`, `web`, or what stands for a name where there is none.
fn label_of(json: &Value) -> String {
    let part = |field| json.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
    match (part("namespace"), part("name")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.to_owned(),
        _ => "without a name".to_owned(),
    }
}

/// Collects the problems of one object.
struct Notes {
    object: String,
    problems: Vec<Problem>,
}

impl Notes {
    fn new(kind: &str, json: &Value) -> Self {
        Notes { object: format!("{kind} {}", label_of(json)), problems: Vec::new() }
    }

    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem {
            object: self.object.clone(),
            field: field.into(),
            message: message.into(),
        });
    }

    fn done<T>(self, value: Option<T>) -> Converted<T> {
        Converted { value, problems: self.problems }
    }

    /// The typed object, or a problem that names the field that does not fit.
    fn typed<T: DeserializeOwned>(&mut self, json: &Value) -> Option<T> {
        if !json.is_object() {
            self.add("", "is not an object");
            return None;
        }
        // Following the path of fields costs as much as reading them: only where there is a fault to name.
        if let Ok(typed) = T::deserialize(json) {
            return Some(typed);
        }
        match serde_path_to_error::deserialize(json) {
            Ok(typed) => Some(typed),
            Err(error) => {
                let field = error.path().to_string();
                let field = if field == "." { String::new() } else { field };
                self.add(field, error.into_inner().to_string());
                None
            }
        }
    }

    fn key(&mut self, metadata: &ObjectMeta) -> Option<Key> {
        let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else {
            self.add("metadata", "needs a name and a namespace");
            return None;
        };
        Some(Key::new(namespace.as_str(), name.as_str()))
    }

    /// An address that can be a destination, or a problem.
    fn address(&mut self, field: impl Into<String>, text: &str) -> Option<IpAddr> {
        let fault = match text::address(text) {
            None => format!("`{text}` is not an IP address"),
            Some(address) => match special(&address) {
                None => return Some(address),
                Some(what) => format!("`{text}` is {what} and cannot be used"),
            },
        };
        self.add(field, fault);
        None
    }

    /// A network, without the bits behind its prefix, or a problem.
    fn network(&mut self, field: impl Into<String>, text: &str) -> Option<IpNet> {
        let network = text::network(text);
        if network.is_none() {
            self.add(field, format!("`{text}` is not a network (ADDRESS/BITS)"));
        }
        network
    }

    fn port(&mut self, field: impl Into<String>, number: i32) -> Option<u16> {
        match u16::try_from(number) {
            Ok(port) if port != 0 => Some(port),
            _ => {
                self.add(field, format!("{number} is not a port number from 1 to 65535"));
                None
            }
        }
    }

    fn proto(&mut self, field: impl Into<String>, protocol: Option<&str>) -> Option<Proto> {
        match protocol.unwrap_or("TCP") {
            "TCP" => return Some(Proto::Tcp),
            "UDP" => return Some(Proto::Udp),
            "SCTP" => self.add(field, "SCTP is not supported yet; this port is left out"),
            other => self.add(field, format!("`{other}` is not a protocol; this port is left out")),
        }
        None
    }
}

/// Addresses that Kubernetes forbids as well: they would mean another host on every host.
fn special(address: &IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if link_local {
        Some("a link-local address")
    } else if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        Some("an IPv4 address in IPv6 clothes")
    } else {
        None
    }
}
