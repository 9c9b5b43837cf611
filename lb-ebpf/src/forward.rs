//! Where a translated packet leaves: the route, asked of the FIB and cached in the flow for half a second.
//!
//! A changed route or neighbour therefore heals within [`HOP_FRESH`]. XDP forwards only what it can finish (route and
//! neighbour known, device takes redirects, packet fits the MTU); everything else passes unmodified to tc on the same
//! device, where `bpf_redirect_neigh` resolves neighbours and any device will do.

use crate::family::Family;
use crate::packet::*;
use crate::rewrite::{has_macs, macs, swap_macs};
use crate::select::Role;
use crate::tables::Tables;
use lb_common::Reason;
use lb_common::config::IFACE_CAN_XDP_REDIRECT;
use lb_common::flow::{HOP_FRESH, Hop};

/// A frame of Ethernet's usual MTU. For longer ones only the FIB knows whether the next hop takes them; a redirect of XDP
/// to a device that does not would lose them.
const ORDINARY_FRAME: usize = 14 + 1500;

/// A way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface.
    pub ifindex: u32,
    /// MACs; all zero = let the stack resolve the neighbour.
    pub macs: [u32; 3],
}

/// Is this FIB answer something this hook can act on?
#[inline(always)]
pub fn accept<P: Packet, F: Family, T: Tables<F>>(p: &P, t: &T, fib: &Fib) -> Result<Route, Reason> {
    match fib.status {
        FIB_SUCCESS => {
            if P::IS_XDP {
                if fib.mtu != 0 && p.len() > fib.mtu as usize + 14 {
                    return Err(Reason::ToTc);
                }
                if fib.ifindex != p.ifindex() && !takes_redirects(t, fib.ifindex) {
                    return Err(Reason::ToTc);
                }
            }
            Ok(Route { ifindex: fib.ifindex, macs: fib.macs })
        }
        FIB_NO_NEIGH if !P::IS_XDP => Ok(Route { ifindex: fib.ifindex, macs: [0; 3] }),
        _ if P::IS_XDP => Err(Reason::ToTc),
        _ => Err(Reason::NoRoute),
    }
}

#[inline(always)]
fn takes_redirects<F: Family, T: Tables<F>>(t: &T, ifindex: u32) -> bool {
    matches!(t.iface(ifindex), Some(i) if i.flags & IFACE_CAN_XDP_REDIRECT != 0)
}

/// May XDP send the frame out of this interface?
#[inline(always)]
pub fn xdp_can_send<P: Packet, F: Family, T: Tables<F>>(p: &P, t: &T, ifindex: u32) -> bool {
    ifindex == p.ifindex() || takes_redirects(t, ifindex)
}

/// The cached next hop, while it is fresh. Its fields may be those of two lookups when another CPU refreshes it at this
/// moment; they differ only when the route just changed, and then the packet goes where it would have gone before.
#[inline(always)]
pub(crate) fn cached<P: Packet>(p: &P, hop: *mut Hop, now: u32) -> Option<Route> {
    if P::IS_XDP && p.len() > ORDINARY_FRAME {
        return None;
    }
    // SAFETY: a map element.
    let h = unsafe { &*hop };
    (h.ifindex != 0 && now.wrapping_sub(h.at_tick) < HOP_FRESH && has_macs(h))
        .then_some(Route { ifindex: h.ifindex, macs: h.macs })
}

/// Notes a next hop: only a whole one, neighbour included.
#[inline(always)]
pub(crate) fn note(hop: *mut Hop, fib: &Fib, now: u32) {
    if fib.status != FIB_SUCCESS {
        return;
    }
    // SAFETY: a map element.
    let h = unsafe { &mut *hop };
    h.ifindex = 0;
    h.macs = fib.macs;
    h.at_tick = now;
    h.ifindex = fib.ifindex;
}

/// The route towards `q`'s destination, from the cache or the FIB.
#[inline(always)]
pub(crate) fn route<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    hop: *mut Hop,
    q: &FibQuery,
    now: u32,
) -> Result<Route, Reason> {
    if let Some(r) = cached(p, hop, now) {
        if P::IS_XDP && !xdp_can_send(p, t, r.ifindex) {
            return Err(Reason::ToTc);
        }
        return Ok(r);
    }
    let fib = p.fib(q);
    let r = accept::<P, F, T>(p, t, &fib)?;
    note(hop, &fib, now);
    Ok(r)
}

/// Sends the frame along a route.
#[inline(always)]
pub fn send<P: Packet>(p: &mut P, r: &Route, reason: Reason) -> End {
    if (r.macs[0] | r.macs[1] | r.macs[2]) == 0 {
        return End::out(Verdict::RedirectNeigh, r.ifindex, reason);
    }
    if !macs(p, &r.macs) {
        return End::drop(Reason::RewriteFailed);
    }
    let verdict = if P::IS_XDP && r.ifindex == p.ifindex() { Verdict::Tx } else { Verdict::Redirect };
    End::out(verdict, r.ifindex, reason)
}

/// Sends the frame back to whoever sent it: out of the interface it came in by, or up the stack it was leaving.
#[inline(always)]
pub fn bounce<P: Packet>(p: &mut P, role: Role, reason: Reason) -> End {
    if !swap_macs(p) {
        return End::drop(Reason::RewriteFailed);
    }
    let verdict = match role {
        Role::Late => Verdict::RedirectIngress,
        _ if P::IS_XDP => Verdict::Tx,
        _ => Verdict::Redirect,
    };
    End::out(verdict, p.ifindex(), reason)
}

/// Hands the frame to the stack as if it had come in by a managed interface: the one where the stack expects what it
/// now carries (reverse path filtering).
#[inline(always)]
pub fn up<P: Packet, F: Family, T: Tables<F>>(p: &mut P, t: &T, ifindex: u32, reason: Reason) -> End {
    let Some(i) = t.iface(ifindex) else { return End::drop(Reason::NoRoute) };
    // To that interface's own address, or the stack takes it for somebody else's.
    let m = i.mac;
    if !macs(p, &[m[0], (m[1] & 0xffff) | (m[0] << 16), (m[0] >> 16) | (m[1] << 16)]) {
        return End::drop(Reason::RewriteFailed);
    }
    End::out(Verdict::RedirectIngress, ifindex, reason)
}
