//! Changing a packet's tuple, with every checksum kept as right or as wrong as it came.

use crate::csum;
use crate::family::{Family, note_header};
use crate::mem::{rd, wr};
use crate::packet::Packet;
use crate::parse::{Parsed, Part, TCP};
use lb_common::{FlowKey, flow::Hop};

/// Rewrites `from` (what the packet carries) into `to`. False = refused by a helper; the frame may be half changed
/// and must be dropped.
#[inline(always)]
pub fn tuple<P: Packet, F: Family>(p: &mut P, parsed: &Parsed<F::A>, to: &FlowKey<F::A>) -> bool {
    let from = &parsed.key;
    let addr_diff = csum::sub(
        csum::add(F::sum(&to.src), F::sum(&to.dst)),
        csum::add(F::sum(&from.src), F::sum(&from.dst)),
    );
    let port_diff =
        csum::sub(to.sport_be as u32 + to.dport_be as u32, from.sport_be as u32 + from.dport_be as u32);
    if matches!(parsed.part, Part::Later) {
        return addresses::<P, F>(p, to, addr_diff);
    }
    let Some(b) = p.at(0, F::L4 + 8) else { return false };
    // SAFETY: L4 + 8 bytes were checked.
    unsafe {
        F::store_addrs(b, &to.src, &to.dst, addr_diff);
        wr(b, F::L4, to.sport_be);
        wr(b, F::L4 + 2, to.dport_be);
    }
    note_header::<P, F>(p, addr_diff);
    if from.proto == TCP as u32 {
        return p.fix_l4(F::L4 + 16, addr_diff, port_diff, false);
    }
    let Some(b) = p.at(0, F::L4 + 8) else { return false };
    // SAFETY: L4 + 8 bytes were checked. A zero UDP checksum stays zero (RFC 768).
    if unsafe { rd::<u16>(b, F::L4 + 6) } == 0 {
        return true;
    }
    p.fix_l4(F::L4 + 6, addr_diff, port_diff, true)
}

/// Rewrites the addresses alone: what follows carries no ports and no checksum over them.
#[inline(always)]
pub fn addresses<P: Packet, F: Family>(p: &mut P, to: &FlowKey<F::A>, addr_diff: u32) -> bool {
    let Some(b) = p.at(0, F::L4) else { return false };
    // SAFETY: L4 bytes were checked.
    unsafe { F::store_addrs(b, &to.src, &to.dst, addr_diff) };
    note_header::<P, F>(p, addr_diff);
    true
}

/// Decrements the TTL of a packet that is forwarded here instead of by the stack.
#[inline(always)]
pub fn hop_taken<P: Packet, F: Family>(p: &mut P) -> bool {
    let Some(b) = p.at(0, F::L4) else { return false };
    // SAFETY: L4 bytes were checked.
    let diff = unsafe { F::decrement_ttl(b) };
    note_header::<P, F>(p, diff);
    true
}

/// Writes both MAC addresses.
#[inline(always)]
pub fn macs<P: Packet>(p: &mut P, m: &[u32; 3]) -> bool {
    let Some(b) = p.at(0, 14) else { return false };
    // SAFETY: 14 bytes were checked.
    unsafe {
        wr(b, 0, m[0]);
        wr(b, 4, m[1]);
        wr(b, 8, m[2]);
    }
    true
}

/// Swaps both MAC addresses: back to where it came from.
#[inline(always)]
pub fn swap_macs<P: Packet>(p: &mut P) -> bool {
    let Some(b) = p.at(0, 14) else { return false };
    // SAFETY: 14 bytes were checked.
    unsafe {
        let (d0, d1): (u32, u16) = (rd(b, 0), rd(b, 4));
        let (s0, s1): (u32, u16) = (rd(b, 6), rd(b, 10));
        wr(b, 0, s0);
        wr(b, 4, s1);
        wr(b, 6, d0);
        wr(b, 10, d1);
    }
    true
}

/// The tuple read from the other end.
#[inline(always)]
pub fn inverse<A: Copy>(k: &FlowKey<A>) -> FlowKey<A> {
    FlowKey { src: k.dst, dst: k.src, sport_be: k.dport_be, dport_be: k.sport_be, proto: k.proto }
}

/// True when a hop's MACs are filled in.
#[inline(always)]
pub fn has_macs(h: &Hop) -> bool {
    (h.macs[0] | h.macs[1] | h.macs[2]) != 0
}
