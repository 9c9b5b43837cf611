//! The flow table: one record for both directions in an array, found through one index entry per direction.
//!
//! Reuse of records is by a clock hand (second chance) that the datapath itself advances, so the table needs no agent:
//! the hand takes free, expired, and (under pressure) unanswered or closed records, never a live flow. Freeing a record
//! deletes both index entries, so no half of a pair can be lost on its own; a stale entry is recognised by `seq`.
//! Races between CPUs are settled by the index: `insert if absent` on the reply tuple, then on the client's.

use crate::family::Family;
use crate::mem::put;
use crate::packet::Packet;
use crate::parse::{Parsed, flag};
use crate::rewrite::inverse;
use crate::tables::Tables;
use lb_common::flow::*;
use lb_common::{Addr, Config, Flow, FlowKey, FlowRef, Reason, hash};

/// How many records the hand looks at before a new flow is refused.
const HAND_TRIES: u32 = 8;
/// How many masquerade ports are tried before a new flow is refused. Each try costs the verifier as much as it costs us.
const PORT_TRIES: u32 = 8;
/// From this try on a closed flow's port is taken from it.
const OVER_CLOSED_FROM: u32 = 4;
/// Under pressure an unanswered flow may be replaced after this long (TCP's first SYN retransmission is at 1 s).
const UNANSWERED_GRACE: u32 = ticks(3_000);
/// The sweep frees a flow whose backend is gone after this long: time for its packets to be answered with a reset.
const ORPHAN_GRACE: u32 = ticks(30_000);
/// Under pressure a closed flow may be replaced after this long.
const CLOSED_GRACE: u32 = ticks(1_000);

/// A record found through the index.
pub struct Found<A: Addr> {
    /// The record.
    pub rec: *mut Flow<A>,
    /// The packet is a reply.
    pub reverse: bool,
}

/// The live record of a tuple.
#[inline(always)]
pub fn find<F: Family, T: Tables<F>>(t: &T, key: &FlowKey<F::A>, now: u32) -> Option<Found<F::A>> {
    let r = t.index_get(key)?;
    let rec = live(t, r, now)?;
    Some(Found { rec, reverse: r.slot & REF_REVERSE != 0 })
}

/// The record a reference names, unless it is stale, free or expired.
#[inline(always)]
fn live<F: Family, T: Tables<F>>(t: &T, r: FlowRef, now: u32) -> Option<*mut Flow<F::A>> {
    let rec = t.flow(r.slot & !REF_REVERSE)?;
    // SAFETY: `rec` points at a map element, which lives as long as the program runs. Concurrent writers exist; a
    // torn read is caught by `seq`, or harmless (counters, state bits).
    let f = unsafe { &*rec };
    (f.seq == r.seq && f.state & ST_USED != 0 && !f.is_expired(now)).then_some(rec)
}

/// Frees a record: both index entries, if they still are this record's, then the record.
#[inline(always)]
pub(crate) fn free<F: Family, T: Tables<F>>(t: &T, rec: *mut Flow<F::A>) {
    // SAFETY: as in `live`.
    unsafe {
        let seq = (*rec).seq;
        let orig = (*rec).orig;
        if let Some(r) = t.index_get(&orig)
            && r.seq == seq
        {
            t.index_delete(&orig);
        }
        let reply = (*rec).reply;
        if let Some(r) = t.index_get(&reply)
            && r.seq == seq
        {
            t.index_delete(&reply);
        }
        (*rec).state = 0;
    }
}

/// Is the backend this flow was made with gone? Its packets are refused anyway; the record may go.
#[inline(always)]
fn is_orphan<F: Family, T: Tables<F>>(t: &T, f: &Flow<F::A>) -> bool {
    !matches!(t.backend(f.backend_id), Some(b) if b.generation == f.backend_generation)
}

/// May the hand take this record for a new flow?
#[inline(always)]
fn replaceable<F: Family, T: Tables<F>>(t: &T, f: &Flow<F::A>, now: u32) -> bool {
    if f.state & ST_USED == 0 || f.is_expired(now) {
        return true;
    }
    let idle = now.wrapping_sub(f.last_tick) as i32;
    (f.is_closed() && idle > CLOSED_GRACE as i32)
        || (f.state & ST_REPLIED == 0 && idle > UNANSWERED_GRACE as i32)
        || (idle > CLOSED_GRACE as i32 && is_orphan(t, f))
}

/// What a new flow is made of.
pub struct NewFlow<A> {
    /// client → frontend.
    pub orig: FlowKey<A>,
    /// backend → client (or → this node); the port towards the client is chosen here.
    pub reply: FlowKey<A>,
    /// Backend id and generation.
    pub backend: (u32, u32),
    /// Service-port id.
    pub svc_id: u32,
    /// `FLOW_*`.
    pub flags: u32,
    /// Interface the client's packet came in by.
    pub client_ifindex: u32,
}

/// Makes a flow, or names why it cannot be. Never displaces a live one (commitment 7).
#[inline(always)]
pub fn create<F: Family, T: Tables<F>, P: Packet>(
    t: &T,
    p: &P,
    c: &Config,
    n: &mut NewFlow<F::A>,
    now: u32,
) -> Result<*mut Flow<F::A>, Reason> {
    let (slot, rec) = claim(t, p, c, now)?;
    // SAFETY: as in `live`; the hand gave this slot to us alone.
    let seq = unsafe {
        // Even and never 0: 0 would match an index entry that was never written.
        let seq = (*rec).seq.wrapping_add(2) | 2;
        (*rec).seq = seq;
        (*rec).flags = n.flags;
        (*rec).last_tick = now;
        (*rec).backend_id = n.backend.0;
        (*rec).backend_generation = n.backend.1;
        (*rec).svc_id = n.svc_id;
        put(&raw mut (*rec).orig, &n.orig);
        (*rec).rev_hop.ifindex = 0;
        (*rec).fwd_packets = 0;
        (*rec).rev_packets = 0;
        (*rec).born_tick = now;
        (*rec).client_ifindex = n.client_ifindex;
        put(&raw mut (*rec).reply, &n.reply);
        (*rec).state = ST_USED;
        seq
    };
    if let Err(why) = claim_reply::<F, T>(t, c, n, FlowRef { slot: slot | REF_REVERSE, seq }, rec, now) {
        // SAFETY: as above.
        unsafe { (*rec).state = 0 };
        return Err(why);
    }
    let fwd = FlowRef { slot, seq };
    if insert_or_replace_stale::<F, T>(t, &n.orig, fwd, now) {
        t.count(p.hook(), Reason::FlowCreated);
        return Ok(rec);
    }
    // Another CPU made this flow a moment ago: use that one.
    free(t, rec);
    match find(t, &n.orig, now) {
        Some(f) if !f.reverse => Ok(f.rec),
        _ => Err(Reason::FlowTableFull),
    }
}

/// Advances the hand to a record that may be taken, and frees it.
#[inline(always)]
fn claim<F: Family, T: Tables<F>, P: Packet>(
    t: &T,
    p: &P,
    c: &Config,
    now: u32,
) -> Result<(u32, *mut Flow<F::A>), Reason> {
    let len = t.flows_len(c);
    let mut i = 0;
    while i < HAND_TRIES && len != 0 {
        let slot = t.hand() % len;
        if let Some(rec) = t.flow(slot) {
            // SAFETY: as in `live`.
            let f = unsafe { &*rec };
            if replaceable(t, f, now) {
                if f.state & ST_USED != 0 {
                    free(t, rec);
                    t.count(p.hook(), Reason::Reclaimed);
                }
                return Ok((slot, rec));
            }
        }
        i += 1;
    }
    Err(Reason::FlowTableFull)
}

/// Inserts the reply tuple, trying other ports towards the backend while it is taken: first the client's own, then the
/// masquerade range. Per destination tuple, by construction. A masqueraded flow never takes a NodePort, and a port that
/// the node's own sockets are given only when all else is taken: netfilter keeps tuples unique over all connections, we
/// see ours alone.
#[inline(always)]
fn claim_reply<F: Family, T: Tables<F>>(
    t: &T,
    c: &Config,
    n: &mut NewFlow<F::A>,
    r: FlowRef,
    rec: *mut Flow<F::A>,
    now: u32,
) -> Result<(), Reason> {
    let own = u16::from_be(n.orig.sport_be) as u32;
    let masqueraded = n.flags & (FLOW_SNAT | FLOW_LATE) != 0;
    let forbidden = masqueraded && own >= c.nodeport_min && own <= c.nodeport_max;
    // The node's own sockets are given these ports, and know nothing of our flows: to be used last.
    let shared = masqueraded && own >= c.local_port_min && own <= c.local_port_max;
    let span = c.snat_port_max.wrapping_sub(c.snat_port_min).wrapping_add(1);
    let start = hash::words(r.seq ^ c.seed, [own, r.slot]);
    let own_at = if forbidden {
        PORT_TRIES
    } else if shared {
        PORT_TRIES - 1
    } else {
        0
    };
    let mut i = if forbidden || shared { 1 } else { 0 };
    while i < PORT_TRIES {
        let port =
            if i == own_at { own } else { c.snat_port_min + hash::reduce(start.wrapping_add(i << 28), span) };
        n.reply.dport_be = (port as u16).to_be();
        // SAFETY: as in `live`; nobody finds the record before the index names it.
        unsafe { (*rec).reply.dport_be = n.reply.dport_be };
        let done = if i < OVER_CLOSED_FROM {
            insert_or_replace_stale::<F, T>(t, &n.reply, r, now)
        } else {
            insert_over_closed::<F, T>(t, &n.reply, r, now)
        };
        if done {
            return Ok(());
        }
        i += 1;
    }
    Err(Reason::NoSnatPort)
}

/// Inserts an index entry; an entry in the way is removed if it means nothing any more.
#[inline(always)]
fn insert_or_replace_stale<F: Family, T: Tables<F>>(t: &T, k: &FlowKey<F::A>, r: FlowRef, now: u32) -> bool {
    if t.index_insert(k, r) {
        return true;
    }
    match t.index_get(k) {
        Some(old) if live(t, old, now).is_none() => {
            t.index_delete(k);
            t.index_insert(k, r)
        }
        _ => false,
    }
}

/// Inserts over the entry of a closed flow, which goes. Many short connections to one backend use up ports long before
/// closed flows expire; a backend's TIME_WAIT takes a new SYN (RFC 6191).
#[inline(always)]
fn insert_over_closed<F: Family, T: Tables<F>>(t: &T, k: &FlowKey<F::A>, r: FlowRef, now: u32) -> bool {
    let Some(old) = t.index_get(k) else { return t.index_insert(k, r) };
    let Some(rec) = live(t, old, now) else {
        t.index_delete(k);
        return t.index_insert(k, r);
    };
    // SAFETY: as in `live`.
    let f = unsafe { &*rec };
    let idle = now.wrapping_sub(f.last_tick) as i32;
    let over = f.state & ST_RST != 0 || (f.is_closed() && idle > CLOSED_GRACE as i32);
    if !over {
        return false;
    }
    free(t, rec);
    t.index_insert(k, r)
}

/// Notes a packet of the client's.
#[inline(always)]
pub(crate) fn on_forward<A: Addr>(rec: *mut Flow<A>, p: &Parsed<A>, now: u32) {
    // SAFETY: as in `live`.
    let f = unsafe { &mut *rec };
    touch(f, now);
    f.fwd_packets = f.fwd_packets.wrapping_add(1);
    if p.is_tcp() {
        let mut s = f.state;
        if p.tcp_flags & flag::RST != 0 {
            s |= ST_RST;
        } else if p.tcp_flags & flag::SYN == 0 {
            // Data after a RST: the RST was not believed, so the connection lives.
            s &= !ST_RST;
            if s & ST_REPLIED != 0 {
                s |= ST_ESTABLISHED;
            }
            if p.tcp_flags & flag::FIN != 0 {
                s |= ST_FIN_FWD;
            }
        }
        if s != f.state {
            f.state = s;
        }
    }
}

/// Notes a packet of the backend's.
#[inline(always)]
pub(crate) fn on_reply<A: Addr>(rec: *mut Flow<A>, p: &Parsed<A>, now: u32) {
    // SAFETY: as in `live`.
    let f = unsafe { &mut *rec };
    touch(f, now);
    f.rev_packets = f.rev_packets.wrapping_add(1);
    let mut s = f.state | ST_REPLIED;
    if p.is_tcp() {
        if p.tcp_flags & flag::RST != 0 {
            s |= ST_RST;
        } else if p.tcp_flags & flag::SYN == 0 {
            s |= if p.tcp_flags & flag::FIN != 0 { ST_SERVING | ST_FIN_REV } else { ST_SERVING };
        }
    }
    if s != f.state {
        f.state = s;
    }
}

#[inline(always)]
fn touch<A: Addr>(f: &mut Flow<A>, now: u32) {
    // A store only when it changes: keeps the cache line shared while both directions run on different CPUs.
    if f.last_tick != now {
        f.last_tick = now;
    }
}

/// Frees the expired records of `start .. start + count` (at most [`SWEEP_MAX`]); returns how many.
#[inline(always)]
pub fn sweep<F: Family, T: Tables<F>>(t: &T, start: u32, count: u32) -> u32 {
    let now = t.now_tick();
    let mut freed = 0;
    let mut i = 0;
    while i < SWEEP_MAX && i < count {
        if let Some(rec) = t.flow(start.wrapping_add(i)) {
            // SAFETY: as in `live`.
            let f = unsafe { &*rec };
            let done = f.is_expired(now)
                || (now.wrapping_sub(f.last_tick) as i32 > ORPHAN_GRACE as i32 && is_orphan(t, f));
            if f.state & ST_USED != 0 && done {
                free(t, rec);
                freed += 1;
            }
        }
        i += 1;
    }
    freed
}

pub use lb_common::flow::SWEEP_MAX;

/// The tuple a forward packet gets.
#[inline(always)]
pub fn forward_target<A: Addr>(f: &Flow<A>) -> FlowKey<A> {
    inverse(&f.reply)
}

/// The tuple a reply gets.
#[inline(always)]
pub fn reply_target<A: Addr>(f: &Flow<A>) -> FlowKey<A> {
    inverse(&f.orig)
}
