//! Is the machine quiet? The empty program tells: it does nothing, so whatever it costs more is disturbance.

use anyhow::Result;

use crate::object::BenchObject;
use crate::testrun::{self, Entry};

/// Repetitions of one look.
const REPEAT: u32 = 100_000;
/// A floor this much above the quietest one seen is disturbed.
const TOLERANCE: f64 = 1.12;
/// The kernel rounds to whole nanoseconds.
const ROUNDING_NS: f64 = 1.0;
/// How often a disturbed round is repeated before it is taken as it is.
pub const MAX_REPEATS: u32 = 6;

/// The quietest floor seen so far.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    quietest_ns: f64,
}

impl Floor {
    /// Finds out what the empty program costs here at best.
    pub fn find(object: &BenchObject) -> Result<Self> {
        let mut floor = Self { quietest_ns: f64::INFINITY };
        for _ in 0..20 {
            floor.look(object)?;
        }
        Ok(floor)
    }

    /// What it costs now.
    pub fn look(&mut self, object: &BenchObject) -> Result<f64> {
        let frame = [0u8; 64];
        let now = testrun::repeat(object.program("bench_xdp_nil")?, Entry::Xdp(0), &frame, REPEAT)?;
        let now = f64::from(now.ns);
        self.quietest_ns = self.quietest_ns.min(now);
        Ok(now)
    }

    /// Whether a floor is that of a quiet machine.
    pub fn is_quiet(&self, ns: f64) -> bool {
        ns <= self.quietest_ns * TOLERANCE + ROUNDING_NS
    }

    /// The quietest floor seen.
    pub fn quietest_ns(&self) -> f64 {
        self.quietest_ns
    }
}
