//! The bits of what is ours (`lb_common::seen`), kept by the agent: set before a frontend or a backend is written, and
//! made anew from what the maps hold whenever those are read back. Between two such times bits of what is gone stay:
//! they cost a lookup, and lead packets of flows that just ended to their right answer.

use super::{BackendEntry, Dump, FrontendKey};
use crate::datapath::sys::SysError;
use crate::datapath::table::Table;
use lb_common::backend::BACKEND_LIVE;
use lb_common::seen::{SEEN_LEN, SEEN_WORDS, place};
use std::collections::BTreeMap;

/// The map and what it holds.
#[derive(Debug)]
pub(super) struct Seen {
    table: Table<u32, u64>,
    words: Vec<u64>,
}

impl Seen {
    /// Over the map, with what it holds.
    pub(super) fn open(table: Table<u32, u64>) -> Result<Seen, SysError> {
        let mut words = vec![0; SEEN_LEN as usize];
        table.for_each(|i, w| {
            if let Some(word) = words.get_mut(i as usize) {
                *word = w;
            }
        })?;
        Ok(Seen { table, words })
    }

    /// Sets the bits of backends that are about to be written.
    pub(super) fn backends(&mut self, entries: &[(u32, BackendEntry)]) -> Result<(), SysError> {
        self.set(entries.iter().filter_map(|(_, e)| backend_place(e)))
    }

    /// Sets the bits of frontends that are about to be written.
    pub(super) fn frontends<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a FrontendKey>,
    ) -> Result<(), SysError> {
        self.set(keys.map(frontend_place))
    }

    /// Leaves exactly the bits of what the maps hold.
    pub(super) fn rebuild(&mut self, dump: &Dump) -> Result<(), SysError> {
        let mut fresh = vec![0u64; SEEN_LEN as usize];
        let frontends = dump.frontends.iter().map(|(key, _)| frontend_place(key));
        let backends = dump.backends.iter().filter_map(|(_, e)| backend_place(e));
        for (word, bit) in frontends.chain(backends) {
            if let Some(w) = fresh.get_mut(word as usize) {
                *w |= bit;
            }
        }
        let changed = (0u32..).zip(fresh.iter().zip(&self.words)).filter(|(_, (new, old))| new != old);
        let changed: Vec<(u32, u64)> = changed.map(|(i, (new, _))| (i, *new)).collect();
        self.table.put_all(&changed).map_err(|e| e.source)?;
        self.words = fresh;
        Ok(())
    }

    fn set(&mut self, places: impl Iterator<Item = (u32, u64)>) -> Result<(), SysError> {
        let mut changed: BTreeMap<u32, u64> = BTreeMap::new();
        for (word, bit) in places {
            let Some(held) = self.words.get(word as usize) else { continue };
            let now = changed.get(&word).copied().unwrap_or(*held);
            if now & bit == 0 {
                changed.insert(word, now | bit);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let changed: Vec<(u32, u64)> = changed.into_iter().collect();
        self.table.put_all(&changed).map_err(|e| e.source)?;
        for (word, value) in changed {
            if let Some(w) = self.words.get_mut(word as usize) {
                *w = value;
            }
        }
        Ok(())
    }
}

fn frontend_place(key: &FrontendKey) -> (u32, u64) {
    match key {
        FrontendKey::V4(k) => place(&k.addr, k.port_be, k.proto),
        FrontendKey::V6(k) => place(&k.addr, k.port_be, k.proto),
    }
}

/// A freed backend needs no bit.
fn backend_place(entry: &BackendEntry) -> Option<(u32, u64)> {
    let (flags, (word, bit)) = match entry {
        BackendEntry::V4(b) => (b.flags, place(&b.addr, b.port_be, b.proto)),
        BackendEntry::V6(b) => (b.flags, place(&b.addr, b.port_be, b.proto)),
    };
    (flags & BACKEND_LIVE != 0).then_some((SEEN_WORDS + word, bit))
}
