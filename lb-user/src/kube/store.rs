//! The converted objects of the watches: pure state, no I/O.
//!
//! Invariants: a world exists only after each kind's first list is complete; a relist is collected aside and swapped
//! in whole; the order of events of different kinds or objects makes no difference. An object that did not change
//! keeps its place in memory, so that snapshots share it and are compared quickly.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::kube::runtime::watcher::Event;
use serde_json::Value;

use super::convert::{self, Converted, Selection};
use super::raw::{Kind, RawObject};
use crate::model::{Key, Keyed, NodeObject, Objects, Problem, Service, ServiceCidr, Slice, World, union_of};
use crate::sources::intern::Interner;

/// All kinds.
pub(super) struct Store {
    selection: Selection,
    names: Interner,
    services: Kept<Service>,
    slices: Kept<Slice>,
    nodes: Kept<OwnNode>,
    service_cidrs: Kept<ServiceCidr>,
    /// The API refuses to list ServiceCIDRs.
    cidrs_refused: bool,
}

/// The own Node under its key.
#[derive(PartialEq)]
struct OwnNode {
    key: Key,
    node: NodeObject,
}

impl Keyed for OwnNode {
    fn key(&self) -> &Key {
        &self.key
    }
}

fn own_node(json: &Value) -> Converted<OwnNode> {
    let Converted { value, problems } = convert::node(json);
    let value = value.map(|node| OwnNode { key: Key::new("", node.name.clone()), node });
    Converted { value, problems }
}

impl Store {
    /// An empty store, not ready.
    pub(super) fn new(selection: Selection) -> Self {
        Store {
            selection,
            names: Interner::default(),
            services: Kept::new(),
            slices: Kept::new(),
            nodes: Kept::new(),
            service_cidrs: Kept::new(),
            cidrs_refused: false,
        }
    }

    /// Takes an event in; true if the world changed by it.
    pub(super) fn take(&mut self, kind: Kind, event: Event<RawObject>) -> bool {
        let (selection, names) = (&self.selection, &mut self.names);
        match kind {
            Kind::Services => self.services.take(event, |json| convert::service(json, selection)),
            Kind::Slices => self.slices.take(event, |json| {
                let mut converted = convert::slice(json, selection);
                converted.value.iter_mut().for_each(|slice| names.share(slice));
                converted
            }),
            Kind::Nodes => self.nodes.take(event, own_node),
            Kind::ServiceCidrs => {
                let healed = std::mem::take(&mut self.cidrs_refused);
                self.service_cidrs.take(event, convert::service_cidr) || healed
            }
        }
    }

    /// The API does not have this kind (404), or not for us (403): an empty list, unless there was one before.
    /// True if the world or its problems changed by it.
    pub(super) fn absent(&mut self, kind: Kind, http_code: u16) -> bool {
        if kind != Kind::ServiceCidrs {
            return false;
        }
        let refused = http_code != 404;
        let changed = !self.service_cidrs.complete || self.cidrs_refused != refused;
        self.service_cidrs.complete = true;
        self.cidrs_refused = refused;
        changed
    }

    /// Whether every first list is complete.
    pub(super) fn is_complete(&self) -> bool {
        self.services.complete && self.slices.complete && self.nodes.complete && self.service_cidrs.complete
    }

    /// The world and its problems, once every first list is complete.
    pub(super) fn world(&self) -> Option<(World, Vec<Problem>)> {
        if !self.is_complete() {
            return None;
        }
        let world = World {
            services: self.services.current.objects.clone(),
            slices: self.slices.current.objects.clone(),
            node: self.nodes.current.objects.values().map(|own| own.node.clone()).next(),
            service_cidrs: union_of(self.service_cidrs.current.objects.values()),
        };
        let problems = [
            self.services.problems(),
            self.slices.problems(),
            self.nodes.problems(),
            self.service_cidrs.problems(),
        ];
        let mut problems = problems.concat();
        if self.cidrs_refused {
            let message = "may not be listed: addresses of the service networks that no Service has are not \
                           dropped as long as Fairway's role does not allow it";
            problems.push(Problem {
                object: "ServiceCIDR objects".into(),
                field: String::new(),
                message: message.into(),
            });
        }
        Some((world, problems))
    }
}

/// The objects of one kind.
struct Kept<T> {
    current: List<T>,
    /// The list in progress.
    incoming: Option<List<T>>,
    complete: bool,
}

/// Objects, and what is wrong with any object of the kind.
struct List<T> {
    objects: Objects<T>,
    problems: BTreeMap<ObjectId, Vec<Problem>>,
}

/// A name, and a number that keeps nameless objects of one list apart.
type ObjectId = (Key, usize);

impl<T: Keyed + PartialEq> List<T> {
    fn new() -> Self {
        List { objects: Objects::new(), problems: BTreeMap::new() }
    }

    /// Inserts, replaces or removes what an object has become; true if that is a change.
    fn put(&mut self, id: ObjectId, converted: Converted<Arc<T>>) -> bool {
        let problems = match converted.problems.is_empty() {
            true => self.problems.remove(&id).is_some(),
            false => {
                let old = self.problems.insert(id.clone(), converted.problems.clone());
                old.is_none_or(|old| old != converted.problems)
            }
        };
        let object = match converted.value {
            Some(object) if self.objects.get(object.key()).is_some_and(|held| *held == object) => false,
            Some(object) => {
                self.objects.insert(object);
                true
            }
            None => self.objects.remove(&id.0).is_some(),
        };
        problems || object
    }
}

impl<T: Keyed + PartialEq> Kept<T> {
    fn new() -> Self {
        Kept { current: List::new(), incoming: None, complete: false }
    }

    fn take(&mut self, event: Event<RawObject>, mut convert: impl FnMut(&Value) -> Converted<T>) -> bool {
        match event {
            Event::Init => {
                self.incoming = Some(List::new());
                false
            }
            Event::InitApply(object) => {
                let converted = convert(&object.json);
                let current = &self.current.objects;
                // What is equal stays where it is.
                let value = converted.value.map(|value| match current.get(value.key()) {
                    Some(held) if **held == value => Arc::clone(held),
                    _ => Arc::new(value),
                });
                let incoming = self.incoming.get_or_insert_with(List::new);
                let key = object.key();
                let number = if key.name.is_empty() { incoming.problems.len() } else { 0 };
                incoming.put((key, number), Converted { value, problems: converted.problems });
                false
            }
            Event::InitDone => {
                let incoming = self.incoming.take().unwrap_or_else(List::new);
                let changed = !self.complete
                    || incoming.objects != self.current.objects
                    || incoming.problems != self.current.problems;
                if changed {
                    self.current = incoming;
                }
                self.complete = true;
                changed
            }
            Event::Apply(object) => {
                let Converted { value, problems } = convert(&object.json);
                self.current.put((object.key(), 0), Converted { value: value.map(Arc::new), problems })
            }
            Event::Delete(object) => {
                let key = object.key();
                let problems = self.current.problems.remove(&(key.clone(), 0)).is_some();
                self.current.objects.remove(&key).is_some() || problems
            }
        }
    }

    fn problems(&self) -> Vec<Problem> {
        self.current.problems.values().flatten().cloned().collect()
    }
}
