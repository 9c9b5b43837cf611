//! Packets for tests, written by a library that knows nothing of the datapath, checksums computed in full.
//!
//! A [`Pkt`] describes a packet; the expected output of a translation is another description, so that "byte for byte"
//! means what an honest sender would have sent.

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpFragOffset, IpNumber,
    Ipv4Header, Ipv6FragmentHeader, Ipv6Header, TcpHeader, UdpHeader,
};
use std::net::{IpAddr, SocketAddr};

/// A MAC address.
pub type Mac = [u8; 6];

/// TCP's flag bits, as in the header's 14th byte.
pub use lb_ebpf::parse::flag;

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// TCP.
    Tcp {
        /// Flag bits.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgment number.
        ack: u32,
        /// Window.
        window: u16,
    },
    /// UDP.
    Udp {
        /// The checksum is left 0.
        unsummed: bool,
    },
    /// ICMP of the packet's family; ports mean nothing.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Bytes 5 to 8.
        rest: [u8; 4],
    },
    /// Another protocol, with nothing but the data.
    Other(u8),
}

/// A packet in an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkt {
    /// Destination and source MAC.
    pub macs: [Mac; 2],
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 identification.
    pub id: u16,
    /// What is inside.
    pub body: Body,
    /// Data behind the L4 header.
    pub data: Vec<u8>,
}

impl Pkt {
    fn new(macs: [Mac; 2], src: SocketAddr, dst: SocketAddr, body: Body) -> Pkt {
        Pkt { macs, src, dst, ttl: 64, id: 0, body, data: b"hello".to_vec() }
    }
    /// A TCP segment: sequence number 1000, acknowledgment number 2000.
    pub fn tcp(macs: [Mac; 2], src: SocketAddr, dst: SocketAddr, flags: u8) -> Pkt {
        Pkt::new(macs, src, dst, Body::Tcp { flags, seq: 1000, ack: 2000, window: 64_000 })
    }
    /// A UDP datagram.
    pub fn udp(macs: [Mac; 2], src: SocketAddr, dst: SocketAddr) -> Pkt {
        Pkt::new(macs, src, dst, Body::Udp { unsummed: false })
    }
    /// TCP with flags for 6, UDP for 17.
    pub fn of(proto: u8, macs: [Mac; 2], src: SocketAddr, dst: SocketAddr, flags: u8) -> Pkt {
        if proto == 6 { Pkt::tcp(macs, src, dst, flags) } else { Pkt::udp(macs, src, dst) }
    }
    /// An ICMP message that carries `data`.
    pub fn icmp(macs: [Mac; 2], src: IpAddr, dst: IpAddr, kind: u8, code: u8, data: Vec<u8>) -> Pkt {
        let (src, dst) = (SocketAddr::new(src, 0), SocketAddr::new(dst, 0));
        Pkt { data, ..Pkt::new(macs, src, dst, Body::Icmp { kind, code, rest: [0; 4] }) }
    }
    /// "Port unreachable" about `quoted`, as the datapath and Linux quote: the header and eight bytes.
    pub fn unreachable(macs: [Mac; 2], src: IpAddr, dst: IpAddr, quoted: &Pkt) -> Pkt {
        let (kind, code) = if src.is_ipv4() { (3, 3) } else { (1, 4) };
        Pkt::icmp(macs, src, dst, kind, code, quoted.quote(8))
    }
    /// From the L3 header on, with so many bytes behind it.
    pub fn quote(&self, l4_bytes: usize) -> Vec<u8> {
        let end = self.l4_at() + l4_bytes;
        self.bytes()[14..end].to_vec()
    }
    /// True for IPv6.
    pub fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }
    /// The same with other ends.
    pub fn between(mut self, src: SocketAddr, dst: SocketAddr) -> Pkt {
        (self.src, self.dst) = (src, dst);
        self
    }
    /// The same with other MACs.
    pub fn macs(mut self, macs: [Mac; 2]) -> Pkt {
        self.macs = macs;
        self
    }
    /// The same with another TTL.
    pub fn ttl(mut self, ttl: u8) -> Pkt {
        self.ttl = ttl;
        self
    }
    /// The same with other data.
    pub fn data(mut self, data: impl Into<Vec<u8>>) -> Pkt {
        self.data = data.into();
        self
    }
    /// Frame offset of the L4 header.
    pub fn l4_at(&self) -> usize {
        if self.is_v6() { 54 } else { 34 }
    }
    /// Frame offset of the L4 checksum.
    pub fn checksum_at(&self) -> usize {
        self.l4_at()
            + match self.body {
                Body::Tcp { .. } => 16,
                Body::Udp { .. } => 6,
                _ => 2,
            }
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let l4 = self.l4();
        let mut out = self.ethernet();
        out.extend(self.ip(l4.len(), None));
        out.extend(l4);
        out
    }

    /// The frames of this packet in fragments; each but the last has so many bytes, a multiple of 8, behind the IP
    /// headers.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        assert!(size.is_multiple_of(8));
        let l4 = self.l4();
        let parts: Vec<&[u8]> = l4.chunks(size).collect();
        let last = parts.len() - 1;
        let frame = |(i, part): (usize, &&[u8])| {
            let mut out = self.ethernet();
            out.extend(self.ip(part.len(), Some(((i * size / 8) as u16, i != last))));
            out.extend_from_slice(part);
            out
        };
        parts.iter().enumerate().map(frame).collect()
    }

    fn ethernet(&self) -> Vec<u8> {
        let ether_type = if self.is_v6() { EtherType::IPV6 } else { EtherType::IPV4 };
        let [destination, source] = self.macs;
        Ethernet2Header { source, destination, ether_type }.to_bytes().to_vec()
    }

    fn protocol(&self) -> IpNumber {
        match self.body {
            Body::Tcp { .. } => IpNumber::TCP,
            Body::Udp { .. } => IpNumber::UDP,
            Body::Icmp { .. } if self.is_v6() => IpNumber::IPV6_ICMP,
            Body::Icmp { .. } => IpNumber::ICMP,
            Body::Other(n) => IpNumber(n),
        }
    }

    /// The IP headers in front of so many bytes; `part` is offset (in eights) and whether more follow.
    fn ip(&self, len: usize, part: Option<(u16, bool)>) -> Vec<u8> {
        let offset = IpFragOffset::try_new(part.map_or(0, |p| p.0)).expect("13 bits");
        let more = part.is_some_and(|p| p.1);
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut h =
                    Ipv4Header::new(len as u16, self.ttl, self.protocol(), src.octets(), dst.octets())
                        .expect("short enough");
                h.identification = self.id;
                h.dont_fragment = part.is_none();
                (h.more_fragments, h.fragment_offset) = (more, offset);
                h.header_checksum = h.calc_header_checksum();
                h.to_bytes().to_vec()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let fragment = part.map(|_| {
                    Ipv6FragmentHeader::new(self.protocol(), offset, more, self.id.into()).to_bytes()
                });
                let extra = fragment.as_ref().map_or(0, |f| f.len());
                let h = Ipv6Header {
                    payload_length: (len + extra) as u16,
                    next_header: if part.is_some() {
                        IpNumber::IPV6_FRAGMENTATION_HEADER
                    } else {
                        self.protocol()
                    },
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                [h.to_bytes().to_vec(), fragment.map_or(Vec::new(), |f| f.to_vec())].concat()
            }
            (src, dst) => panic!("{src} and {dst} are of two families"),
        }
    }

    /// L4 header and data.
    fn l4(&self) -> Vec<u8> {
        let (sport, dport) = (self.src.port(), self.dst.port());
        let ips = (self.src.ip(), self.dst.ip());
        let data = &self.data;
        let header: Vec<u8> = match self.body {
            Body::Tcp { flags, seq, ack, window } => {
                let mut h = TcpHeader::new(sport, dport, seq, window);
                h.acknowledgment_number = ack;
                (h.fin, h.syn, h.rst) =
                    (flags & flag::FIN != 0, flags & flag::SYN != 0, flags & flag::RST != 0);
                (h.psh, h.ack, h.urg) = (flags & 8 != 0, flags & flag::ACK != 0, flags & 32 != 0);
                h.checksum = match ips {
                    (IpAddr::V4(s), IpAddr::V4(d)) => h.calc_checksum_ipv4_raw(s.octets(), d.octets(), data),
                    (IpAddr::V6(s), IpAddr::V6(d)) => h.calc_checksum_ipv6_raw(s.octets(), d.octets(), data),
                    _ => panic!("two families"),
                }
                .expect("short enough");
                h.to_bytes().to_vec()
            }
            Body::Udp { unsummed } => {
                let length = (8 + data.len()) as u16;
                let mut h = UdpHeader { source_port: sport, destination_port: dport, length, checksum: 0 };
                if !unsummed {
                    h.checksum = match ips {
                        (IpAddr::V4(s), IpAddr::V4(d)) => {
                            h.calc_checksum_ipv4_raw(s.octets(), d.octets(), data)
                        }
                        (IpAddr::V6(s), IpAddr::V6(d)) => {
                            h.calc_checksum_ipv6_raw(s.octets(), d.octets(), data)
                        }
                        _ => panic!("two families"),
                    }
                    .expect("short enough");
                }
                h.to_bytes().to_vec()
            }
            Body::Icmp { kind, code, rest } => match ips {
                (IpAddr::V4(_), _) => {
                    let kind = Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: rest };
                    Icmpv4Header::with_checksum(kind, data).to_bytes().to_vec()
                }
                (IpAddr::V6(s), IpAddr::V6(d)) => {
                    let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: rest };
                    let h = Icmpv6Header::with_checksum(kind, s.octets(), d.octets(), data);
                    h.expect("short enough").to_bytes().to_vec()
                }
                _ => panic!("two families"),
            },
            Body::Other(_) => Vec::new(),
        };
        [header, data.clone()].concat()
    }
}

/// True when the checksums of a whole TCP or UDP frame are right, as the library sees it.
pub fn sums_are_right(frame: &[u8]) -> bool {
    let Ok(p) = etherparse::PacketHeaders::from_ethernet_slice(frame) else { return false };
    let (Some(net), Some(transport)) = (p.net, p.transport) else { return false };
    let payload = p.payload.slice();
    use etherparse::{NetHeaders, TransportHeader};
    match (net, transport) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(h)) => {
            ip.header_checksum == ip.calc_header_checksum()
                && h.calc_checksum_ipv4(&ip, payload).is_ok_and(|c| c == h.checksum)
        }
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(h)) => {
            ip.header_checksum == ip.calc_header_checksum()
                && h.calc_checksum_ipv4(&ip, payload).is_ok_and(|c| c == h.checksum)
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(h)) => {
            h.calc_checksum_ipv6(&ip, payload).is_ok_and(|c| c == h.checksum)
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(h)) => {
            h.calc_checksum_ipv6(&ip, payload).is_ok_and(|c| c == h.checksum)
        }
        _ => false,
    }
}
