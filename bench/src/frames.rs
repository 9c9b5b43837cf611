//! Frames of flows, and the compact form in which the prologues write them.
//!
//! A [`FlowSet`] is many flows of one kind; frames of one set differ in addresses, ports and checksums only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};
use bench_ebpf::{FRAME4, FRAME6, MAX_FLOWS, Patch4, Patch6};
use etherparse::PacketBuilder;

const ETHERNET: usize = 14;
/// Room after a UDP header, so that frames of both protocols are equally long.
const UDP_PAYLOAD: [u8; 12] = *b"fairwaybench";

/// Addresses and ports of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source.
    pub src: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination.
    pub dst: IpAddr,
    /// Destination port.
    pub dport: u16,
}

impl Tuple {
    /// The tuple of the answer.
    pub fn turned(self) -> Self {
        Self { src: self.dst, sport: self.dport, dst: self.src, dport: self.sport }
    }

    /// Reads it from a TCP or UDP frame without options.
    pub fn of(frame: &[u8]) -> Result<Self> {
        let word = |at: usize| -> Result<u16> {
            let bytes = frame.get(at..at + 2).context("the frame is too short")?;
            Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let v4 = |at: usize| -> Result<IpAddr> {
            let bytes: [u8; 4] = frame.get(at..at + 4).context("the frame is too short")?.try_into()?;
            Ok(Ipv4Addr::from(bytes).into())
        };
        let v6 = |at: usize| -> Result<IpAddr> {
            let bytes: [u8; 16] = frame.get(at..at + 16).context("the frame is too short")?.try_into()?;
            Ok(Ipv6Addr::from(bytes).into())
        };
        match word(12)? {
            0x0800 => Ok(Self { src: v4(26)?, dst: v4(30)?, sport: word(34)?, dport: word(36)? }),
            0x86dd => Ok(Self { src: v6(22)?, dst: v6(38)?, sport: word(54)?, dport: word(56)? }),
            other => bail!("a frame of ethertype {other:#06x}"),
        }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The first packet of a TCP connection.
    Syn,
    /// The second.
    SynAck,
    /// One of an established connection.
    Ack,
    /// A UDP datagram.
    Udp,
}

/// Destination and source MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Macs {
    /// Destination.
    pub dst: [u8; 6],
    /// Source.
    pub src: [u8; 6],
}

/// A whole frame, checksums included.
pub fn frame(macs: Macs, kind: Kind, t: Tuple) -> Result<Vec<u8>> {
    const TTL: u8 = 64;
    let ethernet = PacketBuilder::ethernet2(macs.src, macs.dst);
    let ip = match (t.src, t.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), TTL),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), TTL),
        _ => bail!("{t:?} mixes address families"),
    };
    let mut out = Vec::with_capacity(FRAME6);
    let tcp = |ip: etherparse::PacketBuilderStep<_>| ip.tcp(t.sport, t.dport, 1000, 64_000);
    match kind {
        Kind::Syn => tcp(ip).syn().write(&mut out, &[])?,
        Kind::SynAck => tcp(ip).syn().ack(1001).write(&mut out, &[])?,
        Kind::Ack => tcp(ip).ack(1001).write(&mut out, &[])?,
        Kind::Udp => ip.udp(t.sport, t.dport).write(&mut out, &UDP_PAYLOAD)?,
    }
    Ok(out)
}

/// What differs between the flows of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patches {
    /// IPv4.
    V4(Vec<Patch4>),
    /// IPv6.
    V6(Vec<Patch6>),
}

/// Many flows of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowSet {
    /// The first frame, padded.
    pub base: [u64; 10],
    /// What differs.
    pub patches: Patches,
    /// Length of every frame.
    pub frame_len: usize,
    /// UDP rather than TCP.
    pub is_udp: bool,
    /// The first frame.
    pub first: Vec<u8>,
}

impl FlowSet {
    /// The frames of `kind` with these tuples, all of one family.
    pub fn new(macs: Macs, kind: Kind, tuples: impl IntoIterator<Item = Tuple>) -> Result<Self> {
        let (mut v4, mut v6, mut first) = (Vec::new(), Vec::new(), Vec::new());
        for tuple in tuples {
            let frame = frame(macs, kind, tuple)?;
            match frame.len() {
                FRAME4 => v4.push(patch4(&frame, kind)),
                FRAME6 => v6.push(patch6(&frame, kind)),
                other => bail!("a frame of {other} bytes"),
            }
            if first.is_empty() {
                first = frame;
            }
        }
        let patches = match (v4.is_empty(), v6.is_empty()) {
            (false, true) => Patches::V4(v4),
            (true, false) => Patches::V6(v6),
            _ => bail!("a set of flows has one family and at least one flow"),
        };
        let set =
            Self { base: words(&first), frame_len: first.len(), is_udp: kind == Kind::Udp, first, patches };
        ensure!(set.count() <= MAX_FLOWS as usize, "{} flows are too many", set.count());
        Ok(set)
    }

    /// Number of flows.
    pub fn count(&self) -> usize {
        match &self.patches {
            Patches::V4(p) => p.len(),
            Patches::V6(p) => p.len(),
        }
    }
}

fn words(frame: &[u8]) -> [u64; 10] {
    let mut words = [0u64; 10];
    for (word, bytes) in words.iter_mut().zip(frame.chunks(8)) {
        let mut whole = [0u8; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    words
}

/// Offset of the transport checksum in the transport header.
fn checksum_at(kind: Kind) -> usize {
    if kind == Kind::Udp { 6 } else { 16 }
}

fn u16_at(frame: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([frame[at], frame[at + 1]])
}

fn u32_at(frame: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

fn u64_at(frame: &[u8], at: usize) -> u64 {
    u64::from(u32_at(frame, at)) | (u64::from(u32_at(frame, at + 4)) << 32)
}

fn patch4(frame: &[u8], kind: Kind) -> Patch4 {
    const L4: usize = ETHERNET + 20;
    Patch4 {
        src: u32_at(frame, 26),
        dst: u32_at(frame, 30),
        ports: u32_at(frame, L4),
        ip_csum: u16_at(frame, 24),
        l4_csum: u16_at(frame, L4 + checksum_at(kind)),
    }
}

fn patch6(frame: &[u8], kind: Kind) -> Patch6 {
    const L4: usize = ETHERNET + 40;
    Patch6 {
        src: [u64_at(frame, 22), u64_at(frame, 30)],
        dst: [u64_at(frame, 38), u64_at(frame, 46)],
        ports: u32_at(frame, L4),
        l4_csum: u16_at(frame, L4 + checksum_at(kind)),
        pad: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: Macs = Macs { dst: [2, 0, 0, 0, 0, 1], src: [2, 0, 0, 0, 0, 2] };

    fn tuple(v6: bool, n: u16) -> Tuple {
        let (src, dst): (IpAddr, IpAddr) = if v6 {
            ("fd00::1".parse().expect("an address"), "fd00::2".parse().expect("an address"))
        } else {
            ("10.0.0.1".parse().expect("an address"), "10.0.0.2".parse().expect("an address"))
        };
        Tuple { src, dst, sport: 1000 + n, dport: 80 }
    }

    #[test]
    fn a_frame_gives_its_tuple_back() {
        for (kind, v6) in [(Kind::Syn, false), (Kind::Udp, true), (Kind::Ack, true), (Kind::Udp, false)] {
            let t = tuple(v6, 7);
            assert_eq!(Tuple::of(&frame(MACS, kind, t).expect("a frame")).expect("a tuple"), t);
        }
    }

    #[test]
    fn frames_of_both_protocols_are_as_long_as_the_prologues_write() {
        for kind in [Kind::Syn, Kind::SynAck, Kind::Ack, Kind::Udp] {
            assert_eq!(frame(MACS, kind, tuple(false, 0)).expect("a frame").len(), FRAME4);
            assert_eq!(frame(MACS, kind, tuple(true, 0)).expect("a frame").len(), FRAME6);
        }
    }

    #[test]
    fn a_set_holds_one_family() {
        let mixed = [tuple(false, 1), tuple(true, 1)];
        assert!(FlowSet::new(MACS, Kind::Syn, mixed).is_err());
        assert_eq!(FlowSet::new(MACS, Kind::Syn, (0..5).map(|n| tuple(true, n))).expect("a set").count(), 5);
    }
}
