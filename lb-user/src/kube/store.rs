//! The converted objects of the three watches: pure state, no I/O.
//!
//! Invariants: a world exists only after each kind's first list is complete; a relist is collected aside and swapped
//! in whole; the order of events of different kinds or objects makes no difference.

use std::collections::BTreeMap;

use ::kube::runtime::watcher::Event;
use serde_json::Value;

use super::convert::{self, Converted, Selection};
use super::raw::{Kind, RawObject};
use crate::model::{Key, NodeObject, Problem, Service, Slice, World};

/// All three kinds.
pub(super) struct Store {
    selection: Selection,
    services: Objects<Service>,
    slices: Objects<Slice>,
    nodes: Objects<NodeObject>,
}

impl Store {
    /// An empty store, not ready.
    pub(super) fn new(selection: Selection) -> Self {
        Store { selection, services: Objects::new(), slices: Objects::new(), nodes: Objects::new() }
    }

    /// Takes an event in; true if the world changed by it.
    pub(super) fn take(&mut self, kind: Kind, event: Event<RawObject>) -> bool {
        let selection = &self.selection;
        match kind {
            Kind::Services => self.services.take(event, |json| convert::service(json, selection)),
            Kind::Slices => self.slices.take(event, |json| convert::slice(json, selection)),
            Kind::Nodes => self.nodes.take(event, convert::node),
        }
    }

    /// Whether every first list is complete.
    pub(super) fn is_complete(&self) -> bool {
        self.services.complete && self.slices.complete && self.nodes.complete
    }

    /// The world and its problems, once every first list is complete.
    pub(super) fn world(&self) -> Option<(World, Vec<Problem>)> {
        if !self.is_complete() {
            return None;
        }
        let world = World {
            services: self.services.values().map(|(key, service)| (key.clone(), service.clone())).collect(),
            slices: self.slices.values().map(|(key, slice)| (key.clone(), slice.clone())).collect(),
            node: self.nodes.values().map(|(_, node)| node.clone()).next(),
            service_cidrs: Vec::new(),
        };
        let problems = [self.services.problems(), self.slices.problems(), self.nodes.problems()].concat();
        Some((world, problems))
    }
}

/// The objects of one kind.
struct Objects<T> {
    current: BTreeMap<ObjectId, Converted<T>>,
    /// The list in progress.
    incoming: Option<BTreeMap<ObjectId, Converted<T>>>,
    complete: bool,
}

/// A name, and a number that keeps nameless objects of one list apart.
type ObjectId = (Key, usize);

impl<T: PartialEq> Objects<T> {
    fn new() -> Self {
        Objects { current: BTreeMap::new(), incoming: None, complete: false }
    }

    fn take(&mut self, event: Event<RawObject>, convert: impl Fn(&Value) -> Converted<T>) -> bool {
        match event {
            Event::Init => {
                self.incoming = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                let incoming = self.incoming.get_or_insert_default();
                let key = object.key();
                let number = if key.name.is_empty() { incoming.len() } else { 0 };
                incoming.insert((key, number), convert(&object.json));
                false
            }
            Event::InitDone => {
                let incoming = self.incoming.take().unwrap_or_default();
                let changed = !self.complete || incoming != self.current;
                self.current = incoming;
                self.complete = true;
                changed
            }
            Event::Apply(object) => {
                let converted = convert(&object.json);
                let id = (object.key(), 0);
                let changed = self.current.get(&id) != Some(&converted);
                self.current.insert(id, converted);
                changed
            }
            Event::Delete(object) => self.current.remove(&(object.key(), 0)).is_some(),
        }
    }

    fn values(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.current.iter().filter_map(|((key, _), object)| Some((key, object.value.as_ref()?)))
    }

    fn problems(&self) -> Vec<Problem> {
        self.current.values().flat_map(|object| object.problems.iter().cloned()).collect()
    }
}
