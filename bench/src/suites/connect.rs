//! Suite `connect`: TCP connections per second, how long a connect takes, and request/response on an open connection.
//!
//! One client on one CPU, one server on another. A connection is opened and reset at once. With 1 to 30,000 Services
//! loaded; the one under test lies in the middle of the rivals' rules, its nodePort behind all of them, as
//! kube-proxy has it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::tcp::{Arena, Contestant, Via, Way};
use super::{Setup, progress, quiet_rounds};
use crate::report::{Better, Cell, SuiteReport};
use crate::rivals::Rival;
use crate::stats::Summary;
use crate::traffic::{self, Found, Job};

const VIAS: [Via; 3] = [Via::NodePort, Via::PodClusterIp, Via::NodeClusterIp];

/// Runs the suite.
pub fn run(setup: &mut Setup) -> Result<SuiteReport> {
    let mut report = SuiteReport::default();
    let mut contestants = vec![Contestant::Xdp, Contestant::Tc];
    for rival in [Rival::Nftables, Rival::Iptables, Rival::IptablesLegacy, Rival::Routing] {
        if rival.is_there() {
            contestants.push(Contestant::Rival(rival));
        } else {
            report.notes.push(format!("{} is not installed here", rival.name()));
        }
    }
    for services in setup.services(setup.pick(&[1, 1_000, 10_000, 30_000], &[1, 20])) {
        let cells = stage(setup, services, &contestants).with_context(|| format!("{services} services"))?;
        report.cells.extend(cells);
    }
    report.notes.push("routing: no Service, the backend's address through the same node".to_owned());
    Ok(report)
}

fn stage(setup: &mut Setup, services: u32, contestants: &[Contestant]) -> Result<Vec<Cell>> {
    let arena = Arena::build(setup, services, contestants, &VIAS)?;
    let mut cells = Vec::new();
    for (job, title) in [(Job::Connect, "connect"), (Job::Ask, "request/response")] {
        for via in VIAS {
            let case = format!("{title}, {}", via.name());
            if !setup.wants(&case) {
                continue;
            }
            let ways: Vec<_> = arena.ways.iter().filter(|way| way.via == via).collect();
            cells.extend(measure(setup, &case, job, &ways, services)?);
        }
    }
    Ok(cells)
}

fn measure(setup: &mut Setup, case: &str, job: Job, ways: &[&Way], services: u32) -> Result<Vec<Cell>> {
    let rounds = setup.rounds(7);
    let time = setup.pick(Duration::from_millis(400), Duration::from_millis(20));
    let bar = progress(&format!("{services} services, {case}"), u64::from(rounds) * ways.len() as u64);
    let all = quiet_rounds(setup, rounds, &bar, |setup| {
        let found = ways.iter().map(|way| -> Result<Option<Found>> {
            bar.set_message(way.contestant.name());
            bar.inc(1);
            if way.wrong.is_some() {
                return Ok(None);
            }
            let cpu = setup.cpus.aside();
            traffic::client(&way.ns, way.cgroup.as_deref(), cpu, job, way.to, time).map(Some)
        });
        found.collect::<Result<Vec<_>>>()
    })?;
    let cells = ways.iter().enumerate().map(|(i, way)| {
        let found: Vec<Found> = all.results.iter().filter_map(|round| round[i]).collect();
        let pick = |f: fn(&Found) -> f64| Summary::of(&found.iter().map(f).collect::<Vec<_>>());
        let unit = if job == Job::Connect { "connections/s" } else { "requests/s" };
        let mut cell =
            Cell::new(case, way.contestant.name(), unit, Better::Higher).with("services", services.into());
        cell.summary = pick(Found::rate);
        cell.floor_ns = Some(Summary::of(&all.floors));
        cell.extra.insert("p50 µs".to_owned(), pick(|f| f.p50_us).median);
        cell.extra.insert("p99 µs".to_owned(), pick(|f| f.p99_us).median);
        (cell.repeated, cell.disturbed) = (all.repeated, all.disturbed);
        cell.wrong.clone_from(&way.wrong);
        cell
    });
    Ok(cells.collect())
}
