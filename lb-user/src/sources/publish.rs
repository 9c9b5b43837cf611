//! From changes to snapshots: one place that coalesces, numbers and publishes, and one that keeps the status.
//!
//! Invariants: nothing is published before the owner says so; the first snapshot and the first one after a quiet
//! time go out at once, later ones at most every [`MIN_INTERVAL`]; an unchanged world is not published again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Snapshot, SourceStatus};
use crate::model::{Problem, World};

/// Least time between two snapshots.
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(5);

/// The sending half of the snapshots.
pub(crate) struct Publisher {
    sender: watch::Sender<Option<Arc<Snapshot>>>,
    generation: u64,
    dirty: bool,
    not_before: Instant,
}

impl Publisher {
    /// A publisher that has published nothing, and the receiver for the handle.
    pub(crate) fn new() -> (Self, watch::Receiver<Option<Arc<Snapshot>>>) {
        let (sender, receiver) = watch::channel(None);
        (Publisher { sender, generation: 0, dirty: true, not_before: Instant::now() }, receiver)
    }

    /// Notes that there is something new.
    pub(crate) fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    /// When to publish next; `None` while there is nothing new.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.dirty.then_some(self.not_before)
    }

    /// Publishes a snapshot, unless it says the same as the one before.
    pub(crate) fn publish(&mut self, world: World, mut problems: Vec<Problem>) {
        problems.sort();
        problems.dedup();
        self.dirty = false;
        self.not_before = Instant::now() + MIN_INTERVAL;
        let unchanged = self
            .sender
            .borrow()
            .as_ref()
            .is_some_and(|last| *last.world == world && last.problems == problems);
        if unchanged {
            return;
        }
        self.generation += 1;
        let snapshot = Snapshot { world: Arc::new(world), problems, generation: self.generation };
        self.sender.send_replace(Some(Arc::new(snapshot)));
    }
}

/// The sending half of the status; several parts of a source report into it, each with its own error.
#[derive(Clone)]
pub(crate) struct StatusBoard {
    sender: Arc<watch::Sender<SourceStatus>>,
    parts: Arc<Mutex<Vec<bool>>>,
}

impl StatusBoard {
    /// A board with `parts` parts, none of them connected.
    pub(crate) fn new(description: String, parts: usize) -> (Self, watch::Receiver<SourceStatus>) {
        let status = SourceStatus { description, since_unix_s: now_unix_s(), ..SourceStatus::default() };
        let (sender, receiver) = watch::channel(status);
        (StatusBoard { sender: Arc::new(sender), parts: Arc::new(Mutex::new(vec![false; parts])) }, receiver)
    }

    /// One part works.
    pub(crate) fn ok(&self, part: usize) {
        self.set(part, None);
    }

    /// One part does not work, and why.
    pub(crate) fn failed(&self, part: usize, error: String) {
        self.set(part, Some(error));
    }

    fn set(&self, part: usize, error: Option<String>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = parts.get_mut(part) {
            *state = error.is_none();
        }
        let connected = parts.iter().all(|works| *works);
        self.sender.send_if_modified(|status| {
            let mut modified = false;
            if status.connected != connected {
                status.connected = connected;
                status.since_unix_s = now_unix_s();
                modified = true;
            }
            if let Some(error) = error {
                status.last_error = Some(error);
                status.last_error_unix_s = Some(now_unix_s());
                modified = true;
            }
            modified
        });
    }
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
