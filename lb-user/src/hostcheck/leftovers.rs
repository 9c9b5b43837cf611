//! What kube-proxy left on this host (spec Y4): its nftables tables, its iptables chains, its IPVS interface.
//!
//! They go on translating Services beside Fairway, with endpoints that nobody updates. Found ones become problems that
//! name the command; [`remove`] is that command, and removes what is kube-proxy's alone: the kubelet's chains
//! (`KUBE-FIREWALL`, canary, hint) and those of network policy engines stay.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::netfilter::{self, Chain};
use super::problem;
use super::rules::{is_kube_proxys, removal};
use crate::model::Problem;

const TABLE: &str = "kube-proxy";
const IPVS_INTERFACE: &str = "kube-ipvs0";

/// One of iptables' programs: family and kind of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// iptables, kept in nftables.
    Nft4,
    /// ip6tables, kept in nftables.
    Nft6,
    /// iptables of old.
    Legacy4,
    /// ip6tables of old.
    Legacy6,
}

impl Tool {
    /// `iptables-nft` and so on; the programs are called that with `-save` and `-restore` behind.
    fn name(self) -> &'static str {
        match self {
            Tool::Nft4 => "iptables-nft",
            Tool::Nft6 => "ip6tables-nft",
            Tool::Legacy4 => "iptables-legacy",
            Tool::Legacy6 => "ip6tables-legacy",
        }
    }
}

/// Something that kube-proxy left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// A table of the nftables mode.
    Table {
        /// Family as `nft` writes it.
        family: &'static str,
    },
    /// Chains of the iptables or ipvs mode.
    Chains {
        /// Whose.
        tool: Tool,
        /// How many.
        count: usize,
    },
    /// The interface of the ipvs mode, which has every ClusterIP as an address.
    Ipvs,
}

/// Looks. What cannot be looked at is taken for absent.
pub fn find() -> Vec<Leftover> {
    let chains = netfilter::chains().unwrap_or_else(|error| {
        tracing::debug!(%error, "nftables cannot be looked at");
        Vec::new()
    });
    let mut found = in_nftables(&chains);
    for tool in [Tool::Legacy4, Tool::Legacy6] {
        let count = saved(tool).map_or(0, |text| text.lines().filter_map(declared).count());
        if count > 0 {
            found.push(Leftover::Chains { tool, count });
        }
    }
    if Path::new("/proc/sys/net/ipv4/conf").join(IPVS_INTERFACE).exists() {
        found.push(Leftover::Ipvs);
    }
    found
}

/// Sorts the chains of nftables out.
fn in_nftables(chains: &[Chain]) -> Vec<Leftover> {
    let mut found = BTreeMap::new();
    for chain in chains {
        let tool = match chain.family {
            _ if chain.table == TABLE => {
                found.insert(Leftover::Table { family: chain.family }, 0);
                continue;
            }
            "ip" => Tool::Nft4,
            "ip6" => Tool::Nft6,
            _ => continue,
        };
        if is_kube_proxys(&chain.name) {
            *found.entry(Leftover::Chains { tool, count: 0 }).or_insert(0) += 1;
        }
    }
    let counted = |(leftover, n)| match leftover {
        Leftover::Chains { tool, .. } => Leftover::Chains { tool, count: n },
        other => other,
    };
    found.into_iter().map(counted).collect()
}

/// The chain of a line like `:KUBE-SERVICES - [0:0]`, if it is kube-proxy's.
fn declared(line: &str) -> Option<&str> {
    let name = line.strip_prefix(':')?.split(' ').next()?;
    is_kube_proxys(name).then_some(name)
}

/// What to tell.
pub fn problems(found: &[Leftover]) -> Vec<Problem> {
    let consequence = "still translates Services, with endpoints that nobody updates; when kube-proxy no longer runs \
                       on this node, remove it: fairway cleanup --kube-proxy";
    let tell = |leftover: &Leftover| match leftover {
        Leftover::Table { family } => {
            let by_hand = format!("nft delete table {family} {TABLE}");
            problem(
                "kube-proxy",
                format!("nft table {family} {TABLE}"),
                format!("{consequence} (or {by_hand})"),
            )
        }
        Leftover::Chains { tool, count } => {
            let field = format!("{count} chains of {}", tool.name());
            problem("kube-proxy", field, consequence)
        }
        Leftover::Ipvs => {
            let by_hand =
                format!("ip link delete {IPVS_INTERFACE}, and ipvsadm --clear if IPVS has no other user");
            problem(
                "kube-proxy",
                format!("interface {IPVS_INTERFACE}"),
                format!("{consequence} (or {by_hand})"),
            )
        }
    };
    found.iter().map(tell).collect()
}

/// A leftover that could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("{command}: {message}")]
pub struct RemoveError {
    command: String,
    message: String,
}

/// Removes what [`find`] finds; gives what was removed, in words.
pub fn remove() -> Result<Vec<String>, RemoveError> {
    let mut removed = Vec::new();
    for leftover in find() {
        removed.push(match leftover {
            Leftover::Table { family } => {
                run("nft", &["delete", "table", family, TABLE], "")?;
                format!("nft table {family} {TABLE}")
            }
            Leftover::Chains { tool, count } => {
                let save = format!("{}-save", tool.name());
                let text = run(&save, &[], "")?;
                run(&format!("{}-restore", tool.name()), &["--noflush"], &removal(&text))?;
                format!("{count} chains of {}", tool.name())
            }
            Leftover::Ipvs => {
                run("ip", &["link", "delete", IPVS_INTERFACE], "")?;
                format!("interface {IPVS_INTERFACE}")
            }
        });
    }
    Ok(removed)
}

/// All rules of a tool; nothing where the tool is not installed.
fn saved(tool: Tool) -> Option<String> {
    run(&format!("{}-save", tool.name()), &[], "").ok()
}

/// Runs a program to its end and gives its output.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, RemoveError> {
    let failed =
        |message: String| RemoveError { command: [&[program], arguments].concat().join(" "), message };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            failed(if e.kind() == ErrorKind::NotFound { "is not installed".into() } else { e.to_string() })
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything says why below.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: &'static str, table: &str, name: &str) -> Chain {
        Chain { family, table: table.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn both_modes_are_found_and_other_peoples_chains_are_not() {
        let found = in_nftables(&[
            chain("ip6", "kube-proxy", "services"),
            chain("ip", "nat", "KUBE-SERVICES"),
            chain("ip", "nat", "KUBE-SVC-ABCDEFGHIJKLMNOP"),
            chain("ip", "filter", "KUBE-FIREWALL"),
            chain("ip", "filter", "KUBE-ROUTER-INPUT"),
            chain("ip6", "filter", "KUBE-KUBELET-CANARY"),
            chain("inet", "mine", "KUBE-SERVICES"),
        ]);
        assert_eq!(
            found,
            [Leftover::Table { family: "ip6" }, Leftover::Chains { tool: Tool::Nft4, count: 2 }]
        );
    }

    #[test]
    fn every_problem_names_the_command() {
        let all = [
            Leftover::Table { family: "ip" },
            Leftover::Chains { tool: Tool::Legacy6, count: 3 },
            Leftover::Ipvs,
        ];
        for p in problems(&all) {
            assert!(p.message.contains("fairway cleanup --kube-proxy"), "{p:?}");
        }
    }
}
