//! Raw sockets inside a pod: TCP segments of one's own making out, and every segment that comes in.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::Ns;
use socket2::{Domain, Protocol, Socket, Type};

/// TCP flags.
pub const RST: u8 = 4;
/// TCP flags.
pub const ACK: u8 = 16;

/// What of a TCP segment matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: SocketAddr,
    pub to_port: u16,
    pub seq: u32,
    pub flags: u8,
}

/// A raw TCP socket of one family in a namespace.
pub struct Raw {
    socket: Socket,
    ipv4: bool,
}

impl Raw {
    pub fn open(ns: &Ns, ipv4: bool) -> Result<Raw> {
        let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = ns.run(|| Socket::new(domain, Type::RAW, Some(Protocol::TCP)))??;
        Ok(Raw { socket, ipv4 })
    }

    /// Sends one segment without data; the kernel adds the IP header.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, seq: u32, ack: u32, flags: u8) -> Result<()> {
        let mut s = Vec::with_capacity(20);
        s.extend(from.port().to_be_bytes());
        s.extend(to.port().to_be_bytes());
        s.extend(seq.to_be_bytes());
        s.extend(ack.to_be_bytes());
        // Five words of header; a window of one.
        s.extend([0x50, flags, 0, 1, 0, 0, 0, 0]);
        let checksum = checksum(from.ip(), to.ip(), &s);
        s[16..18].copy_from_slice(&checksum.to_be_bytes());
        // A raw IPv6 socket takes no port.
        self.socket.send_to(&s, &SocketAddr::new(to.ip(), 0).into())?;
        Ok(())
    }

    /// The first segment that `wanted` likes, within `deadline`.
    pub fn receive(&self, deadline: Duration, wanted: impl Fn(&Segment) -> bool) -> Result<Option<Segment>> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
            let (count, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e.into()),
            };
            let bytes: Vec<u8> = buffer[..count]
                .iter()
                // SAFETY: the kernel has written the first `count` bytes.
                .map(|b| unsafe { b.assume_init() })
                .collect();
            if let Some(segment) = self.parse(&bytes, from.as_socket().map(|a| a.ip()))
                && wanted(&segment)
            {
                return Ok(Some(segment));
            }
        }
    }

    /// IPv4 comes with its header, IPv6 without.
    fn parse(&self, bytes: &[u8], from: Option<IpAddr>) -> Option<Segment> {
        let start = if self.ipv4 { usize::from(bytes.first()? & 15) * 4 } else { 0 };
        let tcp = bytes.get(start..start + 20)?;
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        Some(Segment {
            from: SocketAddr::new(from?, port(0)),
            to_port: port(2),
            seq: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            flags: tcp[13],
        })
    }
}

/// TCP's checksum with the pseudo header (RFC 9293 3.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let pseudo =
        [octets(from), octets(to), vec![0, 6], (segment.len() as u16).to_be_bytes().to_vec()].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let mut sum: u32 = words.map(|w| u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
