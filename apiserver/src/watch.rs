//! Open watches: a stream of JSON lines that follows the log of changes and obeys the faults.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http::{self, Body};
use crate::kind::Kind;
use crate::server::{Shared, State};
use crate::store::Scope;

/// What a watch request asks for.
pub(crate) struct Wanted {
    pub(crate) scope: Scope,
    /// 0: begin with everything there is.
    pub(crate) version: u64,
    pub(crate) bookmarks: bool,
    pub(crate) timeout_s: Option<u64>,
}

/// Opens a watch.
pub(crate) fn open(shared: Arc<Shared>, wanted: Wanted) -> Response<Body> {
    let kind = wanted.scope.kind;
    let changed = shared.subscribe();
    let (gone_count, close_count) = shared.change(|state| {
        let stats = state.stats.entry(kind).or_default();
        stats.watches += 1;
        stats.open_watches += 1;
        (state.faults.gone_count, state.faults.close_count)
    });
    // Without a limit the real server chooses one; half an hour is its least.
    let deadline = Instant::now() + Duration::from_secs(wanted.timeout_s.unwrap_or(1800));
    let bookmark_at = Instant::now() + shared.bookmark_interval;
    let counted = Counted { shared, kind };
    let watch =
        Watch { counted, wanted, changed, gone_count, close_count, deadline, bookmark_at, ended: false };
    let lines = stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(lines)), watch))
    });
    http::with_body(StatusCode::OK, "application/json", StreamBody::new(lines).boxed_unsync())
}

/// Waits as long as lists of a kind are held.
pub(crate) async fn wait_while_held(shared: &Arc<Shared>, kind: Kind) {
    let mut changed = shared.subscribe();
    if !shared.state().faults.held.contains(&kind) {
        return;
    }
    shared.change(|state| state.stats.entry(kind).or_default().held += 1);
    let _held = Held { shared: shared.clone(), kind };
    while shared.state().faults.held.contains(&kind) {
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Counts a held request down, also when the client leaves.
struct Held {
    shared: Arc<Shared>,
    kind: Kind,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.change(|state| state.stats.entry(self.kind).or_default().held -= 1);
    }
}

/// Counts an open watch down, also when the client leaves.
struct Counted {
    shared: Arc<Shared>,
    kind: Kind,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.change(|state| state.stats.entry(self.kind).or_default().open_watches -= 1);
    }
}

struct Watch {
    counted: Counted,
    wanted: Wanted,
    changed: tokio::sync::watch::Receiver<u64>,
    gone_count: u64,
    close_count: u64,
    deadline: Instant,
    bookmark_at: Instant,
    ended: bool,
}

/// What a watch does next.
enum Step {
    Send(Vec<Value>),
    SendLast(Value),
    Wait,
    End,
}

impl Watch {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            self.changed.mark_unchanged();
            let step = self.step(&mut self.counted.shared.clone().state());
            match step {
                Step::Send(events) => return Some(lines(&events)),
                Step::SendLast(event) => {
                    self.ended = true;
                    return Some(lines(&[event]));
                }
                Step::End => return None,
                Step::Wait => {}
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = tokio::time::sleep_until(self.deadline.min(self.bookmark_at)) => {}
            }
        }
        None
    }

    fn step(&mut self, state: &mut State) -> Step {
        let now = Instant::now();
        if state.faults.close_count != self.close_count || now >= self.deadline {
            return Step::End;
        }
        if state.faults.gone_count != self.gone_count {
            return Step::SendLast(gone());
        }
        if state.faults.stalled {
            self.bookmark_at = now + self.counted.shared.bookmark_interval;
            return Step::Wait;
        }
        let scope = &self.wanted.scope;
        let events = match self.wanted.version {
            0 => Ok(state.store.initial_events(scope)),
            version => state.store.events_after(scope, version),
        };
        let Ok(mut events) = events else { return Step::SendLast(gone()) };
        // A version is never 0 again, so that the initial events are sent once.
        self.wanted.version = state.store.version().max(1);
        if now >= self.bookmark_at {
            self.bookmark_at = now + self.counted.shared.bookmark_interval;
            if self.wanted.bookmarks {
                events.push(bookmark(scope.kind, self.wanted.version));
            }
        }
        if events.is_empty() { Step::Wait } else { Step::Send(events) }
    }
}

fn gone() -> Value {
    json!({"type": "ERROR", "object": http::status_json(410, "Expired", "too old resource version")})
}

fn bookmark(kind: Kind, version: u64) -> Value {
    json!({"type": "BOOKMARK", "object": {
        "apiVersion": kind.api_version(),
        "kind": kind.name(),
        "metadata": {"resourceVersion": version.to_string()},
    }})
}

fn lines(events: &[Value]) -> Bytes {
    let mut text = String::new();
    for event in events {
        text.push_str(&event.to_string());
        text.push('\n');
    }
    text.into()
}
