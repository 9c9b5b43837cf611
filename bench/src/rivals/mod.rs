//! What Fairway is compared with: the rules kube-proxy would have written, loaded into a node's namespace.
//!
//! Only the shape matters, so names are short hashes as kube-proxy's are, comments are left out, and one restore
//! loads everything; real kube-proxy adds its own computing. IPv4.

mod iptables;
mod nftables;

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::Ns;

use crate::net;
use crate::world::{self, NODE_PORT, PORT, TARGET_PORT, World};

/// The pods' range: what comes from elsewhere to a clusterIP is masqueraded.
const CLUSTER_CIDR: &str = "10.244.0.0/16";

/// How long a rival may take to load its rules; longer would be a benchmark of patience.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// How loading went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loaded {
    /// Done.
    In(Duration),
    /// Given up after [`PATIENCE`]; nothing was loaded.
    Unfinished,
}

impl Loaded {
    /// An error if it was not done.
    pub fn done(self) -> Result<Duration> {
        match self {
            Loaded::In(took) => Ok(took),
            Loaded::Unfinished => bail!("the rules were not loaded after {PATIENCE:?}"),
        }
    }

    /// Why there is nothing to measure; `None` if it was done.
    pub fn wrong(self) -> Option<String> {
        self.done().err().map(|error| error.to_string())
    }
}

/// A rival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rival {
    /// kube-proxy's nftables mode.
    Nftables,
    /// kube-proxy's iptables mode, with the iptables of nf_tables, the default of today's distributions.
    Iptables,
    /// The same with the older kernel interface.
    IptablesLegacy,
    /// No Service at all: plain routing.
    Routing,
}

impl Rival {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Rival::Nftables => "nftables",
            Rival::Iptables => "iptables",
            Rival::IptablesLegacy => "iptables-legacy",
            Rival::Routing => "routing",
        }
    }

    /// Whether this machine has what it takes.
    pub fn is_there(self) -> bool {
        let (program, _) = self.loader();
        program.is_empty() || Command::new(program).arg("--version").output().is_ok()
    }

    /// The rules for a world, as its loader reads them.
    pub fn rules(self, world: &World) -> String {
        match self {
            Rival::Nftables => nftables::rules(&ports(world)),
            Rival::Iptables | Rival::IptablesLegacy => iptables::rules(&ports(world)),
            Rival::Routing => String::new(),
        }
    }

    /// Loads rules and says how long that took, or that it was not done after [`PATIENCE`].
    pub fn load(self, ns: &Ns, rules: &str) -> Result<Loaded> {
        self.feed(ns, &[], rules)
    }

    fn feed(self, ns: &Ns, more: &[&str], rules: &str) -> Result<Loaded> {
        let (program, arguments) = self.loader();
        if program.is_empty() {
            return Ok(Loaded::In(Duration::ZERO));
        }
        let mut command = ns.command(program);
        command.args(arguments).args(more).stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null());
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {program}"))?;
        let mut input = child.stdin.take().context("no standard input")?;
        let output = thread::scope(|scope| {
            // A program that fails early closes its input; what it says matters more than the broken pipe.
            scope.spawn(move || drop(input.write_all(rules.as_bytes())));
            while child.try_wait()?.is_none() {
                if began.elapsed() > PATIENCE {
                    child.kill()?;
                    child.wait()?;
                    return Ok(None);
                }
                thread::park_timeout(Duration::from_micros(200));
            }
            let took = began.elapsed();
            Ok::<_, std::io::Error>(Some((child.wait_with_output()?, took)))
        })?;
        let Some((output, took)) = output else { return Ok(Loaded::Unfinished) };
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Loaded::In(took))
    }

    /// What replaces the endpoints of the Service under test, and nothing else.
    pub fn changed(self, world: &World) -> String {
        let target = ports(world).into_iter().find(|p| p.node_port.is_some());
        target.map_or_else(String::new, |port| match self {
            Rival::Nftables => nftables::changed(&port),
            Rival::Iptables | Rival::IptablesLegacy => iptables::changed(&port),
            Rival::Routing => String::new(),
        })
    }

    /// Applies [`Rival::changed`] and says how long that took.
    pub fn change(self, ns: &Ns, rules: &str) -> Result<Loaded> {
        self.feed(ns, if self == Rival::Nftables { &[] } else { &["--noflush"] }, rules)
    }

    /// Removes all its rules.
    pub fn unload(self, ns: &Ns) -> Result<()> {
        let run = |program: &str, arguments: &[&str]| -> Result<()> {
            let out = ns.command(program).args(arguments).output().with_context(|| program.to_owned())?;
            ensure!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
            Ok(())
        };
        match self {
            Rival::Nftables => run("nft", &["flush", "ruleset"]),
            Rival::Iptables => self.load(ns, iptables::EMPTY)?.done().map(drop),
            Rival::IptablesLegacy => self.load(ns, iptables::EMPTY)?.done().map(drop),
            Rival::Routing => Ok(()),
        }
    }

    fn loader(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Rival::Nftables => ("nft", &["-f", "-"]),
            Rival::Iptables => ("iptables-nft-restore", &[]),
            Rival::IptablesLegacy => ("iptables-legacy-restore", &[]),
            Rival::Routing => ("", &[]),
        }
    }
}

/// One service port as rules know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePort {
    /// What chain names end with.
    pub id: String,
    /// clusterIP.
    pub ip: Ipv4Addr,
    /// Port of the clusterIP.
    pub port: u16,
    /// `tcp` or `udp`.
    pub proto: &'static str,
    /// nodePort.
    pub node_port: Option<u16>,
    /// Where it leads to.
    pub endpoints: Vec<(Ipv4Addr, u16)>,
}

/// The service ports of a world. The one under test is in the middle: kube-proxy's order means nothing, and a
/// packet for a random Service passes half of the rules before its own.
fn ports(world: &World) -> Vec<RulePort> {
    let fillers = (1..world.services).map(|i| RulePort {
        id: format!("{:016X}", u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        ip: world::cluster_ip(i + 10).v4,
        port: PORT,
        proto: "tcp",
        node_port: None,
        endpoints: (0..world.endpoints)
            .map(|e| (world::filler_endpoint(i * world.endpoints + e).v4, TARGET_PORT))
            .collect(),
    });
    let mut ports: Vec<_> = fillers.collect();
    let target = |proto| RulePort {
        id: format!("BENCHTARGET{}", if proto == "tcp" { "TCP" } else { "UDP" }),
        ip: World::cluster_ip().v4,
        port: PORT,
        proto,
        node_port: Some(NODE_PORT),
        endpoints: (1..=world.backends).map(|i| (net::backend(world.node, i).v4, TARGET_PORT)).collect(),
    };
    let middle = ports.len() / 2;
    ports.splice(middle..middle, [target("tcp"), target("udp")]);
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORLD: World = World { node: 2, services: 4, backends: 3, endpoints: 2 };

    #[test]
    fn the_service_under_test_lies_among_the_others() {
        let ports = ports(&WORLD);
        assert_eq!(ports.len(), 5);
        assert_eq!(ports.iter().position(|p| p.node_port.is_some()), Some(1));
    }

    #[test]
    fn rules_of_both_kinds_lead_to_every_backend() {
        for rival in [Rival::Iptables, Rival::Nftables] {
            let rules = rival.rules(&WORLD);
            for i in 1..=3 {
                let to = format!("{}:{TARGET_PORT}", net::backend(2, i).v4);
                assert_eq!(rules.matches(&to).count(), 2, "{to} in {rules}");
            }
        }
    }
}
