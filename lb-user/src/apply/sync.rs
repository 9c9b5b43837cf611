//! `Syncer`: the single owner of `Actual`. One call = restore if in doubt, compile, diff, apply, commit.

use super::{Applied, ApplyError, Backoff, apply, subject};
use crate::compile::{CompileOptions, PortKey, compile};
use crate::model::{NodeView, Problem, World};
use crate::plan::{Step, diff};
use crate::restore::{Actual, restore};
use crate::tables::{LbTables, TableError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Plans per sync: a second one uses the room that the first one freed.
const ROUNDS: usize = 8;
/// Objects named when a map is full.
const NAMED: usize = 16;

/// Keeps the maps equal to the world.
#[derive(Clone, Debug)]
pub struct Syncer {
    options: CompileOptions,
    actual: Option<Actual>,
    /// The maps may differ from `actual`: read them back first.
    in_doubt: bool,
    backoff: Backoff,
    generation: u32,
}

/// How a sync went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// What was written.
    pub ops: Applied,
    /// What is wrong with which object, and what found no room.
    pub problems: Vec<Problem>,
    /// Why the sync is incomplete; the maps keep working with what they hold.
    pub error: Option<ApplyError>,
    /// When to try again although nothing changes; `None` = no need.
    pub retry_after: Option<Duration>,
}

impl Syncer {
    /// A syncer that knows nothing yet: its first sync reads the maps.
    pub fn new(options: CompileOptions) -> Syncer {
        Syncer { options, actual: None, in_doubt: true, backoff: Backoff::default(), generation: 0 }
    }

    /// Makes the maps hold what the world wants. Call it once every first list is complete, on every change, and
    /// after `retry_after`. `now_unix_s` is noted in the maps when the sync is complete.
    pub fn sync(
        &mut self,
        world: &World,
        node: &NodeView,
        tables: &mut dyn LbTables,
        now_unix_s: u32,
    ) -> SyncReport {
        let mut report = SyncReport::default();
        let waiting = match self.rounds(world, node, tables, &mut report) {
            Ok(waiting) => waiting,
            Err(error) => {
                self.in_doubt = true;
                report.problems.extend(self.full(&error));
                report.error = Some(error);
                Vec::new()
            }
        };
        let room_missing = !waiting.is_empty();
        report.problems.extend(waiting);
        if report.error.is_none() {
            let generation = self.generation.wrapping_add(1);
            match tables.commit_sync(generation, now_unix_s) {
                Ok(()) => self.generation = generation,
                Err(source) => {
                    let applied = report.ops;
                    report.error =
                        Some(ApplyError { step: Step::Commit, source, applied, failed: Vec::new() });
                }
            }
        }
        if report.error.is_some() || room_missing {
            report.retry_after = Some(self.backoff.failed());
        } else {
            self.backoff.succeeded();
        }
        report
    }

    /// Forces the next sync to read the maps back, for a periodic comparison with the kernel.
    pub fn distrust(&mut self) {
        self.in_doubt = true;
    }

    /// What the maps hold, once read.
    pub fn actual(&self) -> Option<&Actual> {
        self.actual.as_ref()
    }

    /// Ids of the service ports in the maps, by name.
    pub fn names(&self) -> impl Iterator<Item = (&PortKey, u32)> {
        self.actual.iter().flat_map(|a| &a.names).map(|(name, id)| (name, *id))
    }

    fn rounds(
        &mut self,
        world: &World,
        node: &NodeView,
        tables: &mut dyn LbTables,
        report: &mut SyncReport,
    ) -> Result<Vec<Problem>, ApplyError> {
        let limits = tables.limits();
        let actual = match &mut self.actual {
            Some(actual) if !self.in_doubt => actual,
            old => {
                let names = old.take().map_or_else(BTreeMap::new, |a| a.names);
                let read = tables.dump().map_err(|source| ApplyError {
                    step: Step::Restore,
                    source,
                    applied: Applied::default(),
                    failed: Vec::new(),
                });
                match read {
                    Ok(dump) => old.insert(Actual { names, ..restore(&dump, limits) }),
                    Err(error) => {
                        *old = Some(Actual { names, ..Actual::empty(limits) });
                        return Err(error);
                    }
                }
            }
        };
        self.in_doubt = false;
        let (desired, problems) =
            compile(world, node, &limits, &self.options, &|key| actual.is_programmed(key));
        report.problems = problems;
        for round in 1.. {
            let plan = diff(actual, &desired);
            let result = apply(&plan, tables, actual);
            let applied = result.as_ref().unwrap_or_else(|error| &error.applied);
            report.ops.add(applied);
            result?;
            if plan.waiting.is_empty() || plan.ops.is_empty() || round == ROUNDS {
                return Ok(plan.waiting);
            }
        }
        Ok(Vec::new())
    }

    /// Problems that name what a full map could not take.
    fn full(&self, error: &ApplyError) -> Vec<Problem> {
        let TableError::Full { map } = error.source else { return Vec::new() };
        let mut problems: Vec<Problem> = error
            .failed
            .iter()
            .take(NAMED)
            .map(|op| Problem {
                object: self.owner(op),
                field: String::new(),
                message: format!("map {map} is full"),
            })
            .collect();
        if error.failed.len() > NAMED {
            let message = format!("map {map} is full: {} more objects", error.failed.len() - NAMED);
            problems.push(Problem { object: format!("map {map}"), field: String::new(), message });
        }
        problems
    }

    /// The Service that an operation is for, or what it writes.
    fn owner(&self, op: &crate::plan::Op) -> String {
        if let crate::plan::Op::PutFrontend { svc, .. } = op
            && let Some((name, _)) = self.names().find(|(_, id)| *id == svc.id)
        {
            return format!("Service {}", name.service);
        }
        subject(op)
    }
}
