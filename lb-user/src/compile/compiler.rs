//! `Compiler`: the result of [`compile`](super::compile), kept up to date change by change.
//!
//! It remembers the last world, what each Service asked for, who claims which frontend, and the result; an update
//! looks only at objects that changed, at their Services, and at Services that share a claim with those. What it
//! holds equals what `compile` gives for the same world whenever everything fits into the maps (a property test);
//! when something does not, [`Compiler::fits`] says so and `compile` decides who is left out.

use super::capacity::Wanted;
use super::claims::Claims;
use super::endpoints::service_of;
use super::frontends::{self, Candidate};
use super::keys::{BackendKey, PortKey};
use super::shared::{Shared, Touched};
use super::{CompileOptions, Context, Desired, DesiredPort, build, own_addresses};
use crate::model::{Family, Key, NodeView, Problem, Proto, Service, Slice, World};
use crate::tables::{FrontendKey, Limits};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What an update changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Service ports that came, went or are another now, each with the frontends it had before.
    pub ports: BTreeMap<PortKey, Vec<FrontendKey>>,
    /// Backends that came, went or may have other flags.
    pub backends: BTreeSet<BackendKey>,
    /// Active ClusterIPs that came or went.
    pub addresses: BTreeSet<FrontendKey>,
}

/// Keeps the result of compiling up to date.
#[derive(Clone, Debug)]
pub struct Compiler {
    options: CompileOptions,
    node: NodeView,
    own_addresses: Arc<HashSet<IpAddr>>,
    world: World,
    services: HashMap<Key, Asked>,
    /// Slices by Service, each list in order of slice name.
    slices: HashMap<Key, Vec<Arc<Slice>>>,
    claims: Claims,
    desired: Desired,
    shared: Shared,
    /// Problems of those Services that have any.
    problems: BTreeMap<Key, Vec<Problem>>,
}

/// What a Service asks for.
#[derive(Clone, Debug, Default)]
struct Asked {
    candidates: Vec<Candidate>,
    problems: Vec<Problem>,
}

impl Compiler {
    /// Nothing compiled yet.
    pub fn new(options: CompileOptions) -> Compiler {
        Compiler {
            options,
            node: NodeView::default(),
            own_addresses: Arc::default(),
            world: World::default(),
            services: HashMap::new(),
            slices: HashMap::new(),
            claims: Claims::default(),
            desired: Desired::default(),
            shared: Shared::default(),
            problems: BTreeMap::new(),
        }
    }

    /// The options it compiles with.
    pub fn options(&self) -> &CompileOptions {
        &self.options
    }

    /// What the maps shall hold, as of the last update, if everything fits.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// True when everything fits into the maps.
    pub fn fits(&self, limits: &Limits) -> bool {
        self.shared.fits(limits)
    }

    /// What is wrong with objects, as of the last update.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.problems.values().flatten().cloned().collect();
        problems.sort();
        problems.dedup();
        problems
    }

    /// Takes in a world; `None` when everything may have changed, because the node did.
    pub fn update(&mut self, world: &World, node: &NodeView) -> Option<Changes> {
        let node_changed = self.node != *node;
        if node_changed {
            let own_addresses = Arc::new(own_addresses(node));
            let options = self.options.clone();
            *self = Compiler { node: node.clone(), own_addresses, ..Compiler::new(options) };
        }
        let old = std::mem::replace(&mut self.world, world.clone());
        let mut again: BTreeSet<Key> = BTreeSet::new();
        for change in world.slices.changes(&old.slices) {
            for slice in [change.old, change.new].into_iter().flatten() {
                again.insert(service_of(slice));
            }
            self.replace_slice(change.old, change.new);
        }
        let mut contested: BTreeSet<FrontendKey> = BTreeSet::new();
        for change in world.services.changes(&old.services) {
            let service = change.old.or(change.new).map(|service| service.key.clone());
            self.replace_service(change.old, change.new, &mut contested);
            again.extend(service);
        }
        for frontend in &contested {
            again.extend(self.claims.of(frontend).iter().map(|port| port.service.clone()));
        }
        let mut changes = Changes::default();
        for service in &again {
            self.settle(service, &mut changes);
        }
        (!node_changed).then_some(changes)
    }

    fn replace_slice(&mut self, old: Option<&Arc<Slice>>, new: Option<&Arc<Slice>>) {
        if let Some(old) = old {
            let service = service_of(old);
            if let Some(list) = self.slices.get_mut(&service) {
                list.retain(|slice| slice.key != old.key);
                if list.is_empty() {
                    self.slices.remove(&service);
                }
            }
        }
        if let Some(new) = new {
            let list = self.slices.entry(service_of(new)).or_default();
            let at = list.partition_point(|slice| slice.key < new.key);
            list.insert(at, Arc::clone(new));
        }
    }

    /// Notes what a Service asks for now; `contested` gathers every frontend whose claimants changed.
    fn replace_service(
        &mut self,
        old: Option<&Arc<Service>>,
        new: Option<&Arc<Service>>,
        contested: &mut BTreeSet<FrontendKey>,
    ) {
        let mut note = |candidate: &Candidate| contested.extend(candidate.claims.iter().map(|c| c.key));
        if let Some(asked) = old.and_then(|old| self.services.remove(&old.key)) {
            for candidate in &asked.candidates {
                note(candidate);
                self.claims.remove(candidate);
            }
        }
        if let Some(new) = new {
            let mut asked = Asked::default();
            let context = self.context();
            asked.candidates = frontends::candidates(new, &context, &mut asked.problems);
            for candidate in &asked.candidates {
                note(candidate);
                self.claims.add(candidate);
            }
            self.services.insert(new.key.clone(), asked);
        }
    }

    /// Compiles a Service anew and notes what that changes.
    fn settle(&mut self, service: &Key, changes: &mut Changes) {
        let (wanted, problems) = self.compile(service);
        match problems.is_empty() {
            true => drop(self.problems.remove(service)),
            false => drop(self.problems.insert(service.clone(), problems)),
        }
        let mut wanted: BTreeMap<PortKey, DesiredPort> =
            wanted.into_iter().map(|want| (want.key, want.port)).collect();
        for key in self.ports_of(service) {
            let new = wanted.remove(&key);
            self.replace_port(key, new, changes);
        }
        for (key, new) in wanted {
            self.replace_port(key, Some(new), changes);
        }
    }

    fn context(&self) -> Context<'_> {
        Context { node: &self.node, own_addresses: Arc::clone(&self.own_addresses), options: &self.options }
    }

    fn compile(&self, service: &Key) -> (Vec<Wanted>, Vec<Problem>) {
        let Some(asked) = self.services.get(service) else { return (Vec::new(), Vec::new()) };
        let context = self.context();
        let slices = self.slices.get(service).map(Vec::as_slice).unwrap_or_default();
        let mut problems = asked.problems.clone();
        let candidate = |key: &PortKey| {
            let asked = self.services.get(&key.service)?;
            asked.candidates.iter().find(|candidate| candidate.key == *key)
        };
        let owner = |frontend: &FrontendKey| self.claims.owner(frontend, candidate);
        let candidates = asked.candidates.iter();
        let wanted =
            candidates.filter_map(|candidate| build(candidate, owner, slices, &context, &mut problems));
        (wanted.collect(), problems)
    }

    /// The service ports of a Service that are in the result.
    fn ports_of(&self, service: &Key) -> Vec<PortKey> {
        let first =
            PortKey { service: service.clone(), port: "".into(), proto: Proto::Tcp, family: Family::V4 };
        let ports = self.desired.ports.range(first..).map(|(key, _)| key);
        ports.take_while(|key| key.service == *service).cloned().collect()
    }

    fn replace_port(&mut self, key: PortKey, new: Option<DesiredPort>, changes: &mut Changes) {
        let old = self.desired.ports.remove(&key);
        if old != new {
            let mut touched = Touched::default();
            self.shared.replace(old.as_ref(), new.as_ref(), &mut self.desired, &mut touched);
            changes.backends.extend(touched.backends);
            changes.addresses.extend(touched.addresses);
            let before = old.iter().flat_map(|port| &port.frontends).map(|frontend| frontend.key);
            changes.ports.insert(key.clone(), before.collect());
        }
        if let Some(new) = new {
            self.desired.ports.insert(key, new);
        }
    }
}
