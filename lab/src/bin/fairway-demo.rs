//! Fairway at work in a small cluster of network namespaces: `cargo xtask demo` builds and runs this.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::demo::{self, workload};

/// Shows Fairway at work in a small cluster made of network namespaces, and measures what it shows.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: demo::Options,
}

#[derive(Subcommand)]
enum Command {
    /// The program of a pod; the demo starts it
    #[command(hide = true)]
    Pod(workload::PodArgs),
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Pod(pod)) => workload::serve(&pod).map(|()| ExitCode::SUCCESS),
        None => demo::run(&arguments.options),
    }
}
