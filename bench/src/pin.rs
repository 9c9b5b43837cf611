//! Which CPU does what: the measured work on the last CPU, everything that shall not disturb it on the first.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The CPUs this process was given, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpus(Vec<usize>);

impl Cpus {
    /// Reads them; call it before the first [`Cpus::pin`].
    pub fn of_this_process() -> Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0)).context("read the CPU affinity")?;
        Ok(Self((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()))
    }

    /// For the measured work.
    pub fn work(&self) -> usize {
        self.0.last().copied().unwrap_or(0)
    }

    /// For agents, servers of objects, and clients of a measured server.
    pub fn aside(&self) -> usize {
        self.0.first().copied().unwrap_or(0)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Pins the calling thread; threads and programs it starts inherit it.
pub fn to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pin to CPU {cpu}"))
}

/// Lets the calling thread run on all of `cpus` again.
pub fn release(cpus: &Cpus) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.0.iter().try_for_each(|cpu| set.set(*cpu))?;
    sched_setaffinity(Pid::from_raw(0), &set).context("undo the pinning")
}
