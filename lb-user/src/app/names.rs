//! The file that names frontends for people: written when Services changed, at most once a second.
//!
//! With 10,000 Services it takes as long to write as thousands of changes take to apply, so it comes after the
//! tables and not with every change.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::retry::Retry;
use crate::model::{Objects, Service, World};
use crate::telemetry::status::{StateDir, frontend_names};

/// Least time between two writes.
const PAUSE: Duration = Duration::from_secs(1);

/// What was written when, and when to write next.
#[derive(Debug, Default)]
pub(super) struct NamesFile {
    written: Option<Objects<Service>>,
    last: Option<Instant>,
    next: Retry,
}

impl NamesFile {
    /// Writes the names of a world if they changed: now, or once [`NamesFile::due`] says so.
    pub fn update(&mut self, world: &World, state: &StateDir) {
        let early = self.last.and_then(|last| PAUSE.checked_sub(last.elapsed()));
        match early.filter(|_| self.is_old(world)) {
            Some(wait) => self.next.after(wait),
            None => self.write(world, state),
        }
    }

    /// Writes the names of a world now if they changed.
    pub fn write(&mut self, world: &World, state: &StateDir) {
        self.next.succeeded();
        if !self.is_old(world) {
            return;
        }
        self.last = Some(Instant::now());
        match state.write_names(&frontend_names(world)) {
            Ok(()) => self.written = Some(world.services.clone()),
            Err(error) => {
                warn!(%error, "names could not be written");
                self.next.failed();
            }
        }
    }

    /// Completes when it is time to write.
    pub async fn due(&self) {
        self.next.due().await;
    }

    fn is_old(&self, world: &World) -> bool {
        self.written.as_ref().is_none_or(|written| *written != world.services)
    }
}
