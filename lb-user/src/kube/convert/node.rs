//! Nodes (spec O5): addresses and zone.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use super::{Converted, LABEL_ZONE, Notes};
use crate::model::NodeObject;

/// Converts a Node.
pub fn node(json: &Value) -> Converted<NodeObject> {
    let mut notes = Notes::new("Node", json);
    let value = notes.typed::<core::Node>(json).and_then(|typed| convert(&mut notes, &typed));
    notes.done(value)
}

fn convert(notes: &mut Notes, typed: &core::Node) -> Option<NodeObject> {
    let Some(name) = typed.metadata.name.clone() else {
        notes.add("metadata.name", "is missing");
        return None;
    };
    let listed = typed.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let usable = listed.iter().enumerate();
    let addresses = usable
        .filter(|(_, each)| matches!(each.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|(index, each)| {
            notes.address(format!("status.addresses[{index}].address"), &each.address)
        })
        .collect();
    let zone = typed.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_ZONE)).cloned();
    Some(NodeObject {
        name,
        addresses,
        zone: zone.filter(|zone| !zone.is_empty()),
        pod_cidrs: Vec::new(),
        leaving: false,
    })
}
