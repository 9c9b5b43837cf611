//! parse → flow lookup → service lookup → select → remember → rewrite → forward.
//!
//! [`ingress`] runs where a client's packets come in (uplink: XDP or tc; pod-facing interface: tc) and also turns
//! masqueraded replies around; [`egress`] runs where packets leave towards clients and translates all other replies,
//! after netfilter has seen them as pod → client.

use crate::family::{Family, V4, V6};
use crate::flow::{self, NewFlow};
use crate::forward;
use crate::packet::*;
use crate::parse::{Parsed, ethertype_be, parse};
use crate::reset;
use crate::rewrite;
use crate::select::{self, Role};
use crate::tables::Tables;
use lb_common::backend::BACKEND_LOCAL;
use lb_common::config::IFACE_POD;
use lb_common::flow::{FLOW_FROM_POD, FLOW_HAIRPIN, FLOW_LOCAL, FLOW_SNAT};
use lb_common::{Addr, Backend, Config, Flow, FlowKey, Reason, Svc, SvcKey};

/// Ingress, whatever the family.
#[inline(always)]
pub fn run_ingress<P: Packet, T: Tables<V4> + Tables<V6>>(p: &mut P, t: &T, role: Role) -> End {
    p.pull(V6::L4 + 20);
    let end = match ethertype_be(p) {
        e if e == V4::ETHERTYPE_BE => ingress::<P, V4, T>(p, t, role),
        e if e == V6::ETHERTYPE_BE => ingress::<P, V6, T>(p, t, role),
        0 => End::pass(Reason::Malformed),
        _ => End::pass(Reason::NotIp),
    };
    <T as Tables<V4>>::count(t, p.hook(), end.reason);
    end
}

/// Egress, whatever the family.
#[inline(always)]
pub fn run_egress<P: Packet, T: Tables<V4> + Tables<V6>>(p: &mut P, t: &T) -> End {
    p.pull(V6::L4 + 20);
    let end = match ethertype_be(p) {
        e if e == V4::ETHERTYPE_BE => egress::<P, V4, T>(p, t),
        e if e == V6::ETHERTYPE_BE => egress::<P, V6, T>(p, t),
        0 => End::pass(Reason::Malformed),
        _ => End::pass(Reason::NotIp),
    };
    <T as Tables<V4>>::count(t, p.hook(), end.reason);
    end
}

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
pub fn ingress<P: Packet, F: Family, T: Tables<F>>(p: &mut P, t: &T, role: Role) -> End {
    let parsed = match parse::<P, F>(p) {
        Ok(x) => x,
        Err(r) => return End::pass(r),
    };
    let now = t.now_tick();
    let mut salt = 0;
    let mut known = None;
    if let Some(f) = flow::find(t, &parsed.key, now) {
        if f.reverse {
            return reply_in::<P, F, T>(p, t, f.rec, &parsed, now);
        }
        match check::<F, T>(t, f.rec, &parsed) {
            Known::Use => known = Some(f.rec),
            Known::Reset => return reset::reject::<P, F>(p, &parsed, Reason::ResetGone),
            Known::Reselect(s) => {
                flow::free(t, f.rec);
                salt = s;
            }
        }
    }
    let rec = match known {
        Some(r) => r,
        None => match begin::<P, F, T>(p, t, role, &parsed, salt, now) {
            Ok(r) => r,
            Err(r @ (Reason::ResetNoEndpoint | Reason::NoSnatPort | Reason::FlowTableFull)) => {
                return reset::reject::<P, F>(p, &parsed, r);
            }
            Err(r) if r.is_drop() => return End::drop(r),
            Err(r) => return End::pass(r),
        },
    };
    forward_known::<P, F, T>(p, t, rec, &parsed, now)
}

/// Is the flow's backend still the one it was made with, and is this packet still part of it?
#[inline(always)]
fn check<F: Family, T: Tables<F>>(t: &T, rec: *mut Flow<F::A>, p: &Parsed<F::A>) -> Known {
    // SAFETY: a map element; see `flow`.
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

/// Looks the frontend up, selects and remembers.
#[inline(always)]
fn begin<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    role: Role,
    parsed: &Parsed<F::A>,
    salt: u32,
    now: u32,
) -> Result<*mut Flow<F::A>, Reason> {
    let k = &parsed.key;
    let svc_key = SvcKey { addr: k.dst, port_be: k.dport_be, proto: k.proto as u8, pad: 0 };
    let Some(svc) = t.svc(&svc_key) else { return Err(Reason::NotOurs) };
    let Some(c) = t.config() else { return Err(Reason::NotReady) };
    if c.ready == 0 {
        return Err(Reason::NotReady);
    }
    if F::is_bad_source(&k.src) {
        return Err(Reason::BadSource);
    }
    if !parsed.may_begin_flow() {
        return Err(Reason::NotOurs);
    }
    let set = select::set_of(&svc, role)?;
    let (id, b) = select::backend(t, set, k, c.seed ^ salt)?;
    let (reply_dst, flags) = path::<P, F, T>(p, t, &c, role, parsed, &b)?;
    let mut n = new_flow::<F>(k, &svc, id, &b, reply_dst, flags, p.ifindex());
    flow::create(t, p, &c, &mut n, now)
}

#[inline(always)]
fn new_flow<F: Family>(
    k: &FlowKey<F::A>,
    svc: &Svc,
    id: u32,
    b: &Backend<F::A>,
    reply_dst: F::A,
    flags: u32,
    client_ifindex: u32,
) -> NewFlow<F::A> {
    let reply =
        FlowKey { src: b.addr, dst: reply_dst, sport_be: b.port_be, dport_be: k.sport_be, proto: k.proto };
    NewFlow { orig: *k, reply, backend: (id, b.generation), svc_id: svc.id, flags, client_ifindex }
}

/// How a new flow reaches its backend: the source address it will carry, and `FLOW_*`.
#[inline(always)]
fn path<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    c: &Config,
    role: Role,
    parsed: &Parsed<F::A>,
    b: &Backend<F::A>,
) -> Result<(F::A, u32), Reason> {
    let k = &parsed.key;
    let local = if b.flags & BACKEND_LOCAL != 0 { FLOW_LOCAL } else { 0 };
    if matches!(role, Role::Pod) {
        if b.addr == k.src {
            let node = F::node_addr(c);
            if node.is_unspecified() {
                return Err(Reason::NoRoute);
            }
            return Ok((node, FLOW_SNAT | FLOW_HAIRPIN | FLOW_FROM_POD));
        }
        return Ok((k.src, local | FLOW_FROM_POD));
    }
    if local != 0 {
        return Ok((k.src, FLOW_LOCAL));
    }
    if parsed.ttl <= 1 {
        return Err(Reason::TtlExceeded);
    }
    let fib = p.fib(&F::fib_query(&k.src, &b.addr, k.proto as u8));
    if fib.status == FIB_NOT_FWDED {
        return Ok((k.src, FLOW_LOCAL));
    }
    let iface = t.iface(fib.ifindex);
    if matches!(&iface, Some(i) if i.role == IFACE_POD) {
        // A hand-made slice without nodeName: the FIB knows that the pod is here.
        return Ok((k.src, FLOW_LOCAL));
    }
    forward::accept::<P, F, T>(p, t, &fib)?;
    let mut addr = match &iface {
        Some(i) => F::iface_addr(i),
        None => F::node_addr(c),
    };
    if addr.is_unspecified() {
        addr = F::node_addr(c);
    }
    if addr.is_unspecified() {
        return Err(Reason::NoRoute);
    }
    Ok((addr, FLOW_SNAT))
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
    // SAFETY: a map element; see `flow`.
    let f = unsafe { &mut *rec };
    let target = flow::forward_target(f);
    let flags = f.flags;
    if flags & FLOW_SNAT == 0 || flags & FLOW_HAIRPIN != 0 {
        flow::on_forward(rec, parsed, now);
        if !rewrite::tuple::<P, F>(p, &parsed.key, &target) {
            return End::drop(Reason::RewriteFailed);
        }
        if flags & FLOW_HAIRPIN != 0 {
            return forward::bounce(p, Reason::FwdHairpin);
        }
        let local = flags & FLOW_LOCAL != 0;
        return End::pass(if local { Reason::FwdLocal } else { Reason::FwdRouted });
    }
    let q = F::fib_query(&parsed.key.src, &target.dst, target.proto as u8);
    turn::<P, F, T>(p, t, parsed, &target, &mut f.fwd_hop, &q, now, Reason::FwdRemote, |now| {
        flow::on_forward(rec, parsed, now)
    })
}

/// A reply that came in: masqueraded ones are turned around here, all others wait for [`egress`].
#[inline(always)]
fn reply_in<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    rec: *mut Flow<F::A>,
    parsed: &Parsed<F::A>,
    now: u32,
) -> End {
    // SAFETY: a map element; see `flow`.
    let f = unsafe { &mut *rec };
    let target = flow::reply_target(f);
    let flags = f.flags;
    if flags & FLOW_SNAT == 0 {
        return End::pass(Reason::NotOurs);
    }
    if flags & FLOW_HAIRPIN != 0 {
        flow::on_reply(rec, parsed, now);
        if !rewrite::tuple::<P, F>(p, &parsed.key, &target) {
            return End::drop(Reason::RewriteFailed);
        }
        return forward::bounce(p, Reason::ReplyRedirected);
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
    if !rewrite::tuple::<P, F>(p, &parsed.key, target) || !rewrite::hop_taken::<P, F>(p) {
        return End::drop(Reason::RewriteFailed);
    }
    forward::send(p, &route, reason)
}

/// One family's egress: replies towards clients on this side of the stack.
#[inline(always)]
pub fn egress<P: Packet, F: Family, T: Tables<F>>(p: &mut P, t: &T) -> End {
    let parsed = match parse::<P, F>(p) {
        Ok(x) => x,
        Err(r) => return End::pass(r),
    };
    let now = t.now_tick();
    let Some(found) = flow::find(t, &parsed.key, now) else { return End::pass(Reason::NotOurs) };
    // SAFETY: a map element; see `flow`.
    let f = unsafe { &*found.rec };
    if !found.reverse || f.flags & FLOW_SNAT != 0 {
        return End::pass(Reason::NotOurs);
    }
    let target = flow::reply_target(f);
    flow::on_reply(found.rec, &parsed, now);
    if !rewrite::tuple::<P, F>(p, &parsed.key, &target) {
        return End::drop(Reason::RewriteFailed);
    }
    End::pass(Reason::ReplyEgress)
}
