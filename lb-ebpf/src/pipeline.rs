//! parse → flow lookup → service lookup → select → remember → rewrite → forward.
//!
//! [`ingress`] runs where a client's packets come in (uplink: XDP or tc; pod-facing interface: tc) and also turns
//! masqueraded replies around; [`egress`] runs where packets leave towards clients and translates all other replies,
//! after netfilter has seen them as pod → client. At an uplink's egress it also serves clients of this node that no
//! other program saw ([`Role::Late`]).
//!
//! Each hook has a fast program for whole TCP and UDP packets, and a slow one ([`run_slow`]) for the rest.

use crate::begin::begin;
use crate::family::{Family, V4, V6, V6Frag};
use crate::flow::{self, Found};
use crate::forward;
use crate::frag;
use crate::icmp;
use crate::index;
use crate::mem::{rd, settle};
use crate::packet::*;
use crate::parse::{Parsed, ethertype_be, parse};
use crate::reject::reject;
use crate::rewrite;
use crate::seen;
use crate::select::{self, Role};
use crate::tables::Tables;
use lb_common::flow::{FLOW_HAIRPIN, FLOW_LATE, FLOW_LOCAL, FLOW_SNAT, ST_SERVING};
use lb_common::{Flow, FlowKey, Reason};

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Packets come in, from clients of this role.
    In(Role),
    /// Packets leave towards a pod.
    PodOut,
    /// Packets leave by an uplink.
    UplinkOut,
}

/// The fast program of a hook, whatever the family. [`Verdict::Slow`] is not counted: the slow program counts.
#[inline(always)]
pub fn run<P: Packet, T: Tables<V4> + Tables<V6>>(p: &mut P, t: &T, side: Side) -> End {
    p.pull(V6::L4 + 20);
    let end = match ethertype_be(p) {
        e if e == V4::ETHERTYPE_BE => whole::<P, V4, T>(p, t, side),
        e if e == V6::ETHERTYPE_BE => whole::<P, V6, T>(p, t, side),
        0 => End::pass(Reason::Malformed),
        _ => End::pass(Reason::NotIp),
    };
    if !matches!(end.verdict, Verdict::Slow) {
        <T as Tables<V4>>::count(t, p.hook(), end.reason);
    }
    end
}

/// The slow program of a hook: fragments and ICMP errors. It looks at the packet anew.
#[inline(always)]
pub fn run_slow<P: Packet, T: Tables<V4> + Tables<V6> + Tables<V6Frag>>(p: &mut P, t: &T, side: Side) -> End {
    p.pull(icmp::LONGEST);
    let packed = match ethertype_be(p) {
        e if e == V4::ETHERTYPE_BE => match parse::<P, V4>(p) {
            Err(Reason::Fragment) => fragment::<P, V4, T>(p, t, side),
            _ => icmp_error::<P, V4, V4, T>(p, t, side),
        },
        _ => match parse::<P, V6>(p) {
            Err(Reason::Fragment) => fragment::<P, V6Frag, T>(p, t, side),
            _ if icmp::quotes_fragment(p) => icmp_error::<P, V6, V6Frag, T>(p, t, side),
            _ => icmp_error::<P, V6, V6, T>(p, t, side),
        },
    };
    End::unpack(packed)
}

#[inline(always)]
fn whole<P: Packet, F: Family, T: Tables<F>>(p: &mut P, t: &T, side: Side) -> End {
    match parse::<P, F>(p) {
        Ok(parsed) if !seen::is_candidate::<F, T>(t, &parsed.key) => End::pass(Reason::NotOurs),
        Ok(parsed) => translate::<P, F, T>(p, t, side, &parsed),
        Err(r @ (Reason::Fragment | Reason::NotL4)) => End::slow(r),
        Err(r) => End::pass(r),
    }
}

/// Not inlined: each family's slow road has a stack of its own, which BPF bounds at 512 bytes a program.
#[inline(never)]
fn fragment<P: Packet, F: Family, T: Tables<F>>(p: &mut P, t: &T, side: Side) -> u64 {
    let end = match frag::parse::<P, F, T>(p, t) {
        Ok(parsed) => translate::<P, F, T>(p, t, side, &parsed),
        Err(r) => End::pass(r),
    };
    t.count(p.hook(), end.reason);
    end.pack()
}

/// As [`fragment`].
#[inline(never)]
fn icmp_error<P: Packet, F: Family, Q: Family<A = F::A>, T: Tables<F>>(p: &mut P, t: &T, side: Side) -> u64 {
    let end = icmp::error::<P, F, Q, T>(p, t, side);
    t.count(p.hook(), end.reason);
    end.pack()
}

#[inline(always)]
fn translate<P: Packet, F: Family, T: Tables<F>>(p: &mut P, t: &T, side: Side, parsed: &Parsed<F::A>) -> End {
    if size_of::<F::A>() > 4 {
        settle(parsed);
    }
    match side {
        Side::In(role) => ingress::<P, F, T>(p, t, role, parsed),
        Side::PodOut => egress::<P, F, T>(p, t, parsed, false),
        Side::UplinkOut => egress::<P, F, T>(p, t, parsed, true),
    }
}

/// ifindex of `lo` in every network namespace (include/net/flow.h, `LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK: u32 = 1;

/// What to do with a client's packet that belongs to a known flow.
enum Known {
    Use,
    /// Its backend is gone or it is a new connection on an old tuple: forget the flow, choose with this salt.
    Reselect(u32),
    /// Its backend is gone and the connection cannot be moved.
    Reset,
}

/// One family's ingress.
#[inline(always)]
fn ingress<P: Packet, F: Family, T: Tables<F>>(p: &mut P, t: &T, role: Role, parsed: &Parsed<F::A>) -> End {
    let now = t.now_tick();
    let mut known = None;
    if let Some(f) = index::find::<F, T>(t, &parsed.key, now) {
        if f.reverse {
            return reply_in::<P, F, T>(p, t, &f, parsed, now);
        }
        known = Some(f);
    }
    forward::<P, F, T>(p, t, role, known, parsed, now)
}

/// A client's packet: the flow it has or a new one, then on to the backend.
#[inline(always)]
fn forward<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    role: Role,
    mut known: Option<Found<F::A>>,
    parsed: &Parsed<F::A>,
    now: u32,
) -> End {
    let mut salt = 0;
    if let Some(f) = &known {
        match check::<F, T>(t, f.rec, parsed) {
            Known::Use => {}
            Known::Reset => return reject::<P, F, T>(p, t, role, parsed, now, Reason::ResetGone),
            Known::Reselect(s) => {
                // SAFETY: a map element; see `index::find`.
                t.free_flow(f.slot, unsafe { (*f.rec).seq });
                known = None;
                // The first sequence number is random, and the same when the SYN is sent again.
                salt = if s != 0 { s ^ sequence::<P, F>(p) } else { 0 };
            }
        }
    }
    let rec = match known {
        Some(f) => f.rec,
        None => match begin::<P, F, T>(p, t, role, parsed, salt, now) {
            Ok(r) => r,
            Err(
                r @ (Reason::ResetNoEndpoint
                | Reason::RejectUndefinedPort
                | Reason::NoSnatPort
                | Reason::FlowTableFull),
            ) => {
                return reject::<P, F, T>(p, t, role, parsed, now, r);
            }
            Err(r) if r.is_drop() => return End::drop(r),
            Err(r) => return End::pass(r),
        },
    };
    forward_known::<P, F, T>(p, t, rec, parsed, now)
}

/// A TCP segment's sequence number, as it lies in the packet; 0 where there is none.
#[inline(always)]
fn sequence<P: Packet, F: Family>(p: &P) -> u32 {
    match p.at(0, F::L4 + 8) {
        // SAFETY: L4 + 8 bytes were checked.
        Some(b) => unsafe { rd::<u32>(b, F::L4 + 4) },
        None => 0,
    }
}

/// Is the flow's backend still the one it was made with, and is this packet still part of it?
#[inline(always)]
fn check<F: Family, T: Tables<F>>(t: &T, rec: *mut Flow<F::A>, p: &Parsed<F::A>) -> Known {
    // SAFETY: a map element; see `index::find`.
    let f = unsafe { &*rec };
    let valid = match t.backend(f.backend_id) {
        Some(b) => b.generation == f.backend_generation && select::usable(&b, p.key.proto),
        None => false,
    };
    if valid {
        if p.is_tcp() && p.is_syn() && f.is_closed() {
            return Known::Reselect(f.seq);
        }
        return Known::Use;
    }
    if !p.is_tcp() || p.is_syn() { Known::Reselect(0) } else { Known::Reset }
}

/// A client's packet on its way to the backend.
#[inline(always)]
fn forward_known<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    rec: *mut Flow<F::A>,
    parsed: &Parsed<F::A>,
    now: u32,
) -> End {
    // SAFETY: a map element; see `index::find`.
    let f = unsafe { &*rec };
    let target = flow::forward_target(f);
    let flags = f.flags;
    if flags & FLOW_LATE != 0 {
        return late::<P, F, T>(p, t, rec, parsed, &target, now);
    }
    if flags & FLOW_SNAT == 0 || flags & FLOW_HAIRPIN != 0 {
        flow::on_forward(rec, parsed, now);
        if !rewrite::tuple::<P, F>(p, parsed, &target) {
            return End::drop(Reason::RewriteFailed);
        }
        if flags & FLOW_HAIRPIN != 0 {
            return forward::bounce(p, Role::Pod, Reason::FwdHairpin);
        }
        let local = flags & FLOW_LOCAL != 0;
        return End::pass(if local { Reason::FwdLocal } else { Reason::FwdRouted });
    }
    let Some(hop) = t.hop(f.backend_id) else { return End::drop(Reason::Inconsistent) };
    let q = F::fib_query(&parsed.key.src, &target.dst, target.proto as u8);
    let reason = if flags & FLOW_LOCAL != 0 { Reason::FwdMasqueraded } else { Reason::FwdRemote };
    turn::<P, F, T>(p, t, parsed, &target, hop, &q, now, reason, |now| flow::on_forward(rec, parsed, now))
}

/// A packet that is leaving the node unaware of its Service: sent on to where the backend is. The stack has already
/// counted the hop.
#[inline(always)]
fn late<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    rec: *mut Flow<F::A>,
    parsed: &Parsed<F::A>,
    target: &FlowKey<F::A>,
    now: u32,
) -> End {
    let fib = p.fib(&F::fib_query(&parsed.key.src, &target.dst, target.proto as u8));
    let here = fib.status == FIB_NOT_FWDED;
    if !here && fib.status != FIB_SUCCESS && fib.status != FIB_NO_NEIGH {
        return End::drop(Reason::NoRoute);
    }
    flow::on_forward(rec, parsed, now);
    if !rewrite::tuple::<P, F>(p, parsed, target) {
        return End::drop(Reason::RewriteFailed);
    }
    if here {
        // The backend is the node itself: by loopback, if that is managed. There the stack expects the node's own
        // address as a source, and there its reply comes by.
        let by = if t.iface(LOOPBACK).is_some() { LOOPBACK } else { p.ifindex() };
        return forward::up::<P, F, T>(p, t, by, Reason::FwdLate);
    }
    End::out(Verdict::RedirectNeigh, fib.ifindex, Reason::FwdLate)
}

/// A reply that came in: masqueraded ones are turned around here, late ones go up the stack, all others wait for
/// [`egress`].
#[inline(always)]
fn reply_in<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    found: &Found<F::A>,
    parsed: &Parsed<F::A>,
    now: u32,
) -> End {
    let rec = found.rec;
    // SAFETY: a map element; see `index::find`.
    let f = unsafe { &mut *rec };
    let target = flow::reply_target(f);
    let flags = f.flags;
    if flags & (FLOW_SNAT | FLOW_LATE) == 0 {
        return End::pass(Reason::NotOurs);
    }
    // A process of this node took the port from which a flow that is over spoke to the same backend.
    if parsed.is_syn_ack() && f.is_closed() {
        t.free_flow(found.slot, f.seq);
        return End::pass(Reason::NotOurs);
    }
    let began_at = f.client_ifindex;
    if flags & FLOW_LATE != 0 && P::IS_XDP && began_at != p.ifindex() {
        return End::pass(Reason::ToTc);
    }
    if flags & (FLOW_HAIRPIN | FLOW_LATE) != 0 {
        flow::on_reply(rec, parsed, now);
        if !rewrite::tuple::<P, F>(p, parsed, &target) {
            return End::drop(Reason::RewriteFailed);
        }
        return match flags & FLOW_LATE != 0 {
            false => forward::bounce(p, Role::Pod, Reason::ReplyRedirected),
            true if began_at == p.ifindex() => End::pass(Reason::ReplyUp),
            // Up by the interface where the stack expects the frontend's address.
            true => forward::up::<P, F, T>(p, t, began_at, Reason::ReplyUp),
        };
    }
    let q = F::fib_query(&parsed.key.dst, &target.dst, target.proto as u8);
    turn::<P, F, T>(p, t, parsed, &target, &mut f.rev_hop, &q, now, Reason::ReplyRedirected, |now| {
        flow::on_reply(rec, parsed, now)
    })
}

/// Routes, rewrites and redirects. The route comes first: until it is known nothing is changed, so that XDP can still
/// leave the packet to tc as it came.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "one inlined step of the pipeline; a struct would live on BPF's 512-byte stack"
)]
fn turn<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    parsed: &Parsed<F::A>,
    target: &FlowKey<F::A>,
    hop: *mut lb_common::flow::Hop,
    q: &FibQuery,
    now: u32,
    reason: Reason,
    note: impl FnOnce(u32),
) -> End {
    if parsed.ttl <= 1 {
        return End::pass(Reason::TtlExceeded);
    }
    let route = match forward::route::<P, F, T>(p, t, hop, q, now) {
        Ok(r) => r,
        Err(r) if r.is_drop() => return End::drop(r),
        Err(r) => return End::pass(r),
    };
    note(now);
    if !rewrite::tuple::<P, F>(p, parsed, target) || !rewrite::hop_taken::<P, F>(p) {
        return End::drop(Reason::RewriteFailed);
    }
    forward::send(p, &route, reason)
}

/// One family's egress: replies towards clients on this side of the stack; `late` also serves this node's clients.
#[inline(always)]
fn egress<P: Packet, F: Family, T: Tables<F>>(p: &mut P, t: &T, parsed: &Parsed<F::A>, late: bool) -> End {
    let now = t.now_tick();
    let mut known = None;
    if let Some(found) = index::find::<F, T>(t, &parsed.key, now) {
        // SAFETY: a map element; see `index::find`.
        let f = unsafe { &*found.rec };
        if found.reverse {
            // A late client's backend that answers by loopback is the node itself, and so is the client.
            let late_here = f.flags & FLOW_LATE != 0 && late && p.ifindex() == LOOPBACK;
            if f.flags & (FLOW_SNAT | FLOW_LATE) != 0 && !late_here {
                return End::pass(Reason::NotOurs);
            }
            // The client's stack may use one port for a frontend and, directly or on another node, for its backend: a
            // second handshake is that other connection's, and ours is over, since the backend has one of a tuple.
            if parsed.is_syn_ack() && (f.state & ST_SERVING != 0 || f.is_closed()) {
                // What goes to a pod may have been forged outside: that ends no flow which still lives.
                if late || f.is_closed() {
                    t.free_flow(found.slot, f.seq);
                }
                return End::pass(Reason::NotOurs);
            }
            let target = flow::reply_target(f);
            flow::on_reply(found.rec, parsed, now);
            if !rewrite::tuple::<P, F>(p, parsed, &target) {
                return End::drop(Reason::RewriteFailed);
            }
            return End::pass(Reason::ReplyEgress);
        }
        if f.flags & FLOW_LATE == 0 {
            return End::pass(Reason::NotOurs);
        }
        known = Some(found);
    }
    if !late {
        return End::pass(Reason::NotOurs);
    }
    forward::<P, F, T>(p, t, Role::Late, known, parsed, now)
}
