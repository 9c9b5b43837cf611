//! `cargo xtask build`: the datapath object, then the agent with the object inside.

use anyhow::Result;

use crate::{
    kernel_object::KernelObject,
    shell,
    workspace::{Profile, Workspace},
};

/// What `build` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Optimise the agent, as for deployment.
    #[arg(long)]
    release: bool,
}

/// Builds, and tells where the agent is.
pub fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::find()?;
    agent(&workspace, Profile::from_release_flag(args.release))
}

/// Builds the agent with the datapath inside.
pub fn agent(workspace: &Workspace, profile: Profile) -> Result<()> {
    let object = KernelObject::build(workspace)?;
    shell::step("Building the agent", || {
        let mut cargo = workspace.cargo_with_object("build", &object, profile);
        shell::run_helper(cargo.args(["--package", "lb-user", "--bin", "fairway"]))
    })?;
    shell::say(format!("Agent: {}", workspace.program("fairway", profile).display()));
    Ok(())
}
