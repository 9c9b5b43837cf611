//! A retry that is due at some time, or never.

use tokio::time::{Duration, Instant};

use crate::apply::Backoff;

/// When to try a step again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at: Option<Instant>,
    backoff: Backoff,
}

impl Retry {
    /// Notes a failure: due after the backoff's next wait.
    pub(super) fn failed(&mut self) {
        let wait = self.backoff.failed();
        self.after(wait);
    }

    /// Due after this wait.
    pub(super) fn after(&mut self, wait: Duration) {
        self.at = Some(Instant::now() + wait);
    }

    /// What is to be retried is due now: the reason to wait is gone.
    pub(super) fn hurry(&mut self) {
        self.at = self.at.map(|at| at.min(Instant::now()));
    }

    /// Nothing to retry.
    pub(super) fn succeeded(&mut self) {
        self.at = None;
        self.backoff.succeeded();
    }

    /// Completes when the retry is due; never when there is none. It stays due until the step reports back.
    pub(super) async fn due(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}
