//! New connections without pause, each recorded with its times: traffic across a change.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Ask, Transport};
use crate::ns::Ns;

/// One request.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Before the connection was opened.
    pub started: Instant,
    /// After the answer or the failure.
    pub ended: Instant,
    /// Which pod answered, or how it failed.
    pub result: Result<String, ErrorKind>,
}

/// Clients that ask one after the other until stopped.
#[derive(Debug)]
pub struct Continuous {
    stop: Arc<AtomicBool>,
    samples: mpsc::Receiver<Sample>,
    seen: Vec<Sample>,
    threads: Vec<JoinHandle<Option<()>>>,
}

impl Continuous {
    /// Starts `clients` clients in `ns`, each asking `ask`'s destination without pause.
    pub fn start(ns: &Ns, transport: Transport, ask: Ask, clients: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (send, samples) = mpsc::channel();
        let mut running = Self { stop: Arc::clone(&stop), samples, seen: Vec::new(), threads: Vec::new() };
        for _ in 0..clients {
            let (stop, send) = (Arc::clone(&stop), send.clone());
            running.threads.push(ns.spawn_apart("continuous", move || {
                while !stop.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let result = ask.here(transport).map(|answer| answer.pod).map_err(|error| error.kind());
                    if send.send(Sample { started, ended: Instant::now(), result }).is_err() {
                        return;
                    }
                }
            })?);
        }
        Ok(running)
    }

    /// Like [`Continuous::start`] over TCP with the usual timeout, to `dst`.
    pub fn tcp(ns: &Ns, dst: SocketAddr, clients: usize) -> Result<Self> {
        Self::start(ns, Transport::Tcp, Ask::new(dst), clients)
    }

    /// Waits until `done` holds for all samples so far; false if `deadline` passes first.
    pub fn until(&mut self, deadline: Duration, done: impl Fn(&[Sample]) -> bool) -> bool {
        let end = Instant::now() + deadline;
        loop {
            self.seen.extend(self.samples.try_iter());
            if done(&self.seen) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.samples.recv_timeout(left) {
                Ok(sample) => self.seen.push(sample),
                Err(_) => return false,
            }
        }
    }

    /// Stops the clients and returns every sample, by start.
    pub fn stop(mut self) -> Vec<Sample> {
        self.end();
        let mut all = std::mem::take(&mut self.seen);
        all.extend(self.samples.try_iter());
        all.sort_by_key(|sample| sample.started);
        all
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has already been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Continuous {
    fn drop(&mut self) {
        self.end();
    }
}

/// How many of `samples` each pod answered; failures are left out.
pub fn by_pod(samples: &[Sample]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for pod in samples.iter().filter_map(|sample| sample.result.as_deref().ok()) {
        *counts.entry(pod).or_default() += 1;
    }
    counts
}
