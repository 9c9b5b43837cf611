//! The suites: one module each, with a function that takes the [`Setup`] and returns a report.

pub mod connect;
pub mod control;
pub mod forward;
pub mod program;
pub mod stream;
mod tcp;

use std::thread;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::floor::{self, Floor};
use crate::object::BenchObject;
use crate::pin::{self, Cpus};
use crate::report::SuiteReport;

/// What every suite gets.
pub struct Setup {
    /// The benchmark's own kernel programs.
    pub object: BenchObject,
    /// Noise detector.
    pub floor: Floor,
    /// The machine's CPUs.
    pub cpus: Cpus,
    /// Only show that it runs.
    pub quick: bool,
    /// Rounds asked for.
    pub rounds: Option<u32>,
    /// Only cases whose name contains one of these; empty = all.
    pub only: Vec<String>,
    /// Only these numbers of services; empty = the suite's own.
    pub services: Vec<u32>,
    /// Only these numbers of flows; empty = the suite's own.
    pub flows: Vec<u32>,
}

impl Setup {
    /// Rounds to run: as asked for, else 1 in a quick run, else the suite's own number.
    pub fn rounds(&self, own: u32) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { own })
    }

    /// Whether a case was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| name.contains(text.as_str()))
    }

    /// What the empty program costs now, on the CPU of the measured work.
    pub fn look_at_floor(&mut self) -> Result<f64> {
        let (object, floor, cpu) = (&self.object, &mut self.floor, self.cpus.work());
        thread::scope(|scope| {
            let look = scope.spawn(move || {
                pin::to(cpu)?;
                floor.look(object)
            });
            look.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Numbers of services to measure with.
    pub fn services(&self, own: &[u32]) -> Vec<u32> {
        if self.services.is_empty() { own.to_vec() } else { self.services.clone() }
    }

    /// Numbers of flows to measure with.
    pub fn flows(&self, own: &[u32]) -> Vec<u32> {
        if self.flows.is_empty() { own.to_vec() } else { self.flows.clone() }
    }

    /// `full` in a real run, `quick` in a quick one.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// A suite.
pub type Suite = fn(&mut Setup) -> Result<SuiteReport>;

/// The suites by name.
pub const ALL: [(&str, Suite); 5] = [
    ("program", program::run),
    ("forward", forward::run),
    ("connect", connect::run),
    ("stream", stream::run),
    ("control", control::run),
];

/// What the rounds of a case gave.
pub struct Rounds<T> {
    /// The result of each round.
    pub results: Vec<T>,
    /// The floor around each.
    pub floors: Vec<f64>,
    /// Rounds that were repeated because the machine was disturbed.
    pub repeated: u32,
    /// Rounds that were disturbed all the same.
    pub disturbed: u32,
}

/// Runs `round` until `rounds` of them were quiet, or the repetitions allowed are used up.
pub fn quiet_rounds<T>(
    setup: &mut Setup,
    rounds: u32,
    bar: &ProgressBar,
    mut round: impl FnMut(&Setup) -> Result<T>,
) -> Result<Rounds<T>> {
    let mut all = Rounds { results: Vec::new(), floors: Vec::new(), repeated: 0, disturbed: 0 };
    let steps = bar.length().unwrap_or(0) / u64::from(rounds.max(1));
    while (all.results.len() as u32) < rounds {
        bar.set_position(steps * all.results.len() as u64);
        let before = setup.look_at_floor()?;
        let result = round(setup)?;
        let floor_ns = before.max(setup.look_at_floor()?);
        let quiet = setup.floor.is_quiet(floor_ns);
        if !quiet && all.repeated < floor::MAX_REPEATS {
            all.repeated += 1;
            continue;
        }
        all.disturbed += u32::from(!quiet);
        all.floors.push(floor_ns);
        all.results.push(result);
    }
    bar.finish_and_clear();
    Ok(all)
}

/// A bar for `steps` steps, on standard error.
pub fn progress(title: &str, steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{prefix:28} [{bar:30}] {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
