//! A server in a pod: TCP and UDP, IPv4 and IPv6, on one port, with one line protocol.
//!
//! | the client sends | the server does |
//! |---|---|
//! | `ask` | answers `pod=<name> src=<ip>:<port>` |
//! | `GET …` | answers the same line as an HTTP response and closes, for `curl` |
//! | `send <n>` | sends `n` bytes of the pattern of [`super::transfer`] |
//! | `recv <n>` | reads `n` bytes and answers `crc=<hex>` |
//! | `halfclose` | answers like `ask`, closes its direction, and counts what still comes |
//! | anything else | answers the same line |
//!
//! UDP knows `ask`; any other datagram comes back as it is.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::raise_file_limit;
use super::transfer::{CHUNK, Pattern};
use crate::address::Dual;
use crate::cluster::Pod;
use crate::ns::{self, Ns};

/// As many waiting connections as a burst of tests makes.
const BACKLOG: i32 = 4096;

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct PodServer {
    name: String,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<()>>>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    datagrams: AtomicU64,
    after_half_close: AtomicU64,
}

impl PodServer {
    /// Starts a server on `port` of `pod`; it listens when this returns.
    pub fn start(pod: &Pod, port: u16) -> Result<Self> {
        Self::start_in(&pod.ns, &pod.name, port)
    }

    /// Starts a server that calls itself `name` on `port` of any namespace.
    pub fn start_in(ns: &Ns, name: &str, port: u16) -> Result<Self> {
        let any = Dual { v4: Ipv4Addr::UNSPECIFIED, v6: Ipv6Addr::UNSPECIFIED };
        Self::start_at(ns, name, any, port)
    }

    /// Starts a server on `port` of one address of each family: where there are several, such as on a node, UDP
    /// answers else come from the one nearest to the client.
    pub fn start_at(ns: &Ns, name: &str, addresses: Dual, port: u16) -> Result<Self> {
        raise_file_limit();
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (listening, wait) = mpsc::channel();
        let identity = Arc::new(Identity { name: name.to_owned(), counts: Arc::clone(&counts) });
        let thread = ns.spawn_apart(&format!("server {name}"), move || {
            let Ok(runtime) = ns::runtime() else { return };
            runtime.block_on(async {
                let result = listen(&identity, addresses, port);
                // The starter waits for this; if it is gone, so is the reason to serve.
                if listening.send(result).is_ok() {
                    ns::raised(&stopped).await;
                }
            });
        })?;
        wait.recv()
            .map_err(|_| anyhow!("the server thread ended"))?
            .with_context(|| format!("listen on {name}:{port}"))?;
        Ok(Self { name: name.to_owned(), counts, stop, thread: Some(thread) })
    }

    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// TCP connections it has accepted.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Datagrams it has received.
    pub fn datagrams(&self) -> u64 {
        self.counts.datagrams.load(Ordering::Relaxed)
    }

    /// Bytes that came in on connections after it had closed its own direction.
    pub fn bytes_after_half_close(&self) -> u64 {
        self.counts.after_half_close.load(Ordering::Relaxed)
    }

    /// Waits until [`Self::bytes_after_half_close`] reaches `bytes`; false if `deadline` passes first.
    pub fn wait_for_bytes_after_half_close(&self, bytes: u64, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        while self.bytes_after_half_close() < bytes {
            if Instant::now() > end {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for PodServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed.
            let _ = thread.join();
        }
    }
}

struct Identity {
    name: String,
    counts: Arc<Counts>,
}

impl Identity {
    fn answer(&self, peer: SocketAddr) -> String {
        format!("pod={} src={peer}\n", self.name)
    }
}

fn listen(identity: &Arc<Identity>, addresses: Dual, port: u16) -> io::Result<()> {
    for address in addresses.both().map(|ip| SocketAddr::new(ip, port)) {
        let tcp = TcpListener::from_std(bound(address, Type::STREAM)?.into())?;
        let udp = UdpSocket::from_std(bound(address, Type::DGRAM)?.into())?;
        tokio::spawn(accept(tcp, Arc::clone(identity)));
        tokio::spawn(datagrams(udp, Arc::clone(identity)));
    }
    Ok(())
}

fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
    } else {
        socket.bind(&address.into())?;
    }
    Ok(socket)
}

async fn accept(listener: TcpListener, identity: Arc<Identity>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                identity.counts.connections.fetch_add(1, Ordering::Relaxed);
                let identity = Arc::clone(&identity);
                tokio::spawn(async move {
                    // A client that resets or vanishes is the client's finding, not the server's.
                    let _ = converse(stream, peer, &identity).await;
                });
            }
            // A connection that died in the backlog, or no descriptor left: others must still be served.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, identity: &Identity) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = identity.answer(peer);
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("ask", "") => stream.write_all(answer.as_bytes()).await?,
            ("GET", _) => {
                let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
                stream.write_all((head + &answer).as_bytes()).await?;
                return finish(&mut stream).await;
            }
            ("send", count) => send_pattern(&mut stream, parse(count)?).await?,
            ("recv", count) => {
                let crc = receive(&mut stream, parse(count)?).await?;
                stream.write_all(format!("crc={crc:08x}\n").as_bytes()).await?;
            }
            ("halfclose", "") => {
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await?;
                let mut chunk = vec![0; CHUNK];
                loop {
                    let count = stream.read(&mut chunk).await?;
                    if count == 0 {
                        return Ok(());
                    }
                    identity.counts.after_half_close.fetch_add(count as u64, Ordering::Relaxed);
                }
            }
            _ => stream.write_all(line.as_bytes()).await?,
        }
    }
}

/// Closes in an orderly way: what the client has sent is read, so that no reset overtakes the answer.
async fn finish(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn send_pattern(stream: &mut BufReader<TcpStream>, bytes: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(bytes);
    while let Some(chunk) = pattern.next_chunk() {
        stream.write_all(chunk).await?;
    }
    Ok(())
}

async fn receive(stream: &mut BufReader<TcpStream>, bytes: u64) -> io::Result<u32> {
    let (mut crc, mut left, mut chunk) = (crc32fast::Hasher::new(), bytes, vec![0; CHUNK]);
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let count = stream.read(&mut chunk[..room]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        crc.update(&chunk[..count]);
        left -= count as u64;
    }
    Ok(crc.finalize())
}

async fn datagrams(socket: UdpSocket, identity: Arc<Identity>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error here is an ICMP answer to an earlier datagram of ours: the next client is unaffected.
        let Ok((count, peer)) = socket.recv_from(&mut buffer).await else { continue };
        identity.counts.datagrams.fetch_add(1, Ordering::Relaxed);
        let question = &buffer[..count];
        let _ = if question.trim_ascii() == b"ask" {
            socket.send_to(identity.answer(peer).as_bytes(), peer).await
        } else {
            socket.send_to(question, peer).await
        };
    }
}

fn parse(count: &str) -> io::Result<u64> {
    count.parse().map_err(|_| io::ErrorKind::InvalidData.into())
}
