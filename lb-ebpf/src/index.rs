//! The flow index: from a tuple to its record, in one cache line.
//!
//! A plain array of lines (`lb_common::flow::IndexLine`). An entry is a tag and a slot: the tuple itself is the
//! record's to prove. A tuple belongs into one line; when that is full, into its neighbour, which lies beside it in
//! memory. In one pair of lines a tag is there once: who finds his own taken is refused.
//!
//! There are no locks. An entry comes and goes by compare-and-swap, and whoever entered looks again: if another entry
//! of the same tag came meanwhile, he withdraws. Of two that come at once at most one stays (the later of the two
//! always sees the earlier).

use crate::family::Family;
use crate::flow::Found;
use crate::tables::Tables;
use lb_common::flow::{
    IndexLine, LINE_ENTRIES, REF_REVERSE, ST_USED, entry, first_line, index_lines, tag_of,
};
use lb_common::{Addr, Flow, FlowKey};

/// Where a tuple is looked for.
#[derive(Clone, Copy)]
struct Place {
    line: u32,
    tag: u32,
}

#[inline(always)]
fn place<F: Family, T: Tables<F>>(t: &T, key: &FlowKey<F::A>) -> Option<Place> {
    let c = t.config()?;
    let hash = F::wide_hash(c.seed, key);
    Some(Place { line: first_line(hash, index_lines(t.flows_len(c))), tag: tag_of(hash) })
}

/// The entry with this tag; 0 = none.
#[inline(always)]
fn scan(line: *const IndexLine, tag: u32) -> u64 {
    let mut i = 0;
    while i < LINE_ENTRIES {
        // SAFETY: a map element; others may write it, each word at once.
        let e = unsafe { (&raw const (*line).0[i]).read() };
        if (e >> 32) as u32 == tag {
            return e;
        }
        i += 1;
    }
    0
}

#[inline(always)]
fn scan_pair<F: Family, T: Tables<F>>(t: &T, p: Place) -> u64 {
    let Some(line) = t.line(p.line) else { return 0 };
    let e = scan(line, p.tag);
    if e != 0 {
        return e;
    }
    match t.line(p.line ^ 1) {
        Some(line) => scan(line, p.tag),
        None => 0,
    }
}

/// The tuple of a record that an entry is for.
#[inline(always)]
fn tuple_of<A: Addr>(rec: *mut Flow<A>, e: u64) -> *const FlowKey<A> {
    // SAFETY: a map element.
    unsafe { if e as u32 & REF_REVERSE != 0 { &raw const (*rec).reply } else { &raw const (*rec).orig } }
}

/// Word by word, without a branch: LLVM would call `memcmp`.
#[inline(always)]
fn same<A: Addr>(a: *const FlowKey<A>, b: &FlowKey<A>) -> bool {
    let (a, b) = (a.cast::<u32>(), (&raw const *b).cast::<u32>());
    let (mut differs, mut i) = (0, 0);
    while i < size_of::<FlowKey<A>>() / 4 {
        // SAFETY: keys consist of 32-bit words.
        differs |= unsafe { a.add(i).read() ^ b.add(i).read() };
        i += 1;
    }
    differs == 0
}

/// The live record of a tuple.
#[inline(always)]
pub fn find<F: Family, T: Tables<F>>(t: &T, key: &FlowKey<F::A>, now: u32) -> Option<Found<F::A>> {
    let e = scan_pair::<F, T>(t, place::<F, T>(t, key)?);
    if e == 0 {
        return None;
    }
    let slot = e as u32 & !REF_REVERSE;
    let rec = t.flow(slot)?;
    // SAFETY: `rec` points at a map element, which lives as long as the program runs. Concurrent writers exist; what a
    // torn read shows is no tuple of ours, or harmless (counters, state bits).
    let f = unsafe { &*rec };
    (same(tuple_of(rec, e), key) && f.state & ST_USED != 0 && !f.is_expired(now)).then_some(Found {
        slot,
        rec,
        reverse: e as u32 & REF_REVERSE != 0,
    })
}

/// Does the entry still lead to a live record that belongs there?
#[inline(always)]
fn is_current<F: Family, T: Tables<F>>(t: &T, e: u64, now: u32) -> bool {
    let Some(rec) = t.flow(e as u32 & !REF_REVERSE) else { return false };
    // SAFETY: as in `find`. A tuple that changes meanwhile is none of this entry's.
    let (f, tuple) = unsafe { (&*rec, &*tuple_of(rec, e)) };
    if f.state & ST_USED == 0 || f.is_expired(now) {
        return false;
    }
    matches!(place::<F, T>(t, tuple), Some(p) if p.tag == (e >> 32) as u32)
}

/// Puts `new` where `old` is, in one line. False = it is not there. The body of [`Tables::replace_entry`].
#[inline(always)]
pub fn replace<F: Family, T: Tables<F>>(t: &T, line: u32, old: u64, new: u64) -> bool {
    let Some(line) = t.line(line) else { return false };
    let mut i = 0;
    while i < LINE_ENTRIES {
        // SAFETY: a map element.
        let cell = unsafe { &raw mut (*line).0[i] };
        // SAFETY: as above.
        if unsafe { cell.read() } == old && t.swap(cell, old, new) {
            return true;
        }
        i += 1;
    }
    false
}

/// Removes the entry of a record's tuple, if it is there; `who` is its slot and the direction.
#[inline(always)]
pub fn remove<F: Family, T: Tables<F>>(t: &T, rec: *mut Flow<F::A>, who: u32) {
    // SAFETY: a map element.
    let tuple = unsafe { &*tuple_of(rec, who as u64) };
    if let Some(p) = place::<F, T>(t, tuple) {
        withdraw::<F, T>(t, p, entry(p.tag, who));
    }
}

#[inline(always)]
fn withdraw<F: Family, T: Tables<F>>(t: &T, p: Place, e: u64) {
    if !t.replace_entry(p.line, e, 0) {
        t.replace_entry(p.line ^ 1, e, 0);
    }
}

/// Enters a tuple of a record unless it is there; `who` is the slot of the record, which is written already, and the
/// direction. False = taken, or no room. The body of [`Tables::enter`].
#[inline(always)]
pub fn enter<F: Family, T: Tables<F>>(t: &T, who: u32, now: u32) -> bool {
    let Some(rec) = t.flow(who & !REF_REVERSE) else { return false };
    // SAFETY: the record is the caller's alone.
    let tuple = unsafe { &*tuple_of(rec, who as u64) };
    let Some(p) = place::<F, T>(t, tuple) else { return false };
    let old = scan_pair::<F, T>(t, p);
    if old != 0 {
        if is_current::<F, T>(t, old, now) {
            return false;
        }
        withdraw::<F, T>(t, p, old);
    }
    let new = entry(p.tag, who);
    // The usual case without a call.
    let entered = replace::<F, T>(t, p.line, 0, new)
        || t.replace_entry(p.line ^ 1, 0, new)
        || t.displace_entry(p.line, new, now)
        || t.displace_entry(p.line ^ 1, new, now);
    if !entered {
        return false;
    }
    if shares_tag::<F, T>(t, p.line, new) || shares_tag::<F, T>(t, p.line ^ 1, new) {
        withdraw::<F, T>(t, p, new);
        return false;
    }
    true
}

/// The slot of the live flow that has the tuple for which `who` stands. The body of [`Tables::holder`].
#[inline(always)]
pub fn holder<F: Family, T: Tables<F>>(t: &T, who: u32, now: u32) -> Option<u32> {
    let rec = t.flow(who & !REF_REVERSE)?;
    // SAFETY: the record is the caller's alone.
    let tuple = unsafe { &*tuple_of(rec, who as u64) };
    find::<F, T>(t, tuple, now).map(|found| found.slot)
}

/// Takes the place of an entry that means nothing any more: a flow that expired and was not swept. The body of
/// [`Tables::displace_entry`].
#[inline(always)]
pub fn displace<F: Family, T: Tables<F>>(t: &T, line: u32, new: u64, now: u32) -> bool {
    let mut i = 0;
    while i < LINE_ENTRIES {
        let Some(line) = t.line(line) else { return false };
        // SAFETY: a map element.
        let cell = unsafe { &raw mut (*line).0[i] };
        // SAFETY: as above.
        let e = unsafe { cell.read() };
        if !is_current::<F, T>(t, e, now) && t.swap(cell, e, new) {
            return true;
        }
        i += 1;
    }
    false
}

/// Is there another entry with the tag of this one?
#[inline(always)]
fn shares_tag<F: Family, T: Tables<F>>(t: &T, line: u32, mine: u64) -> bool {
    let Some(line) = t.line(line) else { return false };
    let mut i = 0;
    while i < LINE_ENTRIES {
        // SAFETY: a map element.
        let e = unsafe { (&raw const (*line).0[i]).read() };
        if e >> 32 == mine >> 32 && e != mine {
            return true;
        }
        i += 1;
    }
    false
}
