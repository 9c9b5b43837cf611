//! `cargo xtask test`: every test of the workspace, with the datapath object and the agent built first.
//!
//! Most of them load programs into the kernel or make network namespaces, so without root nothing is run at
//! all: a test that would be skipped silently is worse than none.

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    debian,
    kernel_object::KernelObject,
    shell,
    workspace::{BENCH_OBJECT_VARIABLE, Profile, Workspace},
};

/// The programs that tests run.
const PACKAGES: &[&str] = &["lb-user", "lab", "apiserver", "bench"];

/// What `test` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Test only this package; may be repeated.
    #[arg(long, short)]
    package: Vec<String>,
    /// Filters and flags for the test programs: `cargo xtask test -- nodeport --nocapture`.
    #[arg(last = true)]
    filters: Vec<OsString>,
}

/// Builds everything, then runs the tests.
pub fn run(args: &Args) -> Result<()> {
    shell::require_root("test", "its tests load eBPF programs and make network namespaces")?;
    debian::ensure_tools(debian::LAB_TOOLS, "for the lab's networks")?;
    let workspace = Workspace::find()?;
    let object = KernelObject::build(&workspace)?;
    let bench_object = KernelObject::build_bench(&workspace)?;
    workspace.build_programs(&object, Profile::Dev, PACKAGES)?;

    // --no-fail-fast: one failing test program must not hide what the others have to say.
    let mut cargo = workspace.cargo_with_object("test", &object, Profile::Dev);
    cargo.arg("--no-fail-fast").env(BENCH_OBJECT_VARIABLE, bench_object.path());
    if args.package.is_empty() {
        cargo.arg("--workspace");
    }
    for package in &args.package {
        cargo.arg("--package").arg(package);
    }
    shell::step("Running the tests", || shell::run_visible(cargo.arg("--").args(&args.filters)))
}
