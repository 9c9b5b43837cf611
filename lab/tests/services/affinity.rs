//! Session affinity by client address, on ClusterIPs and on nodePorts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use lab::traffic::{Ask, Transport};

use crate::prelude::*;

const PATIENCE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(20);
/// Upstream asks 15 times in a row.
const ASKS: usize = 16;
/// Short, but longer than a busy machine lets a client wait for its turn.
const TIMEOUT_S: u32 = 2;
/// With six endpoints one in six clients meets its old one again by chance.
const MOST_ROUNDS: usize = 14;

/// A client, whom it asks, and how.
#[derive(Clone)]
struct Client {
    from: Vantage,
    to: SocketAddr,
    over: Transport,
}

impl Client {
    fn ask(&self) -> Result<String> {
        let ask = Ask::new(self.to)
            .timeout(PATIENCE)
            .source_port(self.from.fresh_port())
            .over(self.over, &self.from.ns);
        Ok(ask.with_context(|| format!("{} over {:?}", self.to, self.over))?.pod)
    }

    /// The pods that a row of questions reached.
    fn reach(&self) -> Result<BTreeSet<String>> {
        (0..ASKS).map(|_| self.ask()).collect()
    }
}

fn clients(from: &[Vantage], to: &[SocketAddr]) -> Vec<Client> {
    let mut all = Vec::new();
    for from in from {
        for &to in to {
            all.extend([Tcp, Udp].map(|over| Client { from: from.clone(), to, over }));
        }
    }
    all
}

/// Does the same for every client at the same time.
fn each<T: Send>(clients: &[Client], work: impl Fn(&Client) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = clients.iter().map(|client| scope.spawn(move || work(client))).collect();
        let ended =
            running.into_iter().map(|client| client.join().map_err(|_| anyhow::anyhow!("a panic"))?);
        ended.collect()
    })
}

/// Waits until new connections of every client go to one pod, or not to one.
fn until_reached(what: &str, clients: &[Client], right: impl Fn(usize) -> bool) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        let reached = each(clients, Client::reach);
        match reached {
            Ok(reached) if reached.iter().all(|pods| right(pods.len())) => return Ok(()),
            other => ensure!(Instant::now() < end, "{what}: {other:?}"),
        }
    }
}

/// Waits until a time has come: an expiry cannot be seen in another way.
fn rest(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

fn web(b: &Bench, name: &str, node_port: Option<u16>) -> ServiceBuilder {
    let web = b.service(name).pods(b.cluster.pods());
    node_port.into_iter().fold(web, ServiceBuilder::node_port)
}

/// A pod, a process and a client outside with the frontends of one kind.
fn on_cluster_ip(b: &Bench, name: &str) -> Vec<Client> {
    clients(&[b.pod(1, 1), b.pod(3, 1), b.host(3), b.outside()], &b.cluster_ip(name))
}

fn on_node_port(b: &Bench, port: u16) -> Vec<Client> {
    let own = [b.pod(3, 1), b.host(3)];
    let other = [b.pod(1, 1), b.host(1), b.outside()];
    [clients(&own, &b.node_port(3, port)), clients(&other, &b.node_port(2, port))].concat()
}

fn keeps(b: &Bench, web: &ServiceBuilder, clients: &[Client]) -> Result<()> {
    b.apply(&web.clone().affinity(10_800))?;
    until_reached("one endpoint for each client", clients, |pods| pods == 1)
}

/// S24, and A1: a client's endpoint is the same on every frontend.
#[test]
fn s24_a_client_of_a_cluster_ip_keeps_its_endpoint() -> Result<()> {
    let b = shared()?;
    let web = web(&b, "s24", Some(30240));
    keeps(&b, &web, &on_cluster_ip(&b, "s24"))?;
    for (from, node) in [(b.pod(3, 1), 3), (b.host(3), 3)] {
        let to = [b.cluster_ip("s24"), b.node_port(node, 30240)];
        let [cluster_ip, node_port] =
            to.map(|to| each(&clients(std::slice::from_ref(&from), &to), Client::ask));
        assert_eq!(cluster_ip?, node_port?, "by family and protocol");
    }
    Ok(())
}

/// S27.
#[test]
fn s27_a_client_of_a_node_port_keeps_its_endpoint() -> Result<()> {
    let b = shared()?;
    keeps(&b, &web(&b, "s27", Some(30270)), &on_node_port(&b, 30270))
}

/// New connections keep the endpoint for longer than the timeout, since each renews it; a rest ends it.
fn expires(b: &Bench, web: &ServiceBuilder, clients: &[Client]) -> Result<()> {
    b.apply(&web.clone().affinity(TIMEOUT_S))?;
    until_reached("one endpoint for each client", clients, |pods| pods == 1)?;
    let timeout = Duration::from_secs(TIMEOUT_S.into());
    let results = each(clients, |client| {
        let (began, mut kept, mut last) = (Instant::now(), client.ask()?, Instant::now());
        while began.elapsed() < timeout * 2 {
            rest(timeout / 8);
            let (pod, late) = (client.ask()?, last.elapsed() > timeout);
            // A machine that let the client sleep over its own timeout proves nothing.
            ensure!(late || pod == kept, "{} moved from {kept} to {pod} in time", client.to);
            (kept, last) = (pod, Instant::now());
        }
        for _ in 0..MOST_ROUNDS {
            rest(timeout + timeout / 20);
            if client.ask()? != kept {
                return Ok(());
            }
        }
        anyhow::bail!("{} over {:?}: {kept} for ever", client.to, client.over)
    });
    results.map(drop)
}

/// S25.
#[test]
fn s25_affinity_to_a_cluster_ip_ends_with_its_timeout() -> Result<()> {
    let b = shared()?;
    expires(&b, &web(&b, "s25", None), &on_cluster_ip(&b, "s25"))
}

/// S28.
#[test]
fn s28_affinity_to_a_node_port_ends_with_its_timeout() -> Result<()> {
    let b = shared()?;
    expires(&b, &web(&b, "s28", Some(30280)), &on_node_port(&b, 30280))
}

fn switches(b: &Bench, web: &ServiceBuilder, clients: &[Client]) -> Result<()> {
    for _ in 0..2 {
        b.apply(web)?;
        until_reached("without affinity", clients, |pods| pods > 1)?;
        keeps(b, web, clients)?;
    }
    b.apply(web)?;
    until_reached("without affinity again", clients, |pods| pods > 1)
}

/// S26.
#[test]
fn s26_affinity_to_a_cluster_ip_is_switched_on_and_off() -> Result<()> {
    let b = shared()?;
    switches(&b, &web(&b, "s26", None), &on_cluster_ip(&b, "s26"))
}

/// S29.
#[test]
fn s29_affinity_to_a_node_port_is_switched_on_and_off() -> Result<()> {
    let b = shared()?;
    switches(&b, &web(&b, "s29", Some(30290)), &on_node_port(&b, 30290))
}
