//! IPv6 (RFC 8200): 40 bytes of header without a checksum; extension headers but the fragment header are left alone.

use super::{Family, Fragment, Header, L3, V6, ports};
use crate::csum;
use crate::mem::{rd, wr};
use crate::packet::FibQuery;
use lb_common::{A6, Cidr, Config, FlowKey, Iface, Reason, hash};

/// IPv6 next-header number of the fragment header.
pub(super) const FRAGMENT: u8 = 44;

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
    fn wide_hash(seed: u32, k: &FlowKey<A6>) -> u64 {
        let (s, d) = (&k.src.0, &k.dst.0);
        hash::wide(seed, [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], ports(k), k.proto])
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
    fn is_link_local(a: &A6) -> bool {
        u32::from_be(a.0[0]) >> 22 == 0x3fa
    }

    #[inline(always)]
    fn is_bad_source(a: &A6) -> bool {
        let top = u32::from_be(a.0[0]);
        let low = a.0[3];
        (top >> 24) == 0xff || ((a.0[0] | a.0[1] | a.0[2]) == 0 && (low == 0 || low == 1u32.to_be()))
    }
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
