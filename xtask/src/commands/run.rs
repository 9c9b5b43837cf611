//! `cargo xtask run -- FLAGS`: builds the agent, then becomes `fairway run FLAGS`.

use std::ffi::OsString;

use anyhow::Result;

use super::build;
use crate::{
    shell,
    workspace::{Profile, Workspace},
};

/// What `run` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Optimise the agent, as for deployment.
    #[arg(long)]
    release: bool,
    /// Flags for `fairway run`; see `cargo xtask run -- --help`.
    #[arg(last = true)]
    flags: Vec<OsString>,
}

/// Builds, then runs the agent in place of this process, so that it gets the signals.
pub fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::find()?;
    let profile = Profile::from_release_flag(args.release);
    build::agent(&workspace, profile)?;
    shell::become_program(workspace.built_program("fairway", profile).arg("run").args(&args.flags))
}
