//! Incremental Internet checksums (RFC 1071, RFC 1624) in plain arithmetic: cheaper than `bpf_csum_diff`.
//!
//! A *diff* is the ones' complement sum of the new words minus the old ones, as 32 bits. Words are taken as they lie
//! in memory; the sum is byte-order independent as long as both sides agree.

/// Ones' complement addition with end-around carry.
#[inline(always)]
pub fn add(a: u32, b: u32) -> u32 {
    let s = a as u64 + b as u64;
    (s as u32).wrapping_add((s >> 32) as u32)
}

/// Ones' complement subtraction.
#[inline(always)]
pub fn sub(a: u32, b: u32) -> u32 {
    add(a, !b)
}

/// Folds to 16 bits.
#[inline(always)]
pub fn fold(s: u32) -> u16 {
    let s = (s & 0xffff) + (s >> 16);
    ((s & 0xffff) + (s >> 16)) as u16
}

/// The checksum field after the covered words changed by `diff`.
#[inline(always)]
pub fn apply(csum: u16, diff: u32) -> u16 {
    !fold(add(!csum as u32, diff))
}

/// [`apply`] for UDP: 0 on the wire means "no checksum", so a result of 0 is written as 0xffff (RFC 768).
#[inline(always)]
pub fn apply_udp(csum: u16, diff: u32) -> u16 {
    match apply(csum, diff) {
        0 => 0xffff,
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(words: &[u16]) -> u16 {
        !fold(words.iter().fold(0, |s, w| add(s, *w as u32)))
    }

    #[test]
    fn an_incremental_update_equals_a_full_recomputation() {
        let mut x = 0x1234_5678u32;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as u16
        };
        for _ in 0..10_000 {
            let mut w = [next(), next(), next(), next(), next()];
            let before = full(&w);
            let (old, new) = (w[2], next());
            w[2] = new;
            let after = apply(before, sub(new as u32, old as u32));
            // 0 and 0xffff are the same number in ones' complement.
            assert!(after == full(&w) || (after ^ full(&w)) == 0xffff);
        }
    }

    #[test]
    fn a_udp_checksum_never_becomes_zero() {
        assert_eq!(apply_udp(0xffff, 0), 0xffff);
        assert_eq!(apply_udp(1, sub(1, 0)), 0xffff);
    }
}
