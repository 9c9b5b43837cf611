//! The flow hash, the same on both sides: it chooses the backend of a new flow.
//!
//! Murmur3's 32-bit mixing over the words of the tuple, seeded per node.

#[inline(always)]
fn mix(h: u32, w: u32) -> u32 {
    let k = w.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (h ^ k).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

#[inline(always)]
fn finish(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// Hash of a list of words.
#[inline(always)]
pub fn words<const N: usize>(seed: u32, w: [u32; N]) -> u32 {
    let mut h = seed;
    let mut i = 0;
    while i < N {
        h = mix(h, w[i]);
        i += 1;
    }
    finish(h ^ (N as u32 * 4))
}

/// Maps a hash evenly onto `0..n` without a division (Lemire's reduction). 0 when `n` is 0.
#[inline(always)]
pub fn reduce(hash: u32, n: u32) -> u32 {
    ((hash as u64 * n as u64) >> 32) as u32
}
