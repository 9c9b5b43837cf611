//! Nothing is promised that the maps cannot hold: a service port fits whole or is left out whole.
//!
//! Order of admission: what is programmed already, then the oldest, then by key. So a newcomer never displaces
//! what works, and every node with the same history decides alike.

use super::keys::PortKey;
use super::ranges::SourceRanges;
use super::{Desired, DesiredPort};
use crate::model::{Family, Problem};
use crate::tables::{FrontendKey, Limits};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

/// How many slots may be promised: half, so that a changed set always finds room beside the one it replaces.
pub fn slot_budget(limits: &Limits) -> usize {
    limits.slots as usize / 2
}

/// How many backends of one family may be promised: id 0 is never used.
pub fn backend_budget(limits: &Limits) -> usize {
    limits.backends.saturating_sub(1) as usize
}

/// How many source ranges of one family may be promised: half, for the same reason as with slots.
pub fn range_budget(limits: &Limits) -> usize {
    limits.ranges as usize / 2
}

/// A service port that asks for admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub key: PortKey,
    pub created_unix_s: i64,
    pub port: DesiredPort,
}

/// What is promised of one family's tables.
#[derive(Default)]
struct Used {
    frontends: usize,
    backends: usize,
    ranges: usize,
}

/// Admits service ports until a table is full.
pub(super) fn admit(
    mut wanted: Vec<Wanted>,
    limits: &Limits,
    programmed: &dyn Fn(&FrontendKey) -> bool,
    problems: &mut Vec<Problem>,
) -> Desired {
    wanted.sort_by_cached_key(|w| {
        let newcomer = !w.port.frontends.iter().any(|f| programmed(&f.key));
        (newcomer, w.created_unix_s, w.key.clone())
    });
    let mut desired = Desired::default();
    let mut used: BTreeMap<Family, Used> = BTreeMap::new();
    let mut known_ranges: HashSet<SourceRanges> = HashSet::new();
    let mut slots_used = 0;
    for want in wanted {
        let used = used.entry(want.key.family).or_default();
        let address = usize::from(!desired.addresses.contains(&want.port.address));
        let backends =
            want.port.backends.iter().filter(|(key, _)| !desired.backends.contains_key(key)).count();
        let new_ranges: HashSet<&SourceRanges> =
            sets_of(&want.port).filter(|ranges| !known_ranges.contains(*ranges)).collect();
        let ranges: usize = new_ranges.iter().map(|ranges| ranges.len()).sum();
        let frontends = want.port.frontends.len() + address;
        let slots = want.port.cluster.len() + want.port.local.len();
        let own_ranges = sets_of(&want.port).map(|ranges| ranges.len()).sum();
        let checks = [
            ("frontends", frontends, used.frontends + frontends, limits.services as usize),
            ("backends", want.port.backends.len(), used.backends + backends, backend_budget(limits)),
            ("slots", slots, slots_used + slots, slot_budget(limits)),
            ("source ranges", own_ranges, used.ranges + ranges, range_budget(limits)),
        ];
        if let Some((table, own, _, budget)) = checks.into_iter().find(|(_, _, need, budget)| need > budget) {
            problems.push(refused(&want.key, table, own, budget));
            continue;
        }
        used.frontends += frontends;
        used.backends += backends;
        used.ranges += ranges;
        slots_used += slots;
        known_ranges.extend(new_ranges.into_iter().cloned().collect::<Vec<_>>());
        for (key, flags) in &want.port.backends {
            match desired.backends.entry(*key) {
                Entry::Vacant(free) => drop(free.insert(*flags)),
                Entry::Occupied(mut held) => *held.get_mut() |= flags,
            }
        }
        desired.addresses.insert(want.port.address);
        desired.ports.insert(want.key, want.port);
    }
    desired
}

/// The range sets of a service port's frontends.
fn sets_of(port: &DesiredPort) -> impl Iterator<Item = &SourceRanges> {
    port.frontends.iter().filter_map(|frontend| frontend.ranges.as_ref())
}

/// Only numbers that stay the same from sync to sync: whoever shows problems shows changes.
fn refused(key: &PortKey, table: &str, own: usize, budget: usize) -> Problem {
    Problem {
        object: format!("Service {}", key.service),
        field: "spec.ports".to_string(),
        message: format!("{key} is not programmed: its own {own} {table} do not fit into {budget}"),
    }
}
