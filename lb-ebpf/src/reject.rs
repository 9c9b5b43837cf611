//! Saying no (spec R1, R5): a reset for TCP (RFC 9293 §3.10.7.1), "port unreachable" for the rest (RFC 1122
//! §3.2.2.1, RFC 4443 §3.1), from the address and port the client used. Packets of our own making are rate limited; a
//! reset that ends a connection we carried is not, since there can be no more of them than there were connections.

use crate::csum;
use crate::family::{Family, L3};
use crate::forward::bounce;
use crate::mem::{rd, wr};
use crate::packet::{End, Packet};
use crate::parse::{Parsed, Part, TCP, flag};
use crate::select::Role;
use crate::tables::Tables;
use lb_common::Reason;
use lb_common::flow::Bucket;

/// Rejections a CPU may send at once.
pub const BURST: u32 = 512;

/// Takes a token: one comes back per tick (954 a second), up to [`BURST`].
#[inline(always)]
pub fn take_token(b: &mut Bucket, now: u32) -> bool {
    let passed = now.wrapping_sub(b.at_tick);
    if passed != 0 {
        let full = BURST - if b.tokens > BURST { BURST } else { b.tokens };
        b.tokens = if passed >= full { BURST } else { b.tokens + passed };
        b.at_tick = now;
    }
    if b.tokens == 0 {
        return false;
    }
    b.tokens -= 1;
    true
}

/// Answers a packet that cannot be served. Resets, fragments and what would be answered too often are dropped.
#[inline(always)]
pub fn reject<P: Packet, F: Family, T: Tables<F>>(
    p: &mut P,
    t: &T,
    role: Role,
    parsed: &Parsed<F::A>,
    now: u32,
    reason: Reason,
) -> End {
    if parsed.tcp_flags & flag::RST != 0 || !matches!(parsed.part, Part::Whole) {
        return End::drop(reason);
    }
    if reason as u8 != Reason::ResetGone as u8 && !t.may_reply(now) {
        return End::drop(Reason::RejectLimited);
    }
    let done = if parsed.is_tcp() { reset::<P, F>(p, parsed) } else { unreachable::<P, F>(p, parsed) };
    if !done {
        // XDP cannot lengthen a frame whose buffer ends with it (a small one on a veth); tc can, and the frame is as
        // it came.
        return if P::IS_XDP { End::pass(Reason::ToTc) } else { End::drop(Reason::RewriteFailed) };
    }
    bounce(p, role, reason)
}

/// Makes the frame the segment's reset. False = refused by a helper.
#[inline(always)]
fn reset<P: Packet, F: Family>(p: &mut P, parsed: &Parsed<F::A>) -> bool {
    let Some(b) = p.at(0, F::L4 + 20) else { return false };
    // SAFETY: L4 + 20 bytes were checked.
    let (seq, ack_seq) = unsafe { (u32::from_be(rd(b, F::L4 + 4)), rd::<u32>(b, F::L4 + 8)) };
    // With ACK: <SEQ=SEG.ACK><CTL=RST>; without: <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
    let (new_seq, new_ack, flags) = if parsed.tcp_flags & flag::ACK != 0 {
        (ack_seq, 0u32, flag::RST)
    } else {
        let len = (parsed.tcp_flags & flag::SYN != 0) as u32 + (parsed.tcp_flags & flag::FIN != 0) as u32;
        (0, seq.wrapping_add(len).to_be(), flag::RST | flag::ACK)
    };
    if !p.resize(F::L4 + 20) {
        return false;
    }
    let Some(b) = p.at(0, F::L4 + 20) else { return false };
    let k = &parsed.key;
    // SAFETY: L4 + 20 bytes were checked.
    unsafe {
        F::fresh_header(b, &k.dst, &k.src, TCP, 20);
        let words = [
            (k.dport_be as u32) | ((k.sport_be as u32) << 16),
            new_seq,
            new_ack,
            (0x5000_0000u32 | ((flags as u32) << 16)).to_be(),
            0,
        ];
        let mut s = csum::add(csum::add(F::sum(&k.src), F::sum(&k.dst)), F::pseudo(TCP, 20));
        let mut i = 0;
        while i < 5 {
            s = csum::add(s, words[i]);
            wr(b, F::L4 + i * 4, words[i]);
            i += 1;
        }
        wr(b, F::L4 + 16, !csum::fold(s));
    }
    true
}

/// Makes the frame the ICMP error about it, quoting its header and eight bytes more. False = refused by a helper.
#[inline(always)]
fn unreachable<P: Packet, F: Family>(p: &mut P, parsed: &Parsed<F::A>) -> bool {
    // The quoted packet: 28 bytes of IPv4, 48 of IPv6. It begins where the new header will be, and moves down.
    let quoted = F::L4 - L3 + 8;
    if !p.resize(F::L4 + 8 + quoted) {
        return false;
    }
    let Some(b) = p.at(0, F::L4 + 8 + quoted) else { return false };
    let k = &parsed.key;
    // SAFETY: that many bytes were checked.
    unsafe {
        let mut s = 0;
        let mut i = quoted;
        while i > 0 {
            i -= 4;
            let w: u32 = rd(b, L3 + i);
            wr(b, F::L4 + 8 + i, w);
            s = csum::add(s, w);
        }
        let icmp_len = (8 + quoted) as u16;
        F::fresh_header(b, &k.dst, &k.src, F::ICMP, icmp_len);
        wr(b, F::L4, F::PORT_UNREACHABLE);
        wr(b, F::L4 + 4, 0u32);
        s = csum::add(s, F::PORT_UNREACHABLE);
        if F::UNCOVERED_HEADER {
            // ICMPv6 covers a pseudo header (RFC 4443 §2.3), ICMP does not.
            let pseudo = csum::add(csum::add(F::sum(&k.src), F::sum(&k.dst)), F::pseudo(F::ICMP, icmp_len));
            s = csum::add(s, pseudo);
        }
        wr(b, F::L4 + 2, !csum::fold(s));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_one_a_tick_and_never_exceed_the_burst() {
        let mut b = Bucket::default();
        let taken = (0..10_000).filter(|_| take_token(&mut b, 1_000_000)).count();
        assert_eq!(taken as u32, BURST);
        assert!(!take_token(&mut b, 1_000_000));
        assert!(take_token(&mut b, 1_000_001));
        assert!(!take_token(&mut b, 1_000_001));
        assert!(take_token(&mut b, 900));
    }
}
