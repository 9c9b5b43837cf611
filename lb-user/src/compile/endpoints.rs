//! Slices merged into the endpoints of a service port (spec §1.3: E1–E8, M8).

use super::keys::{BackendKey, PortKey};
use crate::model::{Endpoint, Family, Key, NodeView, Problem, Slice, World};
use lb_common::backend::{BACKEND_LIVE, BACKEND_LOCAL, BACKEND_SERVING};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

/// Slices by the Service they belong to, each list in order of slice name.
pub(super) fn index(world: &World) -> HashMap<Key, Vec<&Slice>> {
    let mut by_service: HashMap<Key, Vec<&Slice>> = HashMap::new();
    for slice in world.slices.values() {
        let service = Key::new(slice.key.namespace.clone(), slice.service.clone());
        by_service.entry(service).or_default().push(slice);
    }
    by_service
}

/// An endpoint of a service port after duplicates are merged.
#[derive(Clone, Debug)]
pub(super) struct Merged<'a> {
    /// The endpoint that stands for this address and port.
    pub endpoint: &'a Endpoint,
    /// It runs on this node by its node name (spec E5).
    pub local: bool,
    /// `BACKEND_*` flags.
    pub flags: u8,
}

/// The endpoints of one service port, in order.
pub(super) fn merge<'a>(
    index: &HashMap<Key, Vec<&'a Slice>>,
    port: &PortKey,
    node: &NodeView,
    problems: &mut Vec<Problem>,
) -> BTreeMap<BackendKey, Merged<'a>> {
    let own_addresses: HashSet<&IpAddr> = node.local_addresses.iter().collect();
    let mut merged: BTreeMap<BackendKey, Merged<'a>> = BTreeMap::new();
    let slices = index.get(&port.service).map(Vec::as_slice).unwrap_or_default();
    for slice in slices.iter().filter(|s| s.family == port.family) {
        for target in slice.ports.iter().filter(|p| p.name == port.port && p.proto == port.proto) {
            for endpoint in &slice.endpoints {
                if let Some(message) = refusal(endpoint, port.family) {
                    let object = format!("EndpointSlice {}", slice.key);
                    problems.push(Problem { object, field: "endpoints.addresses".to_string(), message });
                    continue;
                }
                let local =
                    !node.name.is_empty() && endpoint.node_name.as_deref() == Some(node.name.as_str());
                let mut flags = BACKEND_LIVE;
                if endpoint.serving || endpoint.ready {
                    flags |= BACKEND_SERVING;
                }
                if local || own_addresses.contains(&endpoint.addr) {
                    flags |= BACKEND_LOCAL;
                }
                let key = BackendKey { addr: endpoint.addr, port: target.port, proto: port.proto };
                let here = Merged { endpoint, local, flags };
                merged
                    .entry(key)
                    .and_modify(|seen| {
                        // E6: a later duplicate replaces an earlier one only if the later is local.
                        let flags = seen.flags | flags;
                        if local {
                            *seen = here.clone();
                        }
                        seen.flags = flags;
                    })
                    .or_insert(here);
            }
        }
    }
    merged
}

fn refusal(endpoint: &Endpoint, family: Family) -> Option<String> {
    let a = endpoint.addr;
    if Family::of(&a) != family {
        return Some(format!("{a} is not of the slice's address type"));
    }
    (a.is_unspecified() || a.is_loopback() || a.is_multicast())
        .then(|| format!("{a} cannot be an endpoint (unspecified, loopback or multicast)"))
}
