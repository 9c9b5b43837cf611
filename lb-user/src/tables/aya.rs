//! The kernel's maps behind [`LbTables`]: batched writes, whole reads in slices.
//!
//! Clones share the maps; changes of the one configuration element are serialised among them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use lb_common::backend::BACKEND_LIVE;
use lb_common::service::RANGE_ID_BITS;
use lb_common::{A4, A6, Backend, Config, Hop, RangeKey, Sock, SockKey, Svc, SvcKey, maps};

use super::seen::Seen;
use super::{BackendEntry, Dump, FrontendKey, LbTables, Limits, SourceRanges, TableError};
use crate::datapath::DatapathError;
use crate::datapath::sys::SysError;
use crate::datapath::table::Table;
use crate::model::Family;
use lb_common::Flow;

/// The service tables in the kernel.
#[derive(Clone, Debug)]
pub struct AyaTables {
    svc4: Table<SvcKey<A4>, Svc>,
    svc6: Table<SvcKey<A6>, Svc>,
    backends4: Table<u32, Backend<A4>>,
    backends6: Table<u32, Backend<A6>>,
    slots: Table<u32, u32>,
    ranges4: Table<RangeKey<A4>, u32>,
    ranges6: Table<RangeKey<A6>, u32>,
    hops: [Table<u32, Hop>; 2],
    /// Ids that were freed since this agent began, by family: their next hops may still be cached.
    freed: [BTreeSet<u32>; 2],
    socks: Table<SockKey, Sock>,
    config: Arc<Mutex<Table<u32, Config>>>,
    seen: Arc<Mutex<Seen>>,
    flow_capacities: [u32; 2],
}

impl AyaTables {
    /// Opens the maps pinned in a directory.
    pub fn open(dir: &Path) -> Result<AyaTables, DatapathError> {
        let flows4: Table<u32, Flow<A4>> = Table::open(dir, maps::FLOWS4)?;
        let flows6: Table<u32, Flow<A6>> = Table::open(dir, maps::FLOWS6)?;
        Ok(AyaTables {
            svc4: Table::open(dir, maps::SVC4)?,
            svc6: Table::open(dir, maps::SVC6)?,
            backends4: Table::open(dir, maps::BACKENDS4)?,
            backends6: Table::open(dir, maps::BACKENDS6)?,
            slots: Table::open(dir, maps::SLOTS)?,
            ranges4: Table::open(dir, maps::RANGES4)?,
            ranges6: Table::open(dir, maps::RANGES6)?,
            hops: [Table::open(dir, maps::HOPS4)?, Table::open(dir, maps::HOPS6)?],
            freed: Default::default(),
            socks: Table::open(dir, maps::SOCKS)?,
            config: Arc::new(Mutex::new(Table::open(dir, maps::CONFIG)?)),
            seen: Arc::new(Mutex::new(
                Seen::open(Table::open(dir, maps::SEEN)?)
                    .map_err(|e| DatapathError::kernel(maps::SEEN, e))?,
            )),
            flow_capacities: [flows4.max_entries, flows6.max_entries],
        })
    }

    /// Number of records of flows4 and flows6.
    pub fn flow_capacities(&self) -> [u32; 2] {
        self.flow_capacities
    }

    /// Capacities as created.
    pub fn capacities(&self) -> Limits {
        Limits {
            services: self.svc4.max_entries.min(self.svc6.max_entries),
            backends: self.backends4.max_entries.min(self.backends6.max_entries),
            slots: self.slots.max_entries,
            ranges: self.ranges4.max_entries.min(self.ranges6.max_entries),
        }
    }

    /// Everything the maps hold.
    pub fn read_all(&self) -> Result<Dump, SysError> {
        let mut dump = Dump::default();
        self.svc4.for_each(|k, v| dump.frontends.push((FrontendKey::V4(k), v)))?;
        self.svc6.for_each(|k, v| dump.frontends.push((FrontendKey::V6(k), v)))?;
        self.backends4.for_each(|id, b| {
            if b.generation != 0 {
                dump.backends.push((id, BackendEntry::V4(b)));
            }
        })?;
        self.backends6.for_each(|id, b| {
            if b.generation != 0 {
                dump.backends.push((id, BackendEntry::V6(b)));
            }
        })?;
        dump.slots.reserve_exact(self.slots.max_entries as usize);
        self.slots.for_each(|_, id| dump.slots.push(id))?;
        self.ranges4.for_each(|k, _| {
            dump.ranges.extend(network(k.ranges_id, k.prefix_len, Ipv4Addr::from(k.addr)))
        })?;
        self.ranges6.for_each(|k, _| {
            dump.ranges.extend(network(k.ranges_id, k.prefix_len, Ipv6Addr::from(k.addr)))
        })?;
        Ok(dump)
    }

    /// Clears the cached next hop of every id that is taken again, before the programs can see its new backend: the old
    /// one's is good for half a second after its last packet. No flow of the old one is valid any more, so none can
    /// bring it back.
    fn forget_hops(&mut self, entries: &[(u32, BackendEntry)]) -> Result<(), TableError> {
        for (family, map) in [maps::HOPS4, maps::HOPS6].into_iter().enumerate() {
            let mut again = Vec::new();
            for (id, entry) in entries {
                let (of, flags) = match entry {
                    BackendEntry::V4(b) => (0, b.flags),
                    BackendEntry::V6(b) => (1, b.flags),
                };
                if of != family {
                    continue;
                }
                if flags & BACKEND_LIVE == 0 {
                    self.freed[family].insert(*id);
                } else if self.freed[family].remove(id) {
                    again.push((*id, Hop::default()));
                }
            }
            self.hops[family].put_all(&again).map_err(|e| refused(map, &e.source))?;
        }
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the socket hooks have noted under a key.
    pub fn sock(&self, key: &SockKey) -> Result<Option<Sock>, SysError> {
        self.socks.get(key)
    }

    /// A backend of a family; none for an id that its array does not have.
    pub fn backend(&self, family: Family, id: u32) -> Result<Option<BackendEntry>, SysError> {
        match family {
            Family::V4 => Ok(self.backends4.get(&id)?.map(BackendEntry::V4)),
            Family::V6 => Ok(self.backends6.get(&id)?.map(BackendEntry::V6)),
        }
    }

    /// The configuration element.
    pub fn config(&self) -> Result<Config, SysError> {
        Ok(self.config.lock().unwrap_or_else(PoisonError::into_inner).get(&0)?.unwrap_or_default())
    }

    /// Changes the configuration element and returns what it is now.
    pub fn update_config(&self, change: impl FnOnce(&mut Config)) -> Result<Config, SysError> {
        let table = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = table.get(&0)?.unwrap_or_default();
        change(&mut config);
        table.put(&0, &config)?;
        Ok(config)
    }
}

/// A trie's entry as set and network; none for one that is shorter than the id.
fn network(id: u32, prefix_len: u32, addr: impl Into<IpAddr>) -> Option<(u32, IpNet)> {
    let bits = u8::try_from(prefix_len.checked_sub(RANGE_ID_BITS)?).ok()?;
    IpNet::new(addr.into(), bits).ok().map(|net| (id, net))
}

/// The keys of sets in the tries of both families.
fn range_keys(sets: &[(u32, SourceRanges)]) -> (Vec<RangeKey<A4>>, Vec<RangeKey<A6>>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (ranges_id, set) in sets {
        for net in set.iter() {
            let (ranges_id, prefix_len) = (*ranges_id, RANGE_ID_BITS + u32::from(net.prefix_len()));
            match net.trunc() {
                IpNet::V4(net) => v4.push(RangeKey { prefix_len, ranges_id, addr: net.addr().into() }),
                IpNet::V6(net) => v6.push(RangeKey { prefix_len, ranges_id, addr: net.addr().into() }),
            }
        }
    }
    (v4, v6)
}

/// A failed call in the terms of [`LbTables`].
fn refused(map: &'static str, error: &SysError) -> TableError {
    if error.is_full() {
        TableError::Full { map }
    } else {
        TableError::Failed { map, message: error.to_string() }
    }
}

impl LbTables for AyaTables {
    fn limits(&self) -> Limits {
        self.capacities()
    }

    fn dump(&mut self) -> Result<Dump, TableError> {
        let dump = self.read_all().map_err(|e| refused("of services", &e))?;
        self.seen().rebuild(&dump).map_err(|e| refused(maps::SEEN, &e))?;
        Ok(dump)
    }

    fn put_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Result<(), TableError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (id, entry) in entries {
            match entry {
                BackendEntry::V4(b) => v4.push((*id, *b)),
                BackendEntry::V6(b) => v6.push((*id, *b)),
            }
        }
        self.seen().backends(entries).map_err(|e| refused(maps::SEEN, &e))?;
        self.forget_hops(entries)?;
        self.backends4.put_all(&v4).map_err(|e| refused(maps::BACKENDS4, &e.source))?;
        self.backends6.put_all(&v6).map_err(|e| refused(maps::BACKENDS6, &e.source))
    }

    fn put_slots(&mut self, ranges: &[(u32, Vec<u32>)]) -> Result<(), TableError> {
        let slots: Vec<(u32, u32)> = ranges
            .iter()
            .flat_map(|(offset, ids)| ids.iter().zip(*offset..).map(|(id, slot)| (slot, *id)))
            .collect();
        self.slots.put_all(&slots).map_err(|e| refused(maps::SLOTS, &e.source))
    }

    fn put_ranges(&mut self, sets: &[(u32, SourceRanges)]) -> Result<(), TableError> {
        let (v4, v6) = range_keys(sets);
        let v4: Vec<_> = v4.into_iter().map(|key| (key, 1)).collect();
        let v6: Vec<_> = v6.into_iter().map(|key| (key, 1)).collect();
        self.ranges4.put_all(&v4).map_err(|e| refused(maps::RANGES4, &e.source))?;
        self.ranges6.put_all(&v6).map_err(|e| refused(maps::RANGES6, &e.source))
    }

    fn delete_ranges(&mut self, sets: &[(u32, SourceRanges)]) -> Result<(), TableError> {
        let (v4, v6) = range_keys(sets);
        self.ranges4.delete_all(&v4).map_err(|e| refused(maps::RANGES4, &e.source))?;
        self.ranges6.delete_all(&v6).map_err(|e| refused(maps::RANGES6, &e.source))
    }

    fn put_frontends(&mut self, entries: &[(FrontendKey, Svc)]) -> Result<(), TableError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (key, svc) in entries {
            match key {
                FrontendKey::V4(k) => v4.push((*k, *svc)),
                FrontendKey::V6(k) => v6.push((*k, *svc)),
            }
        }
        self.seen().frontends(entries.iter().map(|(key, _)| key)).map_err(|e| refused(maps::SEEN, &e))?;
        self.svc4.put_all(&v4).map_err(|e| refused(maps::SVC4, &e.source))?;
        self.svc6.put_all(&v6).map_err(|e| refused(maps::SVC6, &e.source))
    }

    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), TableError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for key in keys {
            match key {
                FrontendKey::V4(k) => v4.push(*k),
                FrontendKey::V6(k) => v6.push(*k),
            }
        }
        self.svc4.delete_all(&v4).map_err(|e| refused(maps::SVC4, &e.source))?;
        self.svc6.delete_all(&v6).map_err(|e| refused(maps::SVC6, &e.source))
    }

    fn commit_sync(&mut self, generation: u32, unix_s: u32) -> Result<(), TableError> {
        self.update_config(|c| {
            c.ready = 1;
            c.sync_generation = generation;
            c.sync_unix_s = unix_s;
        })
        .map(drop)
        .map_err(|e| refused(maps::CONFIG, &e))
    }
}
