//! Suite `forward`: packets per second of one core through a node, and what one hop costs above the drop floor.
//!
//! One CPU does everything: it generates live frames in the client's namespace, the node forwards them, a sink in
//! the far namespace counts and drops them. The same frames dropped by XDP at the node's first device give the floor:
//! generator, one veth and the counting. A hop's cost is the total less the floor of the same round.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench_ebpf::Sunk;
use lab::Ns;
use lab::address::Dual;

use super::{Setup, progress};
use crate::fairway::Fairway;
use crate::floor;
use crate::frames::{FlowSet, Kind, Macs};
use crate::net::{self, Net, Side};
use crate::pin;
use crate::report::{Better, Cell, SuiteReport};
use crate::rivals::Rival;
use crate::stats::Summary;
use crate::suites::program::Clients;
use crate::testrun;
use crate::world::{NODE_PORT, World};

/// Nodes by contestant.
const FAIRWAY: u8 = 1;
const FAIRWAY_TC: u8 = 2;
const FLOOR: u8 = 3;
/// The rivals' nodes come after these.
const FIRST_RIVAL: u8 = 4;
const RIVALS: [Rival; 3] = [Rival::Nftables, Rival::Iptables, Rival::Routing];
/// Backends of the Service under test.
const BACKENDS: u8 = 64;
const ENDPOINTS: u32 = 1;
/// The floor's name among the contestants.
const FLOOR_NAME: &str = "XDP drop";
/// How long the last frames may take to reach the sink.
const DRAIN: Duration = Duration::from_millis(20);

/// Runs the suite.
pub fn run(setup: &mut Setup) -> Result<SuiteReport> {
    let mut report = SuiteReport::default();
    for services in setup.services(setup.pick(&[1, 30_000], &[1, 20])) {
        let (cells, notes) = stage(setup, services).with_context(|| format!("{services} services"))?;
        report.cells.extend(cells);
        report.notes.extend(notes);
    }
    report.notes.push(
        "ns/packet: the hop, above an XDP drop at the node's first device; `kpps`: everything on one core, generator \
         and sink included. Lost frames did not reach the sink."
            .to_owned(),
    );
    Ok(report)
}

/// One contestant's way: where frames begin and how they look.
struct Lane {
    who: String,
    generator: Ns,
    device: u32,
    macs: Macs,
    clients: Clients,
    /// The next new flow.
    fresh: u32,
}

/// One sample.
struct Sample {
    total_ns: f64,
    hop_ns: f64,
    lost: f64,
    floor_ns: f64,
    quiet: bool,
}

fn stage(setup: &mut Setup, services: u32) -> Result<(Vec<Cell>, Vec<String>)> {
    let net = Net::build(FIRST_RIVAL + RIVALS.len() as u8 - 1)?;
    let world = |node| World { node, services, backends: BACKENDS, endpoints: ENDPOINTS };
    // First: what XDP may redirect to is what can take it when the agent looks.
    let links = attach(setup, &net)?;
    let mut agents = Vec::new();
    for (node, mode) in [(FAIRWAY, "auto"), (FAIRWAY_TC, "off")] {
        let flags = ["--max-flows", "1048576", "--xdp-mode", mode];
        let mut fairway = Fairway::start(&net, node, world(node).objects(), &flags)?;
        fairway.freeze()?;
        agents.push(fairway);
    }
    let mut not_loaded = Vec::new();
    for (rival, node) in RIVALS.into_iter().zip(FIRST_RIVAL..) {
        let loaded = rival.load(net.node(node).ns(), &rival.rules(&world(node)));
        let wrong = loaded.with_context(|| rival.name())?.wrong();
        not_loaded.extend(wrong.map(|wrong| (rival.name(), wrong)));
    }
    let mut lanes = lanes(&net)?;
    lanes.retain(|lane| not_loaded.iter().all(|(who, _)| lane.who != *who));
    let cells = measure(setup, &mut lanes, services)?;
    drop(links);
    let notes = not_loaded.into_iter().map(|(who, wrong)| format!("{services} services, {who}: {wrong}"));
    Ok((cells, notes.collect()))
}

/// The sinks, the generators' empty programs, and NAPI where the stack receives redirected frames.
fn attach(setup: &Setup, net: &Net) -> Result<Vec<OwnedFd>> {
    let mut links = Vec::new();
    let mut put = |ns: &Ns, device: &str, program: &str| -> Result<()> {
        let (index, _) = net::device(ns, device)?;
        links.push(ns.run(|| setup.object.attach_xdp(program, index))??);
        Ok(())
    };
    for n in 1..FIRST_RIVAL + RIVALS.len() as u8 {
        put(net.client(), &format!("in-{n}"), "bench_xdp_nil")?;
        put(net.far(), &format!("be-{n}"), "bench_sink")?;
        let ns = net.node(n).ns();
        match n {
            FAIRWAY => {}
            FLOOR => put(ns, Side::Client.device(), "bench_sink")?,
            _ => net::features(ns, Side::Client.device(), &["gro", "on"])?,
        }
    }
    Ok(links)
}

fn lanes(net: &Net) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    let mut lane = |who: &str, n: u8, side: Side| -> Result<()> {
        let (generator, device): (_, _) = match side {
            Side::Client => (net.client().clone(), format!("in-{n}")),
            Side::Far => (net.far().clone(), format!("be-{n}")),
        };
        let (device, _) = net::device(&generator, &device)?;
        // Plain routing has no Service: its frames go to a backend as they are.
        let (server, port): (IpAddr, u16) = if who == Rival::Routing.name() {
            (net::backend(n, 1).v4.into(), crate::world::TARGET_PORT)
        } else {
            (net::node_address(n, side).v4.into(), NODE_PORT)
        };
        let address: fn(u32) -> Dual = match side {
            Side::Client => |i| net::imagined_client(Side::Client, i),
            Side::Far => |i| net::imagined_client(Side::Far, i),
        };
        let clients = Clients { address, server, port };
        let macs = net::macs_in(n, side);
        lanes.push(Lane { who: who.to_owned(), generator, device, macs, clients, fresh: 200_000 });
        Ok(())
    };
    lane(FLOOR_NAME, FLOOR, Side::Client)?;
    lane("fairway", FAIRWAY, Side::Client)?;
    lane("fairway one-armed", FAIRWAY, Side::Far)?;
    lane("fairway tc", FAIRWAY_TC, Side::Client)?;
    for (rival, n) in RIVALS.into_iter().zip(FIRST_RIVAL..) {
        lane(rival.name(), n, Side::Client)?;
    }
    Ok(lanes)
}

fn measure(setup: &mut Setup, lanes: &mut [Lane], services: u32) -> Result<Vec<Cell>> {
    let established = setup.flows(setup.pick(&[1_024, 65_536], &[64]));
    let rounds = setup.rounds(7);
    let mut cells = Vec::new();
    // New flows last: they fill tables.
    let cases = established.iter().map(|flows| (format!("established, {flows} flows"), Some(*flows)));
    for (case, flows) in cases.chain([("new flow".to_owned(), None)]) {
        if !setup.wants(&case) {
            continue;
        }
        let bar = progress(&format!("{services} services, {case}"), u64::from(rounds) * lanes.len() as u64);
        let mut samples: Vec<Vec<Sample>> = lanes.iter().map(|_| Vec::new()).collect();
        let mut repeated = 0;
        if let Some(flows) = flows {
            for lane in lanes.iter_mut() {
                let set = lane.known(flows)?;
                lane.send(setup, &set, flows)?;
            }
        }
        let mut round = 0;
        while round < rounds {
            let mut drop_ns = 0.0;
            let mut of_round = Vec::new();
            for lane in lanes.iter_mut() {
                bar.set_message(lane.who.clone());
                let sample = lane.sample(setup, flows, drop_ns)?;
                if lane.who == FLOOR_NAME {
                    drop_ns = sample.total_ns;
                }
                of_round.push(sample);
                bar.inc(1);
            }
            if of_round.iter().any(|s| !s.quiet) && repeated < floor::MAX_REPEATS {
                repeated += 1;
                bar.set_position(u64::from(round) * lanes.len() as u64);
                continue;
            }
            round += 1;
            samples.iter_mut().zip(of_round).for_each(|(all, sample)| all.push(sample));
        }
        bar.finish_and_clear();
        for (lane, samples) in lanes.iter().zip(&samples) {
            cells.push(cell(&case, &lane.who, samples, services, repeated));
        }
    }
    Ok(cells)
}

impl Lane {
    fn known(&self, flows: u32) -> Result<FlowSet> {
        FlowSet::new(self.macs, Kind::Udp, self.clients.tuples(0, flows))
    }

    fn sample(&mut self, setup: &mut Setup, flows: Option<u32>, drop_ns: f64) -> Result<Sample> {
        let (set, count) = match flows {
            Some(flows) => (self.known(flows)?, setup.pick(200_000, 2_000).max(flows)),
            None => {
                let count = setup.pick(8_192, 256);
                let set = FlowSet::new(self.macs, Kind::Udp, self.clients.tuples(self.fresh, count))?;
                self.fresh += count;
                (set, count)
            }
        };
        let Sent { sunk, floor_ns, quiet } = self.send(setup, &set, count)?;
        // How fast they arrive; what the kernel does before the first and after the last one is left out.
        let total_ns = sunk.last_ns.saturating_sub(sunk.first_ns) as f64
            / (sunk.last_count - sunk.first_count).max(1) as f64;
        Ok(Sample {
            total_ns,
            hop_ns: if self.who == FLOOR_NAME { total_ns } else { total_ns - drop_ns },
            lost: 1.0 - sunk.count as f64 / f64::from(count),
            floor_ns,
            quiet,
        })
    }

    /// Sends `count` frames of the set and waits for the last one.
    fn send(&self, setup: &mut Setup, set: &FlowSet, count: u32) -> Result<Sent> {
        self.generator.run(|| -> Result<_> {
            pin::to(setup.cpus.work())?;
            let object = &setup.object;
            object.choose(set)?;
            let before = setup.floor.look(object)?;
            object.drain()?;
            testrun::live(object.program("bench_gen4")?, self.device, &set.first, count)?;
            let (mut changed, mut sunk) = (Instant::now(), object.sunk()?);
            while sunk.count < u64::from(count) && changed.elapsed() < DRAIN {
                thread::yield_now();
                let now = object.sunk()?;
                if now.count > sunk.count {
                    (changed, sunk) = (Instant::now(), now);
                }
            }
            let floor_ns = before.max(setup.floor.look(object)?);
            Ok(Sent { sunk, floor_ns, quiet: setup.floor.is_quiet(floor_ns) })
        })?
    }
}

/// What became of the frames.
struct Sent {
    sunk: Sunk,
    floor_ns: f64,
    quiet: bool,
}

fn cell(case: &str, who: &str, samples: &[Sample], services: u32, repeated: u32) -> Cell {
    let pick = |f: fn(&Sample) -> f64| Summary::of(&samples.iter().map(f).collect::<Vec<_>>());
    let mut cell = Cell::new(case, who, "ns/packet", Better::Lower).with("services", services.into());
    cell.summary = pick(|s| s.hop_ns);
    cell.floor_ns = Some(pick(|s| s.floor_ns));
    cell.extra.insert("kpps".to_owned(), 1e6 / pick(|s| s.total_ns).median);
    cell.extra.insert("lost %".to_owned(), 100.0 * pick(|s| s.lost).median);
    cell.repeated = repeated;
    cell.disturbed = samples.iter().filter(|s| !s.quiet).count() as u32;
    if cell.extra["lost %"] > 50.0 {
        cell.wrong = Some("most frames were lost".to_owned());
    }
    cell
}
