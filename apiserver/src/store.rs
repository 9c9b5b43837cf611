//! The objects, their versions and the log of changes: pure state, no I/O.
//!
//! Invariants: every change gets the next resource version, one counter for all kinds; a watch that begins at a
//! version sees every later change once, in order, or is told that the version is gone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kind::Kind;
use crate::selector::Selector;

/// Changes that are remembered at most.
const LOG: usize = 16_384;
/// Unfinished paged lists that are remembered at most.
const PAGED_LISTS: usize = 64;

/// Namespace (empty for Nodes) and name.
pub(crate) type Name = (String, String);

/// A part of the objects: what a list or watch asks for.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) kind: Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
}

impl Scope {
    fn matches(&self, object: &Value) -> bool {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        self.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted))
            && self.selector.matches(object)
    }
}

/// One remembered change.
struct Change {
    version: u64,
    kind: Kind,
    what: What,
}

enum What {
    /// An object before and after.
    Object { old: Option<Arc<Value>>, new: Option<Arc<Value>> },
    /// Sent to every watch of the kind as it is.
    Raw { event: &'static str, object: Arc<Value> },
}

/// One page of a list.
pub(crate) struct Page {
    pub(crate) version: u64,
    pub(crate) items: Vec<Arc<Value>>,
    pub(crate) next: Option<String>,
    pub(crate) remaining: usize,
}

/// What cannot be had any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// Everything the server knows.
#[derive(Default)]
pub(crate) struct Store {
    version: u64,
    objects: BTreeMap<(Kind, Name), Arc<Value>>,
    garbage: BTreeMap<Kind, Vec<Arc<Value>>>,
    log: VecDeque<Change>,
    /// Changes up to this version are forgotten.
    forgotten: u64,
    pages: VecDeque<(String, u64, Vec<Arc<Value>>)>,
    page_count: u64,
}

impl Store {
    /// The newest version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// One object.
    pub(crate) fn get(&self, kind: Kind, name: &Name) -> Option<Arc<Value>> {
        self.objects.get(&(kind, name.clone())).cloned()
    }

    /// Creates or replaces an object as the real server would: fills in metadata and some defaults, keeps identity,
    /// and does nothing if nothing changes.
    pub(crate) fn apply(&mut self, kind: Kind, mut object: Value) -> Result<Arc<Value>, String> {
        let name = complete(kind, &mut object)?;
        let id = (kind, name);
        let old = self.objects.get(&id).cloned();
        let next = self.version + 1;
        let old_meta = |field: &str| old.as_ref().and_then(|old| old["metadata"].get(field)).cloned();
        let metadata = &mut object["metadata"];
        let now = || jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        let uid = || format!("00000000-0000-4000-8000-{next:012x}").into();
        for (field, fresh) in [("creationTimestamp", &now as &dyn Fn() -> Value), ("uid", &uid)] {
            if metadata.get(field).is_none_or(Value::is_null) {
                metadata[field] = old_meta(field).unwrap_or_else(fresh);
            }
        }
        metadata["resourceVersion"] = old_meta("resourceVersion").unwrap_or_default();
        if let Some(old) = old.as_ref().filter(|old| ***old == object) {
            return Ok(old.clone());
        }
        object["metadata"]["resourceVersion"] = next.to_string().into();
        let new = Arc::new(object);
        self.objects.insert(id, new.clone());
        self.remember(kind, What::Object { old, new: Some(new.clone()) });
        Ok(new)
    }

    /// Deletes an object and returns it.
    pub(crate) fn delete(&mut self, kind: Kind, name: &Name) -> Option<Arc<Value>> {
        let old = self.objects.remove(&(kind, name.clone()))?;
        self.remember(kind, What::Object { old: Some(old.clone()), new: None });
        Some(old)
    }

    /// Adds something that is no proper object to lists, and sends it to watches.
    pub(crate) fn add_garbage(&mut self, kind: Kind, mut garbage: Value) {
        let next = self.version + 1;
        if let Some(Value::Object(metadata)) = garbage.get_mut("metadata") {
            metadata.insert("resourceVersion".into(), next.to_string().into());
        }
        let garbage = Arc::new(garbage);
        self.garbage.entry(kind).or_default().push(garbage.clone());
        self.remember(kind, What::Raw { event: "ADDED", object: garbage });
    }

    /// Removes all garbage of a kind; watches are not told of nameless things.
    pub(crate) fn clear_garbage(&mut self, kind: Kind) {
        for garbage in self.garbage.remove(&kind).unwrap_or_default() {
            self.remember(kind, What::Raw { event: "DELETED", object: garbage });
        }
    }

    /// Sends an object again, unchanged, as a modification.
    pub(crate) fn repeat(&mut self, kind: Kind, name: &Name) -> bool {
        let Some(object) = self.get(kind, name) else { return false };
        self.remember(kind, What::Raw { event: "MODIFIED", object });
        true
    }

    /// Forgets all changes so far: watches from an older version and paged lists are gone.
    pub(crate) fn compact(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
        self.log.clear();
        self.pages.clear();
    }

    fn remember(&mut self, kind: Kind, what: What) {
        self.version += 1;
        self.log.push_back(Change { version: self.version, kind, what });
        if self.log.len() > LOG
            && let Some(oldest) = self.log.pop_front()
        {
            self.forgotten = oldest.version;
        }
    }

    /// The first page of a list.
    pub(crate) fn list(&mut self, scope: &Scope, limit: usize) -> Page {
        let of_kind =
            self.objects.iter().filter(|((kind, _), _)| *kind == scope.kind).map(|(_, object)| object);
        let mut items: Vec<_> = of_kind.filter(|object| scope.matches(object)).cloned().collect();
        items.extend(self.garbage.get(&scope.kind).into_iter().flatten().cloned());
        self.page(self.version, items, limit)
    }

    /// A further page: of the list as it was when it began.
    pub(crate) fn list_on(&mut self, token: &str, limit: usize) -> Result<Page, Gone> {
        let position = self.pages.iter().position(|(known, ..)| known == token).ok_or(Gone)?;
        let (_, version, items) = self.pages.remove(position).ok_or(Gone)?;
        Ok(self.page(version, items, limit))
    }

    fn page(&mut self, version: u64, mut items: Vec<Arc<Value>>, limit: usize) -> Page {
        if limit == 0 || items.len() <= limit {
            return Page { version, items, next: None, remaining: 0 };
        }
        let rest = items.split_off(limit);
        let remaining = rest.len();
        self.page_count += 1;
        let token = format!("page-{}", self.page_count);
        self.pages.push_back((token.clone(), version, rest));
        if self.pages.len() > PAGED_LISTS {
            self.pages.pop_front();
        }
        Page { version, items, next: Some(token), remaining }
    }

    /// Everything in scope as `ADDED` events: what a watch without a version begins with.
    pub(crate) fn initial_events(&mut self, scope: &Scope) -> Vec<Value> {
        let items = self.list(scope, 0).items;
        items.into_iter().map(|object| event("ADDED", &object)).collect()
    }

    /// The events of a scope after `version`.
    pub(crate) fn events_after(&self, scope: &Scope, version: u64) -> Result<Vec<Value>, Gone> {
        if version < self.forgotten {
            return Err(Gone);
        }
        let start = self.log.partition_point(|change| change.version <= version);
        let changes = self.log.range(start..).filter(|change| change.kind == scope.kind);
        Ok(changes.filter_map(|change| seen_by(scope, change)).collect())
    }
}

/// How a watch sees a change: an object that leaves or enters its scope looks deleted or added.
fn seen_by(scope: &Scope, change: &Change) -> Option<Value> {
    let (old, new) = match &change.what {
        What::Raw { event: name, object } => return Some(event(name, object)),
        What::Object { old, new } => (old.as_ref(), new.as_ref()),
    };
    let old = old.filter(|object| scope.matches(object));
    let new = new.filter(|object| scope.matches(object));
    match (old, new) {
        (None, None) => None,
        (None, Some(new)) => Some(event("ADDED", new)),
        (Some(_), Some(new)) => Some(event("MODIFIED", new)),
        (Some(old), None) => {
            let mut last = (**old).clone();
            last["metadata"]["resourceVersion"] = change.version.to_string().into();
            Some(event("DELETED", &last))
        }
    }
}

fn event(name: &str, object: &Value) -> Value {
    json!({"type": name, "object": object})
}

/// Checks and completes an object; gives its name.
fn complete(kind: Kind, object: &mut Value) -> Result<Name, String> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or("metadata is missing")?;
    if kind.namespaced() {
        metadata.entry("namespace").or_insert_with(|| "default".into());
    }
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = (if kind.namespaced() { text("namespace") } else { String::new() }, text("name"));
    if name.1.is_empty() {
        return Err("metadata.name is missing".into());
    }
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.name().into();
    if kind == Kind::EndpointSlice {
        for port in object.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(port) = port {
                port.entry("name").or_insert_with(|| "".into());
            }
        }
    }
    if let (Kind::Service, Some(Value::Object(spec))) = (kind, object.get_mut("spec")) {
        if let Some(first) = spec.get("clusterIPs").and_then(|ips| ips.get(0)).cloned() {
            spec.entry("clusterIP").or_insert(first);
        } else if let Some(only) = spec.get("clusterIP").cloned() {
            spec.insert("clusterIPs".into(), json!([only]));
        }
        if let Some(ips) = spec.get("clusterIPs").and_then(Value::as_array) {
            let family =
                |ip: &Value| if ip.as_str().unwrap_or_default().contains(':') { "IPv6" } else { "IPv4" };
            let families: Vec<_> = ips.iter().filter(|ip| *ip != "None").map(family).collect();
            spec.entry("ipFamilies").or_insert(json!(families));
        }
    }
    Ok(name)
}
