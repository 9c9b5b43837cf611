//! Slices merged into the endpoints of a service port (spec §1.3: E1–E8, M8).

use super::Context;
use super::keys::{BackendKey, PortKey};
use crate::model::{Endpoint, Family, Key, Problem, Slice, World};
use lb_common::backend::{BACKEND_LIVE, BACKEND_LOCAL, BACKEND_SERVING};
use std::collections::HashMap;
use std::sync::Arc;

/// Slices by the Service they belong to, each list in order of slice name.
pub(super) fn index(world: &World) -> HashMap<Key, Vec<Arc<Slice>>> {
    let mut by_service: HashMap<Key, Vec<Arc<Slice>>> = HashMap::new();
    for slice in world.slices.iter() {
        by_service.entry(service_of(slice)).or_default().push(Arc::clone(slice));
    }
    by_service
}

/// The Service a slice belongs to.
pub(super) fn service_of(slice: &Slice) -> Key {
    Key { namespace: slice.key.namespace.clone(), name: slice.service.clone() }
}

/// An endpoint of a service port after duplicates are merged.
#[derive(Clone, Debug)]
pub(super) struct Merged<'a> {
    /// Address, port, protocol.
    pub key: BackendKey,
    /// The endpoint that stands for this address and port.
    pub endpoint: &'a Endpoint,
    /// It runs on this node by its node name (spec E5).
    pub local: bool,
    /// `BACKEND_*` flags.
    pub flags: u8,
}

/// The endpoints of one service port, in order of address; `slices` are those of its Service.
pub(super) fn merge<'a>(
    slices: &'a [Arc<Slice>],
    port: &PortKey,
    context: &Context<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<Merged<'a>> {
    let mut listed: Vec<Merged<'a>> = Vec::new();
    for slice in slices.iter().filter(|s| s.family == port.family) {
        for target in slice.ports.iter().filter(|p| p.name == port.port && p.proto == port.proto) {
            for endpoint in &slice.endpoints {
                if let Some(message) = refusal(endpoint, port.family) {
                    let object = format!("EndpointSlice {}", slice.key);
                    problems.push(Problem { object, field: "endpoints.addresses".to_string(), message });
                    continue;
                }
                let key = BackendKey { addr: endpoint.addr, port: target.port, proto: port.proto };
                listed.push(context.judge(key, endpoint));
            }
        }
    }
    // Stable: equal addresses stay in the order of slices and endpoints.
    listed.sort_by_key(|e| e.key);
    let mut merged: Vec<Merged<'a>> = Vec::with_capacity(listed.len());
    for later in listed {
        match merged.last_mut().filter(|earlier| earlier.key == later.key) {
            // E6: a later duplicate replaces an earlier one only if the later is local.
            Some(earlier) => {
                let flags = earlier.flags | later.flags;
                if later.local {
                    *earlier = later;
                }
                earlier.flags = flags;
            }
            None => merged.push(later),
        }
    }
    merged
}

impl Context<'_> {
    fn judge<'a>(&self, key: BackendKey, endpoint: &'a Endpoint) -> Merged<'a> {
        let own_name = self.node.name.as_str();
        let local = !own_name.is_empty() && endpoint.node_name.as_deref() == Some(own_name);
        let mut flags = BACKEND_LIVE;
        if endpoint.serving || endpoint.ready {
            flags |= BACKEND_SERVING;
        }
        if local || self.own_addresses.contains(&endpoint.addr) {
            flags |= BACKEND_LOCAL;
        }
        Merged { key, endpoint, local, flags }
    }
}

fn refusal(endpoint: &Endpoint, family: Family) -> Option<String> {
    let a = endpoint.addr;
    if Family::of(&a) != family {
        return Some(format!("{a} is not of the slice's address type"));
    }
    (a.is_unspecified() || a.is_loopback() || a.is_multicast())
        .then(|| format!("{a} cannot be an endpoint (unspecified, loopback or multicast)"))
}
