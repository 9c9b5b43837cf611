//! Counts what the watches bring: how many objects of a kind changed, and when the endpoints behind a slice changed.
//!
//! The slice controller notes the latter in an annotation (spec Y2). As in kube-proxy, only times after the agent's
//! own start count, and only of slices that change while they are watched: a list tells nothing of when.

use ::kube::runtime::watcher::Event;
use jiff::Timestamp;

use super::raw::{Kind, RawObject};
use crate::sources::changes::Changes;

/// When the endpoints behind the slice changed, RFC 3339.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Counts lists as they come in.
pub(super) struct Tally {
    began_unix_ns: i64,
    listed: [u64; Kind::ALL.len()],
}

/// What an event would count for if it changes something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    objects: u64,
    trigger_unix_ns: Option<i64>,
}

impl Tally {
    /// Begins now.
    pub(super) fn begin() -> Self {
        Tally { began_unix_ns: unix_ns(Timestamp::now()), listed: [0; Kind::ALL.len()] }
    }

    /// Looks at an event before the store takes it.
    pub(super) fn look(&mut self, kind: Kind, event: &Event<RawObject>) -> Seen {
        let listed = &mut self.listed[kind.index()];
        let objects = match event {
            Event::Init => {
                *listed = 0;
                0
            }
            Event::InitApply(_) => {
                *listed += 1;
                0
            }
            Event::InitDone => std::mem::take(listed),
            Event::Apply(_) | Event::Delete(_) => 1,
        };
        let trigger_unix_ns = match event {
            Event::Apply(object) if kind == Kind::Slices => {
                trigger(object).filter(|at| *at > self.began_unix_ns)
            }
            _ => None,
        };
        Seen { objects, trigger_unix_ns }
    }

    /// The event changed something.
    pub(super) fn add(&self, kind: Kind, seen: Seen, changes: &mut Changes) {
        match kind {
            Kind::Services => changes.services += seen.objects,
            Kind::Slices => changes.slices += seen.objects,
            _ => {}
        }
        changes.triggers_unix_ns.extend(seen.trigger_unix_ns);
    }
}

fn trigger(object: &RawObject) -> Option<i64> {
    let annotation = object.json.get("metadata")?.get("annotations")?.get(TRIGGER)?;
    annotation.as_str()?.parse().ok().map(unix_ns)
}

/// Nanoseconds fit until the year 2262.
fn unix_ns(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(annotation: &str) -> RawObject {
        serde_json::from_value(json!({"metadata": {"name": "s", "annotations": {TRIGGER: annotation}}}))
            .expect("any JSON is an object")
    }

    #[test]
    fn a_change_of_a_slice_tells_when_its_endpoints_changed() {
        let mut tally = Tally::begin();
        let mut changes = Changes::default();
        for annotation in ["2999-01-01T00:00:00.5Z", "1999-01-01T00:00:00Z", "yesterday"] {
            let seen = tally.look(Kind::Slices, &Event::Apply(slice(annotation)));
            tally.add(Kind::Slices, seen, &mut changes);
        }
        assert_eq!(changes.slices, 3);
        assert_eq!(changes.triggers_unix_ns.len(), 1, "before the start and nonsense do not count");
    }

    #[test]
    fn a_list_counts_for_its_objects_and_tells_no_time() {
        let mut tally = Tally::begin();
        let mut changes = Changes::default();
        let object = || slice("2999-01-01T00:00:00Z");
        // The first list breaks off.
        for event in [
            Event::Init,
            Event::InitApply(object()),
            Event::Init,
            Event::InitApply(object()),
            Event::InitApply(object()),
            Event::InitDone,
        ] {
            let seen = tally.look(Kind::Slices, &event);
            tally.add(Kind::Slices, seen, &mut changes);
        }
        assert_eq!(changes, Changes { slices: 2, ..Changes::default() });
    }
}
