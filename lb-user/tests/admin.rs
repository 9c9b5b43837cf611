//! The agent's HTTP servers on loopback: what they answer, when they open and close, and what a taken port becomes.
//!
//! Each test has a loopback address of its own, so the well-known ports never collide.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use lb_user::admin::view::HealthCheck;
use lb_user::admin::{self, AdminInputs, AgentView};
use lb_user::config::RunArgs;
use lb_user::model::{Family, Key, Problem, World};
use lb_user::sources::Snapshot;
use lb_user::sources::changes::{ChangeLog, Changes};
use lb_user::telemetry::metrics::Metrics;
use lb_user::telemetry::notice::{Notice, Notices};
use lb_user::telemetry::problems::ProblemBoard;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(15);
const CHECK_PORT: u16 = 32_000;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
}

struct Agent {
    ip: &'static str,
    view: watch::Sender<AgentView>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    changes: ChangeLog,
    metrics: Metrics,
    problems: watch::Receiver<Vec<Problem>>,
    notices: mpsc::Receiver<Notice>,
    _servers: JoinSet<()>,
}

/// Servers on `ip`, of an agent whose changes may wait for two seconds.
fn start(ip: &'static str) -> Agent {
    let (health, shown) = (format!("{ip}:10256"), format!("{ip}:10249"));
    let flags = ["--node-name", "n1", "--sync-period", "1", "--bpffs", "/nonexistent"];
    let addresses = ["--healthz-bind-address", &health, "--metrics-bind-address", &shown];
    let argv = ["fairway"].iter().chain(&flags).chain(&addresses);
    let config = Cli::parse_from(argv).run.into_config("n1").expect("config");
    let (view, seen) = watch::channel(AgentView::default());
    let (snapshots, followed) = watch::channel(None);
    let (metrics, registry) = Metrics::new();
    let (board, problems) = ProblemBoard::new();
    let (sender, notices) = Notices::channel();
    let changes = ChangeLog::default();
    let inputs = AdminInputs {
        view: seen,
        snapshots: followed,
        changes: changes.clone(),
        metrics: metrics.clone(),
        registry,
        board,
        notices: sender,
    };
    let servers = admin::start(&config, inputs);
    Agent { ip, view, snapshots, changes, metrics, problems, notices, _servers: servers }
}

/// An answer: status, head, body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

fn get(address: &str, path: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other(text.clone()))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default();
    Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

impl Agent {
    async fn get(&self, port: u16, path: &str) -> std::io::Result<Answer> {
        let (address, path) = (format!("{}:{port}", self.ip), path.to_owned());
        tokio::task::spawn_blocking(move || get(&address, &path)).await.expect("no panic")
    }

    async fn status(&self, port: u16, path: &str) -> Option<u16> {
        self.get(port, path).await.ok().map(|answer| answer.status)
    }

    async fn until_status(&self, port: u16, path: &str, wanted: Option<u16>) {
        let began = Instant::now();
        while self.status(port, path).await != wanted {
            assert!(began.elapsed() < DEADLINE, "{path} on {port} never became {wanted:?}");
            tokio::task::yield_now().await;
        }
    }

    fn queue(&self, generation: u64) {
        let snapshot = Snapshot { world: Arc::new(World::default()), problems: vec![], generation };
        self.snapshots.send_replace(Some(Arc::new(snapshot)));
    }

    fn check(&self, port: u16, local: usize) {
        let check = HealthCheck {
            service: Key::new("default", "web"),
            uid: "uid-web".to_owned(),
            port,
            local_endpoints: BTreeMap::from([(Family::V4, local)]),
        };
        self.view.send_modify(|view| {
            view.node_port_addresses = vec![self.ip.parse::<IpAddr>().expect("ip")];
            view.health_checks = Arc::from([check]);
        });
    }
}

#[tokio::test]
async fn health_follows_the_queue_and_the_node() {
    let agent = start("127.11.0.1");
    agent.until_status(10256, "/healthz", Some(200)).await;
    let answer = agent.get(10256, "/healthz").await.expect("an answer");
    assert!(answer.head.contains("content-type: application/json\r\n"), "{}", answer.head);
    assert!(answer.head.contains("x-content-type-options: nosniff"), "{}", answer.head);
    assert_eq!((&answer.json()["nodeEligible"], &answer.json()["healthy"]), (&true.into(), &true.into()));
    assert!(answer.json()["status"]["IPv6"]["healthy"].as_bool().expect("a flag"));
    assert_eq!(agent.status(10256, "/readyz").await, Some(503), "no sync yet");

    agent.view.send_modify(|view| view.leaving = true);
    assert_eq!(agent.status(10256, "/healthz").await, Some(503));
    assert_eq!(agent.status(10256, "/livez").await, Some(200), "a leaving node's agent lives");
    agent.view.send_modify(|view| (view.leaving, view.ready) = (false, true));
    assert_eq!(agent.status(10256, "/readyz").await, Some(200));

    agent.queue(1);
    agent.until_status(10256, "/livez", Some(503)).await;
    let late = agent.get(10256, "/livez").await.expect("an answer").json();
    assert_eq!(late["healthy"], false);
    assert_eq!(late.get("nodeEligible"), None);
    assert_eq!(late["lastUpdated"], "0001-01-01T00:00:00Z");
    agent.view.send_modify(|view| view.synced_generation = 1);
    assert_eq!(agent.status(10256, "/healthz").await, Some(200));
}

#[tokio::test]
async fn metrics_mode_and_configuration_are_served_even_without_a_datapath() {
    let mut agent = start("127.11.0.2");
    agent.until_status(10249, "/healthz", Some(200)).await;
    agent.changes.note(1, Changes { services: 2, slices: 3, triggers_unix_ns: vec![] });
    agent.metrics.network_programming.observe(0.000_15);
    agent.view.send_modify(|view| {
        view.problems = BTreeMap::from([("Service".to_owned(), 2)]);
    });
    let metrics = agent.get(10249, "/metrics").await.expect("an answer");
    assert!(metrics.head.contains("content-type: application/openmetrics-text"), "{}", metrics.head);
    for line in [
        "kubeproxy_sync_proxy_rules_service_changes_pending 2",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 3",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.0002\"} 1",
        "fairway_problems{kind=\"Service\"} 2",
        "fairway_datapath_readable 0",
    ] {
        assert!(metrics.body.contains(&format!("{line}\n")), "{line} is not in\n{}", metrics.body);
    }
    assert!(metrics.body.ends_with("# EOF\n"));
    assert_eq!(agent.get(10249, "/proxyMode").await.expect("an answer").body, "ebpf");
    let config = agent.get(10249, "/configz").await.expect("an answer").json();
    assert_eq!(config["fairway"]["node_name"], "n1");
    assert_eq!(agent.status(10249, "/livez").await, Some(404), "the ports differ");
    assert!(agent.notices.try_recv().is_err());
}

#[tokio::test]
async fn a_services_health_check_opens_counts_moves_and_closes() {
    let agent = start("127.11.0.3");
    assert_eq!(agent.status(CHECK_PORT, "/").await, None);
    agent.check(CHECK_PORT, 2);
    agent.until_status(CHECK_PORT, "/any/path", Some(200)).await;
    let answer = agent.get(CHECK_PORT, "/healthz").await.expect("an answer");
    assert!(answer.head.contains("x-load-balancing-endpoint-weight: 2"), "{}", answer.head);
    assert_eq!(
        answer.json(),
        serde_json::json!({
            "service": {"namespace": "default", "name": "web"},
            "localEndpoints": 2,
            "serviceProxyHealthy": true,
        })
    );
    agent.check(CHECK_PORT, 0);
    assert_eq!(agent.status(CHECK_PORT, "/").await, Some(503), "the answer is of this moment");
    agent.check(CHECK_PORT + 1, 1);
    agent.until_status(CHECK_PORT + 1, "/", Some(200)).await;
    agent.until_status(CHECK_PORT, "/", None).await;
    agent.view.send_modify(|view| view.health_checks = Arc::from([]));
    agent.until_status(CHECK_PORT + 1, "/", None).await;
}

#[tokio::test]
async fn a_taken_port_is_a_problem_and_an_event_and_is_tried_again() {
    let mut agent = start("127.11.0.4");
    let taken: SocketAddr = format!("{}:{CHECK_PORT}", agent.ip).parse().expect("address");
    let squatter = TcpListener::bind(taken).expect("binds");
    agent.check(CHECK_PORT, 1);
    let problems = agent.problems.wait_for(|problems| !problems.is_empty());
    let problems = tokio::time::timeout(DEADLINE, problems).await.expect("in time").expect("open").clone();
    assert_eq!(problems[0].object, "Service default/web");
    assert!(problems[0].message.contains(&taken.to_string()), "{problems:?}");
    let notice = tokio::time::timeout(DEADLINE, agent.notices.recv()).await.expect("in time");
    assert!(matches!(notice, Some(Notice::ServiceHealthFailed { uid, .. }) if uid == "uid-web"));
    drop(squatter);
    agent.until_status(CHECK_PORT, "/", Some(200)).await;
    let gone = agent.problems.wait_for(Vec::is_empty);
    assert!(tokio::time::timeout(DEADLINE, gone).await.is_ok(), "the problem goes");
}

#[tokio::test]
async fn an_own_port_that_is_taken_is_a_problem_and_is_tried_again() {
    let squatter = TcpListener::bind("127.11.0.5:10256").expect("binds");
    let mut agent = start("127.11.0.5");
    let notice = tokio::time::timeout(DEADLINE, agent.notices.recv()).await.expect("in time");
    assert!(matches!(notice, Some(Notice::HealthServerFailed { .. })), "{notice:?}");
    assert_eq!(agent.problems.borrow_and_update()[0].field, "--healthz-bind-address");
    drop(squatter);
    agent.until_status(10256, "/healthz", Some(200)).await;
    let gone = agent.problems.wait_for(Vec::is_empty);
    assert!(tokio::time::timeout(DEADLINE, gone).await.is_ok(), "the problem goes");
}
