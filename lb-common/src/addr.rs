//! Addresses as they lie in packets: network byte order, in 32-bit words so that comparing is cheap and
//! needs no `memcmp` (aya-ebpf has none).

use core::fmt::Debug;
use core::hash::Hash;

/// An IPv4 address; the word holds the packet's four bytes in memory order (network byte order).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct A4(pub u32);

/// An IPv6 address; the words hold the packet's sixteen bytes in memory order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct A6(pub [u32; 4]);

/// What the code that is generic over the address family needs of an address.
pub trait Addr: Copy + Default + PartialEq + Eq + Hash + Ord + Debug + 'static {
    /// True for 0.0.0.0 or `::`.
    fn is_unspecified(&self) -> bool;
    /// What fills a flow record up to whole cache lines.
    type Pad: Copy + Default + PartialEq + Eq + Hash + Debug + 'static;
    /// A number that tells (address, port, protocol) apart well enough for [`crate::seen`].
    fn mix(&self, port_be: u16, proto: u8) -> u64;
}

impl Addr for A4 {
    #[inline(always)]
    fn is_unspecified(&self) -> bool {
        self.0 == 0
    }
    type Pad = [u32; 8];
    #[inline(always)]
    fn mix(&self, port_be: u16, proto: u8) -> u64 {
        (self.0 as u64) << 32 | (port_be as u64) << 8 | proto as u64
    }
}

impl Addr for A6 {
    #[inline(always)]
    fn is_unspecified(&self) -> bool {
        (self.0[0] | self.0[1] | self.0[2] | self.0[3]) == 0
    }
    type Pad = [u32; 12];
    #[inline(always)]
    fn mix(&self, port_be: u16, proto: u8) -> u64 {
        let w = &self.0;
        let (a, b) = ((w[0] as u64) << 32 | w[1] as u64, (w[2] as u64) << 32 | w[3] as u64);
        // The low half differs most; both count, and the order of the words does, too.
        a.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
            ^ b.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            ^ ((port_be as u64) << 8 | proto as u64)
    }
}

impl From<core::net::Ipv4Addr> for A4 {
    fn from(a: core::net::Ipv4Addr) -> Self {
        A4(u32::from_ne_bytes(a.octets()))
    }
}

impl From<A4> for core::net::Ipv4Addr {
    fn from(a: A4) -> Self {
        a.0.to_ne_bytes().into()
    }
}

impl From<core::net::Ipv6Addr> for A6 {
    fn from(a: core::net::Ipv6Addr) -> Self {
        let o = a.octets();
        let w = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
        A6([w(0), w(4), w(8), w(12)])
    }
}

impl From<A6> for core::net::Ipv6Addr {
    fn from(a: A6) -> Self {
        let mut o = [0u8; 16];
        for (i, w) in a.0.iter().enumerate() {
            o[i * 4..i * 4 + 4].copy_from_slice(&w.to_ne_bytes());
        }
        o.into()
    }
}
