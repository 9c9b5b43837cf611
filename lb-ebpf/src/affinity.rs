//! Session affinity ClientIP (spec A1–A7): a client of a service port keeps its backend while that is in the set.
//!
//! The record belongs to (client, service port), whichever frontend was used. It slides with every new connection, is
//! checked against the set the policy chose, and is bounded: a full map forgets the client seen longest ago.

use crate::family::Family;
use crate::select::{self, usable};
use crate::tables::Tables;
use lb_common::flow::TICK_SHIFT;
use lb_common::{Affinity, AffinityKey, Backend, SetRef, Svc, hash};

/// Seconds to ticks at run time.
#[inline(always)]
fn ticks_of_s(s: u32) -> u32 {
    ((s as u64 * 1_000_000_000) >> TICK_SHIFT) as u32
}

/// The backend this client keeps, if it may still be used.
#[inline(always)]
pub fn recall<F: Family, T: Tables<F>>(
    t: &T,
    svc: &Svc,
    set: SetRef,
    key: &AffinityKey,
    proto: u32,
    now: u32,
) -> Option<(u32, Backend<F::A>)> {
    let a = t.affinity(key)?;
    if now.wrapping_sub(a.last_tick) > ticks_of_s(svc.affinity_s) {
        return None;
    }
    let b = t.backend(a.backend_id)?;
    if b.generation != a.backend_generation || !usable(&b, proto) {
        return None;
    }
    select::contains::<F, T>(t, set, a.backend_id).then_some((a.backend_id, b))
}

/// What a client's backend is chosen by: by the client alone, so that connections which begin at the same time on
/// several CPUs choose the same one before there is a record.
#[inline(always)]
pub fn hash_of(seed: u32, key: &AffinityKey) -> u32 {
    let [a, b, c, d] = key.client;
    hash::words(seed, [a, b, c, d, key.svc_id])
}

/// Notes that a client began a connection to a backend.
#[inline(always)]
pub fn remember<F: Family, T: Tables<F>>(t: &T, key: &AffinityKey, id: u32, b: &Backend<F::A>, now: u32) {
    t.keep_affinity(key, &Affinity { backend_id: id, backend_generation: b.generation, last_tick: now });
}
