//! Suite `program`: nanoseconds per packet of each program, by BPF_PROG_TEST_RUN behind a restoring prologue.
//!
//! For each number of services and of flows: a node with the real agent, whose datapath is then left alone; real
//! flows, made by real first packets; then rounds over all cases. A sample is the program behind the prologue less
//! the prologue before an empty program, both in the same moment; the empty program alone tells whether that moment
//! was quiet. What the datapath counted proves that the case was what its name says.

mod cases;
mod flows;

pub use self::flows::Clients;

use std::os::fd::AsFd;

use anyhow::{Context, Result};

use self::cases::{Case, Flows};
use super::{Setup, progress};
use crate::fairway::{self, Fairway};
use crate::floor;
use crate::net::{self, Net};
use crate::pin;
use crate::report::{Better, Cell, SuiteReport};
use crate::stats::Summary;
use crate::testrun;
use crate::world::World;

/// The node under test.
const NODE: u8 = 1;
/// Backends of the Service under test.
const BACKENDS: u8 = net::BACKENDS;
/// Endpoints of every other Service.
const ENDPOINTS: u32 = 4;
/// Flow records of each family beyond those of the established cases: room for the new ones.
const ROOM: u32 = 1 << 20;

/// Runs the suite.
pub fn run(setup: &mut Setup) -> Result<SuiteReport> {
    let mut report = SuiteReport::default();
    let services = setup.services(setup.pick(&[1, 30_000], &[1, 50]));
    let flows = setup.flows(setup.pick(&[1, 65_536, 1_048_576], &[1, 256, 1_024]));
    for services in services {
        for &flows in &flows {
            let stage = Stage { services, flows };
            let name = format!("{services} services, {flows} flows");
            let cells = stage.run(setup).with_context(|| name)?;
            report.cells.extend(cells);
        }
    }
    report.notes.push(
        "ns/packet: the program's own cost; what prologue and empty program cost is subtracted. \
         `gross` is what BPF_PROG_TEST_RUN says with all of it."
            .to_owned(),
    );
    Ok(report)
}

/// One size of the world.
struct Stage {
    services: u32,
    flows: u32,
}

/// One sample of one case.
struct Sample {
    own_ns: f64,
    gross_ns: f64,
    floor_ns: f64,
    quiet: bool,
    counted: fairway::Reasons,
    repeat: u32,
}

impl Stage {
    fn run(&self, setup: &mut Setup) -> Result<Vec<Cell>> {
        let net = Net::build(1)?;
        // The node's devices take redirected frames while the other ends of their cables can receive such.
        net::features(net.client(), &format!("in-{NODE}"), &["gro", "on"])?;
        net::features(net.far(), &format!("be-{NODE}"), &["gro", "on"])?;
        let world = World { node: NODE, services: self.services, backends: BACKENDS, endpoints: ENDPOINTS };
        let max_flows = (self.flows * 4 + setup.pick(ROOM, ROOM / 16)).next_power_of_two().to_string();
        // Native whatever the far ends of the cables can do: no frame ever leaves here.
        let flags = ["--max-flows", &max_flows, "--xdp-mode", "native"];
        let mut fairway = Fairway::start(&net, NODE, world.objects(), &flags)?;
        fairway.freeze()?;
        let node = net.node(NODE).ns().clone();
        node.run(|| {
            pin::to(setup.cpus.work())?;
            self.measure(setup, &net, &fairway)
        })?
    }

    fn measure(&self, setup: &mut Setup, net: &Net, fairway: &Fairway) -> Result<Vec<Cell>> {
        let title = format!("{} services {} flows", self.services, self.flows);
        let making = progress(&title, 1);
        making.set_message("making flows");
        let mut cases = cases::all(setup, net, fairway, self.flows)?;
        making.finish_and_clear();
        // Fresh flows fill the table: they come last in each round, and established ones are measured before any.
        let (mut established, mut fresh): (Vec<Case>, Vec<Case>) =
            cases.drain(..).partition(|case| matches!(case.flows, Flows::Known(_)));
        let rounds = setup.rounds(9);
        let bar = progress(&title, u64::from(rounds) * (established.len() + fresh.len()) as u64);
        let mut cells = Vec::new();
        for group in [&mut established, &mut fresh] {
            let mut samples: Vec<Vec<Sample>> = group.iter().map(|_| Vec::new()).collect();
            let mut repeated = vec![0; group.len()];
            for _ in 0..rounds {
                for (i, case) in group.iter_mut().enumerate() {
                    bar.set_message(case.name.clone());
                    bar.inc(1);
                    if case.wrong.is_some() {
                        continue;
                    }
                    loop {
                        let sample = self.sample(setup, fairway, case)?;
                        if sample.quiet || repeated[i] >= floor::MAX_REPEATS {
                            samples[i].push(sample);
                            break;
                        }
                        repeated[i] += 1;
                    }
                }
            }
            cells.extend(
                group
                    .iter()
                    .zip(samples)
                    .zip(repeated)
                    .map(|((case, samples), repeated)| self.cell(case, &samples, repeated)),
            );
        }
        bar.finish_and_clear();
        Ok(cells)
    }

    fn sample(&self, setup: &mut Setup, fairway: &Fairway, case: &mut Case) -> Result<Sample> {
        let fresh = case.next_flows(setup.pick(16_384, 512))?;
        let flows = fresh.as_ref().or(case.known()).context("a case has flows")?;
        let repeat = match (&case.flows, case.repeat) {
            (_, Some(repeat)) => repeat,
            (Flows::Known(_), None) => setup.pick(200_000, 2_000).max(flows.count() as u32),
            // Each only once: the second time it would be known.
            (Flows::Fresh { .. }, None) => flows.count() as u32,
        };
        let object = &setup.object;
        object.choose(flows)?;
        let prologue = object.prologue(case.entry, flows)?;
        let viewer = fairway.viewer()?;
        let before = setup.floor.look(object)?;
        object.aim(case.entry, object.nil(case.entry)?)?;
        let alone = testrun::repeat(prologue, case.entry, &flows.first, repeat)?;
        object.rewind()?;
        object.aim(case.entry, case.program.as_fd())?;
        let counted = fairway::reasons(&viewer)?;
        let gross = testrun::repeat(prologue, case.entry, &flows.first, repeat)?;
        let counted = fairway::difference(&counted, &fairway::reasons(&viewer)?);
        let after = setup.floor.look(object)?;
        Ok(Sample {
            own_ns: f64::from(gross.ns) - f64::from(alone.ns),
            gross_ns: f64::from(gross.ns),
            floor_ns: before.max(after),
            quiet: setup.floor.is_quiet(before.max(after)),
            counted,
            repeat,
        })
    }

    fn cell(&self, case: &Case, samples: &[Sample], repeated: u32) -> Cell {
        let pick = |f: fn(&Sample) -> f64| Summary::of(&samples.iter().map(f).collect::<Vec<_>>());
        let mut cell = Cell::new(&case.name, "fairway", "ns/packet", Better::Lower)
            .with("services", u64::from(self.services))
            .with("flows", u64::from(self.flows));
        cell.summary = pick(|s| s.own_ns);
        cell.floor_ns = Some(pick(|s| s.floor_ns));
        cell.extra.insert("gross".to_owned(), pick(|s| s.gross_ns).median);
        cell.repeated = repeated;
        cell.disturbed = samples.iter().filter(|s| !s.quiet).count() as u32;
        cell.wrong.clone_from(&case.wrong);
        if let Some(last) = samples.last() {
            cell.counted = last.counted.iter().map(|(r, n)| (r.label().to_owned(), *n)).collect();
            cell.wrong = cell.wrong.or_else(|| unexpected(case, last));
        }
        cell
    }
}

/// Says what the datapath did instead of what the case is about.
fn unexpected(case: &Case, sample: &Sample) -> Option<String> {
    let as_expected = sample.counted.iter().find(|(r, _)| case.expected.contains(r)).map_or(0, |(_, n)| *n);
    if u64::from(sample.repeat) * 99 / 100 <= as_expected {
        return None;
    }
    let counted: Vec<_> = sample.counted.iter().map(|(r, n)| format!("{} {n}", r.label())).collect();
    Some(format!("{} runs counted as {}", sample.repeat, counted.join(", ")))
}
