//! `cargo xtask lint`: format, clippy with warnings denied, and cargo-deny's bans, licences and sources.
//!
//! cargo-deny's advisories are left out: their database is not on crates.io, and a check that depends on
//! today's network would make the same commit pass and fail.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{shell, workspace::Workspace};

/// The version that is installed where there is none; it builds with rustc 1.88.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// What `lint` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only format and clippy.
    #[arg(long)]
    no_deny: bool,
}

/// Checks one thing after the other; the first that is not right ends it.
pub fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::find()?;
    shell::step("Checking the format", || {
        shell::run_helper(workspace.cargo("fmt").args(["--all", "--", "--check"]))
            .context("the sources are not formatted: run `cargo fmt --all`")
    })?;
    shell::step("Running clippy", || {
        let scope = ["--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        shell::run_helper(workspace.cargo("clippy").args(scope))
    })?;
    if args.no_deny {
        return Ok(());
    }
    ensure_cargo_deny(&workspace)?;
    shell::step("Checking dependencies: bans, licences, sources", || {
        let checks =
            ["--locked", "--all-features", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
        shell::run_helper(workspace.cargo("deny").args(checks))
    })
}

fn ensure_cargo_deny(workspace: &Workspace) -> Result<()> {
    if shell::ask(workspace.cargo("deny").arg("--version")).is_some() {
        return Ok(());
    }
    let mut install: Command = workspace.cargo("install");
    install.args(["cargo-deny", "--locked", "--version", CARGO_DENY_VERSION]);
    install.env_remove("CARGO_TARGET_DIR");
    shell::say(format!("cargo-deny is missing; about to install it: {}", shell::spelled(&install)));
    shell::step("Building cargo-deny (some minutes)", || shell::run_helper(&mut install))
}
