//! Path MTU and errors through Services (T39, T40 of spec/reliability.md): whoever sends too much is told so in terms of
//! the connection it knows, in both directions, and a closed port behind a Service is a closed port to its client.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::traffic::{tcp_download, tcp_upload};
use lab::{ClusterSpec, Cni, InterNode, Ns};

use crate::support::*;

const NODE_PORT: u16 = 30_115;
const NARROW: u16 = 1_300;
const MB: u64 = 1 << 20;
/// The bound of T39.
const BOUND: Duration = Duration::from_secs(3);

/// A megabyte each way, which needs the sender of large packets to learn of the narrow way.
fn assert_transfers(from: &Ns, dst: SocketAddr) -> Result<()> {
    let what = || format!("{} and {dst}", from.name());
    // Machines busy with other tests are slow: what is asserted is that nothing waits for a timeout of seconds.
    let down = tcp_download(from, dst, MB, BOUND).with_context(what).context("download")?;
    let up = tcp_upload(from, dst, MB, BOUND).with_context(what).context("upload")?;
    ensure!(down.elapsed < BOUND && up.elapsed < BOUND, "{}: {down:?}, {up:?}", what());
    Ok(())
}

/// The client is behind a router with a narrow way: the backend's large packets are answered with errors that quote
/// what the frontend sent.
#[test]
fn backends_learn_of_a_narrow_way_to_the_client() -> Result<()> {
    for flags in [&["--xdp-mode", "native"], &["--xdp-mode", "off"]] {
        let b = Bench::new(ClusterSpec { nodes: 2, ..ClusterSpec::default() }, flags)?;
        b.apply(&b.service("near", &[(1, 1)]).node_port(NODE_PORT))?;
        b.apply(&b.service("far", &[(2, 1)]).node_port(NODE_PORT + 1))?;
        let far = b.cluster.add_far_host(NARROW)?;
        for family in [0, 1] {
            for (port, way) in [(NODE_PORT, "its own pod"), (NODE_PORT + 1, "another node's pod")] {
                let dst = node_at(b.node(1), port)[family];
                assert_transfers(&far.ns, dst).with_context(|| format!("{way}, {flags:?}"))?;
            }
        }
        ensure!(counted(b.node(1), "icmp_error_translated")? > 0, "errors were translated");
    }
    Ok(())
}

/// The way to the backend is narrow at its own node: clients outside, pods and nodes are told in their own terms.
#[test]
fn clients_learn_of_a_narrow_way_to_the_backend() -> Result<()> {
    let flags = |n| match n {
        2 => vec!["--socket-lb", "off"],
        3 => vec!["--xdp-mode", "off"],
        _ => vec![],
    };
    let b = Bench::with(ClusterSpec::default(), flags)?;
    b.apply(&b.service("web", &[(1, 1)]).node_port(NODE_PORT))?;
    let pod = b.pod(1, 1);
    let narrow = |ip: IpAddr| format!("route change {ip} dev {} mtu lock {NARROW}\n", pod.host_veth);
    ip(b.node(1).ns(), &pod.address.both().map(narrow).concat())?;
    for family in [0, 1] {
        for n in [1, 2, 3] {
            assert_transfers(b.client(), node_at(b.node(n), NODE_PORT)[family])
                .with_context(|| format!("outside by node {n}"))?;
        }
        for p in [b.pod(1, 2), b.pod(2, 1), b.pod(3, 1)] {
            assert_transfers(&p.ns, b.cluster_ip("web")[family]).context("from a pod")?;
        }
        for n in [1, 2, 3] {
            assert_transfers(b.node(n).ns(), b.cluster_ip("web")[family]).context("from a node")?;
        }
    }
    Ok(())
}

/// A UDP socket that asks for the way's MTU: datagrams carry "don't fragment".
fn dont_fragment(dst: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if dst.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    let (level, name, value) = match dst {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    };
    // SAFETY: `value` is an int that outlives the call, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.connect(dst)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The node itself has the narrow way: what it redirects without its stack must be measured, too.
#[test]
fn a_node_that_redirects_into_a_narrower_device_says_so() -> Result<()> {
    for flags in [&["--xdp-mode", "native"], &["--xdp-mode", "off"]] {
        let spec = ClusterSpec {
            nodes: 2,
            cni: Cni::Bridge,
            inter_node: InterNode::Vxlan,
            ..ClusterSpec::default()
        };
        let b = Bench::new(spec, flags)?;
        b.apply(&b.service("far", &[(2, 1)]).node_port(NODE_PORT))?;
        for family in [0, 1] {
            let dst = node_at(b.node(1), NODE_PORT)[family];
            b.client().run(|| -> Result<()> {
                let socket = dont_fragment(dst)?;
                let mut reply = [0; 2_048];
                // 1472 bytes of IPv4, or 1452 of IPv6, fill 1500: more than VXLAN carries.
                for length in [1_472 - 20 * family, 1_200] {
                    let request = vec![7; length];
                    let count = match socket.send(&request).and_then(|_| socket.recv(&mut reply)) {
                        Ok(count) => Some(count),
                        Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => None,
                        Err(e) => return Err(e).with_context(|| format!("{length} bytes to {dst}")),
                    };
                    // Carried whole (in two outer packets), or refused in time; never lost in silence.
                    ensure!(count.is_none_or(|c| c == length), "{count:?} of {length}");
                }
                Ok(())
            })??;
        }
    }
    Ok(())
}

/// T40: nobody listens behind the Service: the client is told by the address it asked.
#[test]
fn a_closed_port_of_a_backend_is_a_closed_port_of_the_service() -> Result<()> {
    let flags = |n| match n {
        2 => vec!["--socket-lb", "off"],
        3 => vec!["--xdp-mode", "off"],
        _ => vec![],
    };
    let b = Bench::with(ClusterSpec::default(), flags)?;
    b.apply(&b.service("closed", &[(1, 1)]).target(81).node_port(NODE_PORT))?;
    for family in [0, 1] {
        let cluster_ip = b.cluster_ip("closed")[family];
        let mut ways =
            vec![(&b.pod(1, 2).ns, cluster_ip), (&b.pod(2, 1).ns, cluster_ip), (&b.pod(1, 1).ns, cluster_ip)];
        for n in [1, 2, 3] {
            ways.push((b.client(), node_at(b.node(n), NODE_PORT)[family]));
            ways.push((b.node(n).ns(), cluster_ip));
        }
        let refused: Vec<_> = ways.iter().map(|(from, dst)| (*from, *dst, Outcome::Refused)).collect();
        assert_outcomes(&refused)?;
        // A connected UDP socket hears of an error only if it quotes the socket's own addresses: that is what was
        // asserted above. One that is not connected hears of nothing, and goes on.
        let from = b.client();
        from.run(|| -> Result<()> {
            let any: IpAddr =
                if family == 0 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(QUIET))?;
            socket.send_to(b"ask", node_at(b.node(1), NODE_PORT)[family])?;
            let heard = socket.recv_from(&mut [0; 64]);
            ensure!(heard.is_err_and(|e| e.kind() == ErrorKind::WouldBlock));
            Ok(())
        })??;
    }
    Ok(())
}
