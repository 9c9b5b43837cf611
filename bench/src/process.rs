//! What the kernel says about another process.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// `/proc` counts CPU time in hundredths of a second, whatever the kernel's own tick.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of all threads so far.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read the process's times")?;
    let (_, fields) = stat.rsplit_once(") ").context("a stat line without a name")?;
    // utime and stime are fields 14 and 15; the name's parenthesis closes field 2.
    let ticks: u32 = fields.split(' ').skip(11).take(2).filter_map(|f| f.parse::<u32>().ok()).sum();
    Ok(TICK * ticks)
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read the process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory() {
        assert!(resident_bytes(std::process::id()).expect("readable") > 100_000);
        cpu_time(std::process::id()).expect("readable");
    }
}
