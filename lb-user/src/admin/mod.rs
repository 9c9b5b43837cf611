//! What the agent answers over HTTP: health, metrics, and the health checks of Services (spec §1.7).
//!
//! `admin` reads: the run loop's [`AgentView`] through a channel, the source's snapshots (to know that something waits),
//! the kernel's counters through pinned maps. It never writes to a map, and the run loop never waits for it.

mod exposition;
pub mod health;
mod kernel;
mod listeners;
pub mod routes;
pub mod serve;
mod service_checks;
pub mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use exposition::Exposition;
pub use view::AgentView;

use crate::config::Config;
use crate::sources::Snapshot;
use crate::sources::changes::ChangeLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notice::{Notice, Notices};
use crate::telemetry::problems::ProblemBoard;
use health::Health;
use listeners::{OwnPort, keep_open};
use service_checks::ServiceChecks;

/// A change may wait this many sync periods (spec H1).
const PERIODS: u32 = 2;

/// What `admin` reads, and where it tells.
#[derive(Debug)]
pub struct AdminInputs {
    /// The agent.
    pub view: watch::Receiver<AgentView>,
    /// The source's snapshots.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The source's changes.
    pub changes: ChangeLog,
    /// The agent's metrics.
    pub metrics: Metrics,
    /// The registry that shows them.
    pub registry: Registry,
    /// Where problems go.
    pub board: ProblemBoard,
    /// Where Events go.
    pub notices: Notices,
}

/// Starts every server, as tasks that end when the set is dropped.
pub fn start(config: &Config, inputs: AdminInputs) -> JoinSet<()> {
    let AdminInputs { view, snapshots, changes, metrics, registry, board, notices } = inputs;
    let timeout = Duration::from_secs(config.sync_period_s.into()) * PERIODS;
    let health = Health::new(view.clone(), timeout);
    let mut tasks = JoinSet::new();
    tasks.spawn(note_queued(snapshots, health.clone(), metrics.clone()));
    let mut open = |port: OwnPort| {
        tasks.spawn(keep_open(port, board.clone(), notices.clone(), metrics.clone()));
    };
    if let Some(address) = config.healthz_bind_address {
        open(OwnPort {
            flag: "--healthz-bind-address",
            address,
            router: routes::health(health.clone(), metrics.clone()),
            notice: Some(|message| Notice::HealthServerFailed { message }),
        });
    }
    if let Some(address) = config.metrics_bind_address {
        let shown = serde_json::to_value(config).unwrap_or_default();
        let exposition =
            Exposition::new(registry, metrics.clone(), changes, view.clone(), config.bpffs.clone());
        open(OwnPort {
            flag: "--metrics-bind-address",
            address,
            router: routes::metrics(Arc::new(exposition), shown),
            notice: None,
        });
    }
    tasks.spawn(ServiceChecks { health, view, board, notices, metrics }.run());
    tasks
}

/// Notes when a snapshot begins to wait for the kernel.
async fn note_queued(
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    health: Health,
    metrics: Metrics,
) {
    loop {
        let generation = snapshots.borrow_and_update().as_ref().map(|snapshot| snapshot.generation);
        if let Some(generation) = generation {
            health.queued(generation, Instant::now());
            metrics.last_queued_s.set(Timestamp::now().as_duration().as_secs_f64());
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}
