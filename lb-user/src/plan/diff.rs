//! `diff`: what must be written so that the maps hold what is desired.
//!
//! Work is proportional to the change: an unchanged world gives an empty plan, a changed endpoint touches only
//! its own service ports. Where room appears only by this plan's own removals, the plan does what fits now (a
//! shorter set rather than a stale one) and says in `waiting` that another plan must follow.

use super::ids;
use super::ranges::RangeIds;
use super::slots::Room;
use super::{Names, Op, Plan};
use crate::compile::keys::{entry_family, entry_state, frontend_family, frontend_text, with_state};
use crate::compile::{BackendKey, Desired, DesiredPort, PortKey};
use crate::model::{Family, Problem};
use crate::restore::{Actual, range_of};
use crate::tables::{FrontendKey, SourceRanges};
use lb_common::service::SVC_ADDRESS;
use lb_common::{SetRef, Svc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub(super) type Range = (u32, u32);

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
    planner.range_deletes(&after);
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
    ranges: RangeIds,
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
            ranges: RangeIds::of(actual),
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

    /// Steps 2 and 3: sets of backends and of source ranges, then frontends. Returns the frontends as they are
    /// after this plan.
    fn frontends(&mut self, desired: &Desired) -> BTreeMap<FrontendKey, Svc> {
        let mut vacant = Vacant::of(self.actual);
        let (mut puts, mut after) = (Vec::new(), BTreeMap::new());
        let mut range_puts = Vec::new();
        for (name, port) in &desired.ports {
            let Some(id) = self.names.get(name).copied() else { continue };
            let mut admitted = Vec::new();
            for frontend in &port.frontends {
                match vacant.admits(self.actual, &frontend.key) {
                    true => admitted.push(frontend),
                    false => self.wait_for(name, format!("{name} waits for a frontend's room")),
                }
            }
            if admitted.is_empty() {
                continue;
            }
            let sets = self.sets(name, id, port);
            for frontend in admitted {
                let key = frontend.key;
                let Some(ranges_id) = self.ranges_id(frontend.ranges.as_ref(), &mut range_puts) else {
                    self.wait_for(name, format!("{name} waits for the room of its source ranges"));
                    // What is visible stays as it is; what is not stays closed.
                    after.extend(self.actual.frontends.get(&key).map(|svc| (key, *svc)));
                    continue;
                };
                let svc = Svc { id, flags: frontend.flags, affinity_s: port.affinity_s, sets, ranges_id };
                self.put(key, svc, &mut puts, &mut after);
            }
        }
        for key in &desired.addresses {
            match vacant.admits(self.actual, key) {
                true => self.put(*key, address_entry(), &mut puts, &mut after),
                false => {
                    let object = format!("address {}", frontend_text(key));
                    self.wait(object, "waits for a frontend's room".to_string());
                }
            }
        }
        self.ops.append(&mut range_puts);
        self.ops.append(&mut puts);
        after
    }

    /// Notes a frontend of after this plan, and writes it if it is not so already.
    fn put(&self, key: FrontendKey, svc: Svc, puts: &mut Vec<Op>, after: &mut BTreeMap<FrontendKey, Svc>) {
        if self.actual.frontends.get(&key) != Some(&svc) {
            puts.push(Op::PutFrontend { key, svc });
        }
        after.insert(key, svc);
    }

    /// The id of a set of source ranges, written if it is not there yet; `None` if there is no room now.
    fn ranges_id(&mut self, wanted: Option<&SourceRanges>, puts: &mut Vec<Op>) -> Option<u32> {
        let Some(wanted) = wanted else { return Some(0) };
        let (id, is_new) = self.ranges.id_for(wanted)?;
        if is_new {
            puts.push(Op::PutRanges { id, networks: wanted.clone() });
        }
        Some(id)
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
            // The datapath searches a set for the backend a client keeps.
            ids.sort_unstable();
            let longest = self.room.longest() as usize;
            if ids.len() > longest && self.existing(id, &ids).is_none() {
                let message = format!("{name}: {longest} of {} backends fit until slots are free", ids.len());
                self.wait_for(name, message);
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

    /// Step 7: sets of source ranges that no frontend names after this plan.
    fn range_deletes(&mut self, after: &BTreeMap<FrontendKey, Svc>) {
        let used: HashSet<u32> = after.values().map(|svc| svc.ranges_id).collect();
        let gone = self.actual.source_ranges.iter().filter(|(id, _)| !used.contains(id));
        self.ops.extend(gone.map(|(id, networks)| Op::DeleteRanges { id: *id, networks: networks.clone() }));
    }

    fn wait_for(&mut self, name: &PortKey, message: String) {
        self.wait(format!("Service {}", name.service), message);
    }

    fn wait(&mut self, object: String, message: String) {
        self.waiting.push(Problem { object, field: String::new(), message });
    }

    fn finish(mut self) -> Plan {
        self.waiting.sort();
        self.waiting.dedup();
        Plan { ops: self.ops, names: Names::All(self.names), waiting: self.waiting }
    }
}

/// The value of an active ClusterIP's own entry.
pub(super) fn address_entry() -> Svc {
    Svc { flags: SVC_ADDRESS, ..Svc::default() }
}

/// Room in the frontend maps.
struct Vacant {
    v4: usize,
    v6: usize,
}

impl Vacant {
    fn of(actual: &Actual) -> Vacant {
        let v4 = actual.frontends.keys().filter(|key| frontend_family(key) == Family::V4).count();
        let v6 = actual.frontends.len() - v4;
        let size = actual.limits.services as usize;
        Vacant { v4: size.saturating_sub(v4), v6: size.saturating_sub(v6) }
    }

    /// True when the frontend is there or there is room for it, which is taken then.
    fn admits(&mut self, actual: &Actual, key: &FrontendKey) -> bool {
        let left = match frontend_family(key) {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        if actual.is_programmed(key) {
            return true;
        }
        let fits = *left > 0;
        *left -= usize::from(fits);
        fits
    }
}
