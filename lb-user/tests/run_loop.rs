//! The run loop, whole, on a fake kernel: what is written when, and what the state directory says.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use clap::Parser;
use lb_common::Svc;
use lb_user::app::{App, Inputs, InterfaceReport, Kernel, KernelError, Settings};
use lb_user::config::RunArgs;
use lb_user::model::{Endpoint, Family, Key, Proto, Service, ServicePort, Slice, SlicePort, World};
use lb_user::node::{Address, HostFacts, Kind, Link, Managed};
use lb_user::sources::{Snapshot, SourceStatus};
use lb_user::tables::fake::FakeTables;
use lb_user::tables::{BackendEntry, Dump, FrontendKey, LbTables, Limits, SourceRanges, TableError};
use lb_user::telemetry::status::{self, StateDir, Status};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(10);

struct State {
    tables: FakeTables,
    wanted: Vec<Managed>,
    settings: Vec<Settings>,
    refuse_dump: bool,
    sweeps: usize,
    socket_looks: usize,
    refuse_sockets: bool,
}

/// A kernel that the test can look into while the agent runs.
#[derive(Clone)]
struct FakeKernel(Arc<Mutex<State>>);

impl FakeKernel {
    fn new() -> Self {
        let limits = Limits { services: 64, backends: 64, slots: 256, ranges: 64 };
        let tables = FakeTables::new(limits);
        FakeKernel(Arc::new(Mutex::new(State {
            tables,
            wanted: vec![],
            settings: vec![],
            refuse_dump: false,
            sweeps: 0,
            socket_looks: 0,
            refuse_sockets: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while locked")
    }
}

impl LbTables for FakeKernel {
    fn limits(&self) -> Limits {
        self.state().tables.limits()
    }
    fn dump(&mut self) -> Result<Dump, TableError> {
        let mut state = self.state();
        if state.refuse_dump {
            return Err(TableError::Failed { map: "FW_SVC4", message: "refused by the test".into() });
        }
        state.tables.dump()
    }
    fn put_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Result<(), TableError> {
        self.state().tables.put_backends(entries)
    }
    fn put_slots(&mut self, ranges: &[(u32, Vec<u32>)]) -> Result<(), TableError> {
        self.state().tables.put_slots(ranges)
    }
    fn put_ranges(&mut self, sets: &[(u32, SourceRanges)]) -> Result<(), TableError> {
        self.state().tables.put_ranges(sets)
    }
    fn delete_ranges(&mut self, sets: &[(u32, SourceRanges)]) -> Result<(), TableError> {
        self.state().tables.delete_ranges(sets)
    }
    fn put_frontends(&mut self, entries: &[(FrontendKey, Svc)]) -> Result<(), TableError> {
        self.state().tables.put_frontends(entries)
    }
    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), TableError> {
        self.state().tables.delete_frontends(keys)
    }
    fn commit_sync(&mut self, generation: u32, unix_s: u32) -> Result<(), TableError> {
        self.state().tables.commit_sync(generation, unix_s)
    }
}

impl Kernel for FakeKernel {
    fn configure(&mut self, settings: &Settings) -> Result<(), KernelError> {
        self.state().settings.push(settings.clone());
        Ok(())
    }
    fn sync_interfaces(&mut self, wanted: &[Managed]) -> Result<Vec<InterfaceReport>, KernelError> {
        self.state().wanted = wanted.to_vec();
        Ok(Vec::new())
    }
    fn tables(&mut self) -> &mut dyn LbTables {
        self
    }
    fn abort_stale_sockets(&mut self) -> Result<usize, KernelError> {
        let mut state = self.state();
        state.socket_looks += 1;
        if state.refuse_sockets {
            return Err(KernelError("no sockets for the test".into()));
        }
        Ok(0)
    }
    fn sweep(&mut self, _share: f64) -> Result<(), KernelError> {
        self.state().sweeps += 1;
        Ok(())
    }
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

struct Running {
    kernel: FakeKernel,
    dir: tempfile::TempDir,
    host: watch::Sender<HostFacts>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    _source: watch::Sender<SourceStatus>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn start(kernel: FakeKernel) -> Running {
    start_with(kernel, &[])
}

fn start_with(kernel: FakeKernel, flags: &[&str]) -> Running {
    let dir = tempfile::tempdir().expect("scratch directory");
    let state_dir = dir.path().join("state");
    let argv = ["fairway", "--node-name", "n1", "--state-dir", state_dir.to_str().expect("UTF-8")];
    let config = Cli::parse_from(argv.iter().chain(flags)).run.into_config("n1").expect("config");
    let state = StateDir::create(&state_dir).expect("state directory");
    let (host, host_in) = watch::channel(facts(&["192.0.2.1"]));
    let (snapshots, snapshots_in) = watch::channel(None);
    let (source, source_in) = watch::channel(SourceStatus::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let inputs = Inputs { host: host_in, snapshots: snapshots_in, source: source_in };
    let app = App::new(config, kernel.clone(), state);
    let task = tokio::spawn(async move {
        let shutdown = async {
            let _sender_gone = stopped.await;
        };
        app.run(inputs, shutdown).await.expect("the run loop ends well");
    });
    Running { kernel, dir, host, snapshots, _source: source, stop, task }
}

impl Running {
    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn is_ready(&self) -> bool {
        self.state_dir().join("ready").exists()
    }

    fn status(&self) -> Option<Status> {
        status::read(&self.state_dir()).status
    }

    fn publish(&self, generation: u64, world: World) {
        let snapshot = Snapshot { world: Arc::new(world), problems: vec![], generation };
        self.snapshots.send_replace(Some(Arc::new(snapshot)));
    }

    fn frontends(&self) -> usize {
        self.kernel.state().tables.peek().frontends.len()
    }

    async fn stop(self) -> tempfile::TempDir {
        self.stop.send(()).expect("the agent still runs");
        tokio::time::timeout(Duration::from_secs(2), self.task)
            .await
            .expect("ends in time")
            .expect("no panic");
        self.dir
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(what, poll).await;
}

async fn within(what: &str, future: impl Future<Output = ()>) {
    let began = Instant::now();
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not in {:?}", began.elapsed()));
}

fn facts(addresses: &[&str]) -> HostFacts {
    let mut facts = HostFacts::default();
    let link = Link { index: 2, name: "eth0".into(), kind: Kind::Other, up: true, ..Link::default() };
    facts.links.insert(2, link);
    facts.default_route_links.insert(2);
    let address = |ip: &&str| Address {
        ip: ip.parse().expect("address"),
        global: true,
        unusable: false,
        secondary: false,
        on_link: true,
    };
    facts.addresses.insert(2, addresses.iter().map(address).collect());
    facts
}

fn world(names: &[&str]) -> World {
    let mut world = World::default();
    for (i, name) in names.iter().enumerate() {
        let key = Key::new("default", *name);
        let service = Service {
            key,
            uid: String::new(),
            created_unix_s: 0,
            cluster_ips: vec![format!("10.96.0.{}", i + 1).parse().expect("address")],
            external_ips: vec![],
            load_balancer_ips: vec![],
            ports: vec![ServicePort {
                name: "".into(),
                proto: Proto::Tcp,
                port: 80,
                node_port: 30_000 + i as u16,
            }],
            internal_local: false,
            external_local: false,
            affinity_timeout_s: None,
            source_ranges: vec![],
            health_check_node_port: 0,
        };
        world.services.insert(service);
    }
    world
}

#[tokio::test]
async fn nothing_is_written_before_the_first_complete_snapshot() {
    let agent = start(FakeKernel::new());
    until("interfaces and two sweeps", || {
        let state = agent.kernel.state();
        state.wanted.len() == 1 && state.sweeps >= 2
    })
    .await;
    assert!(agent.kernel.state().tables.calls().is_empty());
    assert!(!agent.is_ready());
    agent.publish(1, world(&["a"]));
    until("ready", || agent.is_ready()).await;
    assert_eq!(agent.frontends(), 3, "cluster IP, its address, nodePort");
    agent.stop().await;
}

#[tokio::test]
async fn a_new_address_of_the_uplink_becomes_a_node_port_frontend() {
    let agent = start(FakeKernel::new());
    agent.publish(1, world(&["a"]));
    until("ready", || agent.is_ready()).await;
    agent.host.send_replace(facts(&["192.0.2.1", "192.0.2.2"]));
    until("one frontend more", || agent.frontends() == 4).await;
    agent.stop().await;
}

#[tokio::test]
async fn service_networks_reach_the_programs_and_are_never_taken_back_by_a_start() {
    let agent = start(FakeKernel::new());
    until("settings", || !agent.kernel.state().settings.is_empty()).await;
    assert_eq!(agent.kernel.state().settings[0].service_cidrs, None, "not known yet: what is there stays");
    let with = |networks: &[&str]| World {
        service_cidrs: networks.iter().map(|text| text.parse().expect("network")).collect(),
        ..world(&["a"])
    };
    let last = || agent.kernel.state().settings.last().and_then(|s| s.service_cidrs.clone());
    agent.publish(1, with(&["10.96.0.0/12"]));
    until("ready", || agent.is_ready()).await;
    assert_eq!(last(), Some(vec!["10.96.0.0/12".parse().expect("network")]));
    agent.publish(2, with(&["10.96.0.0/12", "10.200.0.0/16"]));
    until("two networks", || last().is_some_and(|networks| networks.len() == 2)).await;
    agent.publish(3, with(&["10.0.0.0/24", "10.0.2.0/24", "10.0.4.0/24", "10.0.6.0/24", "10.0.8.0/24"]));
    until("too many are named", || {
        let problems = agent.status().map(|s| s.problems).unwrap_or_default();
        problems.iter().any(|p| p.object == "ServiceCIDR objects")
    })
    .await;
    agent.stop().await;
}

#[tokio::test]
async fn a_refused_sync_is_told_and_retried_until_it_works() {
    let kernel = FakeKernel::new();
    kernel.state().refuse_dump = true;
    let agent = start(kernel);
    agent.publish(1, world(&["a"]));
    until("the error shows", || {
        agent.status().and_then(|s| s.last_error).is_some_and(|e| e.contains("refused by the test"))
    })
    .await;
    assert!(!agent.is_ready());
    agent.kernel.state().refuse_dump = false;
    until("ready without a new snapshot", || agent.is_ready()).await;
    until("the error is gone", || agent.status().is_some_and(|s| s.last_error.is_none())).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_somebody_else_took_out_of_the_maps_is_put_back_by_the_next_comparison() {
    let agent = start_with(FakeKernel::new(), &["--compare-period", "1"]);
    agent.publish(1, world(&["a"]));
    until("ready", || agent.is_ready()).await;
    let held = agent.kernel.state().tables.peek().frontends.clone();
    let keys: Vec<_> = held.iter().map(|(key, _)| *key).collect();
    agent.kernel.state().tables.delete_frontends(&keys[..2]).expect("deleted");
    until("all frontends again", || agent.kernel.state().tables.peek().frontends == held).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_end_leaves_the_tables_and_takes_the_ready_file() {
    let agent = start(FakeKernel::new());
    agent.publish(7, world(&["a", "b"]));
    until("ready", || agent.is_ready()).await;
    let (kernel, state_dir) = (agent.kernel.clone(), agent.state_dir());
    let _dir = agent.stop().await;
    assert!(!state_dir.join("ready").exists());
    assert_eq!(kernel.state().tables.peek().frontends.len(), 6);
    let found = status::read(&state_dir);
    let last = found.status.expect("status stays");
    assert!(!found.running && !last.ready);
    assert_eq!(last.last_sync.expect("synced").generation, 7);
    assert_eq!(found.names["TCP4 :30001"], "default/b");
}

/// One Service with these endpoints.
fn with_endpoints(addresses: &[&str]) -> World {
    let mut world = world(&["a"]);
    let endpoint = |addr: &&str| Endpoint {
        addr: addr.parse().expect("address"),
        ready: true,
        serving: true,
        terminating: false,
        node_name: None,
        hints: None,
    };
    world.slices.insert(Slice {
        key: Key::new("default", "a-1"),
        service: "a".into(),
        family: Family::V4,
        ports: vec![SlicePort { name: "".into(), proto: Proto::Tcp, port: 8080 }],
        endpoints: addresses.iter().map(endpoint).collect(),
    });
    world
}

#[tokio::test]
async fn sockets_are_looked_at_after_a_backend_has_gone_and_a_failure_is_told_but_stops_nothing() {
    let agent = start(FakeKernel::new());
    let looks = || agent.kernel.state().socket_looks;
    agent.publish(1, with_endpoints(&["10.244.1.1", "10.244.1.2"]));
    until("ready", || agent.is_ready()).await;
    let before = looks();
    agent.kernel.state().refuse_sockets = true;
    agent.publish(2, with_endpoints(&["10.244.1.1"]));
    until("a look", || looks() > before).await;
    let says = |text: &str| agent.status().and_then(|s| s.last_error).is_some_and(|e| e.contains(text));
    until("the error shows", || says("no sockets for the test")).await;
    assert!(agent.is_ready());
    agent.kernel.state().refuse_sockets = false;
    agent.publish(3, with_endpoints(&["10.244.1.3"]));
    until("the error is gone", || agent.status().is_some_and(|s| s.last_error.is_none())).await;
    agent.stop().await;
}
