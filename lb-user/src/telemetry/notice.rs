//! What the cluster's users should be told as an Event (spec H8), free of Kubernetes types.
//!
//! Whoever has something to tell sends a [`Notice`]; the Kubernetes source turns it into an Event (`kube/events.rs`),
//! other sources have nobody to tell. Sending never waits and never fails: an Event is a courtesy.

use tokio::sync::mpsc;

use crate::model::Key;

/// Notices that may wait to be sent; more are dropped.
const QUEUE: usize = 64;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The agent starts on this node.
    Starting,
    /// The health server could not listen.
    HealthServerFailed {
        /// Why, in words.
        message: String,
    },
    /// A Service's health check could not listen.
    ServiceHealthFailed {
        /// The Service.
        service: Key,
        /// Its UID.
        uid: String,
        /// Why, in words.
        message: String,
    },
}

/// Where notices are dropped.
#[derive(Clone, Debug, Default)]
pub struct Notices(Option<mpsc::Sender<Notice>>);

impl Notices {
    /// A queue and its end for the one who delivers.
    pub fn channel() -> (Notices, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Notices(Some(sender)), receiver)
    }

    /// Tells, if there is anybody to tell and room in the queue.
    pub fn tell(&self, notice: Notice) {
        if let Some(sender) = &self.0
            && let Err(error) = sender.try_send(notice)
        {
            tracing::debug!(%error, "an event is not sent");
        }
    }
}
