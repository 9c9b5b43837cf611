//! From changes to snapshots: one place that coalesces, numbers and publishes, and one that keeps the status.
//!
//! Invariants: nothing is published before the owner says so; the first snapshot and the first one after a quiet
//! time go out at once, later ones at most every [`MIN_INTERVAL`]; an unchanged world is not published again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::changes::{ChangeLog, Changes};
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
    changes: Changes,
    log: ChangeLog,
}

impl Publisher {
    /// A publisher that has published nothing, and the receiver for the handle.
    pub(crate) fn new() -> (Self, watch::Receiver<Option<Arc<Snapshot>>>) {
        let (sender, receiver) = watch::channel(None);
        let publisher = Publisher {
            sender,
            generation: 0,
            dirty: true,
            not_before: Instant::now(),
            changes: Changes::default(),
            log: ChangeLog::default(),
        };
        (publisher, receiver)
    }

    /// Where the changes of published snapshots are noted.
    pub(crate) fn log(&self) -> ChangeLog {
        self.log.clone()
    }

    /// What the next snapshot carries.
    pub(crate) fn changes(&mut self) -> &mut Changes {
        &mut self.changes
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
        let changes = std::mem::take(&mut self.changes);
        if unchanged {
            // What was changed and changed back is done.
            self.log.note(self.generation, changes);
            return;
        }
        self.generation += 1;
        // Before the snapshot: whoever has the snapshot finds its changes.
        self.log.note(self.generation, changes);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeObject;

    fn world(name: &str) -> World {
        World {
            node: Some(NodeObject { name: name.to_owned(), ..NodeObject::default() }),
            ..World::default()
        }
    }

    /// Virtual time: how long from now until the publisher wants to publish.
    fn wait(publisher: &Publisher) -> Option<Duration> {
        publisher.due().map(|due| due.saturating_duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_and_the_first_after_a_quiet_time_go_out_at_once() {
        let (mut publisher, receiver) = Publisher::new();
        assert_eq!(wait(&publisher), Some(Duration::ZERO));
        publisher.publish(world("a"), vec![]);
        assert_eq!(wait(&publisher), None, "nothing new");
        tokio::time::advance(MIN_INTERVAL).await;
        publisher.mark_dirty();
        assert_eq!(wait(&publisher), Some(Duration::ZERO));
        publisher.publish(world("b"), vec![]);
        assert_eq!(receiver.borrow().as_ref().map(|s| s.generation), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_becomes_two_snapshots_the_second_one_interval_later() {
        let (mut publisher, receiver) = Publisher::new();
        publisher.publish(world("a"), vec![]);
        for _ in 0..100 {
            publisher.mark_dirty();
            assert_eq!(wait(&publisher), Some(MIN_INTERVAL));
        }
        tokio::time::sleep_until(publisher.due().expect("due")).await;
        publisher.publish(world("b"), vec![]);
        assert_eq!(wait(&publisher), None);
        assert_eq!(receiver.borrow().as_ref().map(|s| s.generation), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_was_changed_back_is_not_published_and_no_longer_waits() {
        let (mut publisher, mut receiver) = Publisher::new();
        publisher.publish(world("a"), vec![]);
        receiver.mark_unchanged();
        publisher.changes().services += 2;
        publisher.publish(world("a"), vec![]);
        assert!(!receiver.has_changed().expect("open"));
        assert_eq!(publisher.log().take_up_to(1).services, 2);
    }
}
