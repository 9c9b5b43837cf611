//! What is kept of many samples.

use serde::Serialize;

/// Samples of one thing, in the order they were taken, reduced to what is reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Number of samples.
    pub n: usize,
    /// The smallest.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// 99 of 100 are not larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
}

impl Summary {
    /// Reduces samples; all zero when there are none.
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Self::default() };
        Self {
            n: sorted.len(),
            min,
            median: quantile(&sorted, 0.5),
            p99: quantile(&sorted, 0.99),
            max,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        }
    }
}

/// The nearest-rank quantile of sorted samples; the mean of the middle two for an even number's median.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let n = sorted.len();
    if n == 0 {
        return 0.0;
    }
    if q == 0.5 && n.is_multiple_of(2) {
        return f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]);
    }
    let rank = (q * n as f64).ceil() as usize;
    sorted[rank.clamp(1, n) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_the_middle_and_both_ends() {
        let s = Summary::of(&[5.0, 1.0, 3.0]);
        assert_eq!((s.n, s.min, s.median, s.max, s.mean), (3, 1.0, 3.0, 5.0, 3.0));
        assert_eq!(Summary::of(&[1.0, 2.0]).median, 1.5);
        assert_eq!(Summary::of(&[]), Summary::default());
    }

    #[test]
    fn the_99th_percentile_leaves_out_one_in_a_hundred() {
        let samples: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(Summary::of(&samples).p99, 198.0);
    }
}
