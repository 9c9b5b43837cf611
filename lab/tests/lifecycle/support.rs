//! What the life-cycle tests share: a cluster with servers and manifests, and what a node's kernel says.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::traffic::{Ask, PodServer, Tally, Transport};
use lab::{Agent, AgentSpec, Cluster, ClusterSpec, ManifestDir, Node, Ns};
use serde_json::Value;

/// Longer than any single question may take, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than any change may take to arrive.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const NODE_PORT: u16 = 30080;

/// A cluster with a server on port 80 of every pod, and the Service `web`.
pub struct Bench {
    // Servers end before the namespaces go.
    pub servers: Vec<PodServer>,
    pub manifests: ManifestDir,
    pub cluster: Cluster,
}

impl Bench {
    /// The default cluster; `web` has these pods, as (node, pod).
    pub fn new(pods: &[(usize, usize)]) -> Result<Bench> {
        Bench::of(ClusterSpec::default(), pods)
    }

    /// Another cluster.
    pub fn of(spec: ClusterSpec, pods: &[(usize, usize)]) -> Result<Bench> {
        let cluster = Cluster::build(spec)?;
        let servers = cluster.pods().iter().map(|p| PodServer::start(p, 80)).collect::<Result<Vec<_>>>()?;
        let manifests = ManifestDir::new(&cluster)?;
        let bench = Bench { servers, manifests, cluster };
        bench.publish(pods)?;
        Ok(bench)
    }

    /// Writes the Service `web` with these pods.
    pub fn publish(&self, pods: &[(usize, usize)]) -> Result<()> {
        let web = self.cluster.service("web").port(8088).target(80).node_port(NODE_PORT);
        self.manifests.apply(&web.pods(pods.iter().map(|(n, p)| self.cluster.pod(*n, *p))))
    }

    /// How agents are run here.
    pub fn spec(&self) -> AgentSpec {
        AgentSpec::manifests(self.manifests.path())
    }

    /// Starts an agent and waits until it is ready.
    pub fn agent(&self, node: &Node) -> Result<Agent> {
        node.start_agent(&self.spec())
    }

    /// The server of a pod.
    pub fn server(&self, name: &str) -> Result<&PodServer> {
        self.servers.iter().find(|s| s.name() == name).with_context(|| format!("no server {name}"))
    }
}

/// The nodePort of `web` at the node's IPv4 address.
pub fn outside(node: &Node) -> SocketAddr {
    SocketAddr::new(node.address().both()[0], NODE_PORT)
}

/// The nodePort of `web` at the node's IPv6 address.
pub fn outside6(node: &Node) -> SocketAddr {
    SocketAddr::new(node.address().both()[1], NODE_PORT)
}

/// Asks over new connections; every one must be answered.
pub fn all_answer(from: &Ns, dst: SocketAddr, count: usize) -> Result<Tally> {
    let tally = Ask::new(dst).timeout(PATIENCE).reset_on_close().many(Transport::Tcp, from, count, 4)?;
    ensure!(
        tally.failures.is_empty(),
        "{} of {count} new connections to {dst} failed, first: {:?}",
        tally.failures.len(),
        tally.failures.first()
    );
    Ok(tally)
}

/// Waits until `done`, at most [`DEADLINE`].
pub fn eventually(what: &str, done: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually_within(DEADLINE, what, done)
}

/// Waits until `done`, at most `deadline`.
pub fn eventually_within(
    deadline: Duration,
    what: &str,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + deadline;
    while !done()? {
        ensure!(Instant::now() < end, "{what}: not within {deadline:?}");
        std::thread::yield_now();
    }
    Ok(())
}

/// What the kernel has, ids of services and backends included.
pub fn services(node: &Node) -> Result<Value> {
    Ok(serde_json::from_str(&node.fairway(["services", "-o", "json"])?)?)
}

/// What `fairway status` says.
pub fn status(node: &Node) -> Result<Value> {
    Ok(serde_json::from_str(&node.fairway(["status", "-o", "json"])?)?)
}

/// A program on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attached {
    pub ifindex: u64,
    pub hook: String,
    pub prog_id: u32,
    pub link_id: u64,
    pub live: bool,
}

/// Every attached program as the pinned links say, sorted.
pub fn attached(node: &Node) -> Result<Vec<Attached>> {
    let status = status(node)?;
    let programs = status["kernel"]["programs"].as_array().context("no programs in the status")?;
    let mut all = programs
        .iter()
        .map(|p| {
            Some(Attached {
                ifindex: p["ifindex"].as_u64()?,
                hook: p["hook"].as_str()?.to_owned(),
                prog_id: u32::try_from(p["prog_id"].as_u64()?).ok()?,
                link_id: p["link_id"].as_u64()?,
                live: p["live"].as_bool()?,
            })
        })
        .collect::<Option<Vec<_>>>()
        .with_context(|| format!("unexpected {programs:?}"))?;
    all.sort();
    Ok(all)
}

/// The entry of an interface in the agent's own status, if it has one.
pub fn interface(node: &Node, name: &str) -> Result<Option<Value>> {
    let status = status(node)?;
    let all = status["agent"]["interfaces"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().find(|i| i["name"] == name))
}

/// Runs a batch of `ip` commands in a namespace.
pub fn ip(ns: &Ns, batch: &str) -> Result<()> {
    ns.feed("ip", &["-batch", "-"], batch)
}

/// Held by tests that load the machine and by tests that measure time, so that no two of them run at once.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock leaves nothing half-done behind.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
