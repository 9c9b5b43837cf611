//! One client port used again and again, by many at once, and for a SYN that must be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::traffic::{Answer, Ask, Transport};
use lab::{Ns, Pod};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::*;

/// Who closes a connection first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    /// The client, with a reset.
    Reset,
    /// The server, with a FIN; its side waits, the client's port is free at once.
    Server,
}

/// One connection from `port`; the pod that answered.
fn converse(dst: SocketAddr, port: u16, close: Close) -> io::Result<String> {
    let ask = Ask::new(dst).timeout(PATIENCE).source_port(port);
    if close == Close::Reset {
        return Ok(ask.reset_on_close().here(Transport::Tcp)?.pod);
    }
    let mut stream = connect_when_free(&ask)?;
    stream.write_all(b"GET /\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let line = answer.rsplit(|b| *b == b'\n').find(|l| l.starts_with(b"pod=")).unwrap_or_default();
    Ok(Answer::parse(line)?.pod)
}

/// The client's kernel frees the port when the last ACK is in: until then it refuses to bind or connect.
fn connect_when_free(ask: &Ask) -> io::Result<TcpStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask.connect() {
            Err(e)
                if Instant::now() < end
                    && matches!(e.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse) =>
            {
                thread::yield_now();
            }
            other => return other,
        }
    }
}

#[test]
fn a_port_used_again_right_after_its_close_is_a_new_connection() -> Result<()> {
    const ROUNDS: usize = 40;
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let _agent = b.agent(node)?;
    let answered = |port: u16| -> Result<BTreeSet<String>> {
        let close = if port.is_multiple_of(2) { Close::Reset } else { Close::Server };
        let dst = if port % 4 < 2 { outside(node) } else { outside6(node) };
        (0..ROUNDS)
            .map(|n| {
                converse(dst, port, close).with_context(|| format!("use {n} of port {port} ({close:?})"))
            })
            .collect()
    };
    let pods = client.run(|| {
        thread::scope(|scope| {
            let threads: Vec<_> = (5_000..5_016).map(|port| scope.spawn(move || answered(port))).collect();
            let join = |t: thread::ScopedJoinHandle<'_, Result<BTreeSet<String>>>| {
                t.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })
    })??;
    // A new connection chooses anew: some port got another pod than before. (A fixed choice per port would give
    // one pod for each; by chance that happens once in many thousand runs.)
    assert!(pods.iter().any(|p| p.len() == 2), "{pods:?}");
    Ok(())
}

/// A socket on a chosen address and port.
fn bound(kind: Type, protocol: Protocol, from: SocketAddr, dst: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&dst.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn ask_tcp(stream: &mut TcpStream) -> io::Result<SocketAddr> {
    stream.write_all(b"ask\n")?;
    let mut line = [0; 128];
    let count = stream.read(&mut line)?;
    Ok(Answer::parse(&line[..count])?.src)
}

fn ask_udp(socket: &UdpSocket) -> io::Result<SocketAddr> {
    socket.send(b"ask")?;
    let mut line = [0; 128];
    let count = socket.recv(&mut line)?;
    Ok(Answer::parse(&line[..count])?.src)
}

#[test]
fn clients_with_the_same_port_at_the_same_time_do_not_meet_behind_one_masquerade_address() -> Result<()> {
    const CLIENTS: u8 = 6;
    let b = Bench::new(&[(2, 1)])?;
    // Node 3 has no pod of the Service, so every client gets its address, towards the same backend.
    let (client, node) = (b.cluster.client(), b.cluster.node(3));
    let _agent = b.agent(node)?;
    let addresses: Vec<Ipv4Addr> = (0..CLIENTS).map(|n| Ipv4Addr::new(172, 31, 0, 201 + n)).collect();
    ip(client, &addresses.iter().map(|a| format!("addr add {a}/24 dev eth0\n")).collect::<String>())?;
    let node_address = IpAddr::V4(node.address().v4);
    client.run(|| -> Result<()> {
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for from in addresses.iter().map(|a| SocketAddr::from((*a, 5_555))) {
            tcp.push(TcpStream::from(bound(Type::STREAM, Protocol::TCP, from, outside(node))?));
            udp.push(UdpSocket::from(bound(Type::DGRAM, Protocol::UDP, from, outside(node))?));
        }
        let mut first = None;
        for _ in 0..20 {
            let mut sources = Vec::new();
            for (n, (stream, socket)) in tcp.iter_mut().zip(&udp).enumerate() {
                sources.push((
                    ask_tcp(stream).with_context(|| format!("TCP of client {n}"))?,
                    ask_udp(socket).with_context(|| format!("UDP of client {n}"))?,
                ));
            }
            let (t, u): (BTreeSet<_>, BTreeSet<_>) = sources.iter().copied().unzip();
            assert_eq!((t.len(), u.len()), (CLIENTS.into(), CLIENTS.into()), "each its own: {sources:?}");
            assert!(t.iter().chain(&u).all(|s| s.ip() == node_address), "{sources:?}");
            let node_ports = 30_000..=32_767;
            assert!(t.iter().chain(&u).all(|s| !node_ports.contains(&s.port())), "{sources:?}");
            assert_eq!(*first.get_or_insert_with(|| sources.clone()), sources, "and kept");
        }
        Ok(())
    })?
}

/// In a pod: counts SYNs by source port and drops them.
const DROP_SYNS: &str = "table inet lost {
 set seen {
  type inet_service
  size 1024
  flags dynamic
  counter
 }
 chain input {
  type filter hook input priority 0
  tcp flags & (syn|ack) == syn add @seen { tcp sport } drop
 }
}
";

/// SYNs that [`DROP_SYNS`] has seen, by source port.
fn syns(pod: &Pod) -> Result<BTreeMap<u16, u64>> {
    let shown = pod.ns.command("nft").args(["-j", "list", "set", "inet", "lost", "seen"]).output()?;
    let shown: Value = serde_json::from_slice(&shown.stdout).context("nft -j")?;
    let set = shown["nftables"].as_array().and_then(|all| all.iter().find_map(|e| e.get("set")));
    let elements = set.and_then(|s| s["elem"].as_array()).cloned().unwrap_or_default();
    let entry = |e: &Value| {
        let port = u16::try_from(e["elem"]["val"].as_u64()?).ok()?;
        Some((port, e["elem"]["counter"]["packets"].as_u64()?))
    };
    elements.iter().map(|e| entry(e).with_context(|| format!("unexpected {e}"))).collect()
}

fn nft(ns: &Ns, commands: &str) -> Result<()> {
    ns.feed("nft", &["-f", "-"], commands)
}

#[test]
fn a_syn_that_is_sent_again_keeps_its_backend() -> Result<()> {
    const PORTS: std::ops::Range<u16> = 6_000..6_016;
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let _agent = b.agent(node)?;
    let pods = [b.cluster.pod(1, 1), b.cluster.pod(2, 1)];
    pods.iter().try_for_each(|p| nft(&p.ns, DROP_SYNS))?;
    thread::scope(|scope| {
        let ask = |port: u16| {
            let dst = if port.is_multiple_of(2) { outside(node) } else { outside6(node) };
            Ask::new(dst).timeout(Duration::from_secs(15)).source_port(port).over(Transport::Tcp, client)
        };
        let asking: Vec<_> = PORTS.map(|port| (port, scope.spawn(move || ask(port)))).collect();
        let mut backend = BTreeMap::new();
        eventually("every SYN is repeated", || {
            let seen = [syns(pods[0])?, syns(pods[1])?];
            for port in PORTS {
                let counts = [0, 1].map(|n| seen[n].get(&port).copied().unwrap_or_default());
                ensure!(counts.contains(&0), "port {port} came to both pods: {counts:?}");
                if counts[0] + counts[1] >= 2 {
                    backend.insert(port, pods[usize::from(counts[0] == 0)].name.clone());
                }
            }
            Ok(backend.len() == PORTS.len())
        })?;
        let chosen: BTreeSet<_> = backend.values().collect();
        ensure!(chosen.len() == 2, "both pods were chosen: {backend:?}");
        pods.iter().try_for_each(|p| nft(&p.ns, "delete table inet lost\n"))?;
        for (port, thread) in asking {
            let answer = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
            let answer = answer.with_context(|| format!("port {port}"))?;
            assert_eq!(answer.pod, backend[&port], "port {port}");
        }
        Ok(())
    })
}
