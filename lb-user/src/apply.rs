//! `apply`: executes a plan through [`LbTables`], in batches, in the plan's order.
//!
//! `Actual` is updated by what succeeded only. The first failure stops everything that depends on it: no
//! frontend is published whose backends or slots failed, no backend is freed before the deletes succeeded. (A
//! full frontend map does not stop the deletes: they make room and depend on nothing.) A batch that failed may
//! have been written in part, so after a failure the maps must be read back before the next diff;
//! [`Syncer`] does.

mod backoff;
mod sync;

pub use backoff::Backoff;
pub use sync::{SyncReport, Syncer};

use crate::compile::keys::frontend_text;
use crate::plan::{Names, Op, Plan, Step};
use crate::restore::Actual;
use crate::tables::{LbTables, TableError};

/// Entries per call: bounds the memory of a call and what a failed call leaves in doubt.
const BATCH: usize = 4096;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    /// Backends written.
    pub backends: u32,
    /// Sets written.
    pub sets: u32,
    /// Frontends written.
    pub frontends: u32,
    /// Frontends deleted.
    pub deleted: u32,
    /// Backends freed.
    pub freed: u32,
    /// Ranges of slots released (no write).
    pub released: u32,
    /// Sets of source ranges written or deleted.
    pub ranges: u32,
}

impl Applied {
    /// Number of operations.
    pub fn total(&self) -> usize {
        let counts =
            [self.backends, self.sets, self.frontends, self.deleted, self.freed, self.released, self.ranges];
        counts.into_iter().map(|n| n as usize).sum()
    }

    pub(crate) fn add(&mut self, other: &Applied) {
        self.backends += other.backends;
        self.sets += other.sets;
        self.frontends += other.frontends;
        self.deleted += other.deleted;
        self.freed += other.freed;
        self.released += other.released;
        self.ranges += other.ranges;
    }
}

/// A plan that stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step:?} failed: {source}")]
pub struct ApplyError {
    /// The phase that failed.
    pub step: Step,
    /// Why.
    pub source: TableError,
    /// What was written before.
    pub applied: Applied,
    /// The operations in doubt: those of the failed call.
    pub failed: Vec<Op>,
}

/// Executes a plan.
pub fn apply(plan: &Plan, tables: &mut dyn LbTables, actual: &mut Actual) -> Result<Applied, ApplyError> {
    let mut applied = Applied::default();
    take_names(&plan.names, actual);
    let mut full = None;
    for ops in plan.ops.chunk_by(|a, b| a.step() == b.step()) {
        for batch in ops.chunks(BATCH) {
            let Some(step) = batch.first().map(Op::step) else { continue };
            if full.is_some() && step != Step::Deletes {
                break;
            }
            match write(batch, tables) {
                Ok(()) => batch.iter().for_each(|op| note(op, actual, &mut applied)),
                Err(source) => {
                    let error = ApplyError { step, source, applied, failed: batch.to_vec() };
                    if step == Step::Frontends && matches!(error.source, TableError::Full { .. }) {
                        full = Some(error);
                    } else {
                        return Err(full.unwrap_or(error));
                    }
                }
            }
        }
    }
    match full {
        Some(error) => Err(ApplyError { applied, ..error }),
        None => Ok(applied),
    }
}

fn take_names(names: &Names, actual: &mut Actual) {
    match names {
        Names::All(all) => actual.names = all.clone(),
        Names::Changed(changed) => {
            for (name, id) in changed {
                match id {
                    Some(id) => drop(actual.names.insert(name.clone(), *id)),
                    None => drop(actual.names.remove(name)),
                }
            }
        }
    }
}

/// One call for operations of one step.
fn write(batch: &[Op], tables: &mut dyn LbTables) -> Result<(), TableError> {
    let (mut backends, mut slots, mut frontends, mut deletes) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut ranges, mut old_ranges) = (Vec::new(), Vec::new());
    for op in batch {
        match op {
            Op::PutBackend { id, entry } | Op::FreeBackend { id, entry } => backends.push((*id, *entry)),
            Op::PutSlots { offset, ids } => slots.push((*offset, ids.clone())),
            Op::PutRanges { id, networks } => ranges.push((*id, networks.clone())),
            Op::DeleteRanges { id, networks } => old_ranges.push((*id, networks.clone())),
            Op::PutFrontend { key, svc } => frontends.push((*key, *svc)),
            Op::DeleteFrontend { key } => deletes.push(*key),
            Op::ReleaseSlots { .. } => {}
        }
    }
    if !backends.is_empty() {
        tables.put_backends(&backends)?;
    }
    if !slots.is_empty() {
        tables.put_slots(&slots)?;
    }
    if !ranges.is_empty() {
        tables.put_ranges(&ranges)?;
    }
    if !frontends.is_empty() {
        tables.put_frontends(&frontends)?;
    }
    if !deletes.is_empty() {
        tables.delete_frontends(&deletes)?;
    }
    if !old_ranges.is_empty() {
        tables.delete_ranges(&old_ranges)?;
    }
    Ok(())
}

/// Takes a write that succeeded into `actual`.
fn note(op: &Op, actual: &mut Actual, applied: &mut Applied) {
    match op {
        Op::PutBackend { id, entry } => {
            actual.set_backend(*id, *entry);
            applied.backends += 1;
        }
        Op::FreeBackend { id, entry } => {
            actual.set_backend(*id, *entry);
            applied.freed += 1;
        }
        Op::PutSlots { offset, ids } => {
            actual.ranges.insert((*offset, ids.len() as u32), ids.clone());
            applied.sets += 1;
        }
        Op::PutFrontend { key, svc } => {
            actual.frontends.insert(*key, *svc);
            applied.frontends += 1;
        }
        Op::DeleteFrontend { key } => {
            actual.frontends.remove(key);
            applied.deleted += 1;
        }
        Op::PutRanges { id, networks } => {
            actual.source_ranges.insert(*id, networks.clone());
            applied.ranges += 1;
        }
        Op::DeleteRanges { id, .. } => {
            actual.source_ranges.remove(id);
            applied.ranges += 1;
        }
        Op::ReleaseSlots { offset, count } => {
            actual.ranges.remove(&(*offset, *count));
            applied.released += 1;
        }
    }
}

/// What an operation is about, for a problem report.
pub(crate) fn subject(op: &Op) -> String {
    match op {
        Op::PutFrontend { key, .. } | Op::DeleteFrontend { key } => {
            format!("frontend {}", frontend_text(key))
        }
        Op::PutBackend { id, .. } | Op::FreeBackend { id, .. } => format!("backend {id}"),
        Op::PutSlots { offset, .. } | Op::ReleaseSlots { offset, .. } => format!("slots at {offset}"),
        Op::PutRanges { id, .. } | Op::DeleteRanges { id, .. } => format!("source ranges {id}"),
    }
}
