//! The hashes of a tuple, seeded per node: [`words`] chooses the backend of a new flow (Murmur3's 32-bit mixing), and
//! [`wide`], which every packet of ours pays for, finds its place in the flow index.

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

/// A 64-bit hash of an even number of words, both halves of which are well mixed: a multiplication for each two words.
#[inline(always)]
pub fn wide<const N: usize>(seed: u32, w: [u32; N]) -> u64 {
    let mut h = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut i = 0;
    while i + 1 < N {
        h = (h ^ (w[i] as u64 | ((w[i + 1] as u64) << 32))).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 32;
        i += 2;
    }
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 32)
}

/// Maps a hash evenly onto `0..n` without a division (Lemire's reduction). 0 when `n` is 0.
#[inline(always)]
pub fn reduce(hash: u32, n: u32) -> u32 {
    ((hash as u64 * n as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{first_line, tag_of};

    /// Tuples as they come: few addresses, counted ports.
    fn tuples() -> impl Iterator<Item = [u32; 4]> {
        (0..64u32).flat_map(|host| {
            (0..1024u32).map(move |n| {
                let client = u32::from_be_bytes([10, 0, 0, host as u8]).to_be();
                let service = u32::from_be_bytes([10, 96, 0, 1]).to_be();
                [client, service, ((32_768 + n) << 16) | 0x5000, 6]
            })
        })
    }

    #[test]
    fn counted_ports_spread_over_the_lines_of_the_index() {
        const LINES: u32 = 1 << 15;
        let mut pairs = [0u32; LINES as usize / 2];
        for tuple in tuples() {
            pairs[first_line(wide(7, tuple), LINES) as usize / 2] += 1;
        }
        // Mean 4 a pair, which has room for 16. Poisson's variance is its mean.
        assert!(pairs.iter().max() < Some(&16), "{:?}", pairs.iter().max());
        let variance = pairs.iter().map(|n| (*n as f64 - 4.0).powi(2)).sum::<f64>() / pairs.len() as f64;
        assert!((3.0..5.0).contains(&variance), "{variance}");
    }

    #[test]
    fn no_two_of_65536_tuples_share_a_line_and_a_tag() {
        extern crate std;
        let mut seen = std::collections::HashSet::new();
        for tuple in tuples() {
            let hash = wide(7, tuple);
            assert!(seen.insert((first_line(hash, 1 << 16) / 2, tag_of(hash))), "{tuple:?}");
        }
    }
}
