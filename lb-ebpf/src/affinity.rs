//! Session affinity ClientIP (spec A1–A7): a client of a service port keeps its backend while that is in the set.
//!
//! The record belongs to (client, service port), whichever frontend was used. It slides with every new connection, is
//! checked against the set the policy chose, and is bounded: a full map forgets the client seen longest ago.

use crate::family::Family;
use crate::select::usable;
use crate::tables::Tables;
use lb_common::flow::TICK_SHIFT;
use lb_common::{Affinity, AffinityKey, Backend, SetRef, Svc, hash};

/// Seconds to ticks at run time.
#[inline(always)]
fn ticks_of_s(s: u32) -> u32 {
    ((s as u64 * 1_000_000_000) >> TICK_SHIFT) as u32
}

/// The backend this client keeps, if it may still be used; else a salt to choose another one by: 0, or when the client
/// was seen last if its time is over.
#[inline(always)]
pub fn recall<F: Family, T: Tables<F>>(
    t: &T,
    svc: &Svc,
    set: SetRef,
    key: &AffinityKey,
    proto: u32,
    now: u32,
) -> Result<(u32, Backend<F::A>), u32> {
    let Some(a) = t.affinity(key) else { return Err(0) };
    if now.wrapping_sub(a.last_tick) > ticks_of_s(svc.affinity_s) {
        return Err(a.last_tick);
    }
    let Some(b) = t.backend(a.backend_id) else { return Err(0) };
    if b.generation != a.backend_generation || !usable(&b, proto) {
        return Err(0);
    }
    if t.in_set(set, a.backend_id) { Ok((a.backend_id, b)) } else { Err(0) }
}

/// What the backend of a client's sockets is chosen by: by the client and what [`recall`] says, so that sockets which
/// connect at the same time choose the same one before there is a record. Packets are chosen for by their flow, which
/// costs less of BPF's stack; first packets of one client on several CPUs may disagree, as in kube-proxy.
#[inline(always)]
pub fn hash_of(seed: u32, key: &AffinityKey, salt: u32) -> u32 {
    let [a, b, c, d] = key.client;
    hash::words(seed ^ salt, [a, b, c, d, key.svc_id])
}

/// Notes that a client began a connection to a backend.
#[inline(always)]
pub fn remember<F: Family, T: Tables<F>>(t: &T, key: &AffinityKey, id: u32, b: &Backend<F::A>, now: u32) {
    t.keep_affinity(key, &Affinity { backend_id: id, backend_generation: b.generation, last_tick: now });
}
