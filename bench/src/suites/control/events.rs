//! From a changed EndpointSlice to the map: single events, a rolling update, a Service with many ports.
//!
//! The change is given to the API server, and the clock runs until the agent has committed its next sync to the
//! kernel's configuration map. Rivals replace the one Service's rules.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_user::datapath::Viewer;
use serde_json::{Value, json};

use super::{FAIRWAY, RIVALS, Size, clean};
use crate::fairway::Fairway;
use crate::net::Net;
use crate::process;
use crate::report::{Better, Cell};
use crate::stats::Summary;
use crate::suites::{Setup, progress};
use crate::world::{self, TARGET_PORT};

/// How long a change may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause between looks at the configuration map.
const LOOK: Duration = Duration::from_micros(20);
/// Pause before the next single event: the agent is idle again.
const REST: Duration = Duration::from_millis(15);
/// How long one case may go on: an agent that is slow with each event gets fewer of them.
const BUDGET: Duration = Duration::from_secs(30);
/// Pace of the rolling update.
const PACE: Duration = Duration::from_millis(10);
/// Endpoints of a slice of the rolled Service, as Kubernetes makes them.
const SLICE: usize = 100;
/// Where the addresses of replaced endpoints begin: beyond all others.
const REPLACED: u32 = 10_000_000;

const ROLLED: &str = "bench-rolled";
const MANY: &str = "bench-ports";
const CASES: [&str; 3] = ["one slice event", "rolling update", "400 ports, 4 replicas restarted"];

/// Runs them.
pub fn run(setup: &Setup, net: &Net, size: Size) -> Result<Vec<Cell>> {
    if !CASES.iter().any(|case| setup.wants(case)) {
        return Ok(Vec::new());
    }
    let rolled = setup.pick(1_000, 200);
    let mut objects = size.objects();
    objects.push(world::ipv4_only_service(ROLLED, world::cluster_ip(60_001)));
    objects.extend((0..rolled / SLICE).map(|number| rolled_slice(number, |i| (number * SLICE + i) as u32)));
    let mut many = ManyPorts { ports: setup.pick(400, 40), generation: 0 };
    objects.extend([many.service(), many.slice()]);
    let fairway = Fairway::start(net, FAIRWAY, objects, size.flags())?;
    let agent = Agent { viewer: fairway.viewer()?, fairway };
    let mut cells = Vec::new();
    if setup.wants(CASES[0]) {
        cells.push(single(setup, &agent, size)?);
        cells.extend(rivals(setup, net, size)?);
    }
    if setup.wants(CASES[1]) {
        cells.push(rolling(setup, &agent, rolled, size)?);
    }
    if setup.wants(CASES[2]) {
        cells.push(many_ports(setup, &agent, &mut many, size)?);
    }
    drop(agent);
    clean(net)?;
    Ok(cells)
}

struct Agent {
    fairway: Fairway,
    viewer: Viewer,
}

impl Agent {
    fn generation(&self) -> Result<u32> {
        Ok(self.viewer.config()?.sync_generation)
    }

    /// Applies a change and waits until it is in the kernel; milliseconds.
    fn change(&self, object: Value) -> Result<f64> {
        let before = self.generation()?;
        let began = Instant::now();
        self.fairway.api.apply(object)?;
        while self.generation()? == before {
            ensure!(began.elapsed() < DEADLINE, "no sync {DEADLINE:?} after a change");
            thread::park_timeout(LOOK);
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }
}

/// The Service's first endpoint becomes another one.
fn replaced(service: u32, endpoints: u32, n: u32) -> Value {
    let addresses: Vec<_> = (0..endpoints)
        .map(|e| if e == 0 { REPLACED + n } else { service * endpoints + e })
        .map(|i| (IpAddr::from(world::filler_endpoint(i).v4), "elsewhere"))
        .collect();
    world::slice(&world::filler_name(service), "IPv4", 0, &addresses, TARGET_PORT, false)
}

fn single(setup: &Setup, agent: &Agent, size: Size) -> Result<Cell> {
    let events = setup.pick(200, 10);
    let bar = progress(CASES[0], u64::from(events));
    let (mut samples, began) = (Vec::new(), Instant::now());
    for n in (0..events).take_while(|_| began.elapsed() < BUDGET) {
        let service = 1 + (n * 7_919) % (size.services - 1);
        samples.push(agent.change(replaced(service, size.endpoints, n))?);
        bar.inc(1);
        thread::park_timeout(REST);
    }
    bar.finish_and_clear();
    let mut cell = size.cell(CASES[0], "fairway", "ms");
    cell.summary = Summary::of(&samples);
    Ok(cell)
}

fn rivals(setup: &Setup, net: &Net, size: Size) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for (rival, n) in RIVALS.into_iter().zip(FAIRWAY + 1..).filter(|(rival, _)| rival.is_there()) {
        let (ns, world) = (net.node(n).ns(), size.world(n));
        let mut cell = size.cell(CASES[0], rival.name(), "ms");
        let loaded = rival.load(ns, &rival.rules(&world)).with_context(|| rival.name())?;
        if let Err(error) = loaded.done() {
            cell.wrong = Some(error.to_string());
            cells.push(cell);
            continue;
        }
        let (changes, changed) = (setup.pick(20, 2), rival.changed(&world));
        let bar = progress(&format!("{}, {}", CASES[0], rival.name()), changes);
        let began = Instant::now();
        let samples = (0..changes).take_while(|_| began.elapsed() < BUDGET).map(|_| {
            bar.inc(1);
            Ok(rival.change(ns, &changed)?.done()?.as_secs_f64() * 1e3)
        });
        let samples: Vec<f64> = samples.collect::<Result<_>>().with_context(|| rival.name())?;
        bar.finish_and_clear();
        rival.unload(ns)?;
        cell.summary = Summary::of(&samples);
        cells.push(cell);
    }
    Ok(cells)
}

fn rolled_slice(number: usize, endpoint: impl Fn(usize) -> u32) -> Value {
    let addresses: Vec<_> = (0..SLICE)
        .map(|i| (IpAddr::from(world::filler_endpoint(REPLACED / 2 + endpoint(i)).v4), "elsewhere"))
        .collect();
    world::slice(ROLLED, "IPv4", number, &addresses, TARGET_PORT, false)
}

/// One endpoint after the other is replaced, an event every [`PACE`].
fn rolling(setup: &Setup, agent: &Agent, endpoints: usize, size: Size) -> Result<Cell> {
    let events = setup.pick(endpoints, 20);
    let bar = progress(CASES[1], events as u64);
    let pid = agent.fairway.pid().context("the agent has ended")?;
    let (cpu, began) = (process::cpu_time(pid)?, Instant::now());
    let mut samples = Vec::new();
    for n in (0..events).take_while(|_| began.elapsed() < BUDGET) {
        let (number, last) = (n / SLICE, n % SLICE);
        // Endpoints of this slice up to this one are new.
        let slice = rolled_slice(number, |i| {
            let old = (number * SLICE + i) as u32;
            if i <= last { old + 1_000_000 } else { old }
        });
        let at = Instant::now();
        samples.push(agent.change(slice)?);
        thread::park_timeout(PACE.saturating_sub(at.elapsed()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let busy = (process::cpu_time(pid)? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let mut cell = size.cell(CASES[1], "fairway", "ms").with("rolled", endpoints as u64);
    cell.summary = Summary::of(&samples);
    cell.extra.insert("agent CPU %".to_owned(), busy * 100.0);
    Ok(cell)
}

/// A Service with many ports and four replicas, all of which are replaced at once.
struct ManyPorts {
    ports: u32,
    generation: u32,
}

impl ManyPorts {
    const REPLICAS: u32 = 4;

    fn service(&self) -> Value {
        let mut service = world::ipv4_only_service(MANY, world::cluster_ip(60_002));
        let ports = (0..self.ports).map(|i| {
            json!({"name": format!("p{i}"), "protocol": "TCP", "port": 1_000 + i, "targetPort": 20_000 + i})
        });
        service["spec"]["ports"] = ports.collect();
        service
    }

    fn slice(&self) -> Value {
        let first = REPLACED * 3 / 2 + self.generation * Self::REPLICAS;
        let addresses: Vec<_> = (first..first + Self::REPLICAS)
            .map(|i| (IpAddr::from(world::filler_endpoint(i).v4), "elsewhere"))
            .collect();
        let mut slice = world::slice(MANY, "IPv4", 0, &addresses, TARGET_PORT, false);
        let ports =
            (0..self.ports).map(|i| json!({"name": format!("p{i}"), "protocol": "TCP", "port": 20_000 + i}));
        slice["ports"] = ports.collect();
        slice
    }
}

fn many_ports(setup: &Setup, agent: &Agent, many: &mut ManyPorts, size: Size) -> Result<Cell> {
    let (mut samples, began) = (Vec::new(), Instant::now());
    for _ in (0..setup.pick(20, 2)).take_while(|_| began.elapsed() < BUDGET) {
        many.generation += 1;
        samples.push(agent.change(many.slice())?);
        thread::park_timeout(REST);
    }
    let mut cell = Cell::new(CASES[2], "fairway", "ms", Better::Lower)
        .with("services", size.services.into())
        .with("ports", many.ports.into());
    cell.summary = Summary::of(&samples);
    Ok(cell)
}
