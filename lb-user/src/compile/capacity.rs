//! Nothing is promised that the maps cannot hold: a service port fits whole or is left out whole.
//!
//! Order of admission: what is programmed already, then the oldest, then by key. So a newcomer never displaces
//! what works, and every node with the same history decides alike.

use super::keys::{BackendKey, PortKey};
use super::{Desired, DesiredPort};
use crate::model::{Family, Problem};
use crate::tables::{FrontendKey, Limits};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// How many slots may be promised: half, so that a changed set always finds room beside the one it replaces.
pub fn slot_budget(limits: &Limits) -> usize {
    limits.slots as usize / 2
}

/// How many backends of one family may be promised: id 0 is never used.
pub fn backend_budget(limits: &Limits) -> usize {
    limits.backends.saturating_sub(1) as usize
}

/// A service port that asks for admission.
pub(super) struct Wanted {
    pub key: PortKey,
    pub created_unix_s: i64,
    pub port: DesiredPort,
    pub backends: Vec<(BackendKey, u8)>,
}

/// Admits service ports until a table is full.
pub(super) fn admit(
    mut wanted: Vec<Wanted>,
    limits: &Limits,
    programmed: &dyn Fn(&FrontendKey) -> bool,
    problems: &mut Vec<Problem>,
) -> Desired {
    wanted.sort_by_cached_key(|w| {
        let newcomer = !w.port.frontends.keys().any(programmed);
        (newcomer, w.created_unix_s, w.key.clone())
    });
    let mut desired = Desired::default();
    let mut used: BTreeMap<Family, (usize, usize)> = BTreeMap::new();
    let mut slots_used = 0;
    for want in wanted {
        let (frontends_used, backends_used) = used.entry(want.key.family).or_default();
        let new_backends =
            want.backends.iter().filter(|(key, _)| !desired.backends.contains_key(key)).count();
        let frontends = *frontends_used + want.port.frontends.len();
        let backends = *backends_used + new_backends;
        let slots = slots_used + want.port.cluster.len() + want.port.local.len();
        let own_slots = want.port.cluster.len() + want.port.local.len();
        let checks = [
            ("frontends", want.port.frontends.len(), frontends, limits.services as usize),
            ("backends", want.backends.len(), backends, backend_budget(limits)),
            ("slots", own_slots, slots, slot_budget(limits)),
        ];
        if let Some((table, own, _, budget)) = checks.into_iter().find(|(_, _, need, budget)| need > budget) {
            // Only numbers that stay the same from sync to sync: whoever shows problems shows changes.
            problems.push(Problem {
                object: format!("Service {}", want.key.service),
                field: "spec.ports".to_string(),
                message: format!(
                    "{} is not programmed: its {own} {table} do not fit into {budget}",
                    want.key
                ),
            });
            continue;
        }
        (*frontends_used, *backends_used, slots_used) = (frontends, backends, slots);
        for (key, flags) in want.backends {
            match desired.backends.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(flags);
                }
                Entry::Occupied(mut held) => *held.get_mut() |= flags,
            }
        }
        desired.ports.insert(want.key, want.port);
    }
    desired
}
