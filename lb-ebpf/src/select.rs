//! Which backend a new flow gets.
//!
//! The choice is a hash of the tuple, seeded per node: uniform over tuples (what kube-proxy's random choice gives a
//! user), and repeatable: a packet of a flow that the table lost is led back to the same backend as long as the set
//! is unchanged. Port reuse after a close passes a salt, so it chooses anew.

use crate::family::Family;
use crate::parse::UDP;
use crate::tables::Tables;
use lb_common::backend::{BACKEND_LIVE, BACKEND_SERVING};
use lb_common::service::{
    SET_CLUSTER, SET_LOCAL, SVC_HAS_ANY, SVC_KIND_CLUSTER_IP, SVC_KIND_MASK, SVC_POLICY_LOCAL,
};
use lb_common::{Backend, Reason, SetRef, Svc, hash};

/// Where a client sits, by the hook its packet came to (spec §5 trap 5: exact, without any CIDR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Outside, or another node.
    Uplink,
    /// Behind a pod-facing interface.
    Pod,
    /// This node itself, or a pod of it that no program of its own interface saw: at an uplink's egress, or a
    /// socket.
    Late,
}

/// True for every frontend but a ClusterIP: externalTrafficPolicy governs it.
#[inline(always)]
pub fn is_external(svc: &Svc) -> bool {
    svc.flags & SVC_KIND_MASK != SVC_KIND_CLUSTER_IP
}

/// The set a client may use (spec §1.10 step 3), or the reason there is none (step 4). `near` is a local pod or the
/// node itself: an external frontend under policy Local serves it from all endpoints (F6 a and b).
#[inline(always)]
pub fn set_of(svc: &Svc, near: bool) -> Result<SetRef, Reason> {
    let local_policy = svc.flags & SVC_POLICY_LOCAL != 0;
    let use_local = local_policy && !(is_external(svc) && near);
    let (set, other) = if use_local {
        (svc.sets[SET_LOCAL], svc.sets[SET_CLUSTER])
    } else {
        (svc.sets[SET_CLUSTER], svc.sets[SET_LOCAL])
    };
    if set.count != 0 {
        Ok(set)
    } else if local_policy && (other.count != 0 || svc.flags & SVC_HAS_ANY != 0) {
        Err(Reason::DropNoLocalEndpoint)
    } else {
        Err(Reason::ResetNoEndpoint)
    }
}

/// May this backend carry flows of `proto`?
#[inline(always)]
pub fn usable<A>(b: &Backend<A>, proto: u32) -> bool {
    let need = if proto == UDP as u32 { BACKEND_LIVE | BACKEND_SERVING } else { BACKEND_LIVE };
    b.flags & need == need
}

/// Chooses a backend by a hash.
#[inline(always)]
pub fn backend<F: Family, T: Tables<F>>(
    t: &T,
    set: SetRef,
    hash: u32,
    proto: u32,
) -> Result<(u32, Backend<F::A>), Reason> {
    let Some(id) = t.choose(set, hash, proto) else { return Err(Reason::Inconsistent) };
    match t.backend(id) {
        Some(b) if usable(&b, proto) => Ok((id, b)),
        _ => Err(Reason::Inconsistent),
    }
}

/// The id of the set's backend that a hash points at; one of the next if that was just removed. The body of
/// [`Tables::choose`].
#[inline(always)]
pub fn choose<F: Family, T: Tables<F>>(t: &T, set: SetRef, hash: u32, proto: u32) -> Option<u32> {
    let first = hash::reduce(hash, set.count);
    let mut i = 0;
    while i < 4 {
        let mut at = first + i;
        if at >= set.count {
            at -= set.count;
        }
        if at >= set.count {
            break;
        }
        if let Some(id) = t.slot(set.offset.wrapping_add(at))
            && let Some(b) = t.backend(id)
            && usable(&b, proto)
        {
            return Some(id);
        }
        i += 1;
    }
    None
}

/// Steps of the search in [`contains`]: sets of up to 2^17 backends, which is the default capacity.
const SEARCH_STEPS: u32 = 18;

/// Is the backend in the set? The slots of a set are sorted by id, so this is a binary search. The body of
/// [`Tables::in_set`].
#[inline(always)]
pub fn contains<F: Family, T: Tables<F>>(t: &T, set: SetRef, id: u32) -> bool {
    let (mut at, mut len) = (set.offset, set.count);
    let mut i = 0;
    while i < SEARCH_STEPS {
        if len <= 1 {
            break;
        }
        let half = len >> 1;
        let Some(middle) = t.slot(at.wrapping_add(half)) else { return false };
        if middle <= id {
            at = at.wrapping_add(half);
        }
        len -= half;
        i += 1;
    }
    let found = match t.slot(at) {
        Some(found) => found,
        None => !id,
    };
    // Opaque, or LLVM makes of both cases one comparison with a register that nothing was written to, which the
    // verifier refuses.
    set.count != 0 && core::hint::black_box(found) == id
}
