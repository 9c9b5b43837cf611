//! Fragments (RFC 791, RFC 8200 §4.5): the first one carries the ports, the others follow it by datagram identity.
//!
//! A later fragment that overtakes the first one passes untouched and counted; its datagram is lost, as with every
//! stateless translator that does not reassemble. Fragments are translated alike at every hook, also in replies.

use crate::family::Family;
use crate::mem::rd;
use crate::packet::Packet;
use crate::parse::{Parsed, Part, TCP, UDP};
use crate::tables::Tables;
use lb_common::flow::TIMEOUT_FRAG;
use lb_common::{FlowKey, FragKey, FragPorts, Reason};

/// Parses family `F`'s fragment, first or later.
#[inline(always)]
pub fn parse<P: Packet, F: Family, T: Tables<F>>(p: &P, t: &T) -> Result<Parsed<F::A>, Reason> {
    let Some(b) = p.at(0, F::L4) else { return Err(Reason::Malformed) };
    // SAFETY: L4 bytes were checked.
    let (h, f) = unsafe { (F::header(b, p.len())?, F::fragment(b)) };
    let Some(f) = f else { return Err(Reason::Malformed) };
    if !matches!(h.proto, TCP | UDP) {
        return Err(Reason::Fragment);
    }
    let now = t.now_tick();
    let id = FragKey { src: h.src, dst: h.dst, id: f.id, proto: h.proto as u32 };
    let (ports, part, tcp_flags) = if f.first {
        let need = if h.proto == TCP { 20 } else { 8 };
        if h.l4_len < need {
            // A tiny first fragment that splits the L4 header (RFC 1858).
            return Err(Reason::Malformed);
        }
        let (sport_be, dport_be, tcp_flags) = l4::<P, F>(p, h.proto == TCP)?;
        let ports = FragPorts { sport_be, dport_be, at_tick: now };
        t.keep_fragment(&id, &ports);
        (ports, Part::First, tcp_flags)
    } else {
        match t.fragment(&id) {
            Some(ports) if now.wrapping_sub(ports.at_tick) <= TIMEOUT_FRAG => (ports, Part::Later, 0),
            _ => return Err(Reason::FragmentUnknown),
        }
    };
    let key = FlowKey {
        src: h.src,
        dst: h.dst,
        sport_be: ports.sport_be,
        dport_be: ports.dport_be,
        proto: h.proto as u32,
    };
    Ok(Parsed { key, ttl: h.ttl, tcp_flags, part })
}

/// Ports and TCP flags of a first fragment.
#[inline(always)]
fn l4<P: Packet, F: Family>(p: &P, tcp: bool) -> Result<(u16, u16, u8), Reason> {
    let Some(b) = p.at(0, F::L4 + 8) else { return Err(Reason::Malformed) };
    // SAFETY: L4 + 8 bytes were checked.
    let (sport_be, dport_be) = unsafe { (rd::<u16>(b, F::L4), rd::<u16>(b, F::L4 + 2)) };
    if !tcp {
        return Ok((sport_be, dport_be, 0));
    }
    let Some(b) = p.at(0, F::L4 + 20) else { return Err(Reason::Malformed) };
    // SAFETY: L4 + 20 bytes were checked.
    Ok((sport_be, dport_be, unsafe { rd::<u8>(b, F::L4 + 13) }))
}
