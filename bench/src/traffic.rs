//! Real sockets: a server on the far side, and a client that is a process of its own.
//!
//! The client is this program again, with [`COMMAND`] as its first word, so that it can be put into a cgroup (socket
//! hooks act on cgroups) and a namespace. The server works on one connection at a time; its first byte says what the
//! connection is for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, anyhow, ensure};
use lab::Ns;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef, Socket, Type};

use crate::pin;
use crate::stats::quantile;

/// First argument of a client process.
pub const COMMAND: &str = "__client";
/// How long a connection may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of one read or write of a bulk transfer.
const CHUNK: usize = 256 * 1024;
/// Bytes of a request, and of its answer.
const REQUEST: usize = 64;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    /// Connects and resets, again and again.
    Connect,
    /// Asks and is answered on one connection.
    Ask,
    /// Sends as fast as it can.
    Upload,
    /// Receives as fast as it can.
    Download,
}

impl Job {
    fn byte(self) -> u8 {
        match self {
            Job::Connect => b'C',
            Job::Ask => b'A',
            Job::Upload => b'U',
            Job::Download => b'D',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Job::Connect, Job::Ask, Job::Upload, Job::Download].into_iter().find(|job| job.byte() == byte)
    }
}

/// What a client found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Connections, questions or bytes.
    pub count: u64,
    /// Time they took.
    pub seconds: f64,
    /// Half of them took at most this; 0 for bulk transfers.
    pub p50_us: f64,
    /// 99 of 100 took at most this.
    pub p99_us: f64,
}

impl Found {
    /// Per second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }
}

/// An order to a client process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Order {
    job: Job,
    to: SocketAddr,
    millis: u64,
    cpu: usize,
}

/// Runs a client in `ns`, and in `cgroup` if one is given, for `time`.
pub fn client(
    ns: &Ns,
    cgroup: Option<&Path>,
    cpu: usize,
    job: Job,
    to: SocketAddr,
    time: Duration,
) -> Result<Found> {
    let order = Order { job, to, millis: time.as_millis() as u64, cpu };
    let mut command: Command = ns.command(env::current_exe()?);
    let mut child = command
        .arg(COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start a client")?;
    let started = cgroup.map_or(Ok(()), |dir| fs::write(dir.join("cgroup.procs"), child.id().to_string()));
    // It waits for its order, so it is in the cgroup before it makes a socket.
    let mut input = child.stdin.take().context("a client without input")?;
    let ordered = started.and_then(|()| input.write_all(&serde_json::to_vec(&order)?));
    drop(input);
    let output = child.wait_with_output()?;
    ordered.context("order a client")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", words.trim().trim_start_matches("fairway-bench: ").to_owned());
    serde_json::from_slice(&output.stdout).context("a client's answer")
}

/// The client process: reads its order from standard input and prints what it found.
pub fn client_process() -> Result<()> {
    let order: Order = serde_json::from_reader(std::io::stdin())?;
    pin::to(order.cpu)?;
    let time = Duration::from_millis(order.millis);
    let found = match order.job {
        Job::Connect => connect(order.to, time)?,
        Job::Ask => ask(order.to, time)?,
        Job::Upload | Job::Download => bulk(order.to, order.job, time)?,
    };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

fn summary(mut micros: Vec<f64>, seconds: f64) -> Found {
    micros.sort_by(f64::total_cmp);
    let (p50_us, p99_us) = (quantile(&micros, 0.5), quantile(&micros, 0.99));
    Found { count: micros.len() as u64, seconds, p50_us, p99_us }
}

fn connect(to: SocketAddr, time: Duration) -> Result<Found> {
    let began = Instant::now();
    let mut micros = Vec::with_capacity(100_000);
    while began.elapsed() < time {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        // A reset instead of a farewell: no state stays that the next connections would have to step around.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        let asked = Instant::now();
        socket.connect(&to.into()).with_context(|| format!("connect to {to}"))?;
        micros.push(asked.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(summary(micros, began.elapsed().as_secs_f64()))
}

fn open(to: SocketAddr, job: Job) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&[job.byte()])?;
    Ok(stream)
}

fn ask(to: SocketAddr, time: Duration) -> Result<Found> {
    let mut stream = open(to, Job::Ask)?;
    let (mut micros, mut buffer) = (Vec::with_capacity(100_000), [0u8; REQUEST]);
    let began = Instant::now();
    while began.elapsed() < time {
        let asked = Instant::now();
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        micros.push(asked.elapsed().as_nanos() as f64 / 1e3);
    }
    Ok(summary(micros, began.elapsed().as_secs_f64()))
}

fn bulk(to: SocketAddr, job: Job, time: Duration) -> Result<Found> {
    let mut stream = open(to, job)?;
    let mut buffer = vec![0x5a_u8; CHUNK];
    let (began, mut count) = (Instant::now(), 0u64);
    while began.elapsed() < time {
        count += match job {
            Job::Download => stream.read(&mut buffer)?,
            _ => stream.write(&buffer)?,
        } as u64;
    }
    if job == Job::Upload {
        // What lies in buffers has not been transferred: the server closes once it has read everything.
        stream.shutdown(Shutdown::Write)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        while stream.read(&mut buffer)? > 0 {}
    }
    Ok(Found { count, seconds: began.elapsed().as_secs_f64(), ..Found::default() })
}

/// A server on every IPv4 address of a namespace.
pub struct Server {
    ns: Ns,
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<()>>>,
}

impl Server {
    /// Starts it, pinned to a CPU.
    pub fn start(ns: &Ns, port: u16, cpu: usize) -> Result<Self> {
        let listener = ns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?.context("listen")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = ns.spawn("bench-server", move || {
            // Where pinning fails it works all the same.
            let _ = pin::to(cpu);
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // A connection that breaks is its client's affair.
                let _ = stream.and_then(serve);
            }
        })?;
        Ok(Self { ns: ns.clone(), port, stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let port = self.port;
        // Wakes it up; if even that fails it ends with this process.
        let woken = self.ns.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        if let (Ok(true), Some(thread)) = (woken, self.thread.take()) {
            // A panic of the server was printed when it happened.
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    // A client that was killed must not keep the server from the next one.
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut first = [0u8; 1];
    if stream.read(&mut first)? == 0 {
        return Ok(());
    }
    match Job::of(first[0]) {
        Some(Job::Ask) => {
            let mut buffer = [0u8; REQUEST];
            loop {
                stream.read_exact(&mut buffer)?;
                stream.write_all(&buffer)?;
            }
        }
        Some(Job::Upload) => {
            let mut buffer = vec![0u8; CHUNK];
            while stream.read(&mut buffer)? > 0 {}
            Ok(())
        }
        Some(Job::Download) => {
            let buffer = vec![0x5a_u8; CHUNK];
            // The client closes when it has enough.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            loop {
                stream.write_all(&buffer)?;
            }
        }
        Some(Job::Connect) | None => Err(ErrorKind::InvalidData.into()),
    }
}

/// Whether anything answers at `to` for a client in `ns`; asks again, since a busy machine can miss a timeout.
pub fn answers(ns: &Ns, cgroup: Option<&Path>, cpu: usize, to: SocketAddr) -> Result<()> {
    const ATTEMPTS: u32 = 3;
    let mut last = Ok(());
    for _ in 0..ATTEMPTS {
        last = match client(ns, cgroup, cpu, Job::Ask, to, Duration::from_millis(20)) {
            Ok(found) if found.count > 0 => return Ok(()),
            Ok(_) => Err(anyhow!("no answer from {to}")),
            Err(error) => Err(error),
        };
    }
    last
}
