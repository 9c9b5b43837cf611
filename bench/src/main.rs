//! `fairway-bench`: measures Fairway and its rivals in one run; started by `cargo xtask bench`.
//!
//! In: suites, `FAIRWAY_BIN` (the agent) and `FAIRWAY_BENCH_OBJ` (the benchmark's kernel programs). Out: tables on
//! standard output, and with `--json` and `--plot` files. Needs root; everything it makes lives in network
//! namespaces and below one directory of the lab, and is removed at the end, also by a panic or Ctrl-C.

mod fairway;
mod floor;
mod frames;
mod goals;
mod interrupt;
mod net;
mod object;
mod pin;
mod plot;
mod process;
mod report;
mod rivals;
mod stats;
mod suites;
mod testrun;
mod traffic;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Parser;

use report::Document;
use suites::Setup;

/// Measures Fairway and its rivals.
#[derive(Debug, Parser)]
#[command(name = "fairway-bench")]
struct Args {
    /// Suites; all unless told
    suites: Vec<String>,
    /// Write every result as one JSON document
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write charts (SVG) into this directory
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Few and short rounds over small tables: shows that everything runs, measures nothing
    #[arg(long)]
    quick: bool,
    /// Rounds [default: the suite's own]
    #[arg(long)]
    rounds: Option<u32>,
    /// Only cases whose name contains this; may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Only with this many services loaded; may be repeated
    #[arg(long)]
    services: Vec<u32>,
    /// Only with this many flows (suite program); may be repeated
    #[arg(long)]
    flows: Vec<u32>,
}

fn main() -> ExitCode {
    let is_client = std::env::args().nth(1).is_some_and(|word| word == traffic::COMMAND);
    match if is_client { traffic::client_process() } else { bench(&Args::parse()) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairway-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    let chosen: Vec<_> = suites::ALL
        .into_iter()
        .filter(|(name, _)| args.suites.is_empty() || args.suites.iter().any(|s| s == name))
        .collect();
    if let Some(unknown) = args.suites.iter().find(|s| !suites::ALL.iter().any(|(name, _)| name == s)) {
        bail!("no suite {unknown}; there are: {}", suites::ALL.map(|(name, _)| name).join(", "));
    }
    interrupt::watch()?;
    let cpus = pin::Cpus::of_this_process()?;
    pin::to(cpus.work())?;
    let object = object::BenchObject::load()?;
    let floor = floor::Floor::find(&object)?;
    pin::to(cpus.aside())?;
    let mut setup = Setup {
        object,
        floor,
        cpus,
        quick: args.quick,
        rounds: args.rounds,
        only: args.only.clone(),
        services: args.services.clone(),
        flows: args.flows.clone(),
    };
    let started_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut reports = BTreeMap::new();
    for (name, run) in chosen {
        let began = Instant::now();
        let mut report = run(&mut setup).with_context(|| format!("suite {name}"))?;
        report.seconds = began.elapsed().as_secs_f64();
        println!("\n{name} ({:.0} s)\n{}", report.seconds, report::table(&report));
        reports.insert(name.to_owned(), report);
    }
    let document = Document {
        version: env!("CARGO_PKG_VERSION"),
        command: command_line(),
        quick: args.quick,
        started_unix_s,
        machine: machine(&setup.cpus),
        floor_ns: setup.floor.quietest_ns(),
        goals: goals::judge(&reports),
        suites: reports,
    };
    println!("\ngoals\n{}", report::goals(&document.goals));
    println!("\nempty program: {} ns at best; command: {}", document.floor_ns, document.command);
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&document)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(dir) = &args.plot {
        for file in plot::all(dir, &document.suites)? {
            println!("drawn: {}", dir.join(file).display());
        }
    }
    Ok(())
}

fn command_line() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask bench {}", words.join(" ")).trim_end().to_owned()
}

fn machine(cpus: &pin::Cpus) -> BTreeMap<&'static str, String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    BTreeMap::from([
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("cpu", model.map_or_else(String::new, |(_, name)| name.to_owned())),
        ("cpus", cpus.count().to_string()),
    ])
}
