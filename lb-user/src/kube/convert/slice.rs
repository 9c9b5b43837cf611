//! EndpointSlices (spec O1, O2, O8, E1 to E4).

use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::Value;

use super::{Converted, LABEL_SERVICE_NAME, Notes, Selection};
use crate::model::{Endpoint, Family, Hints, Slice, SlicePort};

/// Converts a slice; one that is not Fairway's to use gives nothing.
pub fn slice(json: &Value, selection: &Selection) -> Converted<Slice> {
    let mut notes = Notes::new("EndpointSlice", json);
    let value = notes
        .typed::<discovery::EndpointSlice>(json)
        .and_then(|typed| convert(&mut notes, &typed, selection));
    notes.done(value)
}

fn convert(notes: &mut Notes, typed: &discovery::EndpointSlice, selection: &Selection) -> Option<Slice> {
    let labels = typed.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get(LABEL_SERVICE_NAME)).filter(|name| !name.is_empty())?;
    if !selection.admits(labels) {
        return None;
    }
    let family = match typed.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return None,
        other => {
            notes.add("addressType", format!("`{other}` is not an address type"));
            return None;
        }
    };
    let key = notes.key(&typed.metadata)?;
    let ports = ports(notes, typed.ports.as_deref().unwrap_or_default());
    let endpoints = typed.endpoints.iter().enumerate();
    let endpoints = endpoints.filter_map(|(index, each)| endpoint(notes, index, each, family)).collect();
    Some(Slice { key, service: service.as_str().into(), family, ports, endpoints })
}

/// E3: a port without a name or a number is left out.
fn ports(notes: &mut Notes, ports: &[discovery::EndpointPort]) -> Vec<SlicePort> {
    let mut known = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("ports[{index}]{name}");
        let Some(name) = port.name.as_deref().map(Into::into) else {
            notes.add(field(".name"), "a port without a name is left out");
            continue;
        };
        let Some(number) = port.port else {
            notes.add(field(".port"), "a port without a number (all ports) is not supported and left out");
            continue;
        };
        let Some(proto) = notes.proto(field(".protocol"), port.protocol.as_deref()) else { continue };
        let Some(port) = notes.port(field(".port"), number) else { continue };
        known.push(SlicePort { name, proto, port });
    }
    known
}

/// E2: the first address only; E4: what missing conditions mean.
fn endpoint(
    notes: &mut Notes,
    index: usize,
    typed: &discovery::Endpoint,
    family: Family,
) -> Option<Endpoint> {
    let field = format!("endpoints[{index}].addresses[0]");
    let text = typed.addresses.first()?;
    let addr = notes.address(field.as_str(), text)?;
    if Family::of(&addr) != family {
        notes.add(field, format!("`{text}` is not of the slice's address type"));
        return None;
    }
    let conditions = typed.conditions.as_ref();
    let hints = typed.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    Some(Endpoint {
        addr,
        ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        node_name: typed.node_name.as_deref().filter(|name| !name.is_empty()).map(Into::into),
        hints: Hints::of(
            zones.iter().map(|zone| zone.name.clone()).collect(),
            nodes.iter().map(|node| node.name.clone()).collect(),
        ),
    })
}
