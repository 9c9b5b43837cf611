//! Answering a TCP segment with a reset (RFC 9293 §3.10.7.1), from the address and port the client used.

use crate::csum;
use crate::family::Family;
use crate::forward::bounce;
use crate::mem::{rd, wr};
use crate::packet::{End, Packet};
use crate::parse::{Parsed, TCP, flag};
use lb_common::Reason;

/// Turns the segment into a reset and sends it back; other protocols are dropped. A reset is never answered.
#[inline(always)]
pub fn reject<P: Packet, F: Family>(p: &mut P, parsed: &Parsed<F::A>, reason: Reason) -> End {
    if !parsed.is_tcp() || parsed.tcp_flags & flag::RST != 0 {
        return End::drop(if parsed.is_tcp() { reason } else { udp_reason(reason) });
    }
    let Some(b) = p.at(0, F::L4 + 20) else { return End::drop(Reason::RewriteFailed) };
    // SAFETY: L4 + 20 bytes were checked.
    let (seq, ack_seq) = unsafe { (u32::from_be(rd(b, F::L4 + 4)), rd::<u32>(b, F::L4 + 8)) };
    // With ACK: <SEQ=SEG.ACK><CTL=RST>; without: <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
    let (new_seq, new_ack, flags) = if parsed.tcp_flags & flag::ACK != 0 {
        (ack_seq, 0u32, flag::RST)
    } else {
        let len = (parsed.tcp_flags & flag::SYN != 0) as u32 + (parsed.tcp_flags & flag::FIN != 0) as u32;
        (0, seq.wrapping_add(len).to_be(), flag::RST | flag::ACK)
    };
    if !p.truncate(F::L4 + 20) {
        return End::drop(Reason::RewriteFailed);
    }
    let Some(b) = p.at(0, F::L4 + 20) else { return End::drop(Reason::RewriteFailed) };
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
    bounce(p, reason)
}

#[inline(always)]
fn udp_reason(r: Reason) -> Reason {
    if r as u8 == Reason::ResetNoEndpoint as u8 { Reason::DropNoEndpoint } else { r }
}
