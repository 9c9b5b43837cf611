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
use lb_common::{Backend, FlowKey, Reason, SetRef, Svc, hash};

/// Where a client sits, by the interface its packet came in by (spec §5 trap 5: exact, without any CIDR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Outside, or another node.
    Uplink,
    /// A pod of this node.
    Pod,
}

/// The set a client may use (spec §1.10 step 3), or the reason there is none (step 4).
#[inline(always)]
pub fn set_of(svc: &Svc, role: Role) -> Result<SetRef, Reason> {
    let local_policy = svc.flags & SVC_POLICY_LOCAL != 0;
    let external = svc.flags & SVC_KIND_MASK != SVC_KIND_CLUSTER_IP;
    // Short-circuit (F6a): a pod of this node that addresses an external frontend is served from all endpoints.
    let use_local = local_policy && !(external && matches!(role, Role::Pod));
    let (set, other) = if use_local {
        (svc.sets[SET_LOCAL], svc.sets[SET_CLUSTER])
    } else {
        (svc.sets[SET_CLUSTER], svc.sets[SET_LOCAL])
    };
    if set.count != 0 {
        Ok(set)
    } else if use_local && (other.count != 0 || svc.flags & SVC_HAS_ANY != 0) {
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

/// Chooses a backend for the tuple. Tries a few neighbours when a slot's backend was just removed.
#[inline(always)]
pub fn backend<F: Family, T: Tables<F>>(
    t: &T,
    set: SetRef,
    key: &FlowKey<F::A>,
    seed: u32,
) -> Result<(u32, Backend<F::A>), Reason> {
    let first = hash::reduce(F::hash(seed, key), set.count);
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
            && usable(&b, key.proto)
        {
            return Ok((id, b));
        }
        i += 1;
    }
    Err(Reason::Inconsistent)
}
