//! Installing what compiles the datapath, where it is not there yet.
//!
//! On Debian as root, its packages are taken; elsewhere rustup, where it is there. Each step is named before
//! it is done. Where neither is possible, one message tells the commands of both ways.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    debian, shell,
    toolchain::{self, Compiler, OLDEST_LINKER, OLDEST_RUSTC, Toolchain},
    workspace,
};

/// Debian's compiler, cargo and library source; always of one release.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
/// The major LLVM versions bpf-linker 0.13 can be built with.
const LINKER_LLVMS: std::ops::RangeInclusive<u64> = 21..=23;

/// Finds the eBPF toolchain, or installs it.
pub fn toolchain() -> Result<Toolchain> {
    let compiler = match Compiler::find() {
        Some(compiler) => compiler,
        None => install_compiler().with_context(both_ways)?,
    };
    let linker = match toolchain::find_linker() {
        Some(linker) => linker,
        None => {
            install_linker(compiler.llvm_major()).with_context(both_ways)?;
            toolchain::find_linker()
                .with_context(|| format!("bpf-linker {OLDEST_LINKER} was installed, but is not found"))?
        }
    };
    shell::say(format!("eBPF toolchain: {compiler}, {}", linker.display()));
    Ok(Toolchain { compiler, linker })
}

fn install_compiler() -> Result<Compiler> {
    shell::say("No eBPF compiler here: neither rustup's nightly with rust-src nor Debian's rustc-web");
    if debian::can_install() {
        debian::refresh_lists()?;
        if let Some(version) = debian::candidate("rustc-web").filter(|version| recent_enough(version)) {
            shell::say(format!("Debian has rustc-web {version}"));
            debian::install(COMPILER_PACKAGES, "to compile the datapath")?;
            return Compiler::of_debian().context("Debian's compiler was installed, but does not work");
        }
    }
    if shell::find_program("rustup").is_some() {
        let mut command = Command::new("rustup");
        command.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
        shell::say(format!("About to install, to compile the datapath: {}", shell::spelled(&command)));
        shell::step("Installing the nightly toolchain", || {
            shell::run_helper(command.env_remove("RUSTUP_TOOLCHAIN"))
        })?;
        return Compiler::of_rustup().context("the nightly toolchain was installed, but does not work");
    }
    bail!("there is no eBPF compiler, and this machine lets neither apt-get (as root) nor rustup install one")
}

fn recent_enough(debian_version: &str) -> bool {
    let mut numbers = debian_version.split(['.', '+', '~', '-']).map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (OLDEST_RUSTC.major, OLDEST_RUSTC.minor),
        _ => false,
    }
}

fn install_linker(llvm: u64) -> Result<()> {
    shell::say(format!("bpf-linker {OLDEST_LINKER} or newer is not here"));
    if !LINKER_LLVMS.contains(&llvm) {
        return binstall_linker(llvm);
    }
    let prefix = llvm_prefix(llvm);
    let llvm_package = format!("llvm-{llvm}-dev");
    let mut packages = Vec::new();
    if !Path::new(&prefix).join("bin/llvm-config").is_file() {
        packages.push(llvm_package.as_str());
    }
    if shell::find_program("g++").is_none() {
        packages.push("g++");
    }
    if !packages.is_empty() {
        if !debian::can_install() {
            return binstall_linker(llvm);
        }
        debian::refresh_lists()?;
        if debian::candidate(&llvm_package).is_none() {
            return binstall_linker(llvm);
        }
        debian::install(&packages, "to build bpf-linker")?;
    }
    let mut command = Command::new(workspace::host_cargo());
    command.args(linker_arguments(llvm)).env("LLVM_PREFIX", &prefix).env(llvm_sys_variable(llvm), &prefix);
    command.envs(LINKER_PROFILE);
    // Built in cargo's own temporary directory, whatever this workspace's is.
    command.env_remove("CARGO_TARGET_DIR");
    shell::say(format!("About to install, to link the datapath: {}", linker_line(llvm)));
    shell::step("Building bpf-linker", || shell::run_helper(&mut command))
}

fn binstall_linker(llvm: u64) -> Result<()> {
    if shell::find_program("cargo-binstall").is_none() {
        bail!("bpf-linker cannot be built here: there is no LLVM {llvm} with its headers");
    }
    let mut command = Command::new(workspace::host_cargo());
    command.args(["binstall", "--no-confirm", "bpf-linker"]);
    shell::say(format!("About to install, to link the datapath: {}", shell::spelled(&command)));
    shell::step("Installing bpf-linker", || shell::run_helper(&mut command))
}

/// The linker's work is done inside LLVM, which is optimised already: its own code need not be, and so it is
/// built in less than half the time and links our object just as fast, into the same bytes.
const LINKER_PROFILE: [(&str, &str); 2] =
    [("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"), ("CARGO_PROFILE_RELEASE_DEBUG", "false")];

fn linker_arguments(llvm: u64) -> Vec<String> {
    let feature = format!("llvm-{llvm}");
    let version = OLDEST_LINKER.to_string();
    // --force: an older or broken one may be registered.
    let fixed = ["install", "bpf-linker", "--locked", "--force", "--version"];
    let words = fixed.into_iter().chain([version.as_str(), "--no-default-features", "--features", &feature]);
    words.map(str::to_owned).collect()
}

/// The command by which a person builds bpf-linker.
fn linker_line(llvm: u64) -> String {
    let (prefix, variable) = (llvm_prefix(llvm), llvm_sys_variable(llvm));
    let profile = LINKER_PROFILE.map(|(name, value)| format!("{name}={value}")).join(" ");
    format!("LLVM_PREFIX={prefix} {variable}={prefix} {profile} cargo {}", linker_arguments(llvm).join(" "))
}

fn llvm_prefix(llvm: u64) -> String {
    format!("/usr/lib/llvm-{llvm}")
}

/// The variable from which llvm-sys of that LLVM takes its place.
fn llvm_sys_variable(llvm: u64) -> String {
    format!("LLVM_SYS_{llvm}1_PREFIX")
}

/// What a person types to get a toolchain, in either way.
fn both_ways() -> String {
    format!(
        "the eBPF toolchain is not complete. Either of these makes it so:\n\
         \x20 with rustup:\n\
         \x20   rustup toolchain install nightly --profile minimal --component rust-src\n\
         \x20   cargo binstall bpf-linker        (or build it with cargo install against LLVM)\n\
         \x20 on Debian or Ubuntu, as root, where there is no package `rustc`:\n\
         \x20   {}\n\
         \x20   {}\n\
         The cause",
        debian::install_line(&[COMPILER_PACKAGES, &["llvm-22-dev", "g++"]].concat()),
        linker_line(22),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_old_compilers_are_not_taken() {
        assert!(recent_enough("1.96.0+dfsg1-1~deb12u2"));
        assert!(!recent_enough("1.85.0+dfsg3-1~deb12u3"));
        assert!(!recent_enough(""));
    }

    #[test]
    fn the_message_names_the_commands_of_both_ways() {
        let message = both_ways();
        for part in ["rustup toolchain install nightly", "rustc-web cargo-web rust-web-src llvm-22-dev"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(message.contains("LLVM_SYS_221_PREFIX=/usr/lib/llvm-22"), "{message}");
        assert!(message.contains("--version 0.13.0 --no-default-features --features llvm-22"), "{message}");
    }
}
