//! The filter before every lookup (`lb_common::seen`): most packets of a node are none of ours, and should cost nothing.

use crate::family::Family;
use crate::tables::Tables;
use lb_common::FlowKey;
use lb_common::seen::{SEEN_WORDS, place};

/// May the packet be ours: towards a frontend or a service network, or from a backend?
#[inline(always)]
pub fn is_candidate<F: Family, T: Tables<F>>(t: &T, k: &FlowKey<F::A>) -> bool {
    let proto = k.proto as u8;
    let (word, bit) = place(&k.dst, k.dport_be, proto);
    if t.seen(word) & bit != 0 {
        return true;
    }
    let (word, bit) = place(&k.src, k.sport_be, proto);
    if t.seen(SEEN_WORDS + word) & bit != 0 {
        return true;
    }
    let (word, bit) = place(&k.dst, 0, 0);
    if t.seen(word) & bit != 0 {
        return true;
    }
    let Some(c) = t.config() else { return true };
    let cidrs = F::service_cidrs(c);
    let mut i = 0;
    while i < cidrs.len() {
        if F::inside(&cidrs[i], &k.dst) {
            return true;
        }
        i += 1;
    }
    false
}
