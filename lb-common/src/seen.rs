//! The filter before every lookup: has anything of ours this address, port and protocol?
//!
//! Two bit sets in one array of 64-bit words: the first half for frontends (and ClusterIPs, with port and protocol 0),
//! the second for backends. A packet whose destination is in neither frontends nor service networks and whose source is
//! in no backends is not ours, for sure, and costs no hash lookup. A bit that is set without need costs a lookup and
//! nothing else, so bits are set before what they stand for is written, and cleared only when all are made anew.

use crate::Addr;

/// Bits of each set.
pub const SEEN_BITS: u32 = 1 << SEEN_SHIFT;
const SEEN_SHIFT: u32 = 21;
/// Words of each set.
pub const SEEN_WORDS: u32 = SEEN_BITS / 64;
/// Elements of the map: frontends, then backends.
pub const SEEN_LEN: u32 = SEEN_WORDS * 2;

/// A bit's place within its set: word and mask.
#[inline(always)]
pub fn place<A: Addr>(a: &A, port_be: u16, proto: u8) -> (u32, u64) {
    // Fibonacci hashing: the high bits of the product depend on all bits of the number.
    let h = (a.mix(port_be, proto).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SEEN_SHIFT)) as u32;
    (h >> 6, 1u64 << (h & 63))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::{A4, A6};
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Ordinary clusters number addresses and ports in sequence: such must not fall on few bits.
    fn collisions(places: impl Iterator<Item = (u32, u64)>) -> (usize, usize) {
        let all: std::vec::Vec<_> = places.collect();
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        (all.len(), all.len() - distinct.len())
    }

    #[test]
    fn sequential_addresses_and_ports_spread_over_the_bits() {
        let v4 = (0..50_000u32).map(|n| place(&A4::from(Ipv4Addr::from(0x0a60_0000 + n)), 80u16.to_be(), 6));
        let (n, same) = collisions(v4);
        assert!(same < n / 20, "{same} of {n}");
        let ports =
            (0..30_000u16).map(|n| place(&A4::from(Ipv4Addr::new(10, 0, 0, 1)), (30_000 + n).to_be(), 6));
        let (n, same) = collisions(ports);
        assert!(same < n / 20, "{same} of {n}");
        let v6 = (0..50_000u16)
            .map(|n| place(&A6::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, n)), 80u16.to_be(), 17));
        let (n, same) = collisions(v6);
        assert!(same < n / 20, "{same} of {n}");
    }
}
