//! An object as it came: JSON of any shape, with just enough read from it to watch it.
//!
//! A typed watch fails as a whole when one object of a list does not fit its type. [`RawObject`] accepts anything,
//! so that each object can be judged alone, by `convert`.

use std::borrow::Cow;

use ::kube::Resource;
use ::kube::core::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::Key;

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// core/v1 Service.
    Services,
    /// discovery.k8s.io/v1 EndpointSlice.
    Slices,
    /// core/v1 Node.
    Nodes,
    /// networking.k8s.io/v1 ServiceCIDR, which clusters before Kubernetes 1.33 do not have.
    ServiceCidrs,
}

impl Kind {
    /// All of them; the position is the index of the part in the status board.
    pub(super) const ALL: [Kind; 4] = [Kind::Services, Kind::Slices, Kind::Nodes, Kind::ServiceCidrs];

    /// Position in [`Kind::ALL`].
    pub(super) fn index(self) -> usize {
        match self {
            Kind::Services => 0,
            Kind::Slices => 1,
            Kind::Nodes => 2,
            Kind::ServiceCidrs => 3,
        }
    }

    /// The name in URLs.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Kind::Services => "services",
            Kind::Slices => "endpointslices",
            Kind::Nodes => "nodes",
            Kind::ServiceCidrs => "servicecidrs",
        }
    }

    /// An answer that says that the API does not have this kind, or not for us, and that Fairway can live with.
    pub(super) fn does_without(self, http_code: u16) -> bool {
        self == Kind::ServiceCidrs && matches!(http_code, 403 | 404)
    }
}

/// JSON of any shape.
#[derive(Clone, Debug)]
pub(super) struct RawObject {
    /// The whole object.
    pub(super) json: Value,
    metadata: ObjectMeta,
}

impl RawObject {
    /// Namespace and name as far as there are any; empty strings for what is missing.
    pub(super) fn key(&self) -> Key {
        Key::new(
            self.metadata.namespace.clone().unwrap_or_default(),
            self.metadata.name.clone().unwrap_or_default(),
        )
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Value::deserialize(deserializer)?;
        let text = |field| {
            let value = json.get("metadata").and_then(|metadata| metadata.get(field));
            value.and_then(Value::as_str).map(str::to_owned)
        };
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(RawObject { json, metadata })
    }
}

impl Resource for RawObject {
    type DynamicType = Kind;
    type Scope = ClusterResourceScope;

    fn kind(kind: &Kind) -> Cow<'_, str> {
        Cow::Borrowed(match kind {
            Kind::Services => "Service",
            Kind::Slices => "EndpointSlice",
            Kind::Nodes => "Node",
            Kind::ServiceCidrs => "ServiceCIDR",
        })
    }

    fn group(kind: &Kind) -> Cow<'_, str> {
        Cow::Borrowed(match kind {
            Kind::Services | Kind::Nodes => "",
            Kind::Slices => "discovery.k8s.io",
            Kind::ServiceCidrs => "networking.k8s.io",
        })
    }

    fn version(_: &Kind) -> Cow<'_, str> {
        Cow::Borrowed("v1")
    }

    fn plural(kind: &Kind) -> Cow<'_, str> {
        Cow::Borrowed(kind.plural())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
