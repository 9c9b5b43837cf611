//! Lists the lab's clusters on this machine, removes what killed runs left, and runs programs confined.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use caps::Capability;
use clap::{Parser, Subcommand};
use lab::confine;
use lab::residue::{Run, runs};

/// Clusters that Fairway's lab made of network namespaces on this machine.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show every cluster, whether its process lives, and what exists of it.
    List,
    /// Remove the clusters whose process is gone.
    Clean,
    /// Become a program that has no privileges but these, as in a container.
    Confine {
        /// A capability to keep, such as CAP_BPF; repeatable.
        #[arg(long = "capability")]
        capabilities: Vec<Capability>,
        /// A seccomp profile in the form that containers use.
        #[arg(long)]
        seccomp: Option<PathBuf>,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::List => runs().iter().for_each(describe),
        Command::Clean => return Ok(clean()),
        Command::Confine { capabilities, seccomp, program } => {
            confine::run(&capabilities, seccomp.as_deref(), &program)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(run: &Run) {
    let state = if run.is_orphan() { "left over" } else { "in use" };
    let (namespaces, mounts, processes) = (run.namespaces(), run.mounts().len(), run.processes().len());
    println!(
        "{}  {state}  {mounts} mounts  {processes} processes  {} namespaces",
        run.name(),
        namespaces.len()
    );
    namespaces.iter().for_each(|name| println!("  ip netns exec {name} sh"));
}

fn clean() -> ExitCode {
    let mut failed = false;
    let orphans: Vec<Run> = runs().into_iter().filter(Run::is_orphan).collect();
    if orphans.is_empty() {
        println!("nothing is left over");
    }
    for run in &orphans {
        let failures = run.remove();
        println!(
            "{} {}",
            if failures.is_empty() { "removed" } else { "could not remove all of" },
            run.name()
        );
        failures.iter().for_each(|failure| eprintln!("  {failure}"));
        failed |= !failures.is_empty();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
