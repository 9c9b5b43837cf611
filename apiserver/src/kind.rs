//! The kinds that are served, with their names in URLs and objects.

use serde_json::Value;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// core/v1 Node.
    Node,
    /// networking.k8s.io/v1 ServiceCIDR.
    ServiceCidr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];

    /// `kind` of an object.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Node => "Node",
            Kind::ServiceCidr => "ServiceCIDR",
        }
    }

    /// `apiVersion` of an object.
    pub fn api_version(self) -> &'static str {
        match self {
            Kind::Service | Kind::Node => "v1",
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            Kind::ServiceCidr => "networking.k8s.io/v1",
        }
    }

    /// Whether objects live in namespaces.
    pub fn namespaced(self) -> bool {
        !matches!(self, Kind::Node | Kind::ServiceCidr)
    }

    /// The kind of an object by its `apiVersion` and `kind`.
    pub fn of(object: &Value) -> Option<Kind> {
        let text = |field| object.get(field).and_then(Value::as_str);
        let (api_version, name) = (text("apiVersion")?, text("kind")?);
        Kind::ALL.into_iter().find(|kind| kind.name() == name && kind.api_version() == api_version)
    }

    /// The kind by group path and plural, as in URLs.
    pub(crate) fn of_path(group: &str, plural: &str) -> Option<Kind> {
        match (group, plural) {
            ("api/v1", "services") => Some(Kind::Service),
            ("api/v1", "nodes") => Some(Kind::Node),
            ("apis/discovery.k8s.io/v1", "endpointslices") => Some(Kind::EndpointSlice),
            ("apis/networking.k8s.io/v1", "servicecidrs") => Some(Kind::ServiceCidr),
            _ => None,
        }
    }
}
