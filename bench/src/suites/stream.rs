//! Suite `stream`: bulk TCP through nodePort and clusterIP, against plain routing: throughput, and CPU per gigabyte.
//!
//! One connection, one sender, one receiver. CPU time is that of the whole machine while the transfer runs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::tcp::{Arena, Contestant, Via, Way};
use super::{Setup, progress, quiet_rounds};
use crate::report::{Better, Cell, SuiteReport};
use crate::rivals::Rival;
use crate::stats::Summary;
use crate::traffic::{self, Job};

const VIAS: [Via; 3] = [Via::NodePort, Via::PodClusterIp, Via::NodeClusterIp];
const CONTESTANTS: [Contestant; 6] = [
    Contestant::Xdp,
    Contestant::Tc,
    Contestant::Rival(Rival::Nftables),
    Contestant::Rival(Rival::Iptables),
    Contestant::Rival(Rival::Routing),
    Contestant::RoutingXdp,
];

/// Runs the suite.
pub fn run(setup: &mut Setup) -> Result<SuiteReport> {
    let arena = Arena::build(setup, 1, &CONTESTANTS, &VIAS)?;
    let mut report = SuiteReport::default();
    for via in VIAS {
        for (job, title) in [(Job::Upload, "upload"), (Job::Download, "download")] {
            let case = format!("{title}, {}", via.name());
            if setup.wants(&case) {
                let ways: Vec<_> = arena.ways.iter().filter(|way| way.via == via).collect();
                report.cells.extend(measure(setup, &case, job, &ways)?);
            }
        }
    }
    report.notes.push(
        "`fairway` and `routing, empty XDP` have native XDP on both of the node's uplinks, which on a veth rules out \
         segmentation and checksum offload; all others have every offload. Compare like with like."
            .to_owned(),
    );
    Ok(report)
}

fn measure(setup: &mut Setup, case: &str, job: Job, ways: &[&Way]) -> Result<Vec<Cell>> {
    let rounds = setup.rounds(5);
    let time = setup.pick(Duration::from_secs(1), Duration::from_millis(50));
    let bar = progress(case, u64::from(rounds) * ways.len() as u64);
    let all = quiet_rounds(setup, rounds, &bar, |setup| {
        let found = ways.iter().map(|way| -> Result<Option<Sample>> {
            bar.set_message(way.contestant.name());
            bar.inc(1);
            if way.wrong.is_some() {
                return Ok(None);
            }
            let (before, cpu) = (busy_seconds()?, setup.cpus.aside());
            let found = traffic::client(&way.ns, way.cgroup.as_deref(), cpu, job, way.to, time)?;
            let gigabytes = found.count as f64 / 1e9;
            let cpu_s_per_gb = (busy_seconds()? - before) / gigabytes;
            Ok(Some(Sample { gbit_per_s: found.rate() * 8.0 / 1e9, cpu_s_per_gb }))
        });
        found.collect::<Result<Vec<_>>>()
    })?;
    let cells = ways.iter().enumerate().map(|(i, way)| {
        let pick = |f: fn(Sample) -> f64| {
            Summary::of(&all.results.iter().filter_map(|round| round[i].map(f)).collect::<Vec<_>>())
        };
        let mut cell = Cell::new(case, way.contestant.name(), "Gbit/s", Better::Higher);
        cell.summary = pick(|s| s.gbit_per_s);
        cell.floor_ns = Some(Summary::of(&all.floors));
        cell.extra.insert("CPU s/GB".to_owned(), pick(|s| s.cpu_s_per_gb).median);
        (cell.repeated, cell.disturbed) = (all.repeated, all.disturbed);
        cell.wrong.clone_from(&way.wrong);
        cell
    });
    Ok(cells.collect())
}

/// One transfer.
#[derive(Debug, Clone, Copy)]
struct Sample {
    gbit_per_s: f64,
    cpu_s_per_gb: f64,
}

/// Seconds all CPUs together have been busy since boot.
fn busy_seconds() -> Result<f64> {
    /// The kernel counts in hundredths, whatever its own tick.
    const PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq; idle and iowait are not busy.
    let busy = fields.iter().take(7).enumerate().filter(|(i, _)| *i != 3 && *i != 4).map(|(_, f)| f);
    Ok(busy.sum::<f64>() / PER_SECOND)
}
