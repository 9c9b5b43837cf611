//! IPv6 behind a fragment header: as IPv6, with the L4 header eight bytes further on.

use super::v6::FRAGMENT;
use super::{Family, Fragment, Header, V6, V6Frag};
use crate::mem::rd;
use crate::packet::FibQuery;
use lb_common::{A6, Cidr, Config, FlowKey, Iface, Reason};

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
        let ((src, dst, next), proto, offset) =
            unsafe { (V6::quoted(p, off)?, rd::<u8>(p, off + 40), rd::<u16>(p, off + 42)) };
        // Only the first fragment has ports to tell its flow by.
        (next == FRAGMENT && offset & 0xfff8u16.to_be() == 0).then_some((src, dst, proto))
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
    fn wide_hash(seed: u32, k: &FlowKey<A6>) -> u64 {
        V6::wide_hash(seed, k)
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
    fn is_link_local(a: &A6) -> bool {
        V6::is_link_local(a)
    }

    #[inline(always)]
    fn is_bad_source(a: &A6) -> bool {
        V6::is_bad_source(a)
    }
}
