//! Nodes (spec O5): addresses, zone, pod networks, and whether the node is about to go (spec H1).

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use super::{Converted, LABEL_ZONE, Notes};
use crate::model::NodeObject;

/// Taint of a node that the cluster autoscaler is about to remove.
const TAINT_LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

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
    let spec = typed.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    Some(NodeObject {
        name,
        addresses,
        zone: zone.filter(|zone| !zone.is_empty()),
        pod_cidrs: spec.map(|spec| pod_cidrs(notes, spec)).unwrap_or_default(),
        leaving: typed.metadata.deletion_timestamp.is_some()
            || taints.iter().any(|taint| taint.key == TAINT_LEAVING),
    })
}

/// The list, or the single older field where there is no list.
fn pod_cidrs(notes: &mut Notes, spec: &core::NodeSpec) -> Vec<IpNet> {
    match spec.pod_cidrs.as_deref() {
        None | Some([]) => {
            let text = spec.pod_cidr.as_deref().filter(|text| !text.is_empty());
            text.and_then(|text| notes.network("spec.podCIDR", text)).into_iter().collect()
        }
        Some(texts) => {
            let texts = texts.iter().enumerate();
            texts.filter_map(|(index, text)| notes.network(format!("spec.podCIDRs[{index}]"), text)).collect()
        }
    }
}
