//! The flow table: one record for both directions in an array, found through one index entry per direction.
//!
//! Reuse of records is by a clock hand (second chance) that the datapath itself advances, so the table needs no agent:
//! the hand takes free, expired, and (under pressure) unanswered or closed records, never a live flow. Freeing a record
//! deletes both index entries, so no half of a pair can be lost on its own; a stale entry is recognised by its record.
//! Races between CPUs are settled by the index: `insert if absent` on the reply tuple, then on the client's.

use crate::family::Family;
use crate::index;
use crate::mem::put;
use crate::packet::Packet;
use crate::parse::{Parsed, flag};
use crate::rewrite::inverse;
use crate::tables::Tables;
use lb_common::flow::*;
use lb_common::{Addr, Config, Flow, FlowKey, Reason, hash};

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
    /// Where it lies.
    pub slot: u32,
    /// The record.
    pub rec: *mut Flow<A>,
    /// The packet is a reply.
    pub reverse: bool,
}

/// Frees a record, its index entries first, if it is the one with this `seq`. The body of [`Tables::free_flow`].
#[inline(always)]
pub fn free_slot<F: Family, T: Tables<F>>(t: &T, slot: u32, seq: u32) {
    let Some(rec) = t.flow(slot) else { return };
    // SAFETY: a map element; see `index::find`.
    if unsafe { (*rec).seq } != seq {
        return;
    }
    index::remove::<F, T>(t, rec, slot);
    index::remove::<F, T>(t, rec, slot | REF_REVERSE);
    // SAFETY: as above.
    unsafe { (*rec).state = 0 };
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
pub struct NewFlow<'a, A> {
    /// client → frontend.
    pub orig: &'a FlowKey<A>,
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
    n: &NewFlow<'_, F::A>,
    now: u32,
) -> Result<*mut Flow<F::A>, Reason> {
    let Some(claimed) = t.claim_flow(now) else { return Err(Reason::FlowTableFull) };
    if claimed.reclaimed {
        t.count(p.hook(), Reason::Reclaimed);
    }
    let slot = claimed.slot;
    let Some(rec) = t.flow(slot) else { return Err(Reason::FlowTableFull) };
    // SAFETY: as in `index::find`; the hand gave this slot to us alone.
    let seq = unsafe {
        let seq = (*rec).seq.wrapping_add(1);
        (*rec).seq = seq;
        (*rec).flags = n.flags;
        (*rec).last_tick = now;
        (*rec).backend_id = n.backend.0;
        (*rec).backend_generation = n.backend.1;
        (*rec).svc_id = n.svc_id;
        put(&raw mut (*rec).orig, n.orig);
        (*rec).rev_hop.ifindex = 0;
        (*rec).fwd_packets = 0;
        (*rec).rev_packets = 0;
        (*rec).born_tick = now;
        (*rec).client_ifindex = n.client_ifindex;
        put(&raw mut (*rec).reply, &n.reply);
        (*rec).state = ST_USED;
        seq
    };
    if !has_port::<F, T>(t, slot, now) {
        // SAFETY: as above.
        unsafe { (*rec).state = 0 };
        return Err(Reason::NoSnatPort);
    }
    // Twice: of two CPUs that enter one tuple at once both may withdraw.
    if t.enter(slot, now) || t.enter(slot, now) {
        t.count(p.hook(), Reason::FlowCreated);
        return Ok(rec);
    }
    // Another CPU made this flow a moment ago: use that one.
    t.free_flow(slot, seq);
    match index::find::<F, T>(t, n.orig, now) {
        Some(f) if !f.reverse => Ok(f.rec),
        _ => Err(Reason::FlowTableFull),
    }
}

/// Has the record got a port of its own towards its backend? A closed flow in the way goes.
#[inline(always)]
fn has_port<F: Family, T: Tables<F>>(t: &T, slot: u32, now: u32) -> bool {
    match t.claim_reply(slot, now) {
        Claim::Done => true,
        Claim::None => false,
        Claim::Closed { slot: other } => {
            let Some(rec) = t.flow(other) else { return false };
            // SAFETY: as in `index::find`.
            let seq = unsafe { (*rec).seq };
            t.free_flow(other, seq);
            // Its port is the record's now, unless another CPU was faster.
            t.enter(slot | REF_REVERSE, now)
        }
    }
}

/// A record for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Where it lies.
    pub slot: u32,
    /// It held another flow, which is gone.
    pub reclaimed: bool,
}

/// Advances the hand to a record that may be taken, and frees it. The body of [`Tables::claim_flow`].
#[inline(always)]
pub fn claim<F: Family, T: Tables<F>>(t: &T, now: u32) -> Option<Claimed> {
    let len = t.flows_len(t.config()?);
    let mut i = 0;
    while i < HAND_TRIES && len != 0 {
        let slot = t.hand() % len;
        if let Some(rec) = t.flow(slot) {
            // SAFETY: as in `index::find`.
            let f = unsafe { &*rec };
            if replaceable(t, f, now) {
                let reclaimed = f.state & ST_USED != 0;
                if reclaimed {
                    t.free_flow(slot, f.seq);
                }
                return Some(Claimed { slot, reclaimed });
            }
        }
        i += 1;
    }
    None
}

/// How claiming a port went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The record has one, and its reply tuple is in the index.
    Done,
    /// All tries are over.
    None,
    /// The record has one, and the closed flow in this slot is in its way: free that, then enter the tuple.
    Closed {
        /// Where it lies.
        slot: u32,
    },
}

/// Enters the reply tuple, trying other ports towards the backend while it is taken: first the client's own, then the
/// masquerade range. Per destination tuple, by construction. A masqueraded flow never takes a NodePort, and a port that
/// the node's own sockets are given only when all else is taken: netfilter keeps tuples unique over all connections, we
/// see ours alone. The body of [`Tables::claim_reply`].
#[inline(always)]
pub fn claim_reply<F: Family, T: Tables<F>>(t: &T, slot: u32, now: u32) -> Claim {
    let who = slot | REF_REVERSE;
    let mut i = 0;
    while i < PORT_TRIES {
        // All but the try is looked up anew in each: what lives across tries lies on BPF's stack.
        let (Some(rec), Some(c)) = (t.flow(slot), t.config()) else { return Claim::None };
        // SAFETY: as in `index::find`; the record is the caller's alone, and nobody finds it before the index names it.
        let f = unsafe { &mut *rec };
        let port = port_of_try(c, f, slot, i);
        if port != NO_PORT {
            f.reply.dport_be = (port as u16).to_be();
            if t.enter(who, now) {
                return Claim::Done;
            }
            if i >= OVER_CLOSED_FROM
                && let Some(other) = t.holder(who, now)
                && let Some(rec) = t.flow(other)
                // SAFETY: as above.
                && is_over(unsafe { &*rec }, now)
            {
                return Claim::Closed { slot: other };
            }
        }
        i += 1;
    }
    Claim::None
}

/// May another flow have this one's port? Many short connections to one backend use up ports long before closed flows
/// expire; a backend's TIME_WAIT takes a new SYN (RFC 6191).
#[inline(always)]
fn is_over<A: Addr>(f: &Flow<A>, now: u32) -> bool {
    let idle = now.wrapping_sub(f.last_tick) as i32;
    f.state & ST_RST != 0 || (f.is_closed() && idle > CLOSED_GRACE as i32)
}

/// A try that is left out.
const NO_PORT: u32 = u32::MAX;

/// The port of a try, or [`NO_PORT`].
#[inline(always)]
fn port_of_try<A: Addr>(c: &Config, f: &Flow<A>, slot: u32, i: u32) -> u32 {
    let own = u16::from_be(f.orig.sport_be) as u32;
    let masqueraded = f.flags & (FLOW_SNAT | FLOW_LATE) != 0;
    let forbidden = masqueraded && own >= c.nodeport_min && own <= c.nodeport_max;
    // The node's own sockets are given these ports, and know nothing of our flows: to be used last.
    let shared = masqueraded && own >= c.local_port_min && own <= c.local_port_max;
    if i == 0 {
        return if forbidden || shared { NO_PORT } else { own };
    }
    if shared && !forbidden && i == PORT_TRIES - 1 {
        return own;
    }
    let span = c.snat_port_max.wrapping_sub(c.snat_port_min).wrapping_add(1);
    let start = hash::words(f.seq ^ c.seed, [own, slot]);
    c.snat_port_min + hash::reduce(start.wrapping_add(i << 28), span)
}

/// Notes a packet of the client's.
#[inline(always)]
pub(crate) fn on_forward<A: Addr>(rec: *mut Flow<A>, p: &Parsed<A>, now: u32) {
    // SAFETY: as in `index::find`.
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
    // SAFETY: as in `index::find`.
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
        freed += t.sweep_flow(start.wrapping_add(i), now) as u32;
        i += 1;
    }
    freed
}

/// Frees the record in `slot` if it has expired, or is of a backend that is gone; returns whether it did. The body of
/// [`Tables::sweep_flow`].
#[inline(always)]
pub fn sweep_slot<F: Family, T: Tables<F>>(t: &T, slot: u32, now: u32) -> bool {
    let Some(rec) = t.flow(slot) else { return false };
    // SAFETY: as in `index::find`.
    let f = unsafe { &*rec };
    let done =
        f.is_expired(now) || (now.wrapping_sub(f.last_tick) as i32 > ORPHAN_GRACE as i32 && is_orphan(t, f));
    if f.state & ST_USED == 0 || !done {
        return false;
    }
    t.free_flow(slot, f.seq);
    true
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
