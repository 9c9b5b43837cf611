//! A next hop that changes under a flow: another MAC address, another route. The flow heals within a second.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::traffic::{Disruption, Flows};
use lab::{Agent, Ns, address};
use serde_json::Value;

use crate::support::*;

/// What issue 2 promises.
const HEALED: Duration = Duration::from_secs(1);

/// One UDP flow whose datagrams are numbered, so that a late answer is not taken for a new one.
struct Talk {
    socket: UdpSocket,
    number: u32,
}

impl Talk {
    fn with(dst: SocketAddr) -> Result<Talk> {
        let any: IpAddr =
            if dst.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(dst)?;
        Ok(Talk { socket, number: 0 })
    }

    /// Sends the next number; true if it comes back in time.
    fn is_answered(&mut self, patience: Duration) -> Result<bool> {
        self.number += 1;
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.send(format!("number {}", self.number).as_bytes())?;
        let end = Instant::now() + patience;
        let mut buffer = [0; 64];
        while Instant::now() < end {
            match self.socket.recv(&mut buffer) {
                Ok(n) if buffer[..n] == *format!("number {}", self.number).as_bytes() => return Ok(true),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(false)
    }
}

/// Two nodes matter: a client's flow enters at node 3 and its backend is on node 2.
struct Detour {
    _agent: Agent,
    b: Bench,
}

impl Detour {
    fn build() -> Result<Detour> {
        let b = Bench::new(&[(2, 1)])?;
        let agent = b.agent(b.cluster.node(3))?;
        for ns in [b.cluster.node(2).ns(), b.cluster.client()] {
            // As a router that fails over does: who changes its MAC address announces that.
            let on = ["ipv4/conf/eth0/arp_notify", "ipv6/conf/eth0/ndisc_notify"];
            ns.sysctl(&on.map(|key| (key.to_owned(), "1".to_owned())))?;
        }
        Ok(Detour { _agent: agent, b })
    }

    fn frontends(&self) -> [SocketAddr; 2] {
        let node = self.b.cluster.node(3);
        [outside(node), outside6(node)]
    }

    /// Makes `change` while flows of both families are under way, and says how long the slower one was silent
    /// after it.
    fn silence_after(&self, change: impl Fn() -> Result<()> + Sync) -> Result<Duration> {
        let frontends = self.frontends();
        self.b.cluster.client().run(|| {
            let mut talks = frontends.iter().map(|dst| Talk::with(*dst)).collect::<Result<Vec<_>>>()?;
            for _ in 0..20 {
                for talk in &mut talks {
                    ensure!(talk.is_answered(PATIENCE)?, "answered before the change");
                }
            }
            change()?;
            let changed = Instant::now();
            let mut longest = Duration::ZERO;
            for talk in &mut talks {
                while !talk.is_answered(Duration::from_millis(20))? {
                    ensure!(changed.elapsed() < DEADLINE, "it never healed");
                }
                longest = changed.elapsed();
            }
            Ok(longest)
        })?
    }
}

/// TCP connections of both families that must outlive the changes.
fn connections(detour: &Detour) -> Result<Vec<Disruption>> {
    let flows =
        |dst| Flows { tcp: 20, every: Duration::from_millis(100), patience: DEADLINE, ..Flows::to(dst) };
    detour
        .frontends()
        .into_iter()
        .map(|dst| Disruption::start(detour.b.cluster.client(), flows(dst)))
        .collect()
}

fn assert_none_lost(connections: Vec<Disruption>) -> Result<()> {
    for load in connections {
        ensure!(load.wait_for_exchanges(40, DEADLINE), "connections go on: {:?}", load.report());
        let report = load.stop();
        assert_eq!((report.tcp_opened, report.tcp_lost), (20, 0), "{report:?}");
    }
    Ok(())
}

#[test]
fn a_next_hop_that_changes_its_mac_address_heals_within_a_second() -> Result<()> {
    let _turn = turn();
    let detour = Detour::build()?;
    let load = connections(&detour)?;
    let cluster = &detour.b.cluster;
    // Towards the backend; towards the client; and this node's own.
    let places =
        [("node-2", cluster.node(2).ns()), ("client", cluster.client()), ("node-3", cluster.node(3).ns())];
    for (n, (name, ns)) in places.into_iter().enumerate() {
        for round in 0..2 {
            let mac = format!("02:aa:{n:02x}:{round:02x}:00:01");
            let silence = detour.silence_after(|| ip(ns, &format!("link set eth0 address {mac}\n")))?;
            assert!(silence < HEALED, "{name} has another MAC address: silent for {silence:?}");
        }
    }
    assert_none_lost(load)
}

/// The MAC address of a namespace's `eth0`.
fn mac(ns: &Ns) -> Result<String> {
    let shown = ns.command("ip").args(["-j", "link", "show", "eth0"]).output()?;
    let links: Value = serde_json::from_slice(&shown.stdout).context("ip -j")?;
    Ok(links[0]["address"].as_str().context("a MAC address")?.to_owned())
}

#[test]
fn a_route_by_another_node_heals_within_a_second() -> Result<()> {
    let _turn = turn();
    let detour = Detour::build()?;
    let load = connections(&detour)?;
    let cluster = &detour.b.cluster;
    let (here, there) = (cluster.node(3).ns(), cluster.node(2).ns());
    // The switch cuts the straight way from node 3 to node 2, so only the new route arrives.
    let cut = format!(
        "table bridge cut {{\n chain forward {{\n  type filter hook forward priority 0\n  ether saddr {} ether daddr {} drop\n }}\n}}\n",
        mac(here)?,
        mac(there)?
    );
    let by = |node: u8| {
        let [v4, v6] = address::node(node).both();
        format!(
            "route replace 10.244.2.0/24 via {v4} dev eth0\nroute replace fd44:2::/64 via {v6} dev eth0\n"
        )
    };
    for _ in 0..2 {
        let silence = detour.silence_after(|| {
            cluster.control().feed("nft", &["-f", "-"], &cut)?;
            ip(here, &by(1))
        })?;
        assert!(silence < HEALED, "the route leads by node 1: silent for {silence:?}");
        let silence = detour.silence_after(|| {
            cluster.control().feed("nft", &["-f", "-"], "delete table bridge cut\n")?;
            ip(here, &by(2))
        })?;
        assert!(silence < HEALED, "the route is straight again: silent for {silence:?}");
    }
    assert_none_lost(load)
}
