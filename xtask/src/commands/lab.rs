//! `cargo xtask lab clean`: removes what a killed test, demo or benchmark left on this machine.

use anyhow::Result;
use clap::Subcommand;

use crate::{
    debian, shell,
    workspace::{Profile, Workspace},
};

/// What `lab` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Action {
    /// Remove the namespaces, devices and mounts of lab runs that no longer live.
    Clean,
}

/// Builds the lab's own program, which needs no datapath, and becomes it.
pub fn run(args: &Args) -> Result<()> {
    let Action::Clean = args.action;
    shell::require_root("lab clean", "it removes network namespaces and mounts")?;
    debian::ensure_tools(debian::LAB_TOOLS, "for the lab's networks")?;
    let workspace = Workspace::find()?;
    let mut cargo = workspace.cargo("build");
    shell::run_helper(cargo.args(["--locked", "--package", "lab", "--bin", "fairway-lab"]))?;
    shell::become_program(workspace.built_program("fairway-lab", Profile::Dev).arg("clean"))
}
