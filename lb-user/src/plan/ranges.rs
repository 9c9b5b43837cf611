//! Which set of source ranges has which id. Equal sets share one; a set in use never changes, another content
//! gets another id.

use crate::model::Family;
use crate::restore::Actual;
use crate::tables::SourceRanges;
use std::collections::{HashMap, HashSet};

/// Ids and room of the range tries during one plan.
pub(super) struct RangeIds {
    by_set: HashMap<SourceRanges, u32>,
    /// Ids that hold something or that a visible frontend names, even if nothing is there.
    taken: HashSet<u32>,
    /// Free entries per family.
    room: HashMap<Family, usize>,
    next: u32,
}

impl RangeIds {
    /// What the maps hold.
    pub fn of(actual: &Actual) -> RangeIds {
        let mut by_set: HashMap<SourceRanges, u32> = HashMap::new();
        let mut held: HashMap<Family, usize> = HashMap::new();
        for (id, networks) in &actual.source_ranges {
            by_set.entry(networks.clone()).or_insert(*id);
            for network in networks.iter() {
                *held.entry(Family::of(&network.addr())).or_default() += 1;
            }
        }
        let named = actual.frontends.values().map(|svc| svc.ranges_id);
        let taken = actual.source_ranges.keys().copied().chain(named).collect();
        let size = actual.limits.ranges as usize;
        let left = |family| size.saturating_sub(held.get(&family).copied().unwrap_or(0));
        let room = [Family::V4, Family::V6].map(|family| (family, left(family))).into();
        RangeIds { by_set, taken, room, next: 1 }
    }

    /// The id of a set, and whether it is new and must be written; `None` when there is no room for it now.
    pub fn id_for(&mut self, set: &SourceRanges) -> Option<(u32, bool)> {
        if let Some(id) = self.by_set.get(set) {
            return Some((*id, false));
        }
        let family = Family::of(&set.first()?.addr());
        let room = self.room.get_mut(&family)?;
        *room = room.checked_sub(set.len())?;
        while self.taken.contains(&self.next) {
            self.next = self.next.checked_add(1)?;
        }
        let id = self.next;
        self.taken.insert(id);
        self.by_set.insert(set.clone(), id);
        Some((id, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Limits;

    fn set(networks: &[&str]) -> SourceRanges {
        networks.iter().map(|text| text.parse().expect("network")).collect()
    }

    #[test]
    fn equal_sets_share_an_id_and_no_id_in_use_is_given_out() {
        let mut actual = Actual::empty(Limits { services: 8, backends: 8, slots: 8, ranges: 4 });
        actual.source_ranges.insert(1, set(&["10.0.0.0/8"]));
        let svc = lb_common::Svc { ranges_id: 2, ..lb_common::Svc::default() };
        let key = crate::compile::keys::address_key("10.0.0.1".parse().expect("ip"));
        actual.frontends.insert(key, svc);
        let mut ids = RangeIds::of(&actual);
        assert_eq!(ids.id_for(&set(&["10.0.0.0/8"])), Some((1, false)));
        assert_eq!(ids.id_for(&set(&["10.0.0.0/9", "192.0.2.0/24"])), Some((3, true)));
        assert_eq!(ids.id_for(&set(&["10.0.0.0/9", "192.0.2.0/24"])), Some((3, false)));
        assert_eq!(ids.id_for(&set(&["10.0.0.0/10", "192.0.2.0/25"])), None, "one entry is left");
        assert_eq!(ids.id_for(&set(&["fd00::/8"])), Some((4, true)), "the families have a trie each");
    }
}
