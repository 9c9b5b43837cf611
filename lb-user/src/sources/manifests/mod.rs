//! A directory of manifests as a source: Services, EndpointSlices, Nodes and ServiceCIDRs in `*.yaml`, `*.yml` and
//! `*.json` files.
//!
//! The directory is watched, and looked at every few seconds as well, for file systems that tell nothing. A broken
//! file keeps what it last said well; the problem names file, document and field. Replace files by renaming.

mod files;
mod parse;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::files::Files;
use super::publish::{Publisher, StatusBoard};
use super::{SourceError, SourceHandle};
use crate::kube::convert::Selection;

/// How often the directory is looked at without having been told to.
const POLL: Duration = Duration::from_secs(5);

/// Which directory, and what to take from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestSource {
    /// The directory; its subdirectories are not read.
    pub dir: PathBuf,
    /// Name of the own Node object; other Nodes are ignored.
    pub node_name: String,
    /// See `convert::Selection`.
    pub service_proxy_name: Option<String>,
}

/// Starts reading and watching; fails if the directory cannot be read at all.
pub async fn start(source: ManifestSource) -> Result<SourceHandle, SourceError> {
    let dir = source.dir.clone();
    let failed = |message: String| SourceError::Manifests { dir: dir.display().to_string(), message };
    let changed = Arc::new(Notify::new());
    let told = changed.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // Reading and half-written files tell nothing new; a watch error is worth a look.
        let news = event.map_or(true, |event| match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            EventKind::Modify(notify::event::ModifyKind::Data(_)) => false,
            _ => true,
        });
        if news {
            told.notify_one();
        }
    })
    .map_err(|error| failed(error.to_string()))?;
    watcher.watch(&source.dir, RecursiveMode::NonRecursive).map_err(|error| failed(error.to_string()))?;
    std::fs::read_dir(&source.dir).map_err(|error| failed(error.to_string()))?;
    info!(dir = %source.dir.display(), node = source.node_name, "reading manifests");

    let (board, status) = StatusBoard::new(format!("manifests in {}", source.dir.display()), 1);
    let (publisher, snapshots) = Publisher::new();
    let selection = Selection { service_proxy_name: source.service_proxy_name };
    let files = Files::new(source.dir, source.node_name, selection);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(files, changed, watcher, publisher, board));
    Ok(SourceHandle::new(snapshots, status, tasks))
}

/// Scans whenever there is reason to, for as long as the watcher lives.
async fn follow<W>(
    mut files: Files,
    changed: Arc<Notify>,
    _watcher: W,
    mut publisher: Publisher,
    board: StatusBoard,
) {
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // The first tick is at once.
        tokio::select! {
            _ = poll.tick() => {}
            () = changed.notified() => {}
        }
        let scan = tokio::task::spawn_blocking(move || {
            let result = files.scan();
            (files, result)
        });
        let Ok((scanned, result)) = scan.await else { return };
        files = scanned;
        match result {
            Ok(()) => {
                board.ok(0);
                publisher.mark_dirty();
                if let Some(due) = publisher.due() {
                    tokio::time::sleep_until(due).await;
                }
                let (world, problems) = files.world();
                publisher.publish(world, problems);
            }
            Err(error) => {
                warn!(%error, "the manifest directory cannot be read; what is known is kept");
                board.failed(0, error.to_string());
            }
        }
    }
}
