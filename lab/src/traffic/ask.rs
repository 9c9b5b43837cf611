//! The shortest conversation: ask a server who it is and whom it sees.
//!
//! One question is one new connection (or one datagram). Errors are [`io::Error`]s, so that tests tell
//! `ConnectionRefused`, `ConnectionReset` and `TimedOut` apart.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::Transport;
use crate::ns::Ns;

/// Who answered, and the source address it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name of the pod.
    pub pod: String,
    /// The client as the pod saw it.
    pub src: SocketAddr,
}

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    dst: SocketAddr,
    timeout: Duration,
    source_port: Option<u16>,
    reset: bool,
    until_closed: bool,
}

/// The outcome of many questions.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers by pod.
    pub by_pod: BTreeMap<String, usize>,
    /// Answers by the source address that the pod saw.
    pub by_source: BTreeMap<IpAddr, usize>,
    /// Answers by pod and the source address that it saw.
    pub by_pod_and_source: BTreeMap<(String, IpAddr), usize>,
    /// Questions without an answer.
    pub failures: Vec<io::Error>,
}

/// Asks once over TCP.
pub fn tcp_ask(ns: &Ns, dst: SocketAddr, timeout: Duration) -> io::Result<Answer> {
    Ask::new(dst).timeout(timeout).over(Transport::Tcp, ns)
}

/// Asks once over UDP.
pub fn udp_ask(ns: &Ns, dst: SocketAddr, timeout: Duration) -> io::Result<Answer> {
    Ask::new(dst).timeout(timeout).over(Transport::Udp, ns)
}

impl Ask {
    /// A question to `dst`, with a timeout of two seconds, from any port.
    pub fn new(dst: SocketAddr) -> Self {
        Self { dst, timeout: Duration::from_secs(2), source_port: None, reset: false, until_closed: false }
    }

    /// How long the whole conversation may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks from this port, also when an earlier connection from it lingers.
    #[must_use]
    pub fn source_port(mut self, port: u16) -> Self {
        self.source_port = Some(port);
        self
    }

    /// Ends the connection with a reset instead of a FIN, which frees its port at once.
    #[must_use]
    pub fn reset_on_close(mut self) -> Self {
        self.reset = true;
        self
    }

    /// Waits until the server has closed its end, too: whoever asks next from the same port finds nothing of this
    /// connection at the server.
    #[must_use]
    pub fn until_closed(mut self) -> Self {
        self.until_closed = true;
        self
    }

    /// Asks once from `ns`.
    pub fn over(&self, transport: Transport, ns: &Ns) -> io::Result<Answer> {
        ns.run(|| self.here(transport)).map_err(io::Error::other)?
    }

    /// Asks once from the calling thread's namespace.
    pub fn here(&self, transport: Transport) -> io::Result<Answer> {
        match transport {
            Transport::Tcp => self.tcp(),
            Transport::Udp => self.udp(),
        }
    }

    /// Asks `count` times from `ns`, `parallel` at a time.
    pub fn many(&self, transport: Transport, ns: &Ns, count: usize, parallel: usize) -> Result<Tally> {
        super::raise_file_limit();
        ns.run(|| {
            let next = AtomicUsize::new(0);
            let work = || {
                let mut tally = Tally::default();
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    tally.add(self.here(transport));
                }
                tally
            };
            thread::scope(|scope| {
                let workers: Vec<_> = (0..parallel.max(1)).map(|_| scope.spawn(work)).collect();
                workers
                    .into_iter()
                    .filter_map(|worker| worker.join().ok())
                    .fold(Tally::default(), Tally::merge)
            })
        })
    }

    /// Connects, for conversations of one's own, from the calling thread's namespace.
    pub fn connect(&self) -> io::Result<std::net::TcpStream> {
        self.connect_by(self.socket(Type::STREAM, Protocol::TCP)?)
    }

    fn connect_by(&self, socket: Socket) -> io::Result<std::net::TcpStream> {
        if self.reset {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        socket.connect_timeout(&self.dst.into(), self.timeout)?;
        socket.set_read_timeout(Some(self.timeout))?;
        socket.set_write_timeout(Some(self.timeout))?;
        Ok(socket.into())
    }

    fn tcp(&self) -> io::Result<Answer> {
        let socket = self.socket(Type::STREAM, Protocol::TCP)?;
        // The question carries the handshake's ACK. Sent apart, the two are worked on by two CPUs at once, and a
        // kernel up to 6.18 answers the question with a reset about once in 200,000 connections: its lookup
        // misses the moment when the request socket makes way for the connection. Seen without any Fairway too.
        socket.set_tcp_quickack(false)?;
        let mut stream = self.connect_by(socket)?;
        let result = self.converse(&mut stream);
        if self.until_closed {
            stream.shutdown(Shutdown::Write)?;
            while stream.read(&mut [0; 64]).map_err(blocked_is_timed_out)? > 0 {}
        }
        if self.reset {
            disconnect(stream)?;
        }
        result
    }

    fn converse(&self, stream: &mut std::net::TcpStream) -> io::Result<Answer> {
        let started = Instant::now();
        stream.write_all(b"ask\n")?;
        let mut line = Vec::new();
        let mut chunk = [0; 256];
        while !line.ends_with(b"\n") {
            let left = self.timeout.checked_sub(started.elapsed()).filter(|left| !left.is_zero());
            stream.set_read_timeout(Some(left.ok_or(ErrorKind::TimedOut)?))?;
            match stream.read(&mut chunk).map_err(blocked_is_timed_out)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => line.extend_from_slice(&chunk[..count]),
            }
        }
        Answer::parse(&line)
    }

    fn udp(&self) -> io::Result<Answer> {
        let socket = self.socket(Type::DGRAM, Protocol::UDP)?;
        if self.source_port.is_none() {
            bind_to_fresh_port(&socket, self.dst)?;
        }
        socket.connect(&self.dst.into())?;
        socket.set_read_timeout(Some(self.timeout))?;
        socket.send(b"ask")?;
        let mut buffer = [0; 512];
        let count = (&socket).read(&mut buffer).map_err(blocked_is_timed_out)?;
        Answer::parse(&buffer[..count])
    }

    fn socket(&self, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.dst), kind, Some(protocol))?;
        if let Some(port) = self.source_port {
            let any: IpAddr =
                if self.dst.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(any, port).into())?;
        }
        Ok(socket)
    }
}

impl Answer {
    /// Reads `pod=<name> src=<ip>:<port>`.
    pub fn parse(line: &[u8]) -> io::Result<Self> {
        let garbled =
            || io::Error::new(ErrorKind::InvalidData, format!("answer: {}", String::from_utf8_lossy(line)));
        let text = std::str::from_utf8(line).map_err(|_| garbled())?;
        let (pod, src) =
            text.trim_end().strip_prefix("pod=").and_then(|t| t.split_once(" src=")).ok_or_else(garbled)?;
        Ok(Self { pod: pod.to_owned(), src: src.parse().map_err(|_| garbled())? })
    }
}

impl Tally {
    /// The number of answers.
    pub fn answered(&self) -> usize {
        self.by_pod.values().sum()
    }

    fn add(&mut self, result: io::Result<Answer>) {
        match result {
            Ok(answer) => {
                *self.by_pod.entry(answer.pod.clone()).or_default() += 1;
                *self.by_source.entry(answer.src.ip()).or_default() += 1;
                *self.by_pod_and_source.entry((answer.pod, answer.src.ip())).or_default() += 1;
            }
            Err(error) => self.failures.push(error),
        }
    }

    fn merge(mut self, other: Self) -> Self {
        for (pod, count) in other.by_pod {
            *self.by_pod.entry(pod).or_default() += count;
        }
        for (source, count) in other.by_source {
            *self.by_source.entry(source).or_default() += count;
        }
        for (pair, count) in other.by_pod_and_source {
            *self.by_pod_and_source.entry(pair).or_default() += count;
        }
        self.failures.extend(other.failures);
        self
    }
}

/// Gives the socket a port that no question of this process had lately. The kernel draws ports, so sooner or later one
/// twice, and a datagram from a port with a flow goes where that flow goes.
fn bind_to_fresh_port(socket: &Socket, dst: SocketAddr) -> io::Result<()> {
    const PORTS: Range<u16> = 10_000..60_000;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let any: IpAddr = if dst.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    for _ in PORTS {
        let at = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len();
        let port = PORTS.start + u16::try_from(at).unwrap_or_default();
        match socket.bind(&SocketAddr::new(any, port).into()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            result => return result,
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

/// Resets the connection at once, even if a program just being started still shares the descriptor.
fn disconnect(stream: std::net::TcpStream) -> io::Result<()> {
    let storage = SockAddrStorage::zeroed();
    let length = storage.size_of();
    // SAFETY: the storage is a valid address of family 0, `AF_UNSPEC`, and the length is its own.
    let unspecified = unsafe { SockAddr::new(storage, length) };
    Socket::from(stream).connect(&unspecified)
}

/// A read that outlives its timeout says `WouldBlock`.
pub(super) fn blocked_is_timed_out(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_back_in_both_families() {
        let four = Answer::parse(b"pod=pod-1-1 src=10.244.1.2:4000\n").unwrap();
        assert_eq!((four.pod.as_str(), four.src.port()), ("pod-1-1", 4000));
        assert!(Answer::parse(b"pod=x src=[fd44:1::2]:1\n").unwrap().src.is_ipv6());
        assert_eq!(Answer::parse(b"hello\n").unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
