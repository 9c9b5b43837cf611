//! Requests of 2000 bytes over UDP (N13, D3): fragments there and back, through every hook, by every kind of client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use lab::{ClusterSpec, Cni, InterNode, Masquerade, Ns};

use crate::support::*;

const LENGTH: usize = 2_000;
const NODE_PORT: u16 = 30_110;
const REQUESTS: usize = 6;

/// Sent again at most this often, as a resolver does, where a narrower way makes the first one teach the sender only.
const TRIES: usize = 4;

/// Sends until an answer comes, at most `tries` times.
fn ask(socket: &UdpSocket, request: &[u8], reply: &mut [u8], tries: usize) -> std::io::Result<usize> {
    let mut result = Err(std::io::ErrorKind::TimedOut.into());
    for _ in 0..tries {
        // Too long for the way that the sender has just learned of is an error of the socket, once.
        result = socket.send(request).and_then(|_| socket.recv(reply));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Every byte of large requests comes back, each from a socket of its own.
fn assert_large(from: &Ns, dst: SocketAddr, narrow: bool) -> Result<()> {
    let any: IpAddr = if dst.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    from.run(|| -> Result<()> {
        for number in 0..REQUESTS {
            let request: Vec<u8> = (0..LENGTH).map(|i| (i * 31 + number) as u8).collect();
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(dst)?;
            socket.set_read_timeout(Some(if narrow { QUIET } else { PATIENCE }))?;
            let mut reply = [0; LENGTH + 1];
            // Two in a row: the first one makes the flow, the second one finds it.
            for _ in 0..2 {
                let tries = if narrow { TRIES } else { 1 };
                let count =
                    ask(&socket, &request, &mut reply, tries).with_context(|| format!("request {number}"))?;
                ensure!(reply[..count] == request, "request {number}: {count} bytes came back, or others");
            }
        }
        Ok(())
    })?
    .with_context(|| format!("{LENGTH} bytes from {} to {dst}", from.name()))
}

fn large_requests(spec: ClusterSpec, flags: &[&str]) -> Result<()> {
    let what = format!("{spec:?} {flags:?}");
    let narrow = spec.inter_node == InterNode::Vxlan;
    let b = Bench::new(spec, flags)?;
    b.apply(&b.service("near", &[(1, 1)]).node_port(NODE_PORT))?;
    b.apply(&b.service("far", &[(2, 1)]).node_port(NODE_PORT + 1))?;
    let all = || -> Result<()> {
        for family in [0, 1] {
            let (near, far) = (b.cluster_ip("near")[family], b.cluster_ip("far")[family]);
            for (n, port) in [(1, NODE_PORT), (1, NODE_PORT + 1), (2, NODE_PORT)] {
                assert_large(b.client(), node_at(b.node(n), port)[family], narrow)
                    .context("outside to nodePort")?;
            }
            for dst in [near, far, node_at(b.node(1), NODE_PORT + 1)[family]] {
                assert_large(&b.pod(1, 2).ns, dst, narrow).context("from a pod")?;
            }
            for dst in [near, far] {
                assert_large(b.node(1).ns(), dst, narrow).context("from a node")?;
            }
            assert_large(&b.pod(1, 1).ns, near, narrow).context("from the endpoint itself")?;
        }
        Ok(())
    };
    all().context(what)
}

#[test]
fn large_requests_through_xdp_and_sockets() -> Result<()> {
    large_requests(ClusterSpec { nodes: 2, ..ClusterSpec::default() }, &["--xdp-mode", "native"])
}

#[test]
fn large_requests_through_tc_and_the_nodes_own_packets() -> Result<()> {
    let spec = ClusterSpec { nodes: 2, uplink_offload: true, ..ClusterSpec::default() };
    large_requests(spec, &["--xdp-mode", "off", "--socket-lb", "off"])
}

#[test]
fn large_requests_over_vxlan_whose_way_is_narrower() -> Result<()> {
    let (cni, inter_node) = (Cni::Bridge, InterNode::Vxlan);
    let spec = ClusterSpec { nodes: 2, cni, inter_node, ..ClusterSpec::default() };
    large_requests(spec.clone(), &[])?;
    large_requests(ClusterSpec { uplink_offload: true, ..spec }, &["--xdp-mode", "off"])
}

/// Connection tracking reassembles and fragments anew between the hooks.
#[test]
fn large_requests_beside_connection_tracking() -> Result<()> {
    let spec = ClusterSpec { nodes: 2, masquerade: Masquerade::Nftables, ..ClusterSpec::default() };
    large_requests(spec, &[])
}
