//! `cargo xtask demo`: builds everything, then shows Fairway at work in a small cluster of namespaces.

use anyhow::Result;

use crate::{
    debian,
    kernel_object::KernelObject,
    shell,
    workspace::{Profile, Workspace},
};

/// What the demo runs. No more is built: a first run is waited for.
const PACKAGES: &[&str] = &["lb-user", "lab", "apiserver"];

/// What `demo` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the cluster up, and print how to enter it.
    #[arg(long)]
    keep: bool,
    /// Print the facts as one JSON document.
    #[arg(long)]
    json: bool,
}

/// Builds, then becomes the demo, so that Ctrl-C reaches it and it can clean up.
pub fn run(args: &Args) -> Result<()> {
    shell::require_root("demo", "it makes network namespaces and loads eBPF programs")?;
    debian::ensure_tools(debian::LAB_TOOLS, "for the demo's networks")?;
    let workspace = Workspace::find()?;
    let object = KernelObject::build(&workspace)?;
    workspace.build_programs(&object, Profile::Dev, PACKAGES)?;
    let mut demo = workspace.built_program("fairway-demo", Profile::Dev);
    // The demo finds deploy/demo from here.
    demo.current_dir(workspace.root());
    demo.args(args.keep.then_some("--keep")).args(args.json.then_some("--json"));
    shell::become_program(&mut demo)
}
