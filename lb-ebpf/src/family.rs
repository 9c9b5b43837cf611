//! What differs between IPv4 and IPv6: header layout, address words, and the header checksum only IPv4 has.

use crate::csum;
use crate::mem::{rd, wr};
use crate::packet::{FibQuery, Packet};
use lb_common::{A4, A6, Addr, Config, FlowKey, Iface, Reason, hash};

/// Frame offset of the network header: Ethernet without tags.
pub const L3: usize = 14;

/// What the network header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<A> {
    /// Source.
    pub src: A,
    /// Destination.
    pub dst: A,
    /// IP protocol number.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Bytes from the start of the L4 header to the end of the packet, by the header's own word.
    pub l4_len: usize,
}

/// One address family.
pub trait Family: 'static {
    /// Address type.
    type A: Addr;
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;
    /// Ethertype as it lies in the frame.
    const ETHERTYPE_BE: u16;
    /// Frame offset of the L4 header.
    const L4: usize;

    /// Reads and checks the network header; `p` holds at least `L4 + 8` bytes, `frame_len` is the whole frame's.
    ///
    /// # Safety
    /// `p .. p + L4 + 8` must be readable.
    unsafe fn header(p: *const u8, frame_len: usize) -> Result<Header<Self::A>, Reason>;
    /// Ones' complement sum of an address's words.
    fn sum(a: &Self::A) -> u32;
    /// Hash of a tuple.
    fn hash(seed: u32, k: &FlowKey<Self::A>) -> u32;
    /// Stores both addresses (and repairs the header checksum).
    ///
    /// # Safety
    /// `p .. p + L4` must be writable.
    unsafe fn store_addrs(p: *mut u8, src: &Self::A, dst: &Self::A, diff: u32);
    /// Decrements TTL or hop limit; returns the diff of words that no header checksum covers.
    ///
    /// # Safety
    /// `p .. p + L4` must be writable.
    unsafe fn decrement_ttl(p: *mut u8) -> u32;
    /// Writes a fresh header for a segment of `l4_len` bytes: addresses, lengths, TTL 64, checksum.
    ///
    /// # Safety
    /// `p .. p + L4` must be writable.
    unsafe fn fresh_header(p: *mut u8, src: &Self::A, dst: &Self::A, proto: u8, l4_len: u16);
    /// A FIB question.
    fn fib_query(src: &Self::A, dst: &Self::A, proto: u8) -> FibQuery;
    /// This node's address on an interface.
    fn iface_addr(i: &Iface) -> Self::A;
    /// This node's main address.
    fn node_addr(c: &Config) -> Self::A;
    /// True for a source that no honest client has (RFC 6890: loopback, multicast, unspecified, reserved).
    fn is_bad_source(a: &Self::A) -> bool;
    /// Whether header changes outside checksums must be told to [`Packet::header_changed`].
    const UNCOVERED_HEADER: bool;
    /// Pseudo header constant part: protocol and length.
    fn pseudo(proto: u8, l4_len: u16) -> u32 {
        csum::add((proto as u16).to_be() as u32, l4_len.to_be() as u32)
    }
}

/// IPv4.
pub struct V4;
/// IPv6.
pub struct V6;

impl Family for V4 {
    type A = A4;
    const AF: u8 = 2;
    const ETHERTYPE_BE: u16 = 0x0800u16.to_be();
    const L4: usize = L3 + 20;
    const UNCOVERED_HEADER: bool = false;

    #[inline(always)]
    unsafe fn header(p: *const u8, frame_len: usize) -> Result<Header<A4>, Reason> {
        // SAFETY: the caller checked L4 + 8 bytes.
        unsafe {
            let vihl: u8 = rd(p, L3);
            if vihl != 0x45 {
                return Err(if vihl >> 4 == 4 && vihl > 0x45 {
                    Reason::IpOptions
                } else {
                    Reason::Malformed
                });
            }
            let total = u16::from_be(rd(p, L3 + 2)) as usize;
            if total < 20 || total + L3 > frame_len {
                return Err(Reason::Malformed);
            }
            // More-fragments or an offset.
            if rd::<u16>(p, L3 + 6) & 0x3fffu16.to_be() != 0 {
                return Err(Reason::Fragment);
            }
            Ok(Header {
                src: A4(rd(p, L3 + 12)),
                dst: A4(rd(p, L3 + 16)),
                proto: rd(p, L3 + 9),
                ttl: rd(p, L3 + 8),
                l4_len: total - 20,
            })
        }
    }

    #[inline(always)]
    fn sum(a: &A4) -> u32 {
        a.0
    }

    #[inline(always)]
    fn hash(seed: u32, k: &FlowKey<A4>) -> u32 {
        hash::words(seed, [k.src.0, k.dst.0, ports(k), k.proto])
    }

    #[inline(always)]
    unsafe fn store_addrs(p: *mut u8, src: &A4, dst: &A4, diff: u32) {
        // SAFETY: the caller's promise.
        unsafe {
            wr(p, L3 + 12, src.0);
            wr(p, L3 + 16, dst.0);
            let c: u16 = rd(p, L3 + 10);
            wr(p, L3 + 10, csum::apply(c, diff));
        }
    }

    #[inline(always)]
    unsafe fn decrement_ttl(p: *mut u8) -> u32 {
        // SAFETY: the caller's promise.
        unsafe {
            let old: u16 = rd(p, L3 + 8);
            wr::<u8>(p, L3 + 8, rd::<u8>(p, L3 + 8).wrapping_sub(1));
            let new: u16 = rd(p, L3 + 8);
            let c: u16 = rd(p, L3 + 10);
            wr(p, L3 + 10, csum::apply(c, csum::sub(new as u32, old as u32)));
        }
        0
    }

    #[inline(always)]
    unsafe fn fresh_header(p: *mut u8, src: &A4, dst: &A4, proto: u8, l4_len: u16) {
        // SAFETY: the caller's promise.
        unsafe {
            let words = [
                (0x4500_0000u32 | (20 + l4_len as u32)).to_be(),
                0x0000_4000u32.to_be(),
                (0x4000_0000u32 | ((proto as u32) << 16)).to_be(),
                src.0,
                dst.0,
            ];
            let mut s = 0;
            let mut i = 0;
            while i < 5 {
                s = csum::add(s, words[i]);
                wr(p, L3 + i * 4, words[i]);
                i += 1;
            }
            wr(p, L3 + 10, !csum::fold(s));
        }
    }

    #[inline(always)]
    fn fib_query(src: &A4, dst: &A4, proto: u8) -> FibQuery {
        FibQuery { af: Self::AF, proto, src: [src.0, 0, 0, 0], dst: [dst.0, 0, 0, 0] }
    }

    #[inline(always)]
    fn iface_addr(i: &Iface) -> A4 {
        i.addr4
    }

    #[inline(always)]
    fn node_addr(c: &Config) -> A4 {
        c.node4
    }

    #[inline(always)]
    fn is_bad_source(a: &A4) -> bool {
        let first = (u32::from_be(a.0) >> 24) as u8;
        first == 0 || first == 127 || first >= 224
    }
}

impl Family for V6 {
    type A = A6;
    const AF: u8 = 10;
    const ETHERTYPE_BE: u16 = 0x86ddu16.to_be();
    const L4: usize = L3 + 40;
    const UNCOVERED_HEADER: bool = true;

    #[inline(always)]
    unsafe fn header(p: *const u8, frame_len: usize) -> Result<Header<A6>, Reason> {
        // SAFETY: the caller checked L4 + 8 bytes.
        unsafe {
            if rd::<u8>(p, L3) >> 4 != 6 {
                return Err(Reason::Malformed);
            }
            let payload = u16::from_be(rd(p, L3 + 4)) as usize;
            if payload + Self::L4 > frame_len {
                return Err(Reason::Malformed);
            }
            let proto: u8 = rd(p, L3 + 6);
            match proto {
                44 => return Err(Reason::Fragment),
                0 | 43 | 51 | 60 | 135 => return Err(Reason::IpOptions),
                _ => {}
            }
            Ok(Header {
                src: load6(p, L3 + 8),
                dst: load6(p, L3 + 24),
                proto,
                ttl: rd(p, L3 + 7),
                l4_len: payload,
            })
        }
    }

    #[inline(always)]
    fn sum(a: &A6) -> u32 {
        csum::add(csum::add(a.0[0], a.0[1]), csum::add(a.0[2], a.0[3]))
    }

    #[inline(always)]
    fn hash(seed: u32, k: &FlowKey<A6>) -> u32 {
        let (s, d) = (&k.src.0, &k.dst.0);
        hash::words(seed, [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], ports(k), k.proto])
    }

    #[inline(always)]
    unsafe fn store_addrs(p: *mut u8, src: &A6, dst: &A6, _diff: u32) {
        // SAFETY: the caller's promise.
        unsafe {
            store6(p, L3 + 8, src);
            store6(p, L3 + 24, dst);
        }
    }

    #[inline(always)]
    unsafe fn decrement_ttl(p: *mut u8) -> u32 {
        // SAFETY: the caller's promise.
        unsafe {
            let old: u16 = rd(p, L3 + 6);
            wr::<u8>(p, L3 + 7, rd::<u8>(p, L3 + 7).wrapping_sub(1));
            let new: u16 = rd(p, L3 + 6);
            csum::sub(new as u32, old as u32)
        }
    }

    #[inline(always)]
    unsafe fn fresh_header(p: *mut u8, src: &A6, dst: &A6, proto: u8, l4_len: u16) {
        // SAFETY: the caller's promise.
        unsafe {
            wr(p, L3, 0x6000_0000u32.to_be());
            wr(p, L3 + 4, (((l4_len as u32) << 16) | ((proto as u32) << 8) | 64).to_be());
            store6(p, L3 + 8, src);
            store6(p, L3 + 24, dst);
        }
    }

    #[inline(always)]
    fn fib_query(src: &A6, dst: &A6, proto: u8) -> FibQuery {
        FibQuery { af: Self::AF, proto, src: src.0, dst: dst.0 }
    }

    #[inline(always)]
    fn iface_addr(i: &Iface) -> A6 {
        i.addr6
    }

    #[inline(always)]
    fn node_addr(c: &Config) -> A6 {
        c.node6
    }

    #[inline(always)]
    fn is_bad_source(a: &A6) -> bool {
        let top = u32::from_be(a.0[0]);
        let low = a.0[3];
        (top >> 24) == 0xff || ((a.0[0] | a.0[1] | a.0[2]) == 0 && (low == 0 || low == 1u32.to_be()))
    }
}

#[inline(always)]
fn ports<A>(k: &FlowKey<A>) -> u32 {
    ((k.sport_be as u32) << 16) | k.dport_be as u32
}

/// # Safety
/// 16 bytes at `p + off` must be readable.
#[inline(always)]
unsafe fn load6(p: *const u8, off: usize) -> A6 {
    // SAFETY: the caller's promise.
    unsafe { A6([rd(p, off), rd(p, off + 4), rd(p, off + 8), rd(p, off + 12)]) }
}

/// # Safety
/// 16 bytes at `p + off` must be writable.
#[inline(always)]
unsafe fn store6(p: *mut u8, off: usize, a: &A6) {
    // SAFETY: the caller's promise.
    unsafe {
        wr(p, off, a.0[0]);
        wr(p, off + 4, a.0[1]);
        wr(p, off + 8, a.0[2]);
        wr(p, off + 12, a.0[3]);
    }
}

/// Tells the hook about a change of uncovered header words, for families that have such.
#[inline(always)]
pub fn note_header<P: Packet, F: Family>(p: &mut P, diff: u32) {
    if F::UNCOVERED_HEADER && diff != 0 {
        p.header_changed(diff);
    }
}
