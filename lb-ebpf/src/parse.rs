//! Frame → tuple. What is not a plain, whole TCP or UDP packet is named: fragments and ICMP go on to the slow program,
//! the rest is left alone (commitment 5).

use crate::family::Family;
use crate::mem::rd;
use crate::packet::Packet;
use lb_common::{FlowKey, Reason};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// TCP flag bits.
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// ACK.
    pub const ACK: u8 = 16;
}

/// What the pipeline needs of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<A> {
    /// The tuple.
    pub key: FlowKey<A>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// How much of the datagram this is.
    pub part: Part,
}

/// Which part of a datagram a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment: it has the L4 header.
    First,
    /// Another fragment: no L4 header, so no ports and no checksum to change.
    Later,
}

impl<A> Parsed<A> {
    /// True for TCP.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.key.proto == TCP as u32
    }
    /// A connection's first packet.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.tcp_flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
    }
    /// A server's answer to a connection's first packet.
    #[inline(always)]
    pub fn is_syn_ack(&self) -> bool {
        self.tcp_flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK
    }
    /// May it begin a flow? UDP always; TCP with a clean SYN, or in mid-stream (the table was lost, or the backend
    /// set moved): then the hash leads back to the same backend when it still is there.
    #[inline(always)]
    pub fn may_begin_flow(&self) -> bool {
        !self.is_tcp() || self.is_syn() || self.tcp_flags & (flag::SYN | flag::ACK | flag::RST) == flag::ACK
    }
}

/// Ethertype of the frame as it lies there; 0 for a frame too short to have one.
#[inline(always)]
pub fn ethertype_be<P: Packet>(p: &P) -> u16 {
    match p.at(0, 14) {
        // SAFETY: 14 bytes were checked.
        Some(b) => unsafe { rd::<u16>(b, 12) },
        None => 0,
    }
}

/// Parses family `F`'s packet.
#[inline(always)]
pub fn parse<P: Packet, F: Family>(p: &P) -> Result<Parsed<F::A>, Reason> {
    let Some(b) = p.at(0, F::L4 + 8) else { return Err(short::<P, F>(p)) };
    // SAFETY: L4 + 8 bytes were checked.
    let (h, sport_be, dport_be) =
        unsafe { (F::header(b, p.len())?, rd::<u16>(b, F::L4), rd::<u16>(b, F::L4 + 2)) };
    // SAFETY: as above.
    if unsafe { F::fragment(b) }.is_some() {
        return Err(Reason::Fragment);
    }
    let tcp_flags = match h.proto {
        TCP => {
            let Some(b) = p.at(0, F::L4 + 20) else { return Err(Reason::Malformed) };
            // SAFETY: L4 + 20 bytes were checked.
            let (doff, flags) = unsafe { (rd::<u8>(b, F::L4 + 12) >> 4, rd::<u8>(b, F::L4 + 13)) };
            if doff < 5 || (doff as usize) * 4 > h.l4_len {
                return Err(Reason::Malformed);
            }
            flags
        }
        UDP => {
            // SAFETY: L4 + 8 bytes were checked above.
            let len = u16::from_be(unsafe { rd::<u16>(b, F::L4 + 4) }) as usize;
            if len < 8 || len > h.l4_len {
                return Err(Reason::Malformed);
            }
            0
        }
        _ => return Err(Reason::NotL4),
    };
    let key = FlowKey { src: h.src, dst: h.dst, sport_be, dport_be, proto: h.proto as u32 };
    Ok(Parsed { key, ttl: h.ttl, tcp_flags, part: Part::Whole })
}

/// What a frame without room for an L4 header is: the end of a datagram in fragments, or nothing.
#[inline(always)]
fn short<P: Packet, F: Family>(p: &P) -> Reason {
    let Some(b) = p.at(0, F::L4) else { return Reason::Malformed };
    // SAFETY: L4 bytes were checked.
    match unsafe { (F::header(b, p.len()), F::fragment(b)) } {
        (Err(r), _) => r,
        (Ok(_), Some(_)) => Reason::Fragment,
        (Ok(_), None) => Reason::Malformed,
    }
}
