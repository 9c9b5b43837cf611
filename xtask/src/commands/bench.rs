//! `cargo xtask bench [SUITE...]`: builds everything as it is deployed, then becomes the benchmark.
//!
//! The rivals' tools are installed like the lab's. What the suites are and how they measure: `bench/src`.

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    debian,
    kernel_object::KernelObject,
    shell,
    workspace::{BENCH_OBJECT_VARIABLE, Profile, Workspace},
};

/// What `bench` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Suites: program, forward, connect, stream, control; all of them unless told
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

/// Builds, then becomes the benchmark, so that Ctrl-C reaches it and it can clean up.
pub fn run(args: &Args) -> Result<()> {
    shell::require_root("bench", "it makes network namespaces and loads eBPF programs")?;
    debian::ensure_tools(debian::LAB_TOOLS, "for the benchmark's networks and the rivals")?;
    let workspace = Workspace::find()?;
    let object = KernelObject::build(&workspace)?;
    let bench_object = KernelObject::build_bench(&workspace)?;
    shell::step("Building the agent and the benchmark", || {
        let mut cargo = workspace.cargo_with_object("build", &object, Profile::Release);
        shell::run_helper(cargo.args(["-p", "lb-user", "-p", "bench", "--bins"]))
    })?;
    let mut bench = workspace.built_program("fairway-bench", Profile::Release);
    bench.env(BENCH_OBJECT_VARIABLE, bench_object.path()).args(&args.suites).args(flags(args)?);
    shell::become_program(&mut bench)
}

fn flags(args: &Args) -> Result<Vec<OsString>> {
    let mut flags = Vec::new();
    let mut flag = |name: &str, value: OsString| flags.extend([OsString::from(name), value]);
    for (name, path) in [("--json", &args.json), ("--plot", &args.plot)] {
        if let Some(path) = path {
            flag(name, std::path::absolute(path).context("the current directory is gone")?.into());
        }
    }
    if let Some(rounds) = args.rounds {
        flag("--rounds", rounds.to_string().into());
    }
    for text in &args.only {
        flag("--only", text.into());
    }
    for (name, numbers) in [("--services", &args.services), ("--flows", &args.flows)] {
        numbers.iter().for_each(|number| flag(name, number.to_string().into()));
    }
    flags.extend(args.quick.then(|| "--quick".into()));
    Ok(flags)
}
