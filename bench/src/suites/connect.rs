//! Suite `connect`: TCP connections per second, how long a connect takes, and request/response on an open connection.
//!
//! One client on one CPU, one server on another. A connection is opened and reset at once. With 1 to 30,000 Services
//! loaded; the one under test lies in the middle of the rivals' rules, its nodePort behind all of them, as
//! kube-proxy has it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::tcp::{Arena, Contestant, Via, Way};
use super::{Setup, progress};
use crate::floor;
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
    let mut samples: Vec<Vec<Found>> = ways.iter().map(|_| Vec::new()).collect();
    let (mut round, mut repeated, mut disturbed, mut floors) = (0, 0, 0, Vec::new());
    while round < rounds {
        let before = setup.look_at_floor()?;
        let mut of_round = Vec::new();
        for way in ways {
            bar.set_message(way.contestant.name());
            bar.inc(1);
            of_round.push(match way.wrong {
                None => Some(traffic::client(
                    &way.ns,
                    way.cgroup.as_deref(),
                    setup.cpus.aside(),
                    job,
                    way.to,
                    time,
                )?),
                Some(_) => None,
            });
        }
        let floor_ns = before.max(setup.look_at_floor()?);
        let quiet = setup.floor.is_quiet(floor_ns);
        if !quiet && repeated < floor::MAX_REPEATS {
            repeated += 1;
            bar.set_position(u64::from(round) * ways.len() as u64);
            continue;
        }
        round += 1;
        disturbed += u32::from(!quiet);
        floors.push(floor_ns);
        samples.iter_mut().zip(of_round).for_each(|(all, found)| all.extend(found));
    }
    bar.finish_and_clear();
    let cells = ways.iter().zip(&samples).map(|(way, found)| {
        let pick = |f: fn(&Found) -> f64| Summary::of(&found.iter().map(f).collect::<Vec<_>>());
        let unit = if job == Job::Connect { "connections/s" } else { "requests/s" };
        let mut cell =
            Cell::new(case, way.contestant.name(), unit, Better::Higher).with("services", services.into());
        cell.summary = pick(Found::rate);
        cell.floor_ns = Some(Summary::of(&floors));
        cell.extra.insert("p50 µs".to_owned(), pick(|f| f.p50_us).median);
        cell.extra.insert("p99 µs".to_owned(), pick(|f| f.p99_us).median);
        (cell.repeated, cell.disturbed) = (repeated, disturbed);
        cell.wrong.clone_from(&way.wrong);
        cell
    });
    Ok(cells.collect())
}
