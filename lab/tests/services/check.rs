//! What must hold: from where, to what, and who answers, or how it fails.
//!
//! [`hold`] repeats a set of checks until all of them pass at once; what it reports is the last round's failures. The
//! checks of a round run at the same time, since those that must be met with silence take as long as patience lasts.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lab::address::Dual;
use lab::traffic::{Ask, Transport};
use lab::{Node, Ns, Pod};

use crate::bench::Bench;

/// Longer than a change may take to arrive.
const DEADLINE: Duration = Duration::from_secs(20);
/// Longer than an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// A refusal must come before a lost SYN would be sent again.
const PROMPT: Duration = Duration::from_millis(900);
/// What nobody answers for so long is dropped.
const SILENCE: Duration = Duration::from_millis(300);
/// Questions at the least, so that a wrong backend shows up.
const LEAST_ASKS: usize = 5;
/// Questions at the most until every endpoint must have answered.
const MOST_ASKS: usize = 80;
/// Checks at the same time.
const PARALLEL: usize = 32;

/// A client.
#[derive(Clone)]
pub struct Vantage {
    name: String,
    pub ns: Ns,
    pub address: Dual,
    is_node: bool,
}

impl Vantage {
    pub fn new(name: &str, ns: &Ns, address: Dual) -> Self {
        Self { name: name.to_owned(), ns: ns.clone(), address, is_node: false }
    }

    /// A process of a node.
    pub fn on_node(node: &Node) -> Self {
        Self { is_node: true, ..Self::new(node.name(), node.ns(), node.address()) }
    }
}

/// The outcome that is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Exactly these answer, all of them in the long run.
    Answers(BTreeSet<String>),
    /// "Connection refused", at once.
    Refused,
    /// Neither an answer nor a refusal.
    Silent,
}

/// These pods answer.
pub fn pods<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Expect {
    Expect::Answers(pods.into_iter().map(|pod| pod.name.clone()).collect())
}

/// Servers of these names answer.
pub fn all<'a>(names: impl IntoIterator<Item = &'a str>) -> Expect {
    Expect::Answers(names.into_iter().map(str::to_owned).collect())
}

/// The client's address as the server must see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Whatever,
    Own,
    NotOwn,
}

/// One client, one destination, one transport.
#[derive(Clone)]
pub struct Check {
    from: Vantage,
    dst: SocketAddr,
    transport: Transport,
    expect: Expect,
    seen: Seen,
}

/// All of `from` to all of `to`, over TCP and UDP.
pub fn expect<'a>(
    from: impl IntoIterator<Item = &'a Vantage>,
    to: &[SocketAddr],
    expect: Expect,
) -> Vec<Check> {
    expect_over(&[Transport::Tcp, Transport::Udp], from, to, expect)
}

/// All of `from` to all of `to`.
pub fn expect_over<'a>(
    transports: &[Transport],
    from: impl IntoIterator<Item = &'a Vantage>,
    to: &[SocketAddr],
    expect: Expect,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for from in from {
        for &dst in to {
            for &transport in transports {
                let (from, expect) = (from.clone(), expect.clone());
                checks.push(Check { from, dst, transport, expect, seen: Seen::Whatever });
            }
        }
    }
    checks
}

/// Says something more of many checks.
pub trait Sources {
    /// The server sees the client's own address.
    fn keeping_the_source(self) -> Self;
    /// The server sees another address than the client's.
    fn masquerading(self) -> Self;
}

impl Sources for Vec<Check> {
    fn keeping_the_source(mut self) -> Self {
        self.iter_mut().for_each(|check| check.seen = Seen::Own);
        self
    }

    fn masquerading(mut self) -> Self {
        self.iter_mut().for_each(|check| check.seen = Seen::NotOwn);
        self
    }
}

/// Ports that no other question of the last minutes has had: the next of these ranges, one after the other.
struct Ports {
    ranges: [Range<u16>; 2],
    next: AtomicU16,
}

impl Ports {
    fn fresh(&self) -> u16 {
        let [first, second] = &self.ranges;
        let below = first.end - first.start;
        let count = below + (second.end - second.start);
        let next =
            self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| Some((next + 1) % count));
        let next = next.unwrap_or_else(|next| next);
        if next < below { first.start + next } else { second.start + (next - below) }
    }
}

impl Vantage {
    /// A source port of one's own.
    ///
    /// A client's kernel gives the same port to connections that differ in their frontend alone; where two nodes
    /// translate them to one backend they become one (docs/limitations.md). So many questions in so short a time would
    /// meet that by chance; rows are about other things. A node's processes use `ip_local_port_range`, which
    /// masqueraded flows keep out of; all others any port but those where health checks listen.
    pub fn fresh_port(&self) -> u16 {
        static OF_NODES: Ports = Ports { ranges: [32_768..61_000, 0..0], next: AtomicU16::new(0) };
        static OF_OTHERS: Ports = Ports { ranges: [10_300..30_000, 32_768..65_000], next: AtomicU16::new(0) };
        if self.is_node { OF_NODES.fresh() } else { OF_OTHERS.fresh() }
    }
}

impl Check {
    fn ask(&self, patience: Duration) -> io::Result<(String, IpAddr)> {
        let ask = Ask::new(self.dst).timeout(patience).source_port(self.from.fresh_port());
        let answer = ask.here(self.transport)?;
        Ok((answer.pod, answer.src.ip()))
    }

    fn passes(&self) -> Result<(), String> {
        match &self.expect {
            Expect::Answers(wanted) => self.answers(wanted),
            Expect::Refused => self.fails(PROMPT, ErrorKind::ConnectionRefused),
            Expect::Silent => self.fails(SILENCE, ErrorKind::TimedOut),
        }
    }

    fn fails(&self, patience: Duration, wanted: ErrorKind) -> Result<(), String> {
        match self.ask(patience) {
            Err(error) if error.kind() == wanted => Ok(()),
            Err(error) => Err(format!("{wanted:?} was expected, not {error}")),
            Ok((pod, _)) => Err(format!("{wanted:?} was expected, not an answer of {pod}")),
        }
    }

    fn answers(&self, wanted: &BTreeSet<String>) -> Result<(), String> {
        let own = self.from.address.both();
        let mut heard = BTreeSet::new();
        for asked in 0..MOST_ASKS {
            if asked >= LEAST_ASKS && heard == *wanted {
                return Ok(());
            }
            let (pod, source) = self.ask(PATIENCE).map_err(|error| error.to_string())?;
            if !wanted.contains(&pod) {
                return Err(format!("{pod} answered, not one of {wanted:?}"));
            }
            let kept = own.contains(&source);
            match self.seen {
                Seen::Own if !kept => {
                    return Err(format!("{pod} saw {source}, not the client's own address"));
                }
                Seen::NotOwn if kept => return Err(format!("{pod} saw the client's own address")),
                _ => {}
            }
            heard.insert(pod);
        }
        Err(format!("only {heard:?} of {wanted:?} answered {MOST_ASKS} questions"))
    }

    fn in_place(&self) -> Result<(), String> {
        let passes = self.from.ns.run(|| self.passes()).map_err(|error| format!("{error:#}")).flatten();
        passes
            .map_err(|fault| format!("{} to {} over {:?}: {fault}", self.from.name, self.dst, self.transport))
    }
}

fn round(checks: &[Check]) -> Vec<String> {
    let mut faults = Vec::new();
    for some in checks.chunks(PARALLEL) {
        thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|check| scope.spawn(|| check.in_place())).collect();
            faults.extend(running.into_iter().filter_map(|check| match check.join() {
                Ok(passed) => passed.err(),
                Err(_) => Some("a check panicked".to_owned()),
            }));
        });
    }
    faults
}

/// Waits until all checks pass in one round.
pub fn hold(bench: &Bench, what: &str, checks: &[Check]) -> Result<()> {
    assert!(!checks.is_empty(), "{what}: nothing is checked");
    let end = Instant::now() + DEADLINE;
    loop {
        let faults = round(checks);
        if faults.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            let (count, of) = (faults.len(), checks.len());
            bail!("{what}: {count} of {of} checks fail:\n{}\n{}", faults.join("\n"), bench.logs());
        }
    }
}
