//! What differs between IPv4 and IPv6: header layout, address words, and the header checksum only IPv4 has.

use crate::csum;
use crate::mem::{rd, wr};
use crate::packet::{FibQuery, Packet};
use lb_common::{A4, A6, Addr, Cidr, Config, FlowKey, Iface, Reason, hash};

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

/// What a header says about fragmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification, as it lies in the packet.
    pub id: u32,
    /// This one carries the L4 header.
    pub first: bool,
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

    /// IP protocol number of this family's ICMP.
    const ICMP: u8;

    /// Reads and checks the network header of a packet, whole or in fragments; `frame_len` is the whole frame's.
    ///
    /// # Safety
    /// `p .. p + L4` must be readable.
    unsafe fn header(p: *const u8, frame_len: usize) -> Result<Header<Self::A>, Reason>;
    /// What the header says about fragmentation; `None` for a whole packet.
    ///
    /// # Safety
    /// `p .. p + L4` must be readable.
    unsafe fn fragment(p: *const u8) -> Option<Fragment>;
    /// Reads a network header that an ICMP error quotes at `off`: addresses and protocol, if it is followed by the
    /// L4 header at once.
    ///
    /// # Safety
    /// `p + off .. + L4 - L3` must be readable.
    unsafe fn quoted(p: *const u8, off: usize) -> Option<(Self::A, Self::A, u8)>;
    /// Stores both addresses of a quoted header and repairs its checksum; returns what changed of the sum over it.
    ///
    /// # Safety
    /// `p + off .. + L4 - L3` must be writable.
    unsafe fn store_quoted(p: *mut u8, off: usize, src: &Self::A, dst: &Self::A, diff: u32) -> u32;
    /// True for an ICMP type that quotes the packet it is about (RFC 792, RFC 4443).
    fn is_icmp_error(kind: u8) -> bool;
    /// Type and code of "port unreachable".
    const PORT_UNREACHABLE: u32;
    /// The service networks.
    fn service_cidrs(c: &Config) -> &[Cidr<Self::A>; lb_common::config::MAX_SERVICE_CIDRS];
    /// Where local pods have their addresses, if told by network.
    fn local_cidr(c: &Config) -> &Cidr<Self::A>;
    /// Is the address inside?
    fn inside(c: &Cidr<Self::A>, a: &Self::A) -> bool;
    /// The address in four words; IPv4 uses the first.
    fn words(a: &Self::A) -> [u32; 4];
    /// The address of four words.
    fn from_words(w: &[u32; 4]) -> Self::A;
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
/// IPv6 behind a fragment header (RFC 8200 §4.5): the same addresses, the L4 header eight bytes further on.
pub struct V6Frag;

impl Family for V4 {
    type A = A4;
    const AF: u8 = 2;
    const ETHERTYPE_BE: u16 = 0x0800u16.to_be();
    const L4: usize = L3 + 20;
    const UNCOVERED_HEADER: bool = false;

    #[inline(always)]
    unsafe fn header(p: *const u8, frame_len: usize) -> Result<Header<A4>, Reason> {
        // SAFETY: the caller checked L4 bytes.
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
            Ok(Header {
                src: A4(rd(p, L3 + 12)),
                dst: A4(rd(p, L3 + 16)),
                proto: rd(p, L3 + 9),
                ttl: rd(p, L3 + 8),
                l4_len: total - 20,
            })
        }
    }

    const ICMP: u8 = 1;
    const PORT_UNREACHABLE: u32 = 0x0303_0000u32.to_be();

    #[inline(always)]
    unsafe fn fragment(p: *const u8) -> Option<Fragment> {
        // SAFETY: the caller's promise.
        let (word, id) = unsafe { (rd::<u16>(p, L3 + 6), rd::<u16>(p, L3 + 4)) };
        // More-fragments or an offset.
        if word & 0x3fffu16.to_be() == 0 {
            return None;
        }
        Some(Fragment { id: id as u32, first: word & 0x1fffu16.to_be() == 0 })
    }

    #[inline(always)]
    unsafe fn quoted(p: *const u8, off: usize) -> Option<(A4, A4, u8)> {
        // SAFETY: the caller's promise.
        unsafe {
            // A later fragment has no ports; header options would move them.
            if rd::<u8>(p, off) != 0x45 || rd::<u16>(p, off + 6) & 0x1fffu16.to_be() != 0 {
                return None;
            }
            Some((A4(rd(p, off + 12)), A4(rd(p, off + 16)), rd(p, off + 9)))
        }
    }

    #[inline(always)]
    unsafe fn store_quoted(p: *mut u8, off: usize, src: &A4, dst: &A4, diff: u32) -> u32 {
        // SAFETY: the caller's promise.
        unsafe {
            wr(p, off + 12, src.0);
            wr(p, off + 16, dst.0);
            let c: u16 = rd(p, off + 10);
            wr(p, off + 10, csum::apply(c, diff));
        }
        // The header's checksum takes up what its addresses changed.
        0
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 3 | 4 | 11 | 12)
    }

    #[inline(always)]
    fn service_cidrs(c: &Config) -> &[Cidr<A4>; lb_common::config::MAX_SERVICE_CIDRS] {
        &c.service_cidrs4
    }

    #[inline(always)]
    fn local_cidr(c: &Config) -> &Cidr<A4> {
        &c.local_cidr4
    }

    #[inline(always)]
    fn inside(c: &Cidr<A4>, a: &A4) -> bool {
        c.contains(a)
    }

    #[inline(always)]
    fn words(a: &A4) -> [u32; 4] {
        [a.0, 0, 0, 0]
    }

    #[inline(always)]
    fn from_words(w: &[u32; 4]) -> A4 {
        A4(w[0])
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
        // SAFETY: the caller checked L4 bytes.
        unsafe {
            if rd::<u8>(p, L3) >> 4 != 6 {
                return Err(Reason::Malformed);
            }
            let payload = u16::from_be(rd(p, L3 + 4)) as usize;
            if payload + Self::L4 > frame_len {
                return Err(Reason::Malformed);
            }
            let proto: u8 = rd(p, L3 + 6);
            if matches!(proto, 0 | 43 | 51 | 60 | 135) {
                return Err(Reason::IpOptions);
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

    const ICMP: u8 = 58;
    const PORT_UNREACHABLE: u32 = 0x0104_0000u32.to_be();

    #[inline(always)]
    unsafe fn fragment(p: *const u8) -> Option<Fragment> {
        // SAFETY: the caller's promise. What follows the fragment header is `V6Frag`'s.
        (unsafe { rd::<u8>(p, L3 + 6) } == FRAGMENT).then_some(Fragment { id: 0, first: false })
    }

    #[inline(always)]
    unsafe fn quoted(p: *const u8, off: usize) -> Option<(A6, A6, u8)> {
        // SAFETY: the caller's promise.
        unsafe {
            (rd::<u8>(p, off) >> 4 == 6).then(|| (load6(p, off + 8), load6(p, off + 24), rd(p, off + 6)))
        }
    }

    #[inline(always)]
    unsafe fn store_quoted(p: *mut u8, off: usize, src: &A6, dst: &A6, diff: u32) -> u32 {
        // SAFETY: the caller's promise.
        unsafe {
            store6(p, off + 8, src);
            store6(p, off + 24, dst);
        }
        diff
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn service_cidrs(c: &Config) -> &[Cidr<A6>; lb_common::config::MAX_SERVICE_CIDRS] {
        &c.service_cidrs6
    }

    #[inline(always)]
    fn local_cidr(c: &Config) -> &Cidr<A6> {
        &c.local_cidr6
    }

    #[inline(always)]
    fn inside(c: &Cidr<A6>, a: &A6) -> bool {
        c.contains(a)
    }

    #[inline(always)]
    fn words(a: &A6) -> [u32; 4] {
        a.0
    }

    #[inline(always)]
    fn from_words(w: &[u32; 4]) -> A6 {
        A6(*w)
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

/// IPv6 next-header number of the fragment header.
const FRAGMENT: u8 = 44;

impl Family for V6Frag {
    type A = A6;
    const AF: u8 = V6::AF;
    const ETHERTYPE_BE: u16 = V6::ETHERTYPE_BE;
    const L4: usize = V6::L4 + 8;
    const UNCOVERED_HEADER: bool = true;
    const ICMP: u8 = V6::ICMP;
    const PORT_UNREACHABLE: u32 = V6::PORT_UNREACHABLE;

    #[inline(always)]
    unsafe fn header(p: *const u8, frame_len: usize) -> Result<Header<A6>, Reason> {
        // SAFETY: the caller checked L4 bytes, which is more than V6's.
        let (h, proto) = unsafe { (V6::header(p, frame_len)?, rd::<u8>(p, V6::L4)) };
        if h.proto != FRAGMENT || h.l4_len < 8 {
            return Err(Reason::Malformed);
        }
        Ok(Header { proto, l4_len: h.l4_len - 8, ..h })
    }

    #[inline(always)]
    unsafe fn fragment(p: *const u8) -> Option<Fragment> {
        // SAFETY: the caller's promise.
        let (offset, id) = unsafe { (rd::<u16>(p, V6::L4 + 2), rd::<u32>(p, V6::L4 + 4)) };
        Some(Fragment { id, first: offset & 0xfff8u16.to_be() == 0 })
    }

    #[inline(always)]
    unsafe fn quoted(p: *const u8, off: usize) -> Option<(A6, A6, u8)> {
        // SAFETY: the caller's promise.
        unsafe { V6::quoted(p, off) }
    }
    #[inline(always)]
    unsafe fn store_quoted(p: *mut u8, off: usize, src: &A6, dst: &A6, diff: u32) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { V6::store_quoted(p, off, src, dst, diff) }
    }
    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        V6::is_icmp_error(kind)
    }
    #[inline(always)]
    fn service_cidrs(c: &Config) -> &[Cidr<A6>; lb_common::config::MAX_SERVICE_CIDRS] {
        &c.service_cidrs6
    }
    #[inline(always)]
    fn local_cidr(c: &Config) -> &Cidr<A6> {
        &c.local_cidr6
    }
    #[inline(always)]
    fn inside(c: &Cidr<A6>, a: &A6) -> bool {
        c.contains(a)
    }
    #[inline(always)]
    fn words(a: &A6) -> [u32; 4] {
        a.0
    }
    #[inline(always)]
    fn from_words(w: &[u32; 4]) -> A6 {
        A6(*w)
    }
    #[inline(always)]
    fn sum(a: &A6) -> u32 {
        V6::sum(a)
    }
    #[inline(always)]
    fn hash(seed: u32, k: &FlowKey<A6>) -> u32 {
        V6::hash(seed, k)
    }
    #[inline(always)]
    unsafe fn store_addrs(p: *mut u8, src: &A6, dst: &A6, diff: u32) {
        // SAFETY: the caller's promise.
        unsafe { V6::store_addrs(p, src, dst, diff) }
    }
    #[inline(always)]
    unsafe fn decrement_ttl(p: *mut u8) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { V6::decrement_ttl(p) }
    }
    #[inline(always)]
    unsafe fn fresh_header(p: *mut u8, src: &A6, dst: &A6, proto: u8, l4_len: u16) {
        // SAFETY: the caller's promise.
        unsafe { V6::fresh_header(p, src, dst, proto, l4_len) }
    }
    #[inline(always)]
    fn fib_query(src: &A6, dst: &A6, proto: u8) -> FibQuery {
        V6::fib_query(src, dst, proto)
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
        V6::is_bad_source(a)
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
