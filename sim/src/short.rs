//! Short forms for tests that are generic over the family: addresses by number, frames, hooks.

use crate::{FakeFib, Frame, Maps, Sim, hook, hook_of};
use lb_common::{A4, A6, FlowKey};
use lb_ebpf::csum;
use lb_ebpf::family::{Family, V4, V6};
use lb_ebpf::packet::{End, Fib};
use lb_ebpf::pipeline::Side;
use lb_ebpf::select::Role;

/// A family in tests: real addresses, a map, and a frame builder.
pub trait TestFamily: Family {
    /// An address of the test network.
    fn addr(n: u16) -> Self::A;
    /// This family's maps.
    fn maps(s: &Sim) -> &Maps<Self::A>;
}
impl TestFamily for V4 {
    fn addr(n: u16) -> A4 {
        A4::from(std::net::Ipv4Addr::new(172, 31, (n >> 8) as u8, n as u8))
    }
    fn maps(s: &Sim) -> &Maps<A4> {
        &s.v4
    }
}
impl TestFamily for V6 {
    fn addr(n: u16) -> A6 {
        A6::from(std::net::Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, n))
    }
    fn maps(s: &Sim) -> &Maps<A6> {
        &s.v6
    }
}

/// Builds a TCP (with `flags`) or UDP frame with right checksums.
pub fn frame<F: Family>(
    src: F::A,
    sport: u16,
    dst: F::A,
    dport: u16,
    proto: u8,
    flags: u8,
    body: &[u8],
) -> Vec<u8> {
    let l4 = if proto == 6 { 20 } else { 8 };
    let mut b = vec![0u8; F::L4 + l4];
    b[0..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    b[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    b[12..14].copy_from_slice(&F::ETHERTYPE_BE.to_ne_bytes());
    let len = (l4 + body.len()) as u16;
    // SAFETY: the vector holds the whole header.
    unsafe { F::fresh_header(b.as_mut_ptr(), &src, &dst, proto, len) };
    b[F::L4..F::L4 + 2].copy_from_slice(&sport.to_be_bytes());
    b[F::L4 + 2..F::L4 + 4].copy_from_slice(&dport.to_be_bytes());
    if proto == 6 {
        b[F::L4 + 4..F::L4 + 8].copy_from_slice(&1000u32.to_be_bytes());
        b[F::L4 + 8..F::L4 + 12].copy_from_slice(&2000u32.to_be_bytes());
        b[F::L4 + 12] = 0x50;
        b[F::L4 + 13] = flags;
    } else {
        b[F::L4 + 4..F::L4 + 6].copy_from_slice(&len.to_be_bytes());
    }
    b.extend_from_slice(body);
    let at = F::L4 + if proto == 6 { 16 } else { 6 };
    let c = l4_sum::<F>(&b);
    b[at..at + 2].copy_from_slice(&c.to_ne_bytes());
    b
}

/// What the L4 checksum field must be (computed with the field as it is: 0 when it is right).
pub fn l4_sum<F: Family>(b: &[u8]) -> u16 {
    let addr_len = if F::AF == 2 { 4 } else { 16 };
    let addrs = if F::AF == 2 { 26 } else { 22 };
    let proto = if F::AF == 2 { b[23] } else { b[20] };
    let mut s = F::pseudo(proto, (b.len() - F::L4) as u16);
    let mut words = b[addrs..addrs + 2 * addr_len].to_vec();
    words.extend_from_slice(&b[F::L4..]);
    if words.len() % 2 == 1 {
        words.push(0);
    }
    for w in words.chunks(2) {
        s = csum::add(s, u16::from_ne_bytes([w[0], w[1]]) as u32);
    }
    !csum::fold(s)
}

/// Asserts that the frame's checksums are right.
pub fn assert_sums<F: Family>(b: &[u8]) {
    assert_eq!(l4_sum::<F>(b), 0, "L4 checksum");
    if F::AF == 2 {
        let s = b[14..34].chunks(2).fold(0, |s, w| csum::add(s, u16::from_ne_bytes([w[0], w[1]]) as u32));
        assert_eq!(!csum::fold(s), 0, "IPv4 header checksum");
    }
}

/// The tuple a frame carries.
pub fn tuple<F: Family, const X: bool>(bytes: &[u8]) -> FlowKey<F::A> {
    let fib = FakeFib::default();
    let side = Side::In(Role::Uplink);
    let f = Frame::<X>::new(bytes, 0, hook_of(X, side), &fib);
    lb_ebpf::parse::parse::<_, F>(&f).expect("a whole packet").key
}

/// Runs ingress over a frame.
pub fn ingress<const X: bool>(
    s: &Sim,
    role: Role,
    ifindex: u32,
    fib: impl Into<FakeFib>,
    bytes: &[u8],
) -> (End, Vec<u8>) {
    hook::<X>(s, Side::In(role), ifindex, fib, bytes)
}

/// Runs a pod-facing interface's egress over a frame.
pub fn egress(s: &Sim, ifindex: u32, bytes: &[u8]) -> (End, Vec<u8>) {
    hook::<false>(s, Side::PodOut, ifindex, Fib::default(), bytes)
}
