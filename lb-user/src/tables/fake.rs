//! `FakeTables`: maps in memory that fail on demand and watch over what packets could see.
//!
//! Contract (grows only for a bug): capacities are those of the real maps; a batch may fail after a part of it
//! was written; a dump returns what was written. After every single write these invariants hold, or the fake
//! panics, because a real packet could have met what it found:
//! 1. every slot that a visible frontend's sets name holds the id of a live backend of the frontend's family
//!    and protocol;
//! 2. no slot in a visible range is ever written;
//! 3. a visible backend's address never changes and it is never freed;
//! 4. a backend's generation never falls, and rises whenever another address or a free entry takes its id;
//! 5. a set of backends is written sorted, each id once;
//! 6. a set of source ranges that a visible frontend names is whole, and is never written or deleted;
//! 7. an address entry (`SVC_ADDRESS`) carries nothing else.

use super::{BackendEntry, Dump, FrontendKey, LbTables, Limits, SourceRanges, TableError};
use crate::compile::keys::{BackendKey, entry_family, entry_state, frontend_family, frontend_text};
use crate::model::Family;
use crate::restore::range_of;
use ipnet::IpNet;
use lb_common::backend::BACKEND_LIVE;
use lb_common::service::SVC_ADDRESS;
use lb_common::{Svc, maps};
use std::collections::{BTreeMap, BTreeSet};

/// When calls fail.
#[derive(Default)]
pub enum Faults {
    /// Never.
    #[default]
    None,
    /// Every n-th call, before anything is written.
    EveryNth(u32),
    /// The given percentage of calls, each after a random part of its batch; numbers come from the function.
    Percent(u32, Box<dyn FnMut() -> u32 + Send>),
    /// Frontend and backend writes say that the map is full.
    Full,
}

/// One call, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Method.
    pub name: &'static str,
    /// Entries in the batch.
    pub entries: usize,
    /// Did it fail?
    pub failed: bool,
}

/// Maps in memory.
pub struct FakeTables {
    limits: Limits,
    faults: Faults,
    calls: Vec<Call>,
    frontends: BTreeMap<FrontendKey, Svc>,
    backends: BTreeMap<(Family, u32), BackendEntry>,
    slots: Vec<u32>,
    ranges: BTreeSet<(u32, IpNet)>,
    /// Sets of source ranges of which a write or a deletion failed half-way since the maps were last read.
    torn_ranges: BTreeSet<u32>,
    /// Frontends per family.
    held: BTreeMap<Family, u32>,
    visible_ids: BTreeMap<(Family, u32), usize>,
    visible_ranges: BTreeMap<(u32, u32), usize>,
    /// Users of each set of source ranges.
    visible_sources: BTreeMap<u32, usize>,
    committed: Option<(u32, u32)>,
}

impl FakeTables {
    /// Empty maps.
    pub fn new(limits: Limits) -> FakeTables {
        FakeTables {
            limits,
            faults: Faults::None,
            calls: Vec::new(),
            frontends: BTreeMap::new(),
            backends: BTreeMap::new(),
            slots: vec![0; limits.slots as usize],
            ranges: BTreeSet::new(),
            torn_ranges: BTreeSet::new(),
            held: BTreeMap::new(),
            visible_ids: BTreeMap::new(),
            visible_ranges: BTreeMap::new(),
            visible_sources: BTreeMap::new(),
            committed: None,
        }
    }

    /// Sets when calls fail from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// All calls so far.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Generation and time of the last complete sync.
    pub fn committed(&self) -> Option<(u32, u32)> {
        self.committed
    }

    /// What the maps hold, without a call.
    pub fn peek(&self) -> Dump {
        Dump {
            frontends: self.frontends.iter().map(|(k, v)| (*k, *v)).collect(),
            backends: self.backends.iter().map(|((_, id), e)| (*id, *e)).collect(),
            slots: self.slots.clone(),
            ranges: self.ranges.iter().copied().collect(),
        }
    }

    /// Counts a call and decides how many of its entries are written and whether it fails.
    fn admit(
        &mut self,
        name: &'static str,
        map: &'static str,
        entries: usize,
    ) -> (usize, Option<TableError>) {
        let failed = || Some(TableError::Failed { map, message: "injected".to_string() });
        let (part, error) = match &mut self.faults {
            Faults::None => (entries, None),
            Faults::EveryNth(n) if (self.calls.len() as u32 + 1).is_multiple_of(*n) => (0, failed()),
            Faults::EveryNth(_) => (entries, None),
            Faults::Percent(percent, next) => {
                let fails = next() % 100 < *percent;
                if fails { (next() as usize % (entries + 1), failed()) } else { (entries, None) }
            }
            Faults::Full if name.starts_with("put") => (0, Some(TableError::Full { map })),
            Faults::Full => (entries, None),
        };
        self.calls.push(Call { name, entries, failed: error.is_some() });
        (part, error)
    }

    fn put_backend(&mut self, id: u32, entry: BackendEntry) -> Result<(), TableError> {
        let (family, map) = match entry_family(&entry) {
            Family::V4 => (Family::V4, maps::BACKENDS4),
            Family::V6 => (Family::V6, maps::BACKENDS6),
        };
        if id >= self.limits.backends {
            return Err(TableError::Full { map });
        }
        let (flags, generation) = entry_state(&entry);
        assert!(generation != 0, "backend {id} written with generation 0");
        if let Some(old) = self.backends.get(&(family, id)) {
            let (old_flags, old_generation) = entry_state(old);
            let same = BackendKey::of_entry(old) == BackendKey::of_entry(&entry);
            assert!(generation >= old_generation, "backend {id}: generation fell");
            let leaves = old_flags & BACKEND_LIVE != 0 && (!same || flags & BACKEND_LIVE == 0);
            assert!(!leaves || generation > old_generation, "backend {id} left without a new generation");
            let visible = self.visible_ids.contains_key(&(family, id));
            assert!(!visible || (same && !leaves), "backend {id} is visible and was changed or freed");
        }
        self.backends.insert((family, id), entry);
        Ok(())
    }

    fn put_range(&mut self, offset: u32, ids: &[u32]) -> Result<(), TableError> {
        let end = offset as usize + ids.len();
        let Some(target) = self.slots.get_mut(offset as usize..end) else {
            return Err(TableError::Full { map: maps::SLOTS });
        };
        // Visible ranges do not overlap (asserted in `show`), so the last one that begins before `end` decides.
        if let Some(((at, count), _)) = self.visible_ranges.range(..(end as u32, 0)).next_back() {
            assert!(
                at + count <= offset,
                "slots {offset}..{end} are visible as {at}+{count} and were written"
            );
        }
        assert!(ids.is_sorted_by(|a, b| a < b), "slots {offset}..{end} are not sorted: {ids:?}");
        target.copy_from_slice(ids);
        Ok(())
    }

    fn put_source(&mut self, id: u32, network: IpNet) -> Result<(), TableError> {
        assert!(id != 0 && network == network.trunc(), "range {network} of set {id}");
        assert!(!self.visible_sources.contains_key(&id), "source ranges {id} are visible and were written");
        let v4 = network.addr().is_ipv4();
        let held = self.ranges.iter().filter(|(_, net)| net.addr().is_ipv4() == v4).count();
        if !self.ranges.contains(&(id, network)) && held >= self.limits.ranges as usize {
            return Err(TableError::Full { map: if v4 { maps::RANGES4 } else { maps::RANGES6 } });
        }
        self.ranges.insert((id, network));
        Ok(())
    }

    fn delete_source(&mut self, id: u32, network: IpNet) {
        assert!(!self.visible_sources.contains_key(&id), "source ranges {id} are visible and were deleted");
        self.ranges.remove(&(id, network));
    }

    /// A call on sets of source ranges that may fail after a part of its networks.
    fn on_sources(
        &mut self,
        name: &'static str,
        sets: &[(u32, SourceRanges)],
        mut write: impl FnMut(&mut Self, u32, IpNet) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let all: Vec<(u32, IpNet)> =
            sets.iter().flat_map(|(id, set)| set.iter().map(|net| (*id, *net))).collect();
        let (part, error) = self.admit(name, maps::RANGES4, all.len());
        for (id, network) in &all[..part] {
            write(self, *id, *network)?;
        }
        if error.is_some() {
            self.torn_ranges.extend(sets.iter().map(|(id, _)| *id));
        }
        error.map_or(Ok(()), Err)
    }

    fn put_frontend(&mut self, key: FrontendKey, svc: Svc) -> Result<(), TableError> {
        let family = frontend_family(&key);
        let map = if family == Family::V4 { maps::SVC4 } else { maps::SVC6 };
        let held = self.held.get(&family).copied().unwrap_or(0);
        if !self.frontends.contains_key(&key) && held >= self.limits.services {
            return Err(TableError::Full { map });
        }
        for (offset, count) in svc.sets.iter().filter_map(range_of) {
            for slot in offset..offset + count {
                let id = self.slots[slot as usize];
                let live = self.backends.get(&(family, id)).is_some_and(|e| {
                    let proto = match e {
                        BackendEntry::V4(b) => b.proto,
                        BackendEntry::V6(b) => b.proto,
                    };
                    entry_state(e).0 & BACKEND_LIVE != 0 && proto == proto_of(&key)
                });
                assert!(
                    live,
                    "{} shows slot {slot} with backend {id}, which is not live",
                    frontend_text(&key)
                );
            }
        }
        self.show(family, &svc);
        if let Some(old) = self.frontends.insert(key, svc) {
            self.hide(family, &old);
        } else {
            *self.held.entry(family).or_insert(0) += 1;
        }
        Ok(())
    }

    fn show(&mut self, family: Family, svc: &Svc) {
        if svc.flags & SVC_ADDRESS != 0 {
            assert_eq!(*svc, Svc { flags: SVC_ADDRESS, ..Svc::default() }, "more than an address");
        }
        if svc.ranges_id != 0 {
            let id = svc.ranges_id;
            assert!(!self.torn_ranges.contains(&id), "source ranges {id} are in doubt and were shown");
            let whole = self.ranges.range((id, lowest())..).next().is_some_and(|(held, _)| *held == id);
            assert!(whole, "source ranges {id} are empty and were shown");
            *self.visible_sources.entry(id).or_insert(0) += 1;
        }
        for range in svc.sets.iter().filter_map(range_of) {
            let before =
                self.visible_ranges.range(..(range.0 + range.1, 0)).rfind(|(other, _)| **other != range);
            let apart = before.is_none_or(|((at, count), _)| at + count <= range.0);
            assert!(apart, "visible ranges {before:?} and {range:?} overlap");
            let users = self.visible_ranges.entry(range).or_insert(0);
            *users += 1;
            if *users == 1 {
                for slot in range.0..range.0 + range.1 {
                    *self.visible_ids.entry((family, self.slots[slot as usize])).or_insert(0) += 1;
                }
            }
        }
    }

    fn hide(&mut self, family: Family, svc: &Svc) {
        if svc.ranges_id != 0 {
            forget(&mut self.visible_sources, svc.ranges_id);
        }
        for range in svc.sets.iter().filter_map(range_of) {
            if forget(&mut self.visible_ranges, range) {
                for slot in range.0..range.0 + range.1 {
                    forget(&mut self.visible_ids, (family, self.slots[slot as usize]));
                }
            }
        }
    }
}

/// Counts one user less; true when it was the last.
fn forget<K: Ord>(users: &mut BTreeMap<K, usize>, key: K) -> bool {
    match users.get_mut(&key) {
        Some(count) if *count > 1 => {
            *count -= 1;
            false
        }
        _ => users.remove(&key).is_some(),
    }
}

/// The network that sorts before all others.
fn lowest() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::default())
}

fn proto_of(key: &FrontendKey) -> u8 {
    match key {
        FrontendKey::V4(k) => k.proto,
        FrontendKey::V6(k) => k.proto,
    }
}

impl LbTables for FakeTables {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn dump(&mut self) -> Result<Dump, TableError> {
        match self.admit("dump", maps::SVC4, 0).1 {
            Some(error) => Err(error),
            None => {
                self.torn_ranges.clear();
                Ok(self.peek())
            }
        }
    }

    fn put_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Result<(), TableError> {
        let (part, error) = self.admit("put_backends", maps::BACKENDS4, entries.len());
        entries[..part].iter().try_for_each(|(id, entry)| self.put_backend(*id, *entry))?;
        error.map_or(Ok(()), Err)
    }

    fn put_slots(&mut self, ranges: &[(u32, Vec<u32>)]) -> Result<(), TableError> {
        let (part, error) = self.admit("put_slots", maps::SLOTS, ranges.len());
        ranges[..part].iter().try_for_each(|(offset, ids)| self.put_range(*offset, ids))?;
        error.map_or(Ok(()), Err)
    }

    fn put_ranges(&mut self, sets: &[(u32, SourceRanges)]) -> Result<(), TableError> {
        self.on_sources("put_ranges", sets, Self::put_source)
    }

    fn delete_ranges(&mut self, sets: &[(u32, SourceRanges)]) -> Result<(), TableError> {
        self.on_sources("delete_ranges", sets, |fake, id, network| {
            fake.delete_source(id, network);
            Ok(())
        })
    }

    fn put_frontends(&mut self, entries: &[(FrontendKey, Svc)]) -> Result<(), TableError> {
        let (part, error) = self.admit("put_frontends", maps::SVC4, entries.len());
        entries[..part].iter().try_for_each(|(key, svc)| self.put_frontend(*key, *svc))?;
        error.map_or(Ok(()), Err)
    }

    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), TableError> {
        let (part, error) = self.admit("delete_frontends", maps::SVC4, keys.len());
        for key in &keys[..part] {
            if let Some(old) = self.frontends.remove(key) {
                self.hide(frontend_family(key), &old);
                if let Some(held) = self.held.get_mut(&frontend_family(key)) {
                    *held -= 1;
                }
            }
        }
        error.map_or(Ok(()), Err)
    }

    fn commit_sync(&mut self, generation: u32, unix_s: u32) -> Result<(), TableError> {
        let (_, error) = self.admit("commit_sync", maps::CONFIG, 1);
        if error.is_none() {
            self.committed = Some((generation, unix_s));
        }
        error.map_or(Ok(()), Err)
    }
}
