//! Packets that connection tracking calls invalid (CT6): a reply that is outside of the TCP window is translated like any
//! other, so the client does not take it for somebody else's and answer with a reset.

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lab::traffic::{Answer, Ask};
use lab::{ClusterSpec, Masquerade, Ns, Pod};

use crate::raw::{ACK, RST, Raw};
use crate::support::*;

/// One connection from `client` to `dst`, served by `server`, survives a segment of the server's that fits nowhere.
fn assert_translated(client: &Ns, dst: SocketAddr, server: &Pod) -> Result<()> {
    let ipv4 = dst.is_ipv4();
    let mut stream = client.run(|| Ask::new(dst).timeout(PATIENCE).connect())??;
    let mut ask = || -> Result<Answer> {
        stream.write_all(b"ask\n")?;
        let mut line = [0; 256];
        let count = stream.read(&mut line)?;
        Ok(Answer::parse(&line[..count])?)
    };
    let first = ask()?;
    ensure!(first.pod == server.name, "{first:?}");
    let (at_client, at_server) = (Raw::open(client, ipv4)?, Raw::open(&server.ns, ipv4)?);
    let own = SocketAddr::new(server.address.both()[usize::from(!ipv4)], 80);
    // Both numbers far outside of any window of the connection's first bytes.
    let (seq, ack) = (0x7fff_1234, 0x7fff_4321);
    at_server.send(own, first.src, seq, ack, ACK)?;
    let seen = at_client.receive(PATIENCE, |s| s.seq == seq)?.context("it arrives")?;
    ensure!(seen.from == dst, "it comes from {}, not from the frontend {dst}", seen.from);
    let reset = at_server.receive(QUIET, |s| s.from.ip() == first.src.ip() && s.flags & RST != 0)?;
    ensure!(reset.is_none(), "the client answered with a reset");
    ensure!(ask().context("afterwards")? == first, "the connection goes on");
    Ok(())
}

/// With netfilter's connection tracking at work in every node, as with a CNI that masquerades.
#[test]
fn a_reply_outside_of_the_window_is_translated() -> Result<()> {
    let spec = ClusterSpec { masquerade: Masquerade::Nftables, ..ClusterSpec::default() };
    let b = Bench::new(spec, &[])?;
    let node_port = 30_099;
    for server in [(1, 1), (2, 1)] {
        b.apply(&b.service("web", &[server]).node_port(node_port))?;
        let pod = b.pod(server.0, server.1);
        for family in [0, 1] {
            let cluster_ip = b.cluster_ip("web")[family];
            let of_node = |n| node_at(b.node(n), node_port)[family];
            assert_translated(&b.pod(1, 2).ns, cluster_ip, pod).context("pod to clusterIP")?;
            assert_translated(&b.pod(3, 2).ns, of_node(3), pod).context("pod to nodePort")?;
            assert_translated(b.client(), of_node(1), pod).context("outside to node 1")?;
            assert_translated(b.client(), of_node(3), pod).context("outside to node 3")?;
        }
    }
    Ok(())
}
