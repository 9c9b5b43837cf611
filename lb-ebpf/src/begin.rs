//! A new flow: frontend, source ranges, policy, affinity, selection, masquerade (spec §1.10, in its order).

use crate::affinity;
use crate::family::Family;
use crate::flow::{self, NewFlow};
use crate::forward;
use crate::packet::{FIB_NO_NEIGH, FIB_NOT_FWDED, FIB_SUCCESS, Packet};
use crate::parse::Parsed;
use crate::pipeline::LOOPBACK;
use crate::select::{self, Role};
use crate::tables::Tables;
use lb_common::backend::BACKEND_LOCAL;
use lb_common::config::{
    CONFIG_DETECTS_LOCAL, CONFIG_LOCAL_BY_CIDR, CONFIG_MASQUERADE_ALL, CONFIG_MASQUERADE_EXTERNAL,
    IFACE_LOCAL_PODS, IFACE_POD,
};
use lb_common::flow::{FLOW_FROM_POD, FLOW_HAIRPIN, FLOW_LATE, FLOW_LOCAL, FLOW_SNAT};
use lb_common::service::{AFFINITY_ADDRESS, SVC_ADDRESS, SVC_POLICY_LOCAL};
use lb_common::{Addr, AffinityKey, Backend, Config, Flow, FlowKey, Reason, Svc, SvcKey};

/// Looks the frontend up, selects and remembers.
#[inline(always)]
pub fn begin<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    role: Role,
    parsed: &Parsed<F::A>,
    salt: u32,
    now: u32,
) -> Result<*mut Flow<F::A>, Reason> {
    let k = &parsed.key;
    let svc_key = SvcKey { addr: k.dst, port_be: k.dport_be, proto: k.proto as u8, pad: 0 };
    let svc = t.svc(&svc_key);
    let Some(c) = t.config() else { return Err(Reason::NotReady) };
    let Some(svc) = svc else { return Err(no_frontend::<F, T>(t, c, parsed)) };
    if c.ready == 0 {
        return Err(Reason::NotReady);
    }
    if F::is_bad_source(&k.src) || (matches!(role, Role::Uplink) && is_forged::<P, F>(p, c, k)) {
        return Err(Reason::BadSource);
    }
    // NodePorts on loopback addresses are for socket hooks alone: a packet with such a destination may be a
    // neighbour's (CVE-2020-8558).
    if !parsed.may_begin_flow() || F::is_bad_source(&k.dst) {
        return Err(Reason::NotOurs);
    }
    if svc.ranges_id != 0 && !t.in_ranges(svc.ranges_id, &k.src) {
        return Err(Reason::DropSourceRange);
    }
    let local_pod = is_local_pod::<P, F, T>(p, t, c, role, &k.src);
    let set = select::set_of(svc, local_pod || matches!(role, Role::Late))?;
    let affinity = AffinityKey { client: F::words(&k.src), svc_id: svc.id, kind: AFFINITY_ADDRESS };
    let kept = if svc.affinity_s != 0 {
        affinity::recall::<F, T>(t, svc, set, &affinity, k.proto, now).ok()
    } else {
        None
    };
    let (id, b) = match kept {
        Some(found) => {
            t.count(p.hook(), Reason::AffinityHit);
            found
        }
        None => select::backend::<F, T>(t, set, F::hash(c.seed ^ salt, k), k.proto)?,
    };
    if svc.affinity_s != 0 {
        affinity::remember::<F, T>(t, &affinity, id, &b, now);
    }
    let (reply_dst, flags) = match role {
        Role::Uplink => from_uplink::<P, F, T>(p, t, c, parsed, svc, id, &b, now)?,
        Role::Pod => from_pod::<F>(c, k, svc, local_pod, &b)?,
        Role::Late => (late_source::<F>(c, k), FLOW_LATE),
    };
    let n = new_flow::<F>(k, svc, id, &b, reply_dst, flags, p.ifindex());
    flow::create(t, p, &n, now)
}

/// From outside, what must not become a flow: a source that ends with its link, this node's own address or the
/// frontend's (both martians to the stack), and a frame sent to many, each of which would forward it.
#[inline(always)]
fn is_forged<P: Packet, F: Family>(p: &P, c: &Config, k: &FlowKey<F::A>) -> bool {
    let to_many = match p.at(0, 1) {
        // SAFETY: a byte was checked.
        Some(b) => (unsafe { *b }) & 1 != 0,
        None => true,
    };
    let ours = (k.src == F::node_addr(c) || k.src == k.dst) && p.ifindex() != LOOPBACK;
    to_many || ours || F::is_link_local(&k.src)
}

/// What a packet is that has no frontend: an active ClusterIP's undefined port (R5), an unallocated service address
/// (R6), or not ours.
#[inline(always)]
fn no_frontend<F: Family, T: Tables<F>>(t: &T, c: &Config, parsed: &Parsed<F::A>) -> Reason {
    let dst = &parsed.key.dst;
    let address = t.svc(&SvcKey { addr: *dst, port_be: 0, proto: 0, pad: 0 });
    if c.ready == 0 || !parsed.may_begin_flow() {
        return Reason::NotOurs;
    }
    if matches!(address, Some(s) if s.flags & SVC_ADDRESS != 0) {
        return Reason::RejectUndefinedPort;
    }
    let cidrs = F::service_cidrs(c);
    let mut i = 0;
    while i < cidrs.len() {
        if F::inside(&cidrs[i], dst) {
            return Reason::DropUnallocated;
        }
        i += 1;
    }
    Reason::NotOurs
}

/// Is the sender a pod of this node (detectLocalMode, spec Q4)?
#[inline(always)]
fn is_local_pod<P: Packet, F: Family, T: Tables<F>>(
    p: &P,
    t: &T,
    c: &Config,
    role: Role,
    src: &F::A,
) -> bool {
    let by_interface = matches!(role, Role::Pod)
        && matches!(t.iface(p.ifindex()), Some(i) if i.flags & IFACE_LOCAL_PODS != 0);
    by_interface || (c.flags & CONFIG_LOCAL_BY_CIDR != 0 && F::inside(F::local_cidr(c), src))
}

/// Would kube-proxy rewrite the source of this flow (F5, F8, Q3)? Only what an option asks for is done here.
#[inline(always)]
fn is_masqueraded(c: &Config, svc: &Svc) -> bool {
    if select::is_external(svc) {
        return c.flags & CONFIG_MASQUERADE_EXTERNAL != 0 && svc.flags & SVC_POLICY_LOCAL == 0;
    }
    c.flags & CONFIG_MASQUERADE_ALL != 0
}

/// F8: a ClusterIP's client that is no local pod.
#[inline(always)]
fn is_foreign_to_cluster_ip(c: &Config, svc: &Svc, local_pod: bool) -> bool {
    !select::is_external(svc) && c.flags & CONFIG_DETECTS_LOCAL != 0 && !local_pod
}

/// A pod's flow: its address is kept, unless it talks to itself or an option says otherwise.
#[inline(always)]
fn from_pod<F: Family>(
    c: &Config,
    k: &FlowKey<F::A>,
    svc: &Svc,
    local_pod: bool,
    b: &Backend<F::A>,
) -> Result<(F::A, u32), Reason> {
    let node = F::node_addr(c);
    if b.addr == k.src {
        if node.is_unspecified() {
            return Err(Reason::NoRoute);
        }
        return Ok((node, FLOW_SNAT | FLOW_HAIRPIN | FLOW_FROM_POD));
    }
    let local = if b.flags & BACKEND_LOCAL != 0 { FLOW_LOCAL } else { 0 };
    // A backend that is the node itself cannot be reached from the node's own address: it would be a martian.
    let masquerade = (is_masqueraded(c, svc) || is_foreign_to_cluster_ip(c, svc, local_pod))
        && !node.is_unspecified()
        && b.addr != node;
    if masquerade {
        return Ok((node, local | FLOW_SNAT | FLOW_FROM_POD));
    }
    Ok((k.src, local | FLOW_FROM_POD))
}

/// A process of this node: its address is kept, unless that is the frontend's own. The stack takes a bound VIP as the
/// source towards itself, and other nodes may have that one, too: replies from elsewhere would not come back.
#[inline(always)]
fn late_source<F: Family>(c: &Config, k: &FlowKey<F::A>) -> F::A {
    let node = F::node_addr(c);
    if k.src == k.dst && !node.is_unspecified() { node } else { k.src }
}

/// An outside client's flow: a backend elsewhere sees this node, so that its replies come back here.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "one inlined step of the pipeline; a struct would live on BPF's 512-byte stack"
)]
fn from_uplink<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    c: &Config,
    parsed: &Parsed<F::A>,
    svc: &Svc,
    id: u32,
    b: &Backend<F::A>,
    now: u32,
) -> Result<(F::A, u32), Reason> {
    let k = &parsed.key;
    let masquerade = is_masqueraded(c, svc);
    let mut local = b.flags & BACKEND_LOCAL != 0;
    if local && !masquerade {
        return Ok((k.src, FLOW_LOCAL));
    }
    if parsed.ttl <= 1 {
        return Err(Reason::TtlExceeded);
    }
    let Some(hop) = t.hop(id) else { return Err(Reason::Inconsistent) };
    let cached = forward::cached(p, hop, now);
    let (status, out) = match &cached {
        Some(r) => (FIB_SUCCESS, r.ifindex),
        None => {
            let fib = p.fib(&F::fib_query(&k.src, &b.addr, k.proto as u8));
            if fib.status != FIB_NOT_FWDED {
                // Noted before it is judged: what this hook cannot use another one can.
                forward::note(hop, &fib, now);
            }
            (fib.status, fib.ifindex)
        }
    };
    if status == FIB_NOT_FWDED {
        return Ok((k.src, FLOW_LOCAL));
    }
    let iface = t.iface(out);
    // A hand-made slice without nodeName: the FIB knows that the pod is here.
    local |= matches!(iface, Some(i) if i.role == IFACE_POD);
    if local && !masquerade {
        return Ok((k.src, FLOW_LOCAL));
    }
    if status != FIB_SUCCESS && status != FIB_NO_NEIGH {
        return Err(if P::IS_XDP { Reason::ToTc } else { Reason::NoRoute });
    }
    if P::IS_XDP && (status != FIB_SUCCESS || !forward::xdp_can_send(p, t, out)) {
        return Err(Reason::ToTc);
    }
    let mut addr = match iface {
        Some(i) => F::iface_addr(i),
        None => F::node_addr(c),
    };
    if addr.is_unspecified() {
        addr = F::node_addr(c);
    }
    if addr.is_unspecified() {
        return Err(Reason::NoRoute);
    }
    Ok((addr, FLOW_SNAT | if local { FLOW_LOCAL } else { 0 }))
}

#[inline(always)]
fn new_flow<'a, F: Family>(
    k: &'a FlowKey<F::A>,
    svc: &Svc,
    id: u32,
    b: &Backend<F::A>,
    reply_dst: F::A,
    flags: u32,
    client_ifindex: u32,
) -> NewFlow<'a, F::A> {
    NewFlow {
        orig: k,
        reply: FlowKey {
            src: b.addr,
            dst: reply_dst,
            sport_be: b.port_be,
            dport_be: k.sport_be,
            proto: k.proto,
        },
        backend: (id, b.generation),
        svc_id: svc.id,
        flags,
        client_ifindex,
    }
}
