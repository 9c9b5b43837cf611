//! Installing packages on Debian and its children.
//!
//! Packages are named before they are installed, nothing is ever removed to make room, and apt never asks.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// A program and the Debian package that has it.
pub type Tool = (&'static str, &'static str);

/// What the lab builds its networks with.
pub const LAB_TOOLS: &[Tool] = &[
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("bridge", "iproute2"),
    ("iptables", "iptables"),
    ("ip6tables", "iptables"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
];

/// Whether this process can install Debian packages.
pub fn can_install() -> bool {
    shell::is_root() && shell::find_program("apt-get").is_some()
}

/// The command by which a person installs these packages.
pub fn install_line(packages: &[&str]) -> String {
    format!("apt-get install -y --no-install-recommends {}", packages.join(" "))
}

/// Reads the package lists anew.
pub fn refresh_lists() -> Result<()> {
    shell::say("Reading the package lists: apt-get update");
    shell::run_helper(apt_get().args(["-qq", "update"]))
}

/// The version that apt would install, after [`refresh_lists`].
pub fn candidate(package: &str) -> Option<String> {
    let policy = shell::ask(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]))?;
    candidate_in(&policy)
}

fn candidate_in(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

/// Installs packages; the lists must be fresh.
pub fn install(packages: &[&str], purpose: &str) -> Result<()> {
    shell::say(format!("About to install, {purpose}: {}", install_line(packages)));
    shell::step("Installing Debian packages", || {
        // --no-remove: Debian's own rustc, say, must not vanish because ours conflicts with it.
        let flags = ["-q", "install", "-y", "--no-install-recommends", "--no-remove"];
        shell::run_helper(apt_get().args(flags).args(packages))
            .with_context(|| format!("apt could not install what is needed {purpose}"))
    })
}

/// Makes sure that these programs are there, installing their packages where that is possible.
pub fn ensure_tools(tools: &[Tool], purpose: &str) -> Result<()> {
    let packages = missing_packages(tools, |program| shell::find_program(program).is_some());
    if packages.is_empty() {
        return Ok(());
    }
    if !can_install() {
        bail!(
            "programs are missing {purpose}, from the Debian packages: {}.\nInstall them as root with: {}",
            packages.join(" "),
            install_line(&packages)
        );
    }
    refresh_lists()?;
    install(&packages, purpose)
}

fn missing_packages(tools: &[Tool], present: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        tools.iter().filter(|(program, _)| !present(program)).map(|&(_, package)| package).collect();
    packages.dedup();
    packages
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "Dpkg::Use-Pty=0"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_package_is_named_once() {
        let missing = missing_packages(LAB_TOOLS, |program| matches!(program, "ip" | "nft"));
        assert_eq!(missing, ["iproute2", "iptables", "ethtool"]);
    }

    #[test]
    fn nothing_is_installed_when_every_tool_is_there() {
        assert!(missing_packages(LAB_TOOLS, |_| true).is_empty());
    }

    #[test]
    fn the_candidate_is_read_from_apts_policy() {
        let policy =
            "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(candidate_in(policy).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(candidate_in("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
    }
}
