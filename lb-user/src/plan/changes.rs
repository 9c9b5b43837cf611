//! `plan_changes`: the plan for what an update of the compiler changed. Its cost is that of the change.
//!
//! Gives exactly the plan of `diff` (a property test) as long as everything finds room at once; otherwise it gives
//! none, and `diff` must look at everything. Either way the index is good only for the maps after the plan.

use super::diff::{Range, address_entry};
use super::index::{Index, ranges_of};
use super::{Names, Op, Plan};
use crate::compile::keys::{entry_family, entry_state, frontend_family, with_state};
use crate::compile::{BackendKey, Changes, Desired, DesiredPort, PortKey};
use crate::restore::{Actual, range_of};
use crate::tables::{FrontendKey, SourceRanges};
use lb_common::service::SVC_KIND_MASK;
use lb_common::{SetRef, Svc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The plan from maps that held everything desired before `changes` to what is desired now. `None`: something does
/// not fit at once; `index` must be dropped then, as after a plan that failed.
pub fn plan_changes(
    actual: &Actual,
    index: &mut Index,
    desired: &Desired,
    changes: &Changes,
) -> Option<Plan> {
    let mut planner = Planner {
        actual,
        index,
        ops: Vec::new(),
        fresh: HashMap::new(),
        unused_ranges: BTreeSet::new(),
        unused_sources: BTreeSet::new(),
    };
    planner.backends(desired, changes)?;
    let (names, returned) = planner.names(desired, changes)?;
    let kept = planner.frontends(desired, changes, &names)?;
    planner.deletes(desired, changes, &kept);
    planner.frees(desired, changes);
    planner.releases();
    returned.into_iter().for_each(|id| planner.index.svc_ids.give(id));
    let names = changes.ports.keys().map(|name| (name.clone(), names.get(name).copied()));
    Some(Plan { ops: planner.ops, names: Names::Changed(names.collect()), waiting: Vec::new() })
}

struct Planner<'a> {
    actual: &'a Actual,
    index: &'a mut Index,
    ops: Vec<Op>,
    /// Ids that this plan gives to backends.
    fresh: HashMap<BackendKey, u32>,
    /// Ranges and sets that lost a user.
    unused_ranges: BTreeSet<Range>,
    unused_sources: BTreeSet<u32>,
}

impl Planner<'_> {
    /// Backends that are new or whose flags changed.
    fn backends(&mut self, desired: &Desired, changes: &Changes) -> Option<()> {
        for key in &changes.backends {
            let Some(flags) = desired.backends.get(key) else { continue };
            let table = self.actual.backends(key.family());
            if let Some(id) = table.id_of(key) {
                let generation = table.get(id).map_or(1, |entry| entry_state(entry).1.max(1));
                let entry = key.entry(*flags, generation);
                if table.get(id) != Some(&entry) {
                    self.ops.push(Op::PutBackend { id, entry });
                }
            } else {
                let free = &mut self.index.family(key.family()).backends;
                let (id, generation) = free.take(table, self.actual.limits.backends)?;
                self.fresh.insert(*key, id);
                self.ops.push(Op::PutBackend { id, entry: key.entry(*flags, generation) });
            }
        }
        Some(())
    }

    /// Ids of the changed service ports that are desired; and the ids that are free after this plan. A new port
    /// takes the id of one that goes and had one of its frontends, else the lowest free one.
    fn names<'b>(
        &mut self,
        desired: &'b Desired,
        changes: &Changes,
    ) -> Option<(BTreeMap<&'b PortKey, u32>, BTreeSet<u32>)> {
        let mut names = BTreeMap::new();
        let mut returned = BTreeSet::new();
        let mut new = Vec::new();
        for name in changes.ports.keys() {
            let id = self.actual.names.get(name).copied();
            match (desired.ports.get_key_value(name), id) {
                (Some((name, _)), Some(id)) => drop(names.insert(name, id)),
                (Some(port), None) => new.push(port),
                (None, Some(id)) => drop(returned.insert(id)),
                (None, None) => {}
            }
        }
        new.retain(|(name, port)| match self.inherited(port, &returned) {
            Some(id) => {
                returned.remove(&id);
                names.insert(*name, id);
                false
            }
            None => true,
        });
        for (name, _) in new {
            names.insert(name, self.index.svc_ids.take()?);
        }
        Some((names, returned))
    }

    fn inherited(&self, port: &DesiredPort, returned: &BTreeSet<u32>) -> Option<u32> {
        let mut frontends: Vec<_> = port.frontends.iter().collect();
        frontends.sort_by_key(|frontend| (frontend.flags & SVC_KIND_MASK, frontend.key));
        let ids = frontends.iter().filter_map(|f| self.actual.frontends.get(&f.key)).map(|svc| svc.id);
        ids.into_iter().find(|id| returned.contains(id))
    }

    /// Sets of backends and of source ranges, then frontends; gives the frontends of all changed service ports.
    fn frontends(
        &mut self,
        desired: &Desired,
        changes: &Changes,
        names: &BTreeMap<&PortKey, u32>,
    ) -> Option<HashSet<FrontendKey>> {
        let shown = self.shown(changes);
        let (mut sources, mut puts, mut kept) = (Vec::new(), Vec::new(), HashSet::new());
        for (name, id) in names {
            let Some(port) = desired.ports.get(*name) else { continue };
            let sets = self.sets(port, shown.get(id))?;
            for frontend in &port.frontends {
                let ranges_id = self.source_id(frontend.ranges.as_ref(), &mut sources)?;
                let svc =
                    Svc { id: *id, flags: frontend.flags, affinity_s: port.affinity_s, sets, ranges_id };
                self.put(frontend.key, svc, &mut puts)?;
                kept.insert(frontend.key);
            }
        }
        for key in changes.addresses.iter().filter(|key| desired.addresses.contains(*key)) {
            self.put(*key, address_entry(), &mut puts)?;
        }
        self.ops.append(&mut sources);
        self.ops.append(&mut puts);
        Some(kept)
    }

    /// The ranges that the service ports of before show, by their id.
    fn shown(&self, changes: &Changes) -> HashMap<u32, BTreeSet<Range>> {
        let mut shown: HashMap<u32, BTreeSet<Range>> = HashMap::new();
        let before = changes.ports.values().flatten();
        for svc in before.filter_map(|key| self.actual.frontends.get(key)) {
            shown.entry(svc.id).or_default().extend(ranges_of(svc));
        }
        shown
    }

    /// The ranges of a service port's two sets, written if they are not there yet. Equal sets share one range.
    fn sets(&mut self, port: &DesiredPort, shown: Option<&BTreeSet<Range>>) -> Option<[SetRef; 2]> {
        let cluster = self.set(&port.cluster, shown)?;
        let local = if port.local == port.cluster { cluster } else { self.set(&port.local, shown)? };
        Some([cluster, local])
    }

    fn set(&mut self, members: &[BackendKey], shown: Option<&BTreeSet<Range>>) -> Option<SetRef> {
        let id_of = |key: &BackendKey| {
            self.actual.backends(key.family()).id_of(key).or_else(|| self.fresh.get(key).copied())
        };
        let mut ids: Vec<u32> = members.iter().map(id_of).collect::<Option<_>>()?;
        ids.sort_unstable();
        let count = ids.len() as u32;
        if count == 0 {
            return Some(SetRef::default());
        }
        let holds = |range: &&Range| self.actual.ranges.get(*range).is_some_and(|held| *held == ids);
        if let Some((offset, count)) = shown.and_then(|shown| shown.iter().find(holds)) {
            return Some(SetRef { offset: *offset, count: *count });
        }
        let offset = self.index.room.take(count)?;
        self.ops.push(Op::PutSlots { offset, ids });
        Some(SetRef { offset, count })
    }

    /// The id of a set of source ranges, written if it is not there yet.
    fn source_id(&mut self, wanted: Option<&SourceRanges>, puts: &mut Vec<Op>) -> Option<u32> {
        let Some(wanted) = wanted else { return Some(0) };
        if let Some(id) = self.index.source_ids.get(wanted) {
            return Some(*id);
        }
        self.index.source_room(wanted, |room| room.checked_sub(wanted.len()))?;
        let id = self.index.set_ids.take()?;
        self.index.source_ids.insert(wanted.clone(), id);
        puts.push(Op::PutRanges { id, networks: wanted.clone() });
        Some(id)
    }

    fn put(&mut self, key: FrontendKey, svc: Svc, puts: &mut Vec<Op>) -> Option<()> {
        let old = self.actual.frontends.get(&key);
        if old == Some(&svc) {
            return Some(());
        }
        match old {
            Some(old) => self.unuse(old),
            None => {
                let vacant = &mut self.index.family(frontend_family(&key)).vacant;
                *vacant = vacant.checked_sub(1)?;
            }
        }
        self.index.use_svc(&svc);
        puts.push(Op::PutFrontend { key, svc });
        Some(())
    }

    fn unuse(&mut self, svc: &Svc) {
        self.index.unuse_svc(svc);
        self.unused_ranges.extend(svc.sets.iter().filter_map(range_of));
        self.unused_sources.extend(Some(svc.ranges_id).filter(|id| *id != 0));
    }

    /// Frontends that no service port has any more.
    fn deletes(&mut self, desired: &Desired, changes: &Changes, kept: &HashSet<FrontendKey>) {
        let frontends = changes.ports.values().flatten().filter(|key| !kept.contains(*key));
        let addresses = changes.addresses.iter().filter(|key| !desired.addresses.contains(*key));
        let gone: BTreeSet<FrontendKey> = frontends.chain(addresses).copied().collect();
        for key in gone {
            let Some(old) = self.actual.frontends.get(&key) else { continue };
            self.unuse(old);
            self.index.family(frontend_family(&key)).vacant += 1;
            self.ops.push(Op::DeleteFrontend { key });
        }
    }

    /// Backends that nothing lists any more; no set shows them now.
    fn frees(&mut self, desired: &Desired, changes: &Changes) {
        let gone = changes.backends.iter().filter(|key| !desired.backends.contains_key(*key));
        let mut gone: Vec<(crate::model::Family, u32)> = gone
            .filter_map(|key| Some((key.family(), self.actual.backends(key.family()).id_of(key)?)))
            .collect();
        gone.sort_unstable();
        for (family, id) in gone {
            let Some(entry) = self.actual.backends(family).get(id) else { continue };
            debug_assert_eq!(entry_family(entry), family);
            let raised = entry_state(entry).1.wrapping_add(1).max(1);
            self.index.family(family).backends.give(id, raised);
            self.ops.push(Op::FreeBackend { id, entry: with_state(*entry, 0, raised) });
        }
    }

    /// Ranges and sets of source ranges without a user.
    fn releases(&mut self) {
        let ranges = std::mem::take(&mut self.unused_ranges);
        let sources = std::mem::take(&mut self.unused_sources);
        let (ranges, sources) = self.index.forget_unused(ranges, sources);
        self.ops.extend(ranges.into_iter().map(|(offset, count)| Op::ReleaseSlots { offset, count }));
        for id in sources {
            let Some(networks) = self.actual.source_ranges.get(&id) else { continue };
            self.index.source_ids.remove(networks);
            self.index.source_room(networks, |room| Some(room + networks.len()));
            self.ops.push(Op::DeleteRanges { id, networks: networks.clone() });
        }
    }
}
