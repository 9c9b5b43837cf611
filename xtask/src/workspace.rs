//! Where the workspace and its build output are, and how its host programs are compiled.
//!
//! The target directory is the one cargo uses (configuration and `CARGO_TARGET_DIR` included), so `xtask` and
//! a plain `cargo` share compiled dependencies.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;

use crate::{kernel_object::KernelObject, shell};

/// The environment variable from which `lb-user/build.rs` takes the datapath object.
const OBJECT_VARIABLE: &str = "FAIRWAY_BPF_OBJ";
/// The environment variable that tells lab tests and the demo which agent to run.
const AGENT_VARIABLE: &str = "FAIRWAY_BIN";

/// The environment variable that tells the benchmark where its own kernel programs are.
pub const BENCH_OBJECT_VARIABLE: &str = "FAIRWAY_BENCH_OBJ";

/// How host programs are optimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build, with checks.
    Dev,
    /// What is deployed.
    Release,
}

impl Profile {
    /// The profile for a `--release` flag.
    pub fn from_release_flag(release: bool) -> Self {
        if release { Self::Release } else { Self::Dev }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// The workspace this xtask belongs to.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo for the workspace's place and target directory.
    pub fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let metadata = MetadataCommand::new()
            .cargo_path(host_cargo())
            .manifest_path(manifest)
            .no_deps()
            .exec()
            .context("cargo does not describe the workspace")?;
        Ok(Self {
            root: metadata.workspace_root.into_std_path_buf(),
            target: metadata.target_directory.into_std_path_buf(),
        })
    }

    /// The workspace's root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Host cargo in the workspace's root.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(host_cargo());
        command.current_dir(&self.root).arg(subcommand);
        command
    }

    /// Host cargo with the datapath object embedded, and the path of the agent it belongs to.
    pub fn cargo_with_object(&self, subcommand: &str, object: &KernelObject, profile: Profile) -> Command {
        let mut command = self.cargo(subcommand);
        command
            .arg("--locked")
            .env(OBJECT_VARIABLE, object.path())
            .env(AGENT_VARIABLE, self.program("fairway", profile));
        if profile == Profile::Release {
            command.arg("--release");
        }
        command
    }

    /// Where cargo puts the program of that name.
    pub fn program(&self, name: &str, profile: Profile) -> PathBuf {
        self.target.join(profile.directory()).join(name)
    }

    /// A program that `cargo` built here, told which agent to run.
    pub fn built_program(&self, name: &str, profile: Profile) -> Command {
        let mut command = Command::new(self.program(name, profile));
        command.env(AGENT_VARIABLE, self.program("fairway", profile));
        command
    }

    /// Builds every program of these packages, the agent with the datapath inside.
    pub fn build_programs(&self, object: &KernelObject, profile: Profile, packages: &[&str]) -> Result<()> {
        shell::step("Building the programs", || {
            let mut cargo = self.cargo_with_object("build", object, profile);
            cargo.arg("--bins").args(packages.iter().flat_map(|package| ["--package", *package]));
            shell::run_helper(&mut cargo)
        })
    }
}

/// The cargo that runs this xtask, or the one on the path.
pub fn host_cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_the_one_that_holds_xtask() {
        let workspace = Workspace::find().unwrap();
        assert!(workspace.root().join("xtask/Cargo.toml").is_file());
        assert!(workspace.root().join("Cargo.lock").is_file());
    }

    #[test]
    fn release_programs_are_apart_from_dev_programs() {
        let workspace = Workspace { root: "/w".into(), target: "/t".into() };
        assert_eq!(workspace.program("fairway", Profile::Dev), Path::new("/t/debug/fairway"));
        assert_eq!(workspace.program("fairway", Profile::Release), Path::new("/t/release/fairway"));
    }
}
