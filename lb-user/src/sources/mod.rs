//! Where the world comes from: the Kubernetes API (`crate::kube`) or a directory of manifests ([`manifests`]).
//!
//! Every source delivers the same thing: immutable [`Snapshot`]s through a `tokio::sync::watch` channel, the first
//! one only after everything was read once (spec O7), later ones coalesced. A source never ends because of what it
//! reads: whatever is wrong becomes a [`Problem`] of the snapshot or the text of the [`SourceStatus`].

pub mod changes;
pub(crate) mod intern;
pub mod manifests;
pub(crate) mod publish;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::model::{Problem, World};

/// Everything a source knows at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The objects.
    pub world: Arc<World>,
    /// What is wrong with objects, sorted; everything not named here is in the world.
    pub problems: Vec<Problem>,
    /// Counts the snapshots of this source, from 1.
    pub generation: u64,
}

/// How a source is doing right now.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SourceStatus {
    /// What is being read, for people: `Kubernetes API https://10.0.0.1:6443/` or `manifests in /etc/fairway`.
    pub description: String,
    /// Whether everything that is read is reachable.
    pub connected: bool,
    /// Since when `connected` is what it is, seconds since the epoch.
    pub since_unix_s: u64,
    /// The last error, kept after recovery.
    pub last_error: Option<String>,
    /// When the last error happened, seconds since the epoch.
    pub last_error_unix_s: Option<u64>,
}

/// A running source; dropping it ends its tasks.
#[derive(Debug)]
pub struct SourceHandle {
    /// The latest snapshot; `None` until everything was read once.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The state of the connection.
    pub status: watch::Receiver<SourceStatus>,
    /// What the snapshots change.
    pub changes: changes::ChangeLog,
    _tasks: JoinSet<()>,
}

impl SourceHandle {
    pub(crate) fn new(
        snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        status: watch::Receiver<SourceStatus>,
        tasks: JoinSet<()>,
    ) -> Self {
        SourceHandle { snapshots, status, changes: changes::ChangeLog::default(), _tasks: tasks }
    }

    pub(crate) fn with_changes(mut self, changes: changes::ChangeLog) -> Self {
        self.changes = changes;
        self
    }

    /// Whether the source still works; false only after a panic in one of its tasks.
    pub fn is_running(&self) -> bool {
        self.snapshots.has_changed().is_ok()
    }
}

/// A source that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The kubeconfig, the in-cluster files or the URL cannot be used.
    #[error("Kubernetes client configuration: {0}")]
    Config(String),
    /// The client (TLS, proxy) cannot be built from the configuration.
    #[error("Kubernetes client: {0}")]
    Client(String),
    /// The manifest directory cannot be watched or read.
    #[error("manifest directory {dir}: {message}")]
    Manifests {
        /// The directory.
        dir: String,
        /// The system's words.
        message: String,
    },
}
