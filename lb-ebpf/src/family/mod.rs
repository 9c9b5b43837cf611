//! What differs between IPv4 and IPv6: header layout, address words, and the header checksum only IPv4 has.

mod v4;
mod v6;
mod v6_frag;

use crate::csum;
use crate::packet::{FibQuery, Packet};
use lb_common::{Addr, Cidr, Config, FlowKey, Iface, Reason};

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
    /// The tuple's place in the flow index.
    fn wide_hash(seed: u32, k: &FlowKey<Self::A>) -> u64;
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
    /// True for a source that means nothing beyond its link (RFC 3927 §2.7, RFC 4291 §2.5.6).
    fn is_link_local(a: &Self::A) -> bool;
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

#[inline(always)]
pub(crate) fn ports<A>(k: &FlowKey<A>) -> u32 {
    ((k.sport_be as u32) << 16) | k.dport_be as u32
}

/// Tells the hook about a change of uncovered header words, for families that have such.
#[inline(always)]
pub fn note_header<P: Packet, F: Family>(p: &mut P, diff: u32) {
    if F::UNCOVERED_HEADER && diff != 0 {
        p.header_changed(diff);
    }
}
