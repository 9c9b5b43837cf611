//! nodePorts on localhost (X8, spec P6): only if asked for, only for the node's own processes, in both families.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lab::ClusterSpec;
use lab::traffic::{Ask, PodServer, Transport, tcp_download};

use crate::support::Outcome::Refused;
use crate::support::*;

const NODE_PORT: u16 = 30_135;

fn localhost(port: u16) -> Result<[SocketAddr; 2]> {
    let ips: [IpAddr; 2] = ["127.0.0.1".parse()?, "::1".parse()?];
    Ok(ips.map(|ip| SocketAddr::new(ip, port)))
}

#[test]
fn localhost_node_ports_serve_the_nodes_own_processes_when_asked_for() -> Result<()> {
    const ASKED: &[&str] = &["--node-port-addresses", "primary,localhost"];
    // Node 3 has the default.
    let b = Bench::with(ClusterSpec::default(), |n| if n == 3 { vec![] } else { ASKED.to_vec() })?;
    let service = |pods: &[(usize, usize)]| b.service("registry", pods).node_port(NODE_PORT);
    let pods = ["pod-1-1", "pod-2-1"];
    let local = localhost(NODE_PORT)?;
    b.apply(&service(&[(1, 1), (2, 1)]))?;
    for n in [1, 2] {
        assert_pods(b.node(n).ns(), &local, &pods).with_context(|| format!("node {n}"))?;
        assert_pods(b.node(n).ns(), &node_at(b.node(n), NODE_PORT), &pods)?;
        // An image is larger than a question.
        for dst in local {
            tcp_download(b.node(n).ns(), dst, 8 << 20, PATIENCE)?;
        }
    }
    assert_all(b.node(3).ns(), &local, Refused).context("not asked for")?;
    // A pod's localhost is its own.
    assert_all(&b.pod(1, 2).ns, &local, Refused)?;
    // Other ports of localhost stay the host's.
    let _host = PodServer::start_in(b.node(1).ns(), "host", NODE_PORT + 1)?;
    assert_pods(b.node(1).ns(), &localhost(NODE_PORT + 1)?, &["host"])?;

    b.apply(&service(&[(1, 1), (2, 1)]).spec_field("sessionAffinity", "ClientIP"))?;
    for dst in local {
        let mut seen = BTreeSet::new();
        for _ in 0..2 {
            let tally = Ask::new(dst).timeout(PATIENCE).many(Transport::Tcp, b.node(1).ns(), 16, 2)?;
            ensure!(tally.failures.is_empty(), "{:?}", tally.failures.first());
            seen.extend(tally.by_pod.into_keys());
        }
        ensure!(seen.len() == 1, "affinity at {dst}: {seen:?}");
    }
    b.apply(&service(&[]))?;
    assert_all(b.node(1).ns(), &local, Refused).context("no endpoints")?;
    b.withdraw("registry")?;
    assert_all(b.node(1).ns(), &local, Refused).context("no Service")
}

/// CVE-2020-8558: a neighbour that routes 127.0.0.0/8 to a node reaches nothing there.
#[test]
fn localhost_node_ports_cannot_be_reached_from_the_segment() -> Result<()> {
    let flags = ["--node-port-addresses", "primary,localhost"];
    let b = Bench::new(ClusterSpec { nodes: 1, ..ClusterSpec::default() }, &flags)?;
    b.apply(&b.service("registry", &[(1, 1)]).node_port(NODE_PORT))?;
    assert_pods(b.node(1).ns(), &localhost(NODE_PORT)?, &["pod-1-1"])?;
    let client = b.client();
    // The client gives up its own loopback, and lets 127/8 out.
    client.sysctl(&[("ipv4/conf/all/route_localnet".to_owned(), "1".to_owned())])?;
    let node = b.node(1).address();
    ip(
        client,
        &format!(
            "addr del 127.0.0.1/8 dev lo\nroute add 127.0.0.1/32 via {} dev eth0 src 172.31.0.200\n",
            node.v4
        ),
    )?;
    let dst = localhost(NODE_PORT)?[0];
    for transport in TRANSPORTS {
        let result = Ask::new(dst).timeout(QUIET).over(transport, client);
        ensure!(result.is_err(), "{transport:?}: {result:?}");
    }
    Ok(())
}
