//! Which changes a snapshot carries: counted by the source, taken by the agent when the snapshot is in the kernel.
//!
//! A snapshot replaces the one before, so what is measured per change (how many, and how long since the endpoint
//! changed; spec Y2) cannot travel in it: it waits here under the number of the snapshot that carries it. Clones
//! share the log. Bounded: a source that nobody follows forgets its oldest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Batches kept.
const MAX_BATCHES: usize = 4_096;
/// Trigger times kept in one batch.
const MAX_TRIGGERS: usize = 4_096;

/// Changes of one or more snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes of Services.
    pub services: u64,
    /// Changes of EndpointSlices.
    pub slices: u64,
    /// When the endpoints of changed slices changed, as their annotation tells, nanoseconds since the epoch.
    pub triggers_unix_ns: Vec<i64>,
}

impl Changes {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }

    fn add(&mut self, other: Changes) {
        self.services += other.services;
        self.slices += other.slices;
        let room = MAX_TRIGGERS.saturating_sub(self.triggers_unix_ns.len());
        self.triggers_unix_ns.extend(other.triggers_unix_ns.into_iter().take(room));
    }
}

/// The log.
#[derive(Clone, Debug, Default)]
pub struct ChangeLog(Arc<Mutex<VecDeque<(u64, Changes)>>>);

impl ChangeLog {
    /// Notes what the snapshot `generation` carries.
    pub fn note(&self, generation: u64, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        let mut log = self.lock();
        if log.len() == MAX_BATCHES {
            log.pop_front();
        }
        log.push_back((generation, changes));
    }

    /// Takes everything that the snapshots up to `generation` carry.
    pub fn take_up_to(&self, generation: u64) -> Changes {
        let mut log = self.lock();
        let mut taken = Changes::default();
        while log.front().is_some_and(|(carried_by, _)| *carried_by <= generation) {
            taken.add(log.pop_front().map(|(_, changes)| changes).unwrap_or_default());
        }
        taken
    }

    /// What waits, counted.
    pub fn pending(&self) -> (u64, u64) {
        self.lock().iter().fold((0, 0), |(services, slices), (_, changes)| {
            (services + changes.services, slices + changes.slices)
        })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Changes)>> {
        // Every step leaves the queue whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(slices: u64, triggers: &[i64]) -> Changes {
        Changes { services: 1, slices, triggers_unix_ns: triggers.to_vec() }
    }

    #[test]
    fn changes_are_taken_with_the_snapshot_that_carries_them_or_a_later_one() {
        let log = ChangeLog::default();
        log.note(1, changes(1, &[10]));
        log.note(2, changes(2, &[20, 21]));
        log.note(3, Changes::default());
        log.note(4, changes(1, &[]));
        assert_eq!(log.pending(), (3, 4));
        let taken = log.take_up_to(3);
        assert_eq!((taken.services, taken.slices), (2, 3));
        assert_eq!(taken.triggers_unix_ns, [10, 20, 21]);
        assert_eq!(log.pending(), (1, 1));
        assert!(log.take_up_to(3).is_empty());
    }

    #[test]
    fn a_log_that_nobody_reads_stays_small() {
        let log = ChangeLog::default();
        for generation in 0..10_000 {
            log.note(generation, changes(1, &[]));
        }
        assert_eq!(log.pending().1, MAX_BATCHES as u64);
    }
}
