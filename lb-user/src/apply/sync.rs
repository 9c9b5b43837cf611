//! `Syncer`: the single owner of `Actual`. One call = restore if in doubt, compile, plan, apply, commit.
//!
//! Two ways to a plan: from what changed since the last complete sync (the usual one; its cost is that of the
//! change), and by comparing everything, at start, after any failure, when the node changed, and as long as
//! something finds no room.

use super::{Applied, ApplyError, Backoff, apply, subject};
use crate::compile::{CompileOptions, Compiler, Desired, PortKey, compile};
use crate::model::{NodeView, Problem, World};
use crate::plan::{Index, Step, diff, plan_changes};
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
    compiler: Compiler,
    actual: Option<Actual>,
    /// Present when the maps held exactly what the compiler had after the last sync.
    index: Option<Index>,
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
        Syncer {
            compiler: Compiler::new(options),
            actual: None,
            index: None,
            in_doubt: true,
            backoff: Backoff::default(),
            generation: 0,
        }
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
        self.index = None;
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
        // What changes is told once only: take it in before anything can fail.
        let changes = self.compiler.update(world, node);
        let index = self.index.take();
        self.read_back(tables)?;
        let Some(actual) = &mut self.actual else { return Ok(Vec::new()) };
        if !self.compiler.fits(&limits) {
            let programmed = |key: &_| actual.is_programmed(key);
            let (desired, problems) = compile(world, node, &limits, self.compiler.options(), &programmed);
            report.problems = problems;
            return compare(&desired, actual, tables, report);
        }
        report.problems = self.compiler.problems();
        if let (Some(mut index), Some(changes)) = (index, changes)
            && let Some(plan) = plan_changes(actual, &mut index, self.compiler.desired(), &changes)
        {
            let result = apply(&plan, tables, actual);
            report.ops.add(result.as_ref().unwrap_or_else(|error| &error.applied));
            result?;
            self.index = Some(index);
            return Ok(Vec::new());
        }
        let waiting = compare(self.compiler.desired(), actual, tables, report)?;
        if waiting.is_empty() {
            self.index = Some(Index::of(actual));
        }
        Ok(waiting)
    }

    /// Reads the maps if they may hold something else than what is known.
    fn read_back(&mut self, tables: &mut dyn LbTables) -> Result<(), ApplyError> {
        if self.actual.is_some() && !self.in_doubt {
            return Ok(());
        }
        let limits = tables.limits();
        let names = self.actual.take().map_or_else(BTreeMap::new, |actual| actual.names);
        match tables.dump() {
            Ok(dump) => {
                self.actual = Some(Actual { names, ..restore(&dump, limits) });
                self.in_doubt = false;
                Ok(())
            }
            Err(source) => {
                self.actual = Some(Actual { names, ..Actual::empty(limits) });
                let applied = Applied::default();
                Err(ApplyError { step: Step::Restore, source, applied, failed: Vec::new() })
            }
        }
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

/// Makes the maps hold what is desired by comparing everything; gives what still waits for room.
fn compare(
    desired: &Desired,
    actual: &mut Actual,
    tables: &mut dyn LbTables,
    report: &mut SyncReport,
) -> Result<Vec<Problem>, ApplyError> {
    for round in 1.. {
        let plan = diff(actual, desired);
        let result = apply(&plan, tables, actual);
        report.ops.add(result.as_ref().unwrap_or_else(|error| &error.applied));
        result?;
        if plan.waiting.is_empty() || plan.ops.is_empty() || round == ROUNDS {
            return Ok(plan.waiting);
        }
    }
    Ok(Vec::new())
}
