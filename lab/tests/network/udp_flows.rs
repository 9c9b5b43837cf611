//! UDP flows that outlive their server: one client port for ever, while pods cycle (CT1 to CT4, L10, L11), and flows
//! that began before there was any endpoint (CT5).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::objects_extra::load_balanced;
use lab::traffic::{Answer, Ask, Transport};
use lab::{ClusterSpec, Ns};

use crate::support::*;

const NODE_PORT: u16 = 30_098;
const CLIENT_PORT: u16 = 12_345;

/// Node 1 translates its processes' sockets, node 2 their packets; node 3 is without pods of the Service.
fn bench() -> Result<Bench> {
    let spec = ClusterSpec { pods_per_node: 3, ..ClusterSpec::default() };
    Bench::with(spec, |n| if n == 2 { vec!["--socket-lb", "off"] } else { vec![] })
}

/// A client that keeps its port.
struct Client<'a> {
    from: &'a Ns,
    dst: SocketAddr,
    port: u16,
    /// A socket that stays open; none for a new one, on the same port, each time.
    kept: Option<UdpSocket>,
}

impl<'a> Client<'a> {
    fn new(from: &'a Ns, dst: SocketAddr, port: u16, keep: bool) -> Result<Self> {
        let any: IpAddr =
            if dst.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let bind = || UdpSocket::bind((any, port));
        Ok(Self { from, dst, port, kept: if keep { Some(from.run(bind)??) } else { None } })
    }

    /// One datagram and its answer; `None` when it was refused or not answered.
    fn ask(&self, timeout: Duration) -> Result<Option<Answer>> {
        let result = match &self.kept {
            None => {
                Ask::new(self.dst).timeout(timeout).source_port(self.port).over(Transport::Udp, self.from)
            }
            Some(socket) => self.ask_kept(socket, timeout),
        };
        match result {
            Ok(answer) => Ok(Some(answer)),
            Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            Err(e) => bail!("{self}: {e}"),
        }
    }

    fn ask_kept(&self, socket: &UdpSocket, timeout: Duration) -> io::Result<Answer> {
        socket.set_read_timeout(Some(timeout))?;
        socket.send_to(b"ask", self.dst)?;
        let mut line = [0; 256];
        let (count, peer) = socket.recv_from(&mut line)?;
        if peer != self.dst {
            return Err(io::Error::other(format!("an answer from {peer}")));
        }
        Answer::parse(&line[..count])
    }

    /// The very next datagram is answered by one of these.
    fn assert_served_by(&self, pods: &[&str]) -> Result<()> {
        let answer = self.ask(PATIENCE)?.with_context(|| format!("{self}: no answer"))?;
        ensure!(pods.contains(&answer.pod.as_str()), "{self}: {} answered, not {pods:?}", answer.pod);
        Ok(())
    }

    fn assert_unserved(&self) -> Result<()> {
        let answer = self.ask(QUIET)?;
        ensure!(answer.is_none(), "{self}: {answer:?} without an endpoint");
        Ok(())
    }
}

impl std::fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = if self.kept.is_some() { "one socket" } else { "a new socket each time" };
        write!(f, "{how} on port {} of {} to {}", self.port, self.from.name(), self.dst)
    }
}

/// Every kind of client and frontend that may hold on to a flow, each once with a socket for ever and once with a new
/// one on the same port for each datagram.
fn clients<'a>(b: &'a Bench, service: &str, node_port: u16, vip_number: u8) -> Result<Vec<Client<'a>>> {
    let mut all = Vec::new();
    for family in [0, 1] {
        let cluster_ip = b.cluster_ip(service)[family];
        let node_port = |n| node_at(b.node(n), node_port)[family];
        let ways = [
            (b.client(), node_port(1)),
            (b.client(), node_port(3)),
            (b.client(), at(vip(vip_number), PORT)[family]),
            (&b.pod(1, 3).ns, cluster_ip),
            (&b.pod(3, 1).ns, cluster_ip),
            (&b.pod(3, 2).ns, node_port(3)),
            (&b.pod(3, 3).ns, at(vip(vip_number), PORT)[family]),
            (b.node(1).ns(), cluster_ip),
            (b.node(2).ns(), cluster_ip),
        ];
        for (number, (from, dst)) in ways.into_iter().enumerate() {
            let port = CLIENT_PORT + (number + 1_000 * family) as u16;
            all.push(Client::new(from, dst, port, false)?);
            all.push(Client::new(from, dst, port + 100, true)?);
        }
    }
    Ok(all)
}

fn publish(b: &Bench, pods: &[(usize, usize)], unready: &[(usize, usize)]) -> Result<()> {
    let service = b.service("web", pods).unready_pods(b.pods(unready)).node_port(NODE_PORT);
    let balanced = load_balanced(service.service(), &vip(1).both());
    b.publish("web", &[vec![balanced], service.slices()].concat())
}

/// CT1, CT2, CT4, L10, L11: the pod is replaced by one of the same node, by one of another node, with and without a
/// time in between without any.
#[test]
fn a_udp_client_with_one_port_reaches_every_replacement() -> Result<()> {
    let b = bench()?;
    route_vips(b.client(), b.node(2))?;
    publish(&b, &[(1, 1)], &[])?;
    let clients = clients(&b, "web", NODE_PORT, 1)?;
    let all = |pod: &str| clients.iter().try_for_each(|c| c.assert_served_by(&[pod]));
    all("pod-1-1")?;
    publish(&b, &[(1, 2)], &[])?;
    all("pod-1-2").context("replaced on the same node")?;
    publish(&b, &[(2, 1)], &[])?;
    all("pod-2-1").context("replaced on another node")?;
    publish(&b, &[], &[(2, 2)])?;
    std::thread::scope(|scope| {
        let asks: Vec<_> = clients.iter().map(|c| scope.spawn(move || c.assert_unserved())).collect();
        asks.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("panicked"))?)
    })?;
    publish(&b, &[(2, 2)], &[])?;
    all("pod-2-2").context("after a time without endpoints")?;
    // A flow stays with its pod while that serves, whoever joins. Where the socket is translated the flow is the
    // socket's: a new one chooses anew, as behind every socket load balancer.
    let pods = [(2, 2), (1, 1), (1, 2), (2, 1)];
    publish(&b, &pods, &[])?;
    let names: Vec<String> = pods.iter().map(|(n, p)| format!("pod-{n}-{p}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let by_socket = b.node(1).ns().name();
    let stays = |c: &Client| c.kept.is_some() || c.from.name() != by_socket;
    let of = |c: &Client| if stays(c) { &names[..1] } else { &names[..] };
    clients.iter().try_for_each(|c| c.assert_served_by(of(c))).context("when others join")
}

/// CT5: what was sent before the first endpoint, before the Service even, does not stand in the way.
#[test]
fn a_udp_flow_older_than_its_first_endpoint_is_served_when_there_is_one() -> Result<()> {
    let b = bench()?;
    route_vips(b.client(), b.node(3))?;
    let clients = clients(&b, "web", NODE_PORT, 1)?;
    let unserved = || {
        std::thread::scope(|scope| {
            let asks: Vec<_> = clients.iter().map(|c| scope.spawn(move || c.assert_unserved())).collect();
            asks.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("panicked"))?)
        })
    };
    unserved().context("before there is the Service")?;
    publish(&b, &[], &[(1, 1), (2, 1)])?;
    unserved().context("before an endpoint is ready")?;
    publish(&b, &[(1, 1), (2, 1)], &[])?;
    clients.iter().try_for_each(|c| c.assert_served_by(&["pod-1-1", "pod-2-1"]))
}

/// CT3: with internalTrafficPolicy Local only pods of the client's own node count.
#[test]
fn a_udp_client_with_one_port_follows_the_pods_of_its_own_node() -> Result<()> {
    let b = bench()?;
    let publish = |pods: &[(usize, usize)]| {
        b.apply(&b.service("web", pods).spec_field("internalTrafficPolicy", "Local"))
    };
    publish(&[(1, 1), (2, 1), (3, 1)])?;
    let mut clients = Vec::new();
    let ways = b.cluster_ip("web").into_iter().flat_map(|dst| [(dst, false), (dst, true)]);
    for (port, (dst, keep)) in (CLIENT_PORT..).zip(ways) {
        clients.push(Client::new(&b.pod(1, 3).ns, dst, port, keep)?);
        clients.push(Client::new(b.node(1).ns(), dst, port, keep)?);
    }
    let all = |pod: &str| clients.iter().try_for_each(|c| c.assert_served_by(&[pod]));
    all("pod-1-1")?;
    publish(&[(1, 2), (2, 1), (3, 1)])?;
    all("pod-1-2")?;
    publish(&[(2, 1), (3, 1)])?;
    clients.iter().try_for_each(Client::assert_unserved).context("none on this node")?;
    publish(&[(1, 1), (2, 1), (3, 1)])?;
    all("pod-1-1")
}

/// The node's own processes with connected sockets (CT4): after their pod is gone, the kernel ends them or they reach
/// the new one; no datagram disappears for ever.
#[test]
fn a_connected_socket_of_the_node_is_never_left_talking_to_a_removed_pod() -> Result<()> {
    let b = bench()?;
    for (round, dst) in b.cluster_ip("web").into_iter().enumerate() {
        b.apply(&b.service("web", &[(1, 1)]))?;
        let port = CLIENT_PORT + round as u16;
        let connect = || -> io::Result<UdpSocket> {
            let any: IpAddr =
                if dst.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, port))?;
            socket.connect(dst)?;
            socket.set_read_timeout(Some(QUIET))?;
            Ok(socket)
        };
        let ask = |socket: &UdpSocket| -> io::Result<String> {
            socket.send(b"ask")?;
            let mut line = [0; 256];
            let count = socket.recv(&mut line)?;
            Ok(Answer::parse(&line[..count])?.pod)
        };
        for n in [1, 2] {
            b.apply(&b.service("web", &[(1, 1)]))?;
            let ns = b.node(n).ns();
            let mut socket = Some(ns.run(connect)??);
            assert_eq!(socket.as_ref().map(ask).transpose()?.as_deref(), Some("pod-1-1"));
            b.apply(&b.service("web", &[(1, 2)]))?;
            let mut ended = false;
            eventually(&format!("a socket of node-{n} to {dst} reaches the new pod"), || {
                let Some(asking) = &socket else { anyhow::bail!("no socket") };
                match ask(asking) {
                    Ok(pod) => {
                        ensure!(pod == "pod-1-2", "node-{n}: {pod} answered");
                        return Ok(true);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        // The kernel has ended it: a process closes it and opens another one.
                        ended = true;
                        drop(socket.take());
                        socket = Some(ns.run(connect)??);
                    }
                }
                Ok(false)
            })?;
            println!("node-{n} {dst}: {}", if ended { "ended, then connected again" } else { "re-pointed" });
        }
    }
    Ok(())
}
