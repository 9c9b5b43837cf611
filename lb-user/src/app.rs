//! The agent: wires sources, host and kernel together, and owns the order of things.
//!
//! Start: the datapath (its lock first), the interfaces, the source; nothing is written to the tables before the
//! source has a complete first snapshot, so that a restart never shrinks what the kernel serves. Then everything
//! is an event: a snapshot, a change of the host, a retry that is due, a sweep. One task owns all of it; nothing
//! is shared. An error becomes part of the status and is retried; whatever the kernel holds keeps working.
//! The end leaves the datapath as it is.

mod cluster;
mod compare;
mod datapath;
mod kernel;
mod memory;
mod names;
mod observe;
mod retry;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

pub use kernel::{InterfaceReport, Kernel, KernelError, Settings};
pub use observe::Observer;

use crate::admin;
use crate::apply::{SyncReport, Syncer};
use crate::compile::CompileOptions;
use crate::config::{Config, Source};
use crate::error::AppError;
use crate::hostcheck::HostChecks;
use crate::kube::{self, KubeSource};
use crate::model::{NodeView, Problem};
use crate::node::{HostFacts, LinkWatch, Managed, addrs, classify};
use crate::sources::manifests::{self, ManifestSource};
use crate::sources::{Snapshot, SourceError, SourceHandle, SourceStatus};
use crate::telemetry::notice::{Notice, Notices};
use crate::telemetry::status::{ProblemStatus, StateDir, Status, SyncStatus};
use compare::Compare;
use datapath::RealKernel;
use names::NamesFile;
use retry::Retry;

/// Time between two slices of the flow sweep.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// The whole flow table is swept about this often.
const SWEEP_ROUND: Duration = Duration::from_secs(30);
/// The status file is written at least this often, so that its age tells something.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What the agent follows.
#[derive(Debug)]
pub struct Inputs {
    /// The host's interfaces.
    pub host: watch::Receiver<HostFacts>,
    /// The cluster's objects; `None` until the first complete list.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// How the source is doing.
    pub source: watch::Receiver<SourceStatus>,
}

/// The running agent.
#[derive(Debug)]
pub struct App<K> {
    config: Config,
    kernel: K,
    state: StateDir,
    syncer: Syncer,
    status: Status,
    names: NamesFile,
    managed: Vec<Managed>,
    /// Links that had a default route at some time: a flap takes the route, not the role.
    known_uplinks: BTreeSet<u32>,
    view: NodeView,
    sync_retry: Retry,
    interface_retry: Retry,
    /// Sockets may be connected to a backend that is gone: look again at the next heartbeat.
    sockets_in_doubt: bool,
    /// The error that the last look ended with.
    socket_error: Option<String>,
    snapshot: Option<Arc<Snapshot>>,
    /// What is wrong between configuration and cluster.
    cluster_problems: Vec<Problem>,
    /// Problems of the last snapshot and sync; the status has those of the host, too.
    object_problems: Vec<Problem>,
    observer: Observer,
}

impl<K: Kernel> App<K> {
    /// An agent that has done nothing yet.
    pub fn new(config: Config, kernel: K, state: StateDir) -> App<K> {
        let status = Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_s: unix_s(),
            node: config.node_name.clone(),
            config: serde_json::to_value(&config).unwrap_or_default(),
            ..Status::default()
        };
        App {
            syncer: Syncer::new(CompileOptions { external_ip_cidrs: config.external_ip_cidrs.clone() }),
            config,
            kernel,
            state,
            status,
            names: NamesFile::default(),
            managed: Vec::new(),
            known_uplinks: BTreeSet::new(),
            view: NodeView::default(),
            sync_retry: Retry::default(),
            interface_retry: Retry::default(),
            // An agent that was killed may have freed a backend and not come to this.
            sockets_in_doubt: true,
            socket_error: None,
            snapshot: None,
            cluster_problems: Vec::new(),
            object_problems: Vec::new(),
            observer: Observer::unseen(),
        }
    }

    /// Shows itself to this observer.
    #[must_use]
    pub fn observed_by(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }

    /// Runs until `shutdown` completes. The datapath stays.
    pub async fn run(
        mut self,
        mut inputs: Inputs,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AppError> {
        self.state.clear_ready()?;
        self.host_changed(&inputs.host.borrow_and_update().clone());
        self.source_changed(&inputs.source.borrow_and_update().clone());
        self.write_status();
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut compare = Compare::every(self.config.compare_period_s);
        let mut host_problems = self.observer.problems.clone();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Ok(()) = inputs.snapshots.changed() => {
                    let snapshot = inputs.snapshots.borrow_and_update().clone();
                    if let Some(snapshot) = snapshot {
                        self.snapshot_changed(snapshot, &inputs.host.borrow().clone());
                    }
                }
                Ok(()) = inputs.host.changed() => {
                    let facts = inputs.host.borrow_and_update().clone();
                    if self.host_changed(&facts) {
                        let _operations = self.sync();
                    }
                }
                Ok(()) = inputs.source.changed() => {
                    let source = inputs.source.borrow_and_update().clone();
                    self.source_changed(&source);
                }
                Ok(()) = host_problems.changed() => {
                    host_problems.mark_unchanged();
                    self.tell_problems();
                }
                () = self.sync_retry.due() => { let _operations = self.sync(); }
                () = self.names.due() => self.write_names(),
                () = self.interface_retry.due() => {
                    let facts = inputs.host.borrow().clone();
                    self.sync_interfaces(&facts);
                }
                _ = sweep.tick() => {
                    self.sweep();
                    continue;
                }
                () = compare.due() => {
                    // The sync that follows reads the maps back. Who wrote into them, if not this agent, is unknown.
                    self.syncer.distrust();
                    let repaired = self.sync();
                    if repaired > 0 {
                        warn!(operations = repaired, "the maps were not as they should be, and are again");
                    }
                }
                _ = heartbeat.tick() => {
                    if self.sockets_in_doubt {
                        self.sockets_in_doubt = false;
                        self.abort_stale_sockets();
                    }
                }
            }
            self.write_status();
        }
        info!("leaving; the datapath goes on");
        self.write_names();
        self.state.clear_ready()?;
        self.status.ready = false;
        self.write_status();
        Ok(())
    }

    fn snapshot_changed(&mut self, snapshot: Arc<Snapshot>, facts: &HostFacts) {
        let old = self.snapshot.as_ref().map(|s| &s.world);
        let settings_changed = old.is_none_or(|old| {
            old.node != snapshot.world.node || old.service_cidrs != snapshot.world.service_cidrs
        });
        if settings_changed || old.is_none_or(|old| !old.services.is_same(&snapshot.world.services)) {
            self.cluster_problems = cluster::problems(&self.config, &snapshot.world);
        }
        self.snapshot = Some(snapshot);
        if settings_changed {
            self.host_changed(facts);
        }
        let _operations = self.sync();
    }

    fn node_object(&self) -> Option<&crate::model::NodeObject> {
        self.snapshot.as_ref().and_then(|s| s.world.node.as_ref())
    }

    /// Takes in the host's facts; true when what `compile` reads has changed.
    fn host_changed(&mut self, facts: &HostFacts) -> bool {
        self.sync_interfaces(facts);
        let view = addrs::node_view(facts, &self.managed, &self.config, self.node_object());
        if view == self.view {
            return false;
        }
        info!(node_port_addresses = ?view.node_port_addresses, "this node's addresses changed");
        self.status.node_port_addresses = view.node_port_addresses.iter().map(IpAddr::to_string).collect();
        self.view = view;
        true
    }

    fn sync_interfaces(&mut self, facts: &HostFacts) {
        let node_addresses = self.node_object().map(|n| n.addresses.clone()).unwrap_or_default();
        self.known_uplinks.extend(&facts.default_route_links);
        self.known_uplinks.retain(|index| facts.links.contains_key(index));
        self.managed = classify(facts, &self.config, &node_addresses, &self.known_uplinks);
        let (node4, node6) = addrs::main_addresses(&self.managed, self.node_object());
        let world = self.snapshot.as_ref().map(|s| &*s.world);
        let result = self
            .kernel
            .configure(&Settings::new(&self.config, node4, node6, world))
            .and_then(|()| self.kernel.sync_interfaces(&self.managed));
        match result {
            Ok(report) => {
                let incomplete = report.iter().any(|i| i.failed);
                let interfaces: Vec<_> = report.into_iter().map(|i| i.status).collect();
                if interfaces != self.status.interfaces {
                    for i in interfaces.iter().filter(|i| !self.status.interfaces.contains(i)) {
                        info!(interface = %i.name, role = %i.role, hooks = %i.hooks, why = ?i.reasons, "attached");
                    }
                    self.status.interfaces = interfaces;
                }
                if incomplete { self.interface_retry.failed() } else { self.interface_retry.succeeded() }
            }
            Err(error) => {
                error!(%error, "interfaces could not be set up; will be retried");
                self.status.last_error = Some(error.to_string());
                self.interface_retry.failed();
            }
        }
    }

    fn source_changed(&mut self, source: &SourceStatus) {
        self.status.source = serde_json::to_value(source).unwrap_or_default();
    }

    /// Brings the tables to what the last snapshot wants. Without a snapshot nothing is written.
    /// Returns how many operations that took.
    fn sync(&mut self) -> usize {
        let Some(snapshot) = self.snapshot.clone() else { return 0 };
        let began = Instant::now();
        let now_unix_s = unix_s();
        let tables = self.kernel.tables();
        let report = self.syncer.sync(&snapshot.world, &self.view, tables, now_unix_s as u32);
        let took = began.elapsed();
        self.observer.synced(&snapshot, &self.view, &report, took);
        self.note(&snapshot, &report, took, now_unix_s);
        if report.ops.freed + report.ops.backends > 0 {
            self.abort_stale_sockets();
            // A process that was about to connect while this looked is found by another look.
            self.sockets_in_doubt = true;
        }
        self.names.update(&snapshot.world, &self.state);
        if report.error.is_none() && !self.status.ready {
            self.become_ready();
            // What loading the programs took, and the first list.
            memory::give_back();
        } else if report.ops.total() >= memory::MANY_OPERATIONS {
            memory::give_back();
        }
        report.ops.total()
    }

    fn write_names(&mut self) {
        if let Some(snapshot) = &self.snapshot {
            self.names.write(&snapshot.world, &self.state);
        }
    }

    fn note(&mut self, snapshot: &Snapshot, report: &SyncReport, took: Duration, now_unix_s: u64) {
        self.object_problems =
            snapshot.problems.iter().chain(&report.problems).chain(&self.cluster_problems).cloned().collect();
        self.tell_problems();
        self.status.last_sync = Some(SyncStatus {
            unix_s: now_unix_s,
            duration_us: took.as_micros() as u64,
            generation: snapshot.generation,
            complete: report.error.is_none() && report.retry_after.is_none(),
            applied: report.ops.total() as u64,
            failed: report.error.as_ref().map_or(0, |e| e.failed.len() as u64),
        });
        match &report.error {
            None => {
                self.status.last_error = None;
                info!(
                    generation = snapshot.generation,
                    operations = report.ops.total(),
                    duration_us = took.as_micros() as u64,
                    "synced"
                );
            }
            Some(error) => {
                warn!(%error, retry_in = ?report.retry_after, "sync is incomplete");
                self.status.last_error = Some(error.to_string());
            }
        }
        match report.retry_after {
            Some(wait) => self.sync_retry.after(wait),
            None => self.sync_retry.succeeded(),
        }
    }

    /// Puts the problems of objects and of the host into the status, and new ones into the log.
    fn tell_problems(&mut self) {
        let host = self.observer.problems.borrow().clone();
        let mut problems: Vec<_> = self.object_problems.iter().chain(&host).collect();
        problems.sort();
        problems.dedup();
        let problems: Vec<ProblemStatus> = problems.into_iter().map(Into::into).collect();
        // Both lists are sorted.
        for p in problems.iter().filter(|p| self.status.problems.binary_search(p).is_err()) {
            warn!(object = %p.object, field = %p.field, message = %p.message, "problem");
        }
        self.status.problems = problems;
    }

    fn become_ready(&mut self) {
        match self.state.set_ready() {
            Ok(()) => {
                self.status.ready = true;
                info!("fairway ready");
                // Hooks that another version's programs hold are taken over only now.
                self.interface_retry.hurry();
            }
            Err(error) => {
                error!(%error, "the ready file could not be written");
                self.status.last_error = Some(error.to_string());
                self.sync_retry.failed();
            }
        }
    }

    /// Aborts sockets whose backend is gone. What fails is told, and tried again at the next heartbeat.
    fn abort_stale_sockets(&mut self) {
        match self.kernel.abort_stale_sockets() {
            Ok(aborted) => {
                if aborted > 0 {
                    info!(aborted, "UDP sockets of the node were connected to backends that are gone");
                }
                let old = self.socket_error.take();
                if old.is_some() && old == self.status.last_error {
                    self.status.last_error = None;
                }
            }
            Err(error) => {
                warn!(%error, "UDP sockets of the node may stay connected to backends that are gone");
                self.socket_error = Some(error.to_string());
                self.status.last_error.clone_from(&self.socket_error);
                self.sockets_in_doubt = true;
            }
        }
    }

    fn sweep(&mut self) {
        let share = SWEEP_EVERY.as_secs_f64() / SWEEP_ROUND.as_secs_f64();
        if let Err(error) = self.kernel.sweep(share) {
            warn!(%error, "sweeping flows failed");
            self.status.last_error = Some(error.to_string());
        }
    }

    fn write_status(&mut self) {
        self.status.written_unix_s = unix_s();
        self.observer.status(&self.status);
        if let Err(error) = self.state.write_status(&self.status) {
            warn!(%error, "the status could not be written");
        }
    }
}

/// Opens everything and runs until `shutdown` completes. Fails only when something cannot be started at all.
pub async fn start(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
    tokio::pin!(shutdown);
    let state = StateDir::create(&config.state_dir)?;
    let kernel = RealKernel::open(&config)?;
    let links = LinkWatch::start().await?;
    let source = tokio::select! {
        biased;
        () = &mut shutdown => return Ok(()),
        source = start_source(&config) => source?,
    };
    let inputs = Inputs {
        host: links.facts.clone(),
        snapshots: source.snapshots.clone(),
        source: source.status.clone(),
    };
    // Its tasks end with this function.
    let (observer, _servers) = show(&config, &source);
    App::new(config, kernel, state).observed_by(observer).run(inputs, shutdown).await
}

/// Starts what shows the agent: its HTTP servers, the looks at the host, the Events.
fn show(config: &Config, source: &SourceHandle) -> (Observer, JoinSet<()>) {
    let (notices, queue) = Notices::channel();
    let (observer, inputs) = Observer::of(source, notices.clone());
    let checks = HostChecks {
        snapshots: source.snapshots.clone(),
        snat_ports: config.snat_ports,
        nodeport_range: config.nodeport_range,
        board: inputs.board.clone(),
    };
    let mut tasks = admin::start(config, inputs);
    tasks.spawn(checks.run());
    if !matches!(config.source, Source::Manifests(_)) {
        let api = kube_source(config);
        notices.tell(Notice::Starting);
        tasks.spawn(async move {
            if let Err(error) = kube::events::deliver(api, queue).await {
                warn!(%error, "no Events are written");
            }
        });
    }
    (observer, tasks)
}

/// The API that the configuration names, and what to take from it.
fn kube_source(config: &Config) -> KubeSource {
    let (kubeconfig, api_url) = match &config.source {
        Source::InCluster | Source::Manifests(_) => (None, None),
        Source::Kubeconfig(file) => (Some(file.clone()), None),
        Source::ApiUrl(url) => (None, Some(url.clone())),
    };
    KubeSource {
        kubeconfig,
        api_url,
        api_server: config.api_server.clone(),
        node_name: config.node_name.clone(),
        service_proxy_name: Some(config.service_proxy_name.clone()).filter(|n| !n.is_empty()),
        absent_pause: None,
    }
}

async fn start_source(config: &Config) -> Result<SourceHandle, SourceError> {
    let Source::Manifests(dir) = &config.source else {
        return kube::start(kube_source(config)).await;
    };
    let KubeSource { node_name, service_proxy_name, .. } = kube_source(config);
    manifests::start(ManifestSource { dir: dir.clone(), node_name, service_proxy_name }).await
}

/// Wall-clock seconds since the epoch.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
