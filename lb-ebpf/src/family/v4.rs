//! IPv4 (RFC 791): 20 bytes of header, with a checksum of its own.

use super::{Family, Fragment, Header, L3, V4, ports};
use crate::csum;
use crate::mem::{rd, wr};
use crate::packet::FibQuery;
use lb_common::{A4, Cidr, Config, FlowKey, Iface, Reason, hash};

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
    fn wide_hash(seed: u32, k: &FlowKey<A4>) -> u64 {
        hash::wide(seed, [k.src.0, k.dst.0, ports(k), k.proto])
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
    fn is_link_local(a: &A4) -> bool {
        u32::from_be(a.0) >> 16 == 0xa9fe
    }

    #[inline(always)]
    fn is_bad_source(a: &A4) -> bool {
        let first = (u32::from_be(a.0) >> 24) as u8;
        first == 0 || first == 127 || first >= 224
    }
}
