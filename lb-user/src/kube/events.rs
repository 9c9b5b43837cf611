//! Notices as Kubernetes Events (spec H8): on the own Node and on Services.
//!
//! Kubernetes' own rules apply: an Event of a Node lives in the namespace `default`, repeated ones are counted in the
//! first. An Event that cannot be written is logged and forgotten; nothing waits for it.

use ::kube::client::ClientBuilder;
use ::kube::runtime::events::{Event, EventType, Recorder, Reporter};
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::connect::{KubeSource, chain};
use crate::sources::SourceError;
use crate::telemetry::notice::Notice;

/// Who reports.
const CONTROLLER: &str = "fairway";
/// The API's limit for the text of an Event, in bytes.
const MAX_NOTE: usize = 1_024;

/// Writes every notice that comes, until the last sender is gone.
pub async fn deliver(source: KubeSource, mut notices: mpsc::Receiver<Notice>) -> Result<(), SourceError> {
    let config = source.config().await?;
    let client = ClientBuilder::try_from(config).map_err(|e| SourceError::Client(e.to_string()))?.build();
    let node = source.node_name;
    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node.clone()) };
    let recorder = Recorder::new(client, reporter);
    while let Some(notice) = notices.recv().await {
        let (event, regarding) = translate(&notice, &node);
        match recorder.publish(&event, &regarding).await {
            Ok(()) => debug!(reason = event.reason, "event written"),
            Err(error) => warn!(reason = event.reason, error = chain(&error), "the event is lost"),
        }
    }
    Ok(())
}

/// The Event of a notice, and the object it is about.
fn translate(notice: &Notice, node: &str) -> (Event, ObjectReference) {
    // As kube-proxy does: the agent never needs to ask for the Node's UID, and `kubectl describe node` finds it.
    let own_node = ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        uid: Some(node.to_owned()),
        ..ObjectReference::default()
    };
    let event = |type_, reason: &str, action: &str, note: String| Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note).filter(|n| !n.is_empty()).map(cut),
        action: action.to_owned(),
        secondary: None,
    };
    match notice {
        Notice::Starting => (event(EventType::Normal, "Starting", "StartFairway", String::new()), own_node),
        Notice::HealthServerFailed { message } => {
            let reason = "FailedToStartProxierHealthcheck";
            (event(EventType::Warning, reason, "StartFairway", message.clone()), own_node)
        }
        Notice::ServiceHealthFailed { service, uid, message } => {
            let regarding = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                namespace: Some(service.namespace.to_string()),
                name: Some(service.name.to_string()),
                uid: Some(uid.clone()).filter(|uid| !uid.is_empty()),
                ..ObjectReference::default()
            };
            let note = format!("node {node}: {message}");
            (event(EventType::Warning, "FailedToStartServiceHealthcheck", "Listen", note), regarding)
        }
    }
}

/// At most as many bytes as the API takes, cut between characters.
fn cut(mut note: String) -> String {
    let mut end = note.len().min(MAX_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.truncate(end);
    note
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Key;

    #[test]
    fn the_start_is_an_event_of_the_node() {
        let (event, regarding) = translate(&Notice::Starting, "n1");
        assert_eq!((event.reason.as_str(), event.type_), ("Starting", EventType::Normal));
        assert_eq!((regarding.kind.as_deref(), regarding.name.as_deref()), (Some("Node"), Some("n1")));
        assert_eq!(regarding.namespace, None, "the API puts it into `default`");
    }

    #[test]
    fn a_health_check_that_cannot_listen_is_a_warning_on_its_service() {
        let message = "ü".repeat(2_000);
        let notice =
            Notice::ServiceHealthFailed { service: Key::new("shop", "web"), uid: "u-1".to_owned(), message };
        let (event, regarding) = translate(&notice, "n1");
        assert_eq!(event.reason, "FailedToStartServiceHealthcheck");
        assert_eq!(event.type_, EventType::Warning);
        assert!(event.note.is_some_and(|note| note.starts_with("node n1: ") && note.len() <= MAX_NOTE));
        assert_eq!(regarding.namespace.as_deref(), Some("shop"));
        assert_eq!(regarding.uid.as_deref(), Some("u-1"));
    }
}
