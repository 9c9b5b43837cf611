//! Which service port has which id: by name, else through a shared frontend, else the lowest free one.

use crate::compile::{Desired, PortKey};
use crate::restore::Actual;
use lb_common::service::SVC_KIND_MASK;
use std::collections::{BTreeMap, HashSet};

/// Ids of all desired service ports. Id 0 is never given out. An id that any visible frontend carries is not
/// new, so a removed service port's id is free only for a later plan.
pub(super) fn assign(actual: &Actual, desired: &Desired) -> BTreeMap<PortKey, u32> {
    let mut ids: BTreeMap<PortKey, u32> = BTreeMap::new();
    let mut taken: HashSet<u32> = HashSet::new();
    for key in desired.ports.keys() {
        if let Some(id) = actual.names.get(key).filter(|id| taken.insert(**id)) {
            ids.insert(key.clone(), *id);
        }
    }
    for (key, port) in &desired.ports {
        if ids.contains_key(key) {
            continue;
        }
        // ClusterIP first: it is the address that belongs to a Service for good.
        let mut frontends: Vec<_> = port.frontends.iter().collect();
        frontends.sort_by_key(|frontend| (frontend.flags & SVC_KIND_MASK, frontend.key));
        let shared = frontends.iter().filter_map(|f| actual.frontends.get(&f.key)).map(|svc| svc.id);
        if let Some(id) = shared.filter(|id| *id != 0).find(|id| !taken.contains(id)) {
            taken.insert(id);
            ids.insert(key.clone(), id);
        }
    }
    taken.extend(actual.frontends.values().map(|svc| svc.id));
    let mut free = (1..=u32::MAX).filter(|id| !taken.contains(id));
    for key in desired.ports.keys() {
        if !ids.contains_key(key)
            && let Some(id) = free.next()
        {
            ids.insert(key.clone(), id);
        }
    }
    ids
}
