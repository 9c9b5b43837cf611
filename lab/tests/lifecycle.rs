//! The datapath outlives the agent; a removed backend gets nothing; cleanup leaves nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::traffic::{Ask, Continuous, Disruption, Flows, PodServer, Transport, tcp_ask};
use lab::{Agent, AgentSpec, Cluster, ClusterSpec, ManifestDir, Node};

const PATIENCE: Duration = Duration::from_secs(5);
const NODE_PORT: u16 = 30080;

struct Bench {
    cluster: Cluster,
    manifests: ManifestDir,
    _servers: Vec<PodServer>,
}

fn bench(pods: &[(usize, usize)]) -> Result<Bench> {
    let cluster = Cluster::build(ClusterSpec::default())?;
    let servers = cluster.pods().iter().map(|p| PodServer::start(p, 80)).collect::<Result<Vec<_>>>()?;
    let manifests = ManifestDir::new(&cluster)?;
    publish(&cluster, &manifests, pods)?;
    Ok(Bench { cluster, manifests, _servers: servers })
}

fn publish(cluster: &Cluster, manifests: &ManifestDir, pods: &[(usize, usize)]) -> Result<()> {
    let web = cluster.service("web").port(8088).target(80).node_port(NODE_PORT);
    manifests.apply(&web.pods(pods.iter().map(|(n, p)| cluster.pod(*n, *p))))
}

fn agent(b: &Bench, node: &Node) -> Result<Agent> {
    node.start_agent(&AgentSpec::manifests(b.manifests.path()))
}

fn outside(node: &Node) -> SocketAddr {
    SocketAddr::new(node.address().both()[0], NODE_PORT)
}

/// Waits until `done`, at most ten seconds.
fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done()? {
        ensure!(Instant::now() < deadline, "{what}: not within ten seconds");
        std::thread::yield_now();
    }
    Ok(())
}

/// What the kernel has, backend ids included.
fn services(node: &Node) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&node.fairway(["services", "-o", "json"])?)?)
}

#[test]
fn a_killed_agent_loses_no_connection_and_comes_back_to_the_same_ids() -> Result<()> {
    let b = bench(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let first = agent(&b, node)?;
    let flows = Flows { tcp: 1_000, udp: 100, ..Flows::to(outside(node)) };
    let load = Disruption::start(client, flows)?;
    ensure!(load.wait_for_exchanges(2_200, Duration::from_secs(30)), "flows under way: {:?}", load.report());
    let before = services(node)?;
    first.kill()?;
    let asked = Ask::new(outside(node)).timeout(PATIENCE).many(Transport::Tcp, client, 200, 8)?;
    ensure!(asked.failures.is_empty(), "new connections without an agent: {:?}", asked.failures.first());
    assert_eq!(services(node)?, before, "the command line works without an agent");
    let _second = agent(&b, node)?;
    assert_eq!(services(node)?, before, "the same service and backend ids");
    let so_far = load.report().exchanges;
    ensure!(load.wait_for_exchanges(so_far + 2_200, Duration::from_secs(30)), "flows go on");
    let report = load.stop();
    assert_eq!((report.tcp_opened, report.tcp_lost), (1_000, 0), "{report:?}");
    assert_eq!((report.udp_opened, report.udp_moved), (100, 0), "{report:?}");
    Ok(())
}

#[test]
fn a_removed_pod_gets_no_request_once_the_change_is_in_the_kernel() -> Result<()> {
    let b = bench(&[(1, 1), (2, 1), (2, 2)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let _agent = agent(&b, node)?;
    let load = Continuous::start(client, Transport::Tcp, Ask::new(outside(node)).timeout(PATIENCE), 4)?;
    let gone = b.cluster.pod(2, 2);
    let address = gone.address.both()[0].to_string();
    publish(&b.cluster, &b.manifests, &[(1, 1), (2, 1)])?;
    eventually("the removal", || Ok(!services(node)?.to_string().contains(&address)))?;
    let applied = Instant::now();
    let after = Ask::new(outside(node)).timeout(PATIENCE).many(Transport::Tcp, client, 200, 8)?;
    ensure!(after.failures.is_empty(), "{:?}", after.failures.first());
    assert!(!after.by_pod.contains_key(&gone.name), "{:?}", after.by_pod);
    let samples = load.stop();
    let late: Vec<_> = samples
        .iter()
        .filter(|s| s.started > applied)
        .filter(|s| s.result.as_ref().is_ok_and(|pod| *pod == gone.name))
        .collect();
    assert!(late.is_empty(), "{} requests reached the removed pod", late.len());
    Ok(())
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() -> Result<()> {
    let b = bench(&[(1, 1)])?;
    let node = b.cluster.node(1);
    let _agent = agent(&b, node)?;
    let manifests = b.manifests.path().to_string_lossy().into_owned();
    let second = ["run", "--manifests", &manifests, "--node-name", "node-1", "--interface", "eth0"];
    let refusal = node.fairway(second).err().context("a second agent ran")?.to_string();
    assert!(refusal.contains("another"), "{refusal}");
    assert_eq!(tcp_ask(b.cluster.client(), outside(node), PATIENCE)?.pod, "pod-1-1");
    Ok(())
}

#[test]
fn sigterm_leaves_the_datapath_and_cleanup_removes_all_of_it() -> Result<()> {
    let b = bench(&[(1, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let running = agent(&b, node)?;
    let asked = Instant::now();
    ensure!(running.terminate()?.success(), "a clean end");
    ensure!(asked.elapsed() < Duration::from_secs(2), "within two seconds");
    assert_eq!(tcp_ask(client, outside(node), PATIENCE)?.pod, "pod-1-1");
    let said = node.fairway(["cleanup"])?;
    assert!(said.contains("link") || said.contains("eth0"), "it says what it removed: {said}");
    assert!(!node.bpffs().join("fairway").exists(), "nothing is pinned");
    assert!(tcp_ask(client, outside(node), Duration::from_secs(1)).is_err());
    Ok(())
}
