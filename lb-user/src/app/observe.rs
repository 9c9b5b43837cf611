//! What the run loop shows to the outside: the view for `admin`, and the metrics of its syncs.
//!
//! The run loop calls; nothing here waits, fails or touches the kernel.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::admin::view::HealthChecks;
use crate::admin::{AdminInputs, AgentView};
use crate::apply::SyncReport;
use crate::model::{NodeView, Problem};
use crate::sources::changes::ChangeLog;
use crate::sources::{Snapshot, SourceHandle};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notice::Notices;
use crate::telemetry::problems::ProblemBoard;
use crate::telemetry::status::Status;

/// The run loop's end of everything that is shown.
#[derive(Debug)]
pub struct Observer {
    view: watch::Sender<AgentView>,
    metrics: Metrics,
    changes: ChangeLog,
    checks: HealthChecks,
    /// Problems that are not an object's.
    pub(super) problems: watch::Receiver<Vec<Problem>>,
}

impl Observer {
    /// An observer whose view nobody looks at.
    pub fn unseen() -> Observer {
        let (metrics, _) = Metrics::new();
        let (_, problems) = ProblemBoard::new();
        let (changes, checks) = (ChangeLog::default(), HealthChecks::new());
        Observer { view: watch::Sender::default(), metrics, changes, checks, problems }
    }

    /// An observer of an agent that follows `source`, and what `admin` needs to show it.
    pub fn of(source: &SourceHandle, notices: Notices) -> (Observer, AdminInputs) {
        let (metrics, registry) = Metrics::new();
        let (board, problems) = ProblemBoard::new();
        let (view, seen) = watch::channel(AgentView::default());
        let changes = source.changes.clone();
        let inputs = AdminInputs {
            view: seen,
            snapshots: source.snapshots.clone(),
            changes: changes.clone(),
            metrics: metrics.clone(),
            registry,
            board,
            notices,
        };
        (Observer { view, metrics, changes, checks: HealthChecks::new(), problems }, inputs)
    }

    /// A sync has ended.
    pub(super) fn synced(
        &mut self,
        snapshot: &Snapshot,
        node: &NodeView,
        report: &SyncReport,
        took: Duration,
    ) {
        let now = Timestamp::now();
        self.metrics.sync_duration.observe(took.as_secs_f64());
        self.metrics.operations.inc_by(report.ops.total() as u64);
        if report.error.is_some() {
            self.metrics.sync_failures.inc();
            self.view.send_if_modified(|view| {
                let first = view.failing_since.is_none();
                view.failing_since.get_or_insert_with(Instant::now);
                first
            });
            return;
        }
        self.metrics.last_synced_s.set(now.as_duration().as_secs_f64());
        let changes = self.changes.take_up_to(snapshot.generation);
        self.metrics.service_changes.inc_by(changes.services);
        self.metrics.endpoint_changes.inc_by(changes.slices);
        let now_unix_ns = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        for changed in changes.triggers_unix_ns {
            self.metrics.programmed(changed, now_unix_ns);
        }
        let checks = self.checks.of(&snapshot.world, &node.name);
        let leaving = snapshot.world.node.as_ref().is_some_and(|n| n.leaving);
        self.view.send_modify(|view| {
            view.failing_since = None;
            view.synced_generation = snapshot.generation;
            view.synced_at = Some(now);
            view.leaving = leaving;
            view.node_port_addresses.clone_from(&node.node_port_addresses);
            view.health_checks.clone_from(checks);
        });
    }

    /// The status has changed, perhaps.
    pub(super) fn status(&self, status: &Status) {
        let count = |names: &mut dyn Iterator<Item = &str>| {
            names.fold(BTreeMap::new(), |mut counts: BTreeMap<String, u64>, name| {
                *counts.entry(name.to_owned()).or_default() += 1;
                counts
            })
        };
        // `Service default/web`: the kind comes first.
        let kind = |object: &'_ str| object.split(' ').next().unwrap_or_default().len();
        let problems = count(&mut status.problems.iter().map(|p| &p.object[..kind(&p.object)]));
        let interfaces = count(&mut status.interfaces.iter().map(|i| i.role.as_str()));
        let connected = status.source.get("connected").and_then(serde_json::Value::as_bool).unwrap_or(false);
        self.view.send_if_modified(|view| {
            let new = AgentView {
                ready: status.ready,
                source_connected: connected,
                problems,
                interfaces,
                ..view.clone()
            };
            let modified = new != *view;
            *view = new;
            modified
        });
    }
}
