//! `diff`: what must be written so that the maps hold what is desired.
//!
//! Work is proportional to the change: an unchanged world gives an empty plan, a changed endpoint touches only
//! its own service ports. Where room appears only by this plan's own removals, the plan does what fits now (a
//! shorter set rather than a stale one) and says in `waiting` that another plan must follow.

use super::ids;
use super::slots::Room;
use super::{Op, Plan};
use crate::compile::keys::{entry_family, entry_state, frontend_family, with_state};
use crate::compile::{BackendKey, Desired, DesiredPort, PortKey};
use crate::model::{Family, Problem};
use crate::restore::{Actual, range_of};
use crate::tables::FrontendKey;
use lb_common::{SetRef, Svc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

type Range = (u32, u32);

/// Compares what is with what shall be.
pub fn diff(actual: &Actual, desired: &Desired) -> Plan {
    let mut planner = Planner::new(actual, ids::assign(actual, desired));
    planner.backends(desired);
    let after = planner.frontends(desired);
    let still_used: BTreeSet<Range> =
        after.values().flat_map(|svc| svc.sets).filter_map(|s| range_of(&s)).collect();
    planner.deletes(&after);
    planner.frees(desired, &after);
    planner.releases(&still_used);
    planner.finish()
}

struct Planner<'a> {
    actual: &'a Actual,
    names: BTreeMap<PortKey, u32>,
    ops: Vec<Op>,
    /// Ids that this plan gives to backends.
    fresh: HashMap<BackendKey, u32>,
    /// Ranges that visible frontends of a service port id name.
    ranges_of: HashMap<u32, BTreeSet<Range>>,
    /// The sets that a service port id shows now.
    shown: HashMap<u32, [SetRef; 2]>,
    room: Room,
    waiting: Vec<Problem>,
}

impl<'a> Planner<'a> {
    fn new(actual: &'a Actual, names: BTreeMap<PortKey, u32>) -> Self {
        let mut ranges_of: HashMap<u32, BTreeSet<Range>> = HashMap::new();
        for svc in actual.frontends.values() {
            ranges_of.entry(svc.id).or_default().extend(svc.sets.iter().filter_map(range_of));
        }
        Planner {
            actual,
            names,
            ops: Vec::new(),
            fresh: HashMap::new(),
            ranges_of,
            shown: actual.frontends.values().map(|svc| (svc.id, svc.sets)).collect(),
            room: Room::between(actual.ranges.keys(), actual.limits.slots),
            waiting: Vec::new(),
        }
    }

    /// Step 1: backends that are new or whose flags changed.
    fn backends(&mut self, desired: &Desired) {
        for family in [Family::V4, Family::V6] {
            let table = self.actual.backends(family);
            let mut free = table.free_ids(self.actual.limits.backends);
            let mut homeless = 0;
            for (key, flags) in desired.backends.iter().filter(|(key, _)| key.family() == family) {
                if let Some(id) = table.id_of(key) {
                    let generation = table.get(id).map_or(1, |e| entry_state(e).1.max(1));
                    let entry = key.entry(*flags, generation);
                    if table.get(id) != Some(&entry) {
                        self.ops.push(Op::PutBackend { id, entry });
                    }
                } else if let Some((id, generation)) = free.next() {
                    self.fresh.insert(*key, id);
                    self.ops.push(Op::PutBackend { id, entry: key.entry(*flags, generation) });
                } else {
                    homeless += 1;
                }
            }
            if homeless > 0 {
                let message = format!("{homeless} backends wait for ids that this plan frees");
                self.wait(format!("backends {family:?}"), message);
            }
        }
    }

    /// Steps 2 and 3: sets, then frontends. Returns the frontends as they are after this plan.
    fn frontends(&mut self, desired: &Desired) -> BTreeMap<FrontendKey, Svc> {
        let mut vacant = HashMap::new();
        for family in [Family::V4, Family::V6] {
            let held = self.actual.frontends.keys().filter(|k| frontend_family(k) == family).count();
            vacant.insert(family, (self.actual.limits.services as usize).saturating_sub(held));
        }
        let (mut puts, mut after) = (Vec::new(), BTreeMap::new());
        for (name, port) in &desired.ports {
            let Some(id) = self.names.get(name).copied() else { continue };
            let vacant = vacant.entry(name.family).or_default();
            let mut admitted = Vec::new();
            for (key, flags) in &port.frontends {
                if !self.actual.is_programmed(key) {
                    if *vacant == 0 {
                        self.wait(
                            format!("Service {}", name.service),
                            format!("{name} waits for a frontend's room"),
                        );
                        continue;
                    }
                    *vacant -= 1;
                }
                admitted.push((*key, *flags));
            }
            if admitted.is_empty() {
                continue;
            }
            let sets = self.sets(name, id, port);
            for (key, flags) in admitted {
                let svc = Svc { id, flags, affinity_s: port.affinity_s, sets, ranges_id: 0 };
                if self.actual.frontends.get(&key) != Some(&svc) {
                    puts.push(Op::PutFrontend { key, svc });
                }
                after.insert(key, svc);
            }
        }
        self.ops.append(&mut puts);
        after
    }

    /// The ranges of a service port's two sets, written if they are not there yet. Equal sets share one range.
    fn sets(&mut self, name: &PortKey, id: u32, port: &DesiredPort) -> [SetRef; 2] {
        let mut sets = [SetRef::default(); 2];
        for (index, members) in [&port.cluster, &port.local].into_iter().enumerate() {
            if index > 0 && *members == port.cluster {
                sets[index] = sets[0];
                continue;
            }
            let table = self.actual.backends(name.family);
            let id_of = |key| table.id_of(key).or_else(|| self.fresh.get(key).copied());
            let mut ids: Vec<u32> = members.iter().filter_map(id_of).collect();
            let longest = self.room.longest() as usize;
            if ids.len() > longest && self.existing(id, &ids).is_none() {
                let message = format!("{name}: {longest} of {} backends fit until slots are free", ids.len());
                self.wait(format!("Service {}", name.service), message);
                ids.truncate(longest);
                if ids.is_empty() {
                    // Better the old set, whose backends stay live, than none.
                    sets[index] = self.shown.get(&id).map_or(SetRef::default(), |shown| shown[index]);
                }
            }
            let count = ids.len() as u32;
            if count == 0 {
                continue;
            }
            if let Some((offset, count)) = self.existing(id, &ids) {
                sets[index] = SetRef { offset, count };
            } else if let Some(offset) = self.room.take(count) {
                sets[index] = SetRef { offset, count };
                self.ops.push(Op::PutSlots { offset, ids });
            }
        }
        sets
    }

    /// A range that this service port shows already and that holds exactly these ids.
    fn existing(&self, id: u32, ids: &[u32]) -> Option<Range> {
        let ranges = self.ranges_of.get(&id)?;
        let holds = |range: &&Range| self.actual.ranges.get(*range).is_some_and(|held| held == ids);
        ranges.iter().find(holds).copied()
    }

    /// Step 4: frontends that nothing wants.
    fn deletes(&mut self, after: &BTreeMap<FrontendKey, Svc>) {
        let gone = self.actual.frontends.keys().filter(|key| !after.contains_key(*key));
        self.ops.extend(gone.map(|key| Op::DeleteFrontend { key: *key }));
    }

    /// Step 5: live backends that are neither desired nor in a set that stays visible.
    fn frees(&mut self, desired: &Desired, after: &BTreeMap<FrontendKey, Svc>) {
        let mut referred: HashSet<(Family, u32)> = HashSet::new();
        for (key, svc) in after {
            let ids = svc.sets.iter().filter_map(range_of).filter_map(|range| self.actual.ranges.get(&range));
            referred.extend(ids.flatten().map(|id| (frontend_family(key), *id)));
        }
        for family in [Family::V4, Family::V6] {
            let table = self.actual.backends(family);
            for (id, entry) in table.live() {
                let wanted = BackendKey::of_entry(entry)
                    .is_some_and(|key| desired.backends.contains_key(&key) && table.id_of(&key) == Some(id));
                if !wanted && !referred.contains(&(entry_family(entry), id)) {
                    let raised = entry_state(entry).1.wrapping_add(1).max(1);
                    self.ops.push(Op::FreeBackend { id, entry: with_state(*entry, 0, raised) });
                }
            }
        }
    }

    /// Step 6: ranges that no frontend names after this plan.
    fn releases(&mut self, still_used: &BTreeSet<Range>) {
        let gone = self.actual.ranges.keys().filter(|range| !still_used.contains(*range));
        self.ops.extend(gone.map(|(offset, count)| Op::ReleaseSlots { offset: *offset, count: *count }));
    }

    fn wait(&mut self, object: String, message: String) {
        self.waiting.push(Problem { object, field: String::new(), message });
    }

    fn finish(mut self) -> Plan {
        self.waiting.sort();
        self.waiting.dedup();
        Plan { ops: self.ops, names: self.names, waiting: self.waiting }
    }
}
