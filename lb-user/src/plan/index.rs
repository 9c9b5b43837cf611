//! `Index`: what a plan must know of the maps besides their content, kept up to date from plan to plan.
//!
//! `diff` finds free ids, free slots and users by looking at everything; for one changed endpoint among 100,000 that
//! is too much. The index is built once after a whole plan was applied, follows the plans of `plan_changes`, and is
//! dropped when anything goes wrong. It gives out the same ids and slots as `diff` would.

use super::diff::Range;
use super::slots::Room;
use crate::compile::keys::{entry_state, frontend_family};
use crate::model::Family;
use crate::restore::{Actual, BackendTable, range_of};
use crate::tables::SourceRanges;
use lb_common::Svc;
use lb_common::backend::BACKEND_LIVE;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What is free and what is used how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub(super) room: Room,
    /// Frontends that name a range of slots.
    pub(super) range_users: HashMap<Range, u32>,
    /// Frontends that name a set of source ranges.
    pub(super) source_users: HashMap<u32, u32>,
    pub(super) source_ids: HashMap<SourceRanges, u32>,
    pub(super) svc_ids: FreeIds,
    pub(super) set_ids: FreeIds,
    v4: PerFamily,
    v6: PerFamily,
}

/// One family's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PerFamily {
    pub backends: FreeBackends,
    /// Free entries of the frontend map.
    pub vacant: usize,
    /// Free entries of the source-range trie.
    pub source_room: usize,
}

impl Index {
    /// Looks at everything. `actual` must hold exactly what is desired.
    pub fn of(actual: &Actual) -> Index {
        let limits = actual.limits;
        let mut index = Index {
            room: Room::between(actual.ranges.keys(), limits.slots),
            range_users: HashMap::new(),
            source_users: HashMap::new(),
            source_ids: actual.source_ranges.iter().map(|(id, set)| (set.clone(), *id)).collect(),
            svc_ids: FreeIds::without(actual.names.values().copied()),
            set_ids: FreeIds::without(actual.source_ranges.keys().copied()),
            v4: PerFamily::of(&actual.backends4, limits.services, limits.ranges),
            v6: PerFamily::of(&actual.backends6, limits.services, limits.ranges),
        };
        for (key, svc) in &actual.frontends {
            index.family(frontend_family(key)).vacant -= 1;
            index.use_svc(svc);
        }
        for set in actual.source_ranges.values() {
            index.source_room(set, |room| room.checked_sub(set.len()));
        }
        index
    }

    pub(super) fn family(&mut self, family: Family) -> &mut PerFamily {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Changes the room of a set's trie; `None` when it does not suffice.
    pub(super) fn source_room(
        &mut self,
        set: &SourceRanges,
        change: impl Fn(usize) -> Option<usize>,
    ) -> Option<()> {
        let room = &mut self.family(Family::of(&set.first()?.addr())).source_room;
        *room = change(*room)?;
        Some(())
    }

    /// One frontend more shows this.
    pub(super) fn use_svc(&mut self, svc: &Svc) {
        for range in ranges_of(svc) {
            *self.range_users.entry(range).or_insert(0) += 1;
        }
        if svc.ranges_id != 0 {
            *self.source_users.entry(svc.ranges_id).or_insert(0) += 1;
        }
    }

    /// One frontend less shows this. Users that reach 0 stay in the tables until [`Index::forget_unused`].
    pub(super) fn unuse_svc(&mut self, svc: &Svc) {
        for range in ranges_of(svc) {
            if let Some(users) = self.range_users.get_mut(&range) {
                *users = users.saturating_sub(1);
            }
        }
        if let Some(users) = self.source_users.get_mut(&svc.ranges_id) {
            *users = users.saturating_sub(1);
        }
    }

    /// Takes out of the candidates what nobody uses any more, in order: ranges of slots, sets of source ranges.
    pub(super) fn forget_unused(
        &mut self,
        ranges: BTreeSet<Range>,
        sources: BTreeSet<u32>,
    ) -> (Vec<Range>, Vec<u32>) {
        let unused: Vec<Range> =
            ranges.into_iter().filter(|range| self.range_users.get(range) == Some(&0)).collect();
        for (offset, count) in &unused {
            self.range_users.remove(&(*offset, *count));
            self.room.give(*offset, *count);
        }
        let unused_sources: Vec<u32> =
            sources.into_iter().filter(|id| self.source_users.get(id) == Some(&0)).collect();
        for id in &unused_sources {
            self.source_users.remove(id);
            self.set_ids.give(*id);
        }
        (unused, unused_sources)
    }
}

/// The ranges that a frontend's value names, each once.
pub(super) fn ranges_of(svc: &Svc) -> impl Iterator<Item = Range> {
    let [first, second] = svc.sets.map(|set| range_of(&set));
    first.into_iter().chain(second.filter(|range| Some(*range) != first))
}

impl PerFamily {
    fn of(table: &BackendTable, services: u32, ranges: u32) -> PerFamily {
        PerFamily {
            backends: FreeBackends::of(table),
            vacant: services as usize,
            source_room: ranges as usize,
        }
    }
}

/// Ids from 1 that are free, the lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FreeIds {
    /// Free ones below `next`.
    gaps: BTreeSet<u32>,
    /// All from here on are free.
    next: u32,
}

impl FreeIds {
    fn without(taken: impl Iterator<Item = u32>) -> FreeIds {
        let taken: HashSet<u32> = taken.collect();
        let next = taken.iter().max().map_or(1, |highest| highest.saturating_add(1));
        FreeIds { gaps: (1..next).filter(|id| !taken.contains(id)).collect(), next }
    }

    /// The lowest free id.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.gaps.pop_first() {
            return Some(id);
        }
        let id = self.next;
        self.next = id.checked_add(1)?;
        Some(id)
    }

    /// Gives an id back.
    pub fn give(&mut self, id: u32) {
        self.gaps.insert(id);
        while self.next > 1 && self.gaps.remove(&(self.next - 1)) {
            self.next -= 1;
        }
    }
}

/// Backend ids that can be given out, in the order of [`BackendTable::free_ids`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FreeBackends {
    /// Every id below that was used at some time.
    unused_from: u32,
    /// Freed ones: generation, id.
    freed: BTreeSet<(u32, u32)>,
}

impl FreeBackends {
    fn of(table: &BackendTable) -> FreeBackends {
        let mut unused_from = 1;
        while table.get(unused_from).is_some() {
            unused_from += 1;
        }
        let freed = table.all().filter(|(_, entry)| entry_state(entry).0 & BACKEND_LIVE == 0);
        let freed = freed.map(|(id, entry)| (entry_state(entry).1.max(1), id)).filter(|(_, id)| *id > 0);
        FreeBackends { unused_from, freed: freed.collect() }
    }

    /// The best free id and its generation.
    pub fn take(&mut self, table: &BackendTable, capacity: u32) -> Option<(u32, u32)> {
        if self.unused_from < capacity {
            let id = self.unused_from;
            self.unused_from += 1;
            while table.get(self.unused_from).is_some() {
                self.unused_from += 1;
            }
            return Some((id, 1));
        }
        let usable = self.freed.iter().find(|(_, id)| *id < capacity).copied();
        usable.filter(|best| self.freed.remove(best)).map(|(generation, id)| (id, generation))
    }

    /// Notes an id that was freed with this generation.
    pub fn give(&mut self, id: u32, generation: u32) {
        self.freed.insert((generation, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_comes_first_and_ids_come_back() {
        let mut ids = FreeIds::without([1, 2, 4, 7].into_iter());
        assert_eq!([ids.take(), ids.take(), ids.take(), ids.take()], [Some(3), Some(5), Some(6), Some(8)]);
        for id in [8, 6, 7] {
            ids.give(id);
        }
        assert_eq!(ids, FreeIds::without([1, 2, 3, 4, 5].into_iter()));
    }
}
