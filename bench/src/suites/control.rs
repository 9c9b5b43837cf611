//! Suite `control`: how long objects take to become map entries, and what that costs in memory.
//!
//! The agent is the release build, fed by the API server in this process; both share the machine's CPUs. A start is
//! cold: no maps, no programs. `agent` is the CPU time of the agent's process until it says that it is ready, `wall`
//! the time from starting the program, `sync` the agent's own compile, diff and apply. Rivals load the same Services
//! from a file that is already written; the real kube-proxy computes it first. IPv4 only, as the rivals' rules are.

mod events;
mod memory;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Setup, progress};
use crate::fairway::{self, Fairway};
use crate::net::Net;
use crate::pin;
use crate::process;
use crate::report::{Better, Cell, SuiteReport};
use crate::rivals::{Loaded, PATIENCE, Rival};
use crate::stats::Summary;
use crate::world::{self, World};

/// Fairway's node; the rivals' come after it.
const FAIRWAY: u8 = 1;
const RIVALS: [Rival; 3] = [Rival::Nftables, Rival::Iptables, Rival::IptablesLegacy];
/// Backends of the Service under test, whatever the size of the world.
const BACKENDS: u8 = 4;
/// Endpoints that fit the default maps.
const DEFAULT_FITS: u32 = 120_000;
/// A load that takes longer is not repeated.
const SLOW_MS: f64 = 5_000.0;
/// How long a status may take to be written.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// Services and endpoints of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
}

impl Size {
    /// The agent's flags: default map sizes, unless the world needs more.
    pub fn flags(self) -> &'static [&'static str] {
        if self.services * self.endpoints > DEFAULT_FITS { &["--max-backends", "262144"] } else { &[] }
    }

    fn world(self, node: u8) -> World {
        World { node, services: self.services, backends: BACKENDS, endpoints: self.endpoints }
    }

    /// The objects, IPv4 only.
    pub fn objects(self) -> Vec<Value> {
        world::ipv4_only(self.world(FAIRWAY).objects())
    }

    fn cell(self, case: &str, who: &str, unit: &'static str) -> Cell {
        Cell::new(case, who, unit, Better::Lower)
            .with("services", self.services.into())
            .with("endpoints", self.endpoints.into())
    }
}

/// Runs the suite.
pub fn run(setup: &mut Setup) -> Result<SuiteReport> {
    // Agent and API server may use every CPU, as on a node.
    pin::release(&setup.cpus)?;
    let mut report = SuiteReport::default();
    let sizes = setup.pick(&[(1_000, 10), (10_000, 10), (5_000, 50)][..], &[(50, 3)]);
    let net = Net::build(FAIRWAY + RIVALS.len() as u8)?;
    for &(services, endpoints) in sizes {
        report.cells.extend(cold(setup, &net, Size { services, endpoints })?);
    }
    let size = setup.pick(Size { services: 10_000, endpoints: 10 }, Size { services: 50, endpoints: 3 });
    report.cells.extend(events::run(setup, &net, size)?);
    report.cells.extend(memory::run(setup, &net, size)?);
    report.cells.extend(restart(setup, &net, size)?);
    pin::to(setup.cpus.aside())?;
    Ok(report)
}

/// What a start took.
struct Started {
    wall_ms: f64,
    agent_ms: f64,
    sync_ms: f64,
}

/// Starts the agent on what is there already and waits until everything is in the kernel.
fn start(
    net: &Net,
    api: &apiserver::ApiServer,
    size: Size,
    fairway: &mut Option<lab::Agent>,
) -> Result<Started> {
    let began = Instant::now();
    let agent = net.node(FAIRWAY).start_agent(&fairway::spec(api, size.flags()))?;
    let wall = began.elapsed();
    let agent_time = process::cpu_time(agent.pid().context("the agent has ended")?)?;
    let sync_ms = last_sync_ms(net)?;
    *fairway = Some(agent);
    Ok(Started { wall_ms: wall.as_secs_f64() * 1e3, agent_ms: agent_time.as_secs_f64() * 1e3, sync_ms })
}

/// How long the agent says its last sync took.
fn last_sync_ms(net: &Net) -> Result<f64> {
    let file = net.node(FAIRWAY).state_dir().join("status.json");
    let deadline = Instant::now() + STATUS_DEADLINE;
    loop {
        let status: Value =
            std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        if let Some(micros) = status["last_sync"]["duration_us"].as_f64() {
            return Ok(micros / 1e3);
        }
        anyhow::ensure!(Instant::now() < deadline, "{} has no last sync", file.display());
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn clean(net: &Net) -> Result<()> {
    net.node(FAIRWAY).fairway(["cleanup"]).map(drop)
}

fn cold(setup: &Setup, net: &Net, size: Size) -> Result<Vec<Cell>> {
    const CASE: &str = "cold start";
    if !setup.wants(CASE) {
        return Ok(Vec::new());
    }
    let rivals: Vec<_> =
        RIVALS.into_iter().zip(FAIRWAY + 1..).filter(|(rival, _)| rival.is_there()).collect();
    let rules: Vec<_> = rivals.iter().map(|(rival, n)| rival.rules(&size.world(*n))).collect();
    let rounds = setup.rounds(5);
    let title = format!("cold start, {} × {}", size.services, size.endpoints);
    let bar = progress(&title, u64::from(rounds) * (1 + rivals.len() as u64));
    let api = fairway::serve(net, size.objects())?;
    let mut started = Vec::new();
    let mut loads: Vec<Vec<f64>> = rivals.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        bar.set_message("fairway");
        let mut agent = None;
        started.push(start(net, &api, size, &mut agent)?);
        drop(agent);
        clean(net)?;
        bar.inc(1);
        for (((rival, n), rules), loads) in rivals.iter().zip(&rules).zip(&mut loads) {
            bar.set_message(rival.name());
            bar.inc(1);
            // Once is enough for what takes many seconds.
            if loads.last().is_some_and(|ms| *ms > SLOW_MS) {
                continue;
            }
            let ns = net.node(*n).ns();
            loads.push(match rival.load(ns, rules).with_context(|| rival.name())? {
                Loaded::In(took) => took.as_secs_f64() * 1e3,
                Loaded::Unfinished => f64::INFINITY,
            });
            rival.unload(ns)?;
        }
    }
    bar.finish_and_clear();
    let mut cells = vec![started_cell(size.cell(CASE, "fairway", "ms"), &started)];
    for ((rival, _), loads) in rivals.iter().zip(&loads) {
        let mut cell = size.cell(CASE, rival.name(), "ms");
        if loads.iter().any(|ms| ms.is_infinite()) {
            cell.wrong = Some(format!("not loaded after {} s", PATIENCE.as_secs()));
        } else {
            cell.summary = Summary::of(loads);
        }
        cells.push(cell);
    }
    Ok(cells)
}

/// The wall time as the summary, the rest beside it.
fn started_cell(mut cell: Cell, started: &[Started]) -> Cell {
    let pick = |f: fn(&Started) -> f64| Summary::of(&started.iter().map(f).collect::<Vec<_>>());
    cell.summary = pick(|s| s.wall_ms);
    let (agent, sync) = (pick(|s| s.agent_ms), pick(|s| s.sync_ms));
    cell.extra.insert("agent ms".to_owned(), agent.median);
    cell.extra.insert("agent min ms".to_owned(), agent.min);
    cell.extra.insert("sync ms".to_owned(), sync.median);
    cell.extra.insert("sync min ms".to_owned(), sync.min);
    cell
}

/// The agent is killed and started again with everything in place.
fn restart(setup: &Setup, net: &Net, size: Size) -> Result<Vec<Cell>> {
    const CASE: &str = "restart";
    if !setup.wants(CASE) {
        return Ok(Vec::new());
    }
    let rounds = setup.rounds(5);
    let bar = progress(CASE, u64::from(rounds));
    let mut fairway = Fairway::start(net, FAIRWAY, size.objects(), size.flags())?;
    fairway.freeze()?;
    let mut started = Vec::new();
    for _ in 0..rounds {
        let mut agent = None;
        started.push(start(net, &fairway.api, size, &mut agent)?);
        agent.map(lab::Agent::kill).transpose()?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    clean(net)?;
    Ok(vec![started_cell(size.cell(CASE, "fairway", "ms"), &started)])
}
