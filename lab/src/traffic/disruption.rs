//! Long flows across a change: how many were lost, and how long was the longest silence.
//!
//! Each TCP connection and UDP flow asks again and again on the same socket. A connection is lost when it is
//! reset, ends, or leaves a question unanswered for the patience given. A UDP flow cannot be lost: unanswered
//! datagrams are counted, and flows that changed their pod. All flows run on one thread in the client's
//! namespace.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::{Answer, raise_file_limit};
use crate::ns::{self, Ns};

/// Connections opened at the same time.
const OPENING: usize = 256;
/// How often an opening question is repeated over UDP, where one may be lost.
const UDP_TRIES: usize = 3;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Flows {
    /// Whom to ask.
    pub dst: SocketAddr,
    /// Number of TCP connections.
    pub tcp: usize,
    /// Number of UDP flows.
    pub udp: usize,
    /// The time from one question of a flow to its next.
    pub every: Duration,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Flows {
    /// No flow yet, to `dst`, each asking once a second with ten seconds of patience.
    pub fn to(dst: SocketAddr) -> Self {
        Self { dst, tcp: 0, udp: 0, every: Duration::from_secs(1), patience: Duration::from_secs(10) }
    }
}

/// What happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// TCP connections opened.
    pub tcp_opened: usize,
    /// TCP connections lost, for whatever reason.
    pub tcp_lost: usize,
    /// Lost ones that were reset.
    pub tcp_reset: usize,
    /// Lost ones whose answer did not come in time.
    pub tcp_timed_out: usize,
    /// UDP flows that were answered at least once.
    pub udp_opened: usize,
    /// Datagrams without an answer.
    pub udp_unanswered: u64,
    /// UDP flows whose pod changed at least once.
    pub udp_moved: usize,
    /// Questions answered.
    pub exchanges: u64,
    /// The longest wait for an answer of any flow.
    pub longest_gap: Duration,
}

/// Running flows.
#[derive(Debug)]
pub struct Disruption {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Option<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    tcp_opened: AtomicUsize,
    tcp_lost: AtomicUsize,
    tcp_reset: AtomicUsize,
    tcp_timed_out: AtomicUsize,
    udp_opened: AtomicUsize,
    udp_unanswered: AtomicU64,
    udp_moved: AtomicUsize,
    exchanges: AtomicU64,
    longest_gap: Mutex<Duration>,
}

impl Disruption {
    /// Opens all flows from `ns`; each has been answered once when this returns.
    pub fn start(ns: &Ns, flows: Flows) -> Result<Self> {
        raise_file_limit();
        let shared = Arc::new(Shared::default());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (opened, wait) = mpsc::channel();
        let counts = Arc::clone(&shared);
        let thread = ns.spawn_apart("disruption", move || {
            let Ok(runtime) = ns::runtime() else { return };
            runtime.block_on(run(flows, counts, &stopped, opened));
        })?;
        let started = Self { stop, shared, thread: Some(thread) };
        for _ in 0..flows.tcp + flows.udp {
            wait.recv()
                .map_err(|_| anyhow!("the client thread ended"))?
                .with_context(|| format!("open a flow to {}", flows.dst))?;
        }
        Ok(started)
    }

    /// What has happened so far.
    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// Waits until every living flow had time for one more answer: until `exchanges` more are counted. False if
    /// `deadline` passes first.
    pub fn wait_for_exchanges(&self, exchanges: u64, deadline: Duration) -> bool {
        let (goal, end) = (self.report().exchanges + exchanges, std::time::Instant::now() + deadline);
        while self.report().exchanges < goal {
            if std::time::Instant::now() > end {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        true
    }

    /// Asks once more on every flow, closes all, and tells what happened.
    pub fn stop(mut self) -> Report {
        self.end();
        self.shared.report()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Disruption {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn report(&self) -> Report {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        Report {
            tcp_opened: count(&self.tcp_opened),
            tcp_lost: count(&self.tcp_lost),
            tcp_reset: count(&self.tcp_reset),
            tcp_timed_out: count(&self.tcp_timed_out),
            udp_opened: count(&self.udp_opened),
            udp_unanswered: self.udp_unanswered.load(Ordering::Relaxed),
            udp_moved: count(&self.udp_moved),
            exchanges: self.exchanges.load(Ordering::Relaxed),
            longest_gap: *self.longest_gap.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn waited(&self, gap: Duration) {
        let mut longest = self.longest_gap.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = gap.max(*longest);
    }

    fn answered(&self, gap: Duration) {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        self.waited(gap);
    }
}

type Opened = mpsc::Sender<io::Result<()>>;

async fn run(flows: Flows, shared: Arc<Shared>, stopped: &AtomicBool, opened: Opened) {
    let (stop, stopping) = watch::channel(false);
    let turnstile = Arc::new(Semaphore::new(OPENING));
    let mut tasks = JoinSet::new();
    let total = flows.tcp + flows.udp;
    for number in 0..total {
        let flow = Flow {
            flows,
            // Spread over the period, so that the load is even.
            offset: flows.every.mul_f64(number as f64 / total as f64),
            shared: Arc::clone(&shared),
            stop: stopping.clone(),
            turnstile: Arc::clone(&turnstile),
            opened: opened.clone(),
        };
        if number < flows.tcp {
            tasks.spawn(flow.tcp());
        } else {
            tasks.spawn(flow.udp());
        }
    }
    drop(opened);
    ns::raised(stopped).await;
    // Without a receiver the flows have all ended already.
    let _ = stop.send(true);
    while tasks.join_next().await.is_some() {}
}

struct Flow {
    flows: Flows,
    offset: Duration,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    turnstile: Arc<Semaphore>,
    opened: Opened,
}

impl Flow {
    async fn tcp(mut self) {
        let mut stream = match self.open_tcp().await {
            Ok(stream) => stream,
            Err(error) => return self.tell(Err(error)),
        };
        self.shared.tcp_opened.fetch_add(1, Ordering::Relaxed);
        self.tell(Ok(()));
        let mut ticks = self.ticks();
        loop {
            let last = self.pause(&mut ticks).await;
            let asked = Instant::now();
            let result = ask_tcp(&mut stream, self.flows.patience).await;
            match result {
                Ok(_) => self.shared.answered(asked.elapsed()),
                Err(error) => return self.lost(&error, asked.elapsed()),
            }
            if last {
                return;
            }
        }
    }

    async fn udp(mut self) {
        let (socket, mut pod) = match self.open_udp().await {
            Ok(opened) => opened,
            Err(error) => return self.tell(Err(error)),
        };
        self.shared.udp_opened.fetch_add(1, Ordering::Relaxed);
        self.tell(Ok(()));
        let (mut ticks, mut moved) = (self.ticks(), false);
        let mut answered = Instant::now();
        loop {
            let last = self.pause(&mut ticks).await;
            let asked = Instant::now();
            match ask_udp(&socket, self.flows.patience.min(self.flows.every)).await {
                Ok(answer) => {
                    self.shared.answered(asked.elapsed());
                    answered = Instant::now();
                    if answer.pod != pod && !moved {
                        moved = true;
                        self.shared.udp_moved.fetch_add(1, Ordering::Relaxed);
                    }
                    pod = answer.pod;
                }
                Err(_) => {
                    self.shared.udp_unanswered.fetch_add(1, Ordering::Relaxed);
                    self.shared.waited(answered.elapsed());
                }
            }
            if last {
                return;
            }
        }
    }

    async fn open_tcp(&self) -> io::Result<BufReader<TcpStream>> {
        let _turn = self.turnstile.acquire().await.map_err(io::Error::other)?;
        let stream = timeout(self.flows.patience, TcpStream::connect(self.flows.dst)).await??;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        ask_tcp(&mut stream, self.flows.patience).await?;
        Ok(stream)
    }

    async fn open_udp(&self) -> io::Result<(UdpSocket, String)> {
        let _turn = self.turnstile.acquire().await.map_err(io::Error::other)?;
        let any = if self.flows.dst.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(self.flows.dst).await?;
        let mut result = Err(ErrorKind::TimedOut.into());
        for _ in 0..UDP_TRIES {
            result = ask_udp(&socket, self.flows.patience.min(Duration::from_secs(1))).await;
            if result.is_ok() {
                break;
            }
        }
        Ok((socket, result?.pod))
    }

    fn tell(&self, result: io::Result<()>) {
        // The starter stops listening after the first failure.
        let _ = self.opened.send(result);
    }

    fn ticks(&self) -> tokio::time::Interval {
        let mut ticks =
            interval_at(Instant::now() + self.offset, self.flows.every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// Waits for the next question's time; true if it shall be the last.
    async fn pause(&mut self, ticks: &mut tokio::time::Interval) -> bool {
        tokio::select! {
            biased;
            // An error means that all is over, which stops as well.
            _ = self.stop.wait_for(|stop| *stop) => true,
            _ = ticks.tick() => false,
        }
    }

    fn lost(&self, error: &io::Error, gap: Duration) {
        self.shared.waited(gap);
        self.shared.tcp_lost.fetch_add(1, Ordering::Relaxed);
        match error.kind() {
            ErrorKind::TimedOut => self.shared.tcp_timed_out.fetch_add(1, Ordering::Relaxed),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                self.shared.tcp_reset.fetch_add(1, Ordering::Relaxed)
            }
            _ => 0,
        };
    }
}

async fn ask_tcp(stream: &mut BufReader<TcpStream>, patience: Duration) -> io::Result<Answer> {
    let mut line = Vec::new();
    timeout(patience, async {
        stream.write_all(b"ask\n").await?;
        stream.read_until(b'\n', &mut line).await
    })
    .await??;
    if line.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Answer::parse(&line) }
}

async fn ask_udp(socket: &UdpSocket, patience: Duration) -> io::Result<Answer> {
    let mut buffer = [0; 512];
    let count = timeout(patience, async {
        socket.send(b"ask").await?;
        socket.recv(&mut buffer).await
    })
    .await??;
    Answer::parse(&buffer[..count])
}
