//! Is the agent well? (spec H1 to H3) The test, and the documents that answer it.
//!
//! The agent is in sync unless a change waits longer than the timeout for the kernel. Changes are noted here when the
//! source publishes them, not by the run loop: a run loop that hangs is what has to be found.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use super::view::AgentView;

/// Waiting generations that are told apart; of more, the newest are taken as one.
const MAX_WAITING: usize = 64;

/// The generations that are not in the kernel, and since when.
#[derive(Debug, Default)]
struct Waiting(VecDeque<(u64, Instant)>);

impl Waiting {
    fn queued(&mut self, generation: u64, now: Instant) {
        let full = self.0.len() >= MAX_WAITING;
        match self.0.back_mut() {
            Some((newest, _)) if *newest >= generation => {}
            // Older than it is: unhealthy too early rather than never.
            Some((newest, _)) if full => *newest = generation,
            _ => self.0.push_back((generation, now)),
        }
    }

    fn synced(&mut self, generation: u64) {
        while self.0.front().is_some_and(|(waiting, _)| *waiting <= generation) {
            self.0.pop_front();
        }
    }

    fn since(&self) -> Option<Instant> {
        self.0.front().map(|(_, since)| *since)
    }
}

/// The judge. Clones share what is known.
#[derive(Clone, Debug)]
pub struct Health {
    view: watch::Receiver<AgentView>,
    waiting: Arc<Mutex<Waiting>>,
    timeout: Duration,
}

/// A judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// No change waits too long.
    pub in_sync: bool,
    /// The Node stays (spec H1).
    pub eligible: bool,
    /// This agent's first sync is complete.
    pub ready: bool,
    /// When the last sync ended.
    pub synced_at: Option<Timestamp>,
}

impl Health {
    /// Judges the agent behind `view`; a change may wait for `timeout`.
    pub fn new(view: watch::Receiver<AgentView>, timeout: Duration) -> Health {
        Health { view, waiting: Arc::default(), timeout }
    }

    /// A snapshot was published.
    pub fn queued(&self, generation: u64, now: Instant) {
        let synced = self.view.borrow().synced_generation;
        let mut waiting = self.waiting();
        if generation > synced {
            waiting.queued(generation, now);
        }
        waiting.synced(synced);
    }

    /// The judgement at `now`.
    pub fn verdict(&self, now: Instant) -> Verdict {
        let view = self.view.borrow();
        let mut waiting = self.waiting();
        waiting.synced(view.synced_generation);
        let since = [waiting.since(), view.failing_since].into_iter().flatten().min();
        Verdict {
            in_sync: since.is_none_or(|since| now.saturating_duration_since(since) < self.timeout),
            eligible: !view.leaving,
            ready: view.ready,
            synced_at: view.synced_at,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Every step leaves the queue whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of `/healthz` and `/livez`, field by field as kube-proxy's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<&'static str, FamilyStatus>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyStatus {
    last_updated: String,
    healthy: bool,
}

impl Verdict {
    /// Whether `/healthz` says yes.
    pub fn healthy(&self) -> bool {
        self.in_sync && self.eligible
    }

    /// The body of `/healthz`.
    pub fn healthz(&self, now: Timestamp) -> Document {
        Document { node_eligible: Some(self.eligible), ..self.document(self.healthy(), now) }
    }

    /// The body of `/livez`.
    pub fn livez(&self, now: Timestamp) -> Document {
        self.document(self.in_sync, now)
    }

    /// One sync does both families, so they are never apart.
    fn document(&self, answer: bool, now: Timestamp) -> Document {
        // What Go writes for a time that never was.
        let synced_at = self.synced_at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string());
        let family = FamilyStatus { last_updated: synced_at.clone(), healthy: self.in_sync };
        Document {
            // Kept by kube-proxy for readers that take it as a sign of life.
            last_updated: if answer { now.to_string() } else { synced_at },
            current_time: now.to_string(),
            node_eligible: None,
            healthy: self.in_sync,
            status: BTreeMap::from([("IPv4", family.clone()), ("IPv6", family)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TIMEOUT: Duration = Duration::from_secs(60);

    struct Agent {
        view: watch::Sender<AgentView>,
        health: Health,
        start: Instant,
    }

    fn agent() -> Agent {
        let (view, receiver) = watch::channel(AgentView::default());
        Agent { view, health: Health::new(receiver, TIMEOUT), start: Instant::now() }
    }

    impl Agent {
        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }
        fn queued(&self, generation: u64, seconds: u64) {
            self.health.queued(generation, self.at(seconds));
        }
        fn synced(&self, generation: u64) {
            self.view.send_modify(|v| v.synced_generation = generation);
        }
        fn in_sync(&self, seconds: u64) -> bool {
            self.health.verdict(self.at(seconds)).in_sync
        }
    }

    #[test]
    fn an_agent_that_has_nothing_to_do_is_healthy_for_ever() {
        let agent = agent();
        assert!(agent.in_sync(0) && agent.in_sync(1_000_000), "also while it starts, as kube-proxy is");
        agent.queued(1, 0);
        agent.synced(1);
        assert!(agent.in_sync(1_000_000));
    }

    #[test]
    fn the_oldest_change_that_waits_decides() {
        let agent = agent();
        agent.queued(1, 0);
        agent.queued(2, 50);
        assert!(agent.in_sync(59));
        assert!(!agent.in_sync(60));
        agent.synced(1);
        assert!(agent.in_sync(60) && agent.in_sync(109));
        assert!(!agent.in_sync(110));
        agent.synced(2);
        assert!(agent.in_sync(110));
    }

    #[test]
    fn a_change_seen_after_it_was_synced_does_not_wait() {
        let agent = agent();
        agent.synced(7);
        agent.queued(7, 0);
        assert!(agent.in_sync(1_000));
    }

    #[test]
    fn a_sync_that_keeps_failing_is_late_although_nothing_is_queued() {
        let agent = agent();
        agent.view.send_modify(|v| v.failing_since = Some(agent.at(10)));
        assert!(agent.in_sync(69));
        assert!(!agent.in_sync(70));
    }

    #[test]
    fn many_waiting_changes_take_bounded_room_and_lose_no_generation() {
        let agent = agent();
        (1..=1_000).for_each(|generation| agent.queued(generation, generation));
        assert_eq!(agent.health.waiting().0.len(), MAX_WAITING);
        agent.synced(999);
        assert!(!agent.in_sync(10_000));
        agent.synced(1_000);
        assert!(agent.in_sync(10_000));
    }

    #[test]
    fn the_documents_have_kube_proxys_fields() {
        let verdict = Verdict {
            in_sync: true,
            eligible: false,
            ready: true,
            synced_at: Some("2026-01-02T03:04:05Z".parse().expect("time")),
        };
        let now = "2026-01-02T03:05:00Z".parse().expect("time");
        let family = json!({"lastUpdated": "2026-01-02T03:04:05Z", "healthy": true});
        let status = json!({"IPv4": family, "IPv6": family});
        assert_eq!(
            serde_json::to_value(verdict.healthz(now)).expect("JSON"),
            json!({
                "lastUpdated": "2026-01-02T03:04:05Z", "currentTime": "2026-01-02T03:05:00Z",
                "nodeEligible": false, "healthy": true, "status": status,
            })
        );
        assert_eq!(
            serde_json::to_value(verdict.livez(now)).expect("JSON"),
            json!({
                "lastUpdated": "2026-01-02T03:05:00Z", "currentTime": "2026-01-02T03:05:00Z",
                "healthy": true, "status": status,
            })
        );
        assert!(!verdict.healthy());
    }
}
