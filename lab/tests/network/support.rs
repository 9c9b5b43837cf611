//! What the tests share: a cluster with a server in every pod and an agent on every node, changes that are waited for,
//! and questions with an expected outcome.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::address::Dual;
use lab::traffic::{Answer, Ask, PodServer, Transport, tcp_ask};
use lab::{Agent, AgentSpec, Cluster, ClusterSpec, ManifestDir, Node, Ns, Pod, ServiceBuilder};
use serde_json::Value;

/// Longer than any single question may take, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than any change may take to arrive.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// How long a question that nobody shall answer is waited for.
pub const QUIET: Duration = Duration::from_millis(350);
/// The port of every Service here, unless a test is about ports.
pub const PORT: u16 = 8088;

/// Both protocols.
pub const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// A cluster at work.
pub struct Bench {
    pub agents: Vec<Agent>,
    // Servers end before the namespaces go.
    _servers: Vec<PodServer>,
    pub manifests: ManifestDir,
    pub cluster: Cluster,
    marker: AtomicU16,
}

impl Bench {
    /// A cluster with these flags for every agent.
    pub fn new(spec: ClusterSpec, flags: &[&str]) -> Result<Bench> {
        Bench::with(spec, |_| flags.to_vec())
    }

    /// A cluster whose agents have flags by the number of their node.
    pub fn with<'a>(spec: ClusterSpec, flags: impl Fn(u8) -> Vec<&'a str>) -> Result<Bench> {
        let mut bench = Bench::without_agents(spec)?;
        let start = |node: &Node| node.launch_agent(&bench.spec().flags(flags(node.number())));
        let launched = bench.cluster.nodes().iter().map(start).collect::<Result<Vec<_>>>()?;
        bench.agents = launched.into_iter().map(Agent::ready).collect::<Result<_>>()?;
        Ok(bench)
    }

    /// A cluster whose agents a test starts itself.
    pub fn without_agents(spec: ClusterSpec) -> Result<Bench> {
        let cluster = Cluster::build(spec)?;
        let servers = cluster.pods().iter().map(|p| PodServer::start(p, 80)).collect::<Result<Vec<_>>>()?;
        let manifests = ManifestDir::new(&cluster)?;
        Ok(Bench { agents: Vec::new(), _servers: servers, manifests, cluster, marker: AtomicU16::new(1_000) })
    }

    /// How agents are run here.
    pub fn spec(&self) -> AgentSpec {
        AgentSpec::manifests(self.manifests.path())
    }

    pub fn node(&self, n: usize) -> &Node {
        self.cluster.node(n)
    }

    pub fn pod(&self, n: usize, p: usize) -> &Pod {
        self.cluster.pod(n, p)
    }

    pub fn pods<'a>(&'a self, which: &'a [(usize, usize)]) -> impl Iterator<Item = &'a Pod> {
        which.iter().map(|(n, p)| self.pod(*n, *p))
    }

    pub fn client(&self) -> &Ns {
        self.cluster.client()
    }

    /// The clusterIP of a Service with [`PORT`], IPv4 and IPv6.
    pub fn cluster_ip(&self, name: &str) -> [SocketAddr; 2] {
        at(self.cluster.cluster_ip(name), PORT)
    }

    /// A Service on [`PORT`] with these pods.
    pub fn service(&self, name: &str, pods: &[(usize, usize)]) -> ServiceBuilder {
        self.cluster.service(name).port(PORT).target(80).pods(self.pods(pods))
    }

    /// Publishes a Service with its slices and waits until every agent has it in the kernel.
    pub fn apply(&self, service: &ServiceBuilder) -> Result<()> {
        self.manifests.apply(service)?;
        self.settle()
    }

    /// Publishes objects under a name and waits as [`Bench::apply`] does.
    pub fn publish(&self, name: &str, objects: &[Value]) -> Result<()> {
        self.manifests.write(name, objects)?;
        self.settle()
    }

    /// Withdraws what was published under a name, and waits.
    pub fn withdraw(&self, name: &str) -> Result<()> {
        self.manifests.remove(name)?;
        self.settle()
    }

    /// Waits until all that was published before is in every node's kernel.
    ///
    /// A Service of its own gets a new port, twice: the second one cannot be served before the sync that served the
    /// first one, with whatever was in it, was done to its last operation.
    pub fn settle(&self) -> Result<()> {
        for _ in 0..2 {
            let port = self.marker.fetch_add(1, Ordering::Relaxed) + 1;
            let marker = self.cluster.service("marker").port(port).target(80).tcp_only();
            self.manifests.apply(&marker.pods([self.pod(1, 1)]))?;
            let dst = SocketAddr::new(self.cluster.cluster_ip("marker").v4.into(), port);
            for agent in &self.agents {
                let ns = agent.node().ns();
                eventually(&format!("{} has what was published", agent.node().name()), || {
                    Ok(tcp_ask(ns, dst, Duration::from_secs(1)).is_ok())
                })?;
            }
        }
        Ok(())
    }
}

/// Both families of an address, with a port.
pub fn at(address: Dual, port: u16) -> [SocketAddr; 2] {
    address.both().map(|ip| SocketAddr::new(ip, port))
}

/// A node's addresses with a port.
pub fn node_at(node: &Node, port: u16) -> [SocketAddr; 2] {
    at(node.address(), port)
}

/// The virtual addresses of load balancer number `n`: no host's.
pub fn vip(n: u8) -> Dual {
    Dual {
        v4: std::net::Ipv4Addr::new(203, 0, 113, n),
        v6: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xcb, 0, 0, 0, 0, n.into()),
    }
}

/// Leads a namespace to every [`vip`] by a node, as a load balancer or a router would.
pub fn route_vips(ns: &Ns, node: &Node) -> Result<()> {
    let Dual { v4, v6 } = node.address();
    let routes = format!(
        "route replace 203.0.113.0/24 via {v4} dev eth0\nroute replace 2001:db8:cb::/64 via {v6} dev eth0\n"
    );
    ip(ns, &routes)
}

/// Runs a batch of `ip` commands in a namespace.
pub fn ip(ns: &Ns, batch: &str) -> Result<()> {
    ns.feed("ip", &["-batch", "-"], batch)
}

/// Waits until `done`, at most [`DEADLINE`].
pub fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while !done()? {
        ensure!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}

/// One question that must be answered.
pub fn answer(from: &Ns, transport: Transport, dst: SocketAddr) -> Result<Answer> {
    let answer = Ask::new(dst).timeout(PATIENCE).over(transport, from);
    answer.with_context(|| format!("{transport:?} from {} to {dst}", from.name()))
}

/// Asks until exactly these pods have answered; every question must be answered, and by one of them.
pub fn assert_pods_over(from: &Ns, transport: Transport, dst: SocketAddr, pods: &[&str]) -> Result<()> {
    const BATCH: usize = 12;
    let what = || format!("{transport:?} from {} to {dst}", from.name());
    let wanted: BTreeSet<&str> = pods.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for _ in 0..25 {
        let tally = Ask::new(dst).timeout(PATIENCE).many(transport, from, BATCH, 2)?;
        ensure!(tally.failures.is_empty(), "{}: {:?}", what(), tally.failures.first());
        seen.extend(tally.by_pod.into_keys());
        if seen.len() >= wanted.len() {
            break;
        }
    }
    let seen: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
    ensure!(seen == wanted, "{}: {seen:?} answered, not {wanted:?}", what());
    Ok(())
}

/// [`assert_pods_over`] both protocols, to each of these.
pub fn assert_pods(from: &Ns, to: &[SocketAddr], pods: &[&str]) -> Result<()> {
    for dst in to {
        TRANSPORTS.iter().try_for_each(|t| assert_pods_over(from, *t, *dst, pods))?;
    }
    Ok(())
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is answered.
    Answered,
    /// Somebody says at once that nobody is there.
    Refused,
    /// Nobody says anything, or a router that it knows no way.
    Silent,
}

fn is_silence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
}

/// Asks all of these at the same time, over both protocols, and compares.
pub fn assert_outcomes(asks: &[(&Ns, SocketAddr, Outcome)]) -> Result<()> {
    thread::scope(|scope| {
        let ask = |(from, dst, expected): (&Ns, SocketAddr, Outcome), transport: Transport| {
            let timeout = if expected == Outcome::Silent { QUIET } else { PATIENCE };
            let result = Ask::new(dst).timeout(timeout).over(transport, from);
            let outcome = match &result {
                Ok(_) => Outcome::Answered,
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => Outcome::Refused,
                Err(e) if is_silence(e.kind()) => Outcome::Silent,
                Err(e) => anyhow::bail!("{transport:?} from {} to {dst}: {e}", from.name()),
            };
            ensure!(
                outcome == expected,
                "{transport:?} from {} to {dst}: {outcome:?} ({result:?}), not {expected:?}",
                from.name()
            );
            Ok(())
        };
        let threads: Vec<_> = asks
            .iter()
            .flat_map(|a| TRANSPORTS.map(|t| (*a, t)))
            .map(|(a, t)| scope.spawn(move || ask(a, t)))
            .collect();
        // All of them are joined before the first failure is returned.
        let results: Vec<Result<()>> =
            threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("panicked"))?).collect();
        results.into_iter().collect()
    })
}

/// The same outcome from one place to all of these.
pub fn assert_all(from: &Ns, to: &[SocketAddr], outcome: Outcome) -> Result<()> {
    assert_outcomes(&to.iter().map(|dst| (from, *dst, outcome)).collect::<Vec<_>>())
}

/// Asks over both protocols; every answering pod must have seen a source that `allowed` likes.
pub fn assert_source(from: &Ns, dst: SocketAddr, allowed: impl Fn(&str, IpAddr) -> bool) -> Result<()> {
    for transport in TRANSPORTS {
        for _ in 0..8 {
            let a = answer(from, transport, dst)?;
            let what = format!("{transport:?} from {} to {dst}: {} saw {}", from.name(), a.pod, a.src);
            ensure!(allowed(&a.pod, a.src.ip()), what);
        }
    }
    Ok(())
}

/// How often the programs of a node ended with `reason`.
pub fn counted(node: &Node, reason: &str) -> Result<u64> {
    let drops: Value = serde_json::from_str(&node.fairway(["drops", "-o", "json"])?)?;
    let rows = drops["reasons"].as_array().context("reasons")?;
    Ok(rows.iter().filter(|r| r["reason"] == reason).filter_map(|r| r["total"].as_u64()).sum())
}
