//! `Actual`: what the maps hold, rebuilt from the maps themselves at start (the kernel is the truth).
//!
//! Ids live in the maps: a service port's id in its frontends' values, a backend's id in its index. So they
//! survive the agent. Names do not live there: after a restart a service port finds its id through a frontend
//! that both share. Damaged content (a slot without a backend, a range beyond the array) is kept as it is read,
//! differs from what is desired, and is therefore rewritten by the next plan.

use crate::compile::keys::{BackendKey, PortKey, entry_family, entry_state};
use crate::model::Family;
use crate::tables::{BackendEntry, Dump, FrontendKey, Limits, SourceRanges};
use ipnet::IpNet;
use lb_common::backend::BACKEND_LIVE;
use lb_common::{SetRef, Svc};
use std::collections::{BTreeMap, HashMap};

/// What the maps hold, as far as the agent knows. Only `restore` and `apply` change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actual {
    /// Capacities.
    pub limits: Limits,
    /// Visible frontends.
    pub frontends: BTreeMap<FrontendKey, Svc>,
    /// IPv4 backends, live and freed ones, by id.
    pub backends4: BackendTable,
    /// IPv6 backends.
    pub backends6: BackendTable,
    /// Ranges of the slots array that are in use: (offset, count) → backend ids. A range leaves only by
    /// `Op::ReleaseSlots`, so that no plan overwrites what the same plan replaces.
    pub ranges: BTreeMap<(u32, u32), Vec<u32>>,
    /// Sets of source ranges, by id. A set never changes; it leaves by `Op::DeleteRanges`.
    pub source_ranges: BTreeMap<u32, SourceRanges>,
    /// Ids of the service ports of the last plan, by name. Empty after a restart.
    pub names: BTreeMap<PortKey, u32>,
}

/// One family's backend array.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendTable {
    /// By id, up to the highest that was ever used.
    entries: Vec<Option<BackendEntry>>,
    live: HashMap<BackendKey, u32>,
}

impl BackendTable {
    /// Notes what was written at an id.
    pub fn set(&mut self, id: u32, entry: BackendEntry) {
        if self.entries.len() <= id as usize {
            self.entries.resize(id as usize + 1, None);
        }
        let old = self.entries[id as usize].replace(entry).and_then(|old| BackendKey::of_entry(&old));
        if let Some(old) = old.filter(|old| self.live.get(old) == Some(&id)) {
            self.live.remove(&old);
        }
        if let Some(key) = BackendKey::of_entry(&entry).filter(|_| is_live(&entry)) {
            let holder = self.live.entry(key).or_insert(id);
            *holder = id.min(*holder);
        }
    }

    /// Id of a live backend.
    pub fn id_of(&self, key: &BackendKey) -> Option<u32> {
        self.live.get(key).copied()
    }

    /// The entry of an id that was ever used.
    pub fn get(&self, id: u32) -> Option<&BackendEntry> {
        self.entries.get(id as usize)?.as_ref()
    }

    /// All entries in order of id.
    pub fn all(&self) -> impl Iterator<Item = (u32, &BackendEntry)> {
        (0..).zip(&self.entries).filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    /// Live entries in order of id.
    pub fn live(&self) -> impl Iterator<Item = (u32, &BackendEntry)> {
        self.all().filter(|(_, e)| is_live(e))
    }

    /// Ids that can be given out, best first, each with its generation: never used ones, then freed ones, the
    /// least often used first. Id 0 is never given out, so that an unwritten slot means nothing.
    pub fn free_ids(&self, capacity: u32) -> impl Iterator<Item = (u32, u32)> {
        let unused = (1..capacity).filter(|id| self.get(*id).is_none()).map(|id| (id, 1));
        let freed = self.all().filter(|(id, e)| !is_live(e) && (1..capacity).contains(id));
        let mut freed: Vec<(u32, u32)> = freed.map(|(id, e)| (id, entry_state(e).1.max(1))).collect();
        freed.sort_by_key(|(id, generation)| (*generation, *id));
        unused.chain(freed)
    }
}

impl Actual {
    /// The maps as they are when new.
    pub fn empty(limits: Limits) -> Actual {
        Actual {
            limits,
            frontends: BTreeMap::new(),
            backends4: BackendTable::default(),
            backends6: BackendTable::default(),
            ranges: BTreeMap::new(),
            source_ranges: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    /// One family's backends.
    pub fn backends(&self, family: Family) -> &BackendTable {
        match family {
            Family::V4 => &self.backends4,
            Family::V6 => &self.backends6,
        }
    }

    /// Notes a backend entry in its family's table.
    pub fn set_backend(&mut self, id: u32, entry: BackendEntry) {
        match entry_family(&entry) {
            Family::V4 => self.backends4.set(id, entry),
            Family::V6 => self.backends6.set(id, entry),
        }
    }

    /// Is this frontend in the maps?
    pub fn is_programmed(&self, key: &FrontendKey) -> bool {
        self.frontends.contains_key(key)
    }
}

/// Rebuilds what the agent knows from what the maps hold.
pub fn restore(dump: &Dump, limits: Limits) -> Actual {
    let mut actual = Actual::empty(limits);
    for (id, entry) in &dump.backends {
        actual.set_backend(*id, *entry);
    }
    for (key, svc) in &dump.frontends {
        actual.frontends.insert(*key, *svc);
        for set in svc.sets {
            if let Some(range) = range_of(&set) {
                actual.ranges.entry(range).or_insert_with(|| slots_of(&dump.slots, set));
            }
        }
    }
    let mut sets: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for (id, network) in &dump.ranges {
        sets.entry(*id).or_default().push(*network);
    }
    for (id, mut networks) in sets {
        networks.sort_by_key(|net| (net.addr(), net.prefix_len()));
        actual.source_ranges.insert(id, networks.into());
    }
    actual
}

/// The range that a set names; `None` for the empty set.
pub fn range_of(set: &SetRef) -> Option<(u32, u32)> {
    (set.count > 0).then_some((set.offset, set.count))
}

fn slots_of(slots: &[u32], set: SetRef) -> Vec<u32> {
    let start = (set.offset as usize).min(slots.len());
    let end = start.saturating_add(set.count as usize).min(slots.len());
    slots[start..end].to_vec()
}

fn is_live(entry: &BackendEntry) -> bool {
    entry_state(entry).0 & BACKEND_LIVE != 0
}
