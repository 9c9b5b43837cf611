//! ServiceCIDRs (spec O6): the networks that cluster IPs come from.

use k8s_openapi::api::networking::v1 as networking;
use serde_json::Value;

use super::{Converted, Notes};
use crate::model::{Key, ServiceCidr};

/// Converts a ServiceCIDR; what is not a network is left out.
pub fn service_cidr(json: &Value) -> Converted<ServiceCidr> {
    let mut notes = Notes::new("ServiceCIDR", json);
    let value = notes.typed::<networking::ServiceCIDR>(json).and_then(|typed| convert(&mut notes, &typed));
    notes.done(value)
}

fn convert(notes: &mut Notes, typed: &networking::ServiceCIDR) -> Option<ServiceCidr> {
    let Some(name) = typed.metadata.name.clone() else {
        notes.add("metadata.name", "is missing");
        return None;
    };
    let texts = typed.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default().iter();
    let cidrs = texts.enumerate().filter_map(|(i, text)| notes.network(format!("spec.cidrs[{i}]"), text));
    Some(ServiceCidr { cidrs: cidrs.collect(), key: Key::new("", name) })
}
