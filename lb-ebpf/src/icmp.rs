//! ICMP errors about our flows (RFC 5508 §4.2, RFC 5508 REQ-4): the quoted packet is one we translated, so both ends
//! must see it as they sent it, or path MTU discovery and "port unreachable" do not work through a Service.
//!
//! A quoted packet of ours proves itself: its inverse tuple is in the flow index. Everything else passes unchanged;
//! nothing is ever made or indexed with what is quoted.

use crate::csum;
use crate::family::{Family, L3, V6, V6Frag, note_header};
use crate::forward::{self, Route};
use crate::index;
use crate::mem::{rd, wr};
use crate::packet::*;
use crate::parse::{TCP, UDP};
use crate::pipeline::Side;
use crate::rewrite;
use crate::select::Role;
use crate::tables::Tables;
use lb_common::flow::{FLOW_HAIRPIN, FLOW_LATE, FLOW_SNAT};
use lb_common::{FlowKey, Reason};

/// Bytes that the longest quoted tuple reaches to: ICMPv6 around IPv6 with a fragment header.
pub const LONGEST: usize = V6::L4 + 8 + (V6Frag::L4 - L3) + 8;

/// What an error becomes.
struct Change<A> {
    /// New outer addresses.
    src: A,
    dst: A,
    /// The quoted packet's new tuple.
    quoted: FlowKey<A>,
}

/// Does this ICMPv6 packet quote a fragment? "Packet too big" does, of every datagram that its sender cut for a wider way.
#[inline(always)]
pub fn quotes_fragment<P: Packet>(p: &P) -> bool {
    const QUOTED: usize = V6::L4 + 8;
    match p.at(0, QUOTED + V6Frag::L4 - L3) {
        // SAFETY: all bytes of a header and a fragment header after `QUOTED` were checked.
        Some(b) => unsafe { V6Frag::quoted(b, QUOTED) }.is_some(),
        None => false,
    }
}

/// One family's ICMP packets, quoting packets of the form `Q`.
#[inline(always)]
pub fn error<P: Packet, F: Family, Q: Family<A = F::A>, T: Tables<F>>(p: &mut P, t: &T, side: Side) -> End {
    let (outer, quoted) = match read::<P, F, Q>(p) {
        Ok(x) => x,
        Err(r) => return End::pass(r),
    };
    let now = t.now_tick();
    let Some(found) = index::find::<F, T>(t, &rewrite::inverse(&quoted), now) else {
        return End::pass(Reason::NotL4);
    };
    // SAFETY: a map element; see `flow`.
    let f = unsafe { &*found.rec };
    let snat = f.flags & FLOW_SNAT != 0;
    let late = f.flags & FLOW_LATE != 0;
    let hairpin = f.flags & FLOW_HAIRPIN != 0;
    let coming_in = matches!(side, Side::In(_));
    if found.reverse {
        // About a client's packet: back to the client, who knows only the frontend.
        let src = if outer.src == f.reply.src { f.orig.dst } else { outer.src };
        let change = Change { src, dst: f.orig.src, quoted: f.orig };
        return match (snat, late, coming_in) {
            (true, _, true) if hairpin => back::<P, F, Q>(p, &outer, &quoted, &change),
            (true, _, true) => turn::<P, F, Q, T>(p, t, &outer, &quoted, &change),
            (false, true, true) if f.client_ifindex == p.ifindex() => {
                settle::<P, F, Q>(p, &outer, &quoted, &change)
            }
            (false, false, false) => settle::<P, F, Q>(p, &outer, &quoted, &change),
            _ => End::pass(Reason::NotL4),
        };
    }
    if !coming_in || late {
        return End::pass(Reason::NotL4);
    }
    // About a reply: on to the backend, which knows only its own tuple.
    let src = if snat { f.reply.dst } else { outer.src };
    let change = Change { src, dst: f.reply.src, quoted: f.reply };
    if hairpin {
        back::<P, F, Q>(p, &outer, &quoted, &change)
    } else if snat {
        turn::<P, F, Q, T>(p, t, &outer, &quoted, &change)
    } else {
        settle::<P, F, Q>(p, &outer, &quoted, &change)
    }
}

/// The outer addresses.
struct Outer<A> {
    src: A,
    dst: A,
    ttl: u8,
}

/// An ICMP error: its outer addresses, and the tuple it quotes.
type Read<A> = (Outer<A>, FlowKey<A>);

/// Reads an ICMP error and the tuple it quotes.
#[inline(always)]
fn read<P: Packet, F: Family, Q: Family<A = F::A>>(p: &P) -> Result<Read<F::A>, Reason> {
    let inner = F::L4 + 8;
    let inner_l4 = inner + Q::L4 - L3;
    let Some(b) = p.at(0, inner_l4 + 8) else { return Err(Reason::NotL4) };
    // SAFETY: `inner_l4 + 8` bytes were checked, which is more than each of these reads.
    unsafe {
        let h = F::header(b, p.len())?;
        if h.proto != F::ICMP || !F::is_icmp_error(rd(b, F::L4)) || h.l4_len < inner_l4 + 8 - F::L4 {
            return Err(Reason::NotL4);
        }
        let Some((src, dst, proto)) = Q::quoted(b, inner) else { return Err(Reason::NotL4) };
        if !matches!(proto, TCP | UDP) {
            return Err(Reason::NotL4);
        }
        let key = FlowKey {
            src,
            dst,
            sport_be: rd(b, inner_l4),
            dport_be: rd(b, inner_l4 + 2),
            proto: proto as u32,
        };
        Ok((Outer { src: h.src, dst: h.dst, ttl: h.ttl }, key))
    }
}

/// Rewrites both headers and every checksum. False = refused by a helper.
#[inline(always)]
fn rewrite_both<P: Packet, F: Family, Q: Family<A = F::A>>(
    p: &mut P,
    outer: &Outer<F::A>,
    quoted: &FlowKey<F::A>,
    to: &Change<F::A>,
) -> bool {
    let inner = F::L4 + 8;
    let inner_l4 = inner + Q::L4 - L3;
    let outer_diff = csum::sub(
        csum::add(F::sum(&to.src), F::sum(&to.dst)),
        csum::add(F::sum(&outer.src), F::sum(&outer.dst)),
    );
    let quoted_diff = csum::sub(
        csum::add(F::sum(&to.quoted.src), F::sum(&to.quoted.dst)),
        csum::add(F::sum(&quoted.src), F::sum(&quoted.dst)),
    );
    let port_diff = csum::sub(
        to.quoted.sport_be as u32 + to.quoted.dport_be as u32,
        quoted.sport_be as u32 + quoted.dport_be as u32,
    );
    let Some(b) = p.at(0, inner_l4 + 8) else { return false };
    // SAFETY: `inner_l4 + 8` bytes were checked.
    let body_diff = unsafe {
        F::store_addrs(b, &to.src, &to.dst, outer_diff);
        let header_diff = Q::store_quoted(b, inner, &to.quoted.src, &to.quoted.dst, quoted_diff);
        wr(b, inner_l4, to.quoted.sport_be);
        wr(b, inner_l4 + 2, to.quoted.dport_be);
        let mut diff = csum::add(header_diff, port_diff);
        // Of TCP's eight quoted bytes the checksum is none; UDP's is the last two.
        let c: u16 = rd(b, inner_l4 + 6);
        if quoted.proto == UDP as u32 && c != 0 {
            let new = csum::apply_udp(c, csum::add(quoted_diff, port_diff));
            wr(b, inner_l4 + 6, new);
            diff = csum::add(diff, csum::sub(new as u32, c as u32));
        }
        diff
    };
    note_header::<P, F>(p, outer_diff);
    // ICMPv6 covers the addresses (RFC 4443 §2.3), ICMP does not.
    let covered = if F::UNCOVERED_HEADER { outer_diff } else { 0 };
    p.fix_l4(F::L4 + 2, covered, body_diff, false)
}

/// Translates where it is and lets the stack deliver it.
#[inline(always)]
fn settle<P: Packet, F: Family, Q: Family<A = F::A>>(
    p: &mut P,
    outer: &Outer<F::A>,
    quoted: &FlowKey<F::A>,
    to: &Change<F::A>,
) -> End {
    if !rewrite_both::<P, F, Q>(p, outer, quoted, to) {
        return End::drop(Reason::RewriteFailed);
    }
    End::pass(Reason::IcmpError)
}

/// Translates and sends it back to the pod that speaks to itself.
#[inline(always)]
fn back<P: Packet, F: Family, Q: Family<A = F::A>>(
    p: &mut P,
    outer: &Outer<F::A>,
    quoted: &FlowKey<F::A>,
    to: &Change<F::A>,
) -> End {
    if !rewrite_both::<P, F, Q>(p, outer, quoted, to) {
        return End::drop(Reason::RewriteFailed);
    }
    forward::bounce(p, Role::Pod, Reason::IcmpError)
}

/// Translates and sends it on, as `pipeline::turn` does with the flow's packets.
#[inline(always)]
fn turn<P: Packet, F: Family, Q: Family<A = F::A>, T: Tables<F>>(
    p: &mut P,
    t: &T,
    outer: &Outer<F::A>,
    quoted: &FlowKey<F::A>,
    to: &Change<F::A>,
) -> End {
    if outer.ttl <= 1 {
        return End::pass(Reason::TtlExceeded);
    }
    let fib = p.fib(&F::fib_query(&outer.dst, &to.dst, F::ICMP));
    let route: Route = match forward::accept::<P, F, T>(p, t, &fib) {
        Ok(r) => r,
        Err(r) if r.is_drop() => return End::drop(r),
        Err(r) => return End::pass(r),
    };
    if !rewrite_both::<P, F, Q>(p, outer, quoted, to) || !rewrite::hop_taken::<P, F>(p) {
        return End::drop(Reason::RewriteFailed);
    }
    forward::send(p, &route, Reason::IcmpError)
}
