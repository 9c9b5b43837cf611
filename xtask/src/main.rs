//! Fairway's project commands, as `cargo xtask COMMAND`.
//!
//! One module per command under [`commands`]; what they share is beside it: [`workspace`] (where things are,
//! the host's cargo), [`toolchain`] and [`provision`] (find and install the eBPF compiler), [`kernel_object`]
//! (compile the datapath), [`debian`] (packages) and [`shell`] (say, then run).
//!
//! Everything a command installs is named before it is installed. What xtask says itself goes to standard
//! error, so that standard output belongs to the program a command runs.

mod commands;
mod debian;
mod kernel_object;
mod provision;
mod shell;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{bench, build, demo, lab, lint, run, test};

/// Fairway's project commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the datapath object and the `fairway` binary that carries it.
    Build(build::Args),
    /// Run every test: unit, property, script, BPF_PROG_TEST_RUN and lab. Needs root.
    Test(test::Args),
    /// Build, then run the agent on this machine: `cargo xtask run -- --manifests DIR`.
    Run(run::Args),
    /// Check format, clippy, dependencies and licences.
    Lint(lint::Args),
    /// Show Fairway at work in a cluster of network namespaces. Needs root.
    Demo(demo::Args),
    /// Measure Fairway against its rivals: `cargo xtask bench [SUITE...]`. Needs root.
    Bench(bench::Args),
    /// Manage what the lab makes on this machine.
    Lab(lab::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Build(args) => build::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Lab(args) => lab::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
