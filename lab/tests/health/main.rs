//! What load balancers, probes and Prometheus see of real agents: the upstream rows S38, S50 (its health checks), L15,
//! L18 and N16, a node that leaves, the metrics, and what the agent says of its host.

mod host;
mod service;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::traffic::{HttpAnswer, PodServer, Transport, http_get, tcp_ask};
use lab::{Agent, AgentSpec, Cluster, ClusterSpec, ManifestDir, Node, Ns, ServiceBuilder};

const PATIENCE: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(15);
const NODE_PORT: u16 = 30_080;
const HEALTH_PORT: u16 = 10_256;
const METRICS: &str = "127.0.0.1:10249";

/// A cluster with an agent on every node, and a server in every pod.
struct Bench {
    agents: Vec<Agent>,
    manifests: ManifestDir,
    _servers: Vec<PodServer>,
    cluster: Cluster,
}

impl Bench {
    fn new(nodes: usize) -> Result<Bench> {
        let mut bench = Bench::without_agents(nodes)?;
        bench.start_agents()?;
        Ok(bench)
    }

    fn without_agents(nodes: usize) -> Result<Bench> {
        let spec = ClusterSpec { nodes, pods_per_node: 1, ..ClusterSpec::default() };
        let cluster = Cluster::build(spec)?;
        let servers = cluster.pods().iter().map(|pod| PodServer::start(pod, 80)).collect::<Result<_>>()?;
        let manifests = ManifestDir::new(&cluster)?;
        Ok(Bench { agents: Vec::new(), manifests, _servers: servers, cluster })
    }

    fn start_agents(&mut self) -> Result<()> {
        let spec = AgentSpec::manifests(self.manifests.path());
        self.agents = self.cluster.nodes().iter().map(|n| n.start_agent(&spec)).collect::<Result<_>>()?;
        Ok(())
    }

    fn get(&self, from: &Ns, ip: IpAddr, port: u16, path: &str) -> std::io::Result<HttpAnswer> {
        http_get(from, SocketAddr::new(ip, port), path, PATIENCE)
    }

    /// The client's view of a port of a node, over IPv4.
    fn outside(&self, node: usize, port: u16, path: &str) -> std::io::Result<HttpAnswer> {
        self.get(self.cluster.client(), self.cluster.node(node).address().v4.into(), port, path)
    }

    fn metrics(&self, node: &Node) -> Result<String> {
        let server: SocketAddr = METRICS.parse()?;
        Ok(http_get(node.ns(), server, "/metrics", PATIENCE)?.body)
    }
}

/// Waits until `done`.
fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !done()? {
        ensure!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
    }
    Ok(())
}

/// The value of the only sample that begins with `name`, if there is one.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    let line =
        metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn web(cluster: &Cluster) -> ServiceBuilder {
    cluster.service("web").port(8088).target(80).node_port(NODE_PORT)
}

fn status(node: &Node) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&node.fairway(["status", "-o", "json"])?)?)
}

/// N16, and what H1 to H3 add to it.
#[test]
fn every_node_answers_on_kube_proxys_ports() -> Result<()> {
    let bench = Bench::new(2)?;
    bench.manifests.apply(&web(&bench.cluster).pods(bench.cluster.pods()))?;
    for node in bench.cluster.nodes() {
        for ip in node.address().both() {
            for path in ["/healthz", "/livez", "/readyz"] {
                let answer = bench.get(bench.cluster.client(), ip, HEALTH_PORT, path)?;
                assert_eq!(answer.status, 200, "{ip} {path}: {}", answer.body);
                assert_eq!(answer.header("content-type"), Some("application/json"));
                assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
                assert!(path == "/readyz" || answer.body.contains("lastUpdated"), "{}", answer.body);
            }
        }
        let mode = http_get(node.ns(), METRICS.parse()?, "/proxyMode", PATIENCE)?;
        assert_eq!((mode.status, mode.body.as_str()), (200, "ebpf"));
        let config = http_get(node.ns(), METRICS.parse()?, "/configz", PATIENCE)?;
        assert!(config.body.contains(node.name()), "{}", config.body);
        let refused = bench.get(bench.cluster.client(), node.address().v4.into(), 10_249, "/metrics");
        assert!(refused.is_err(), "metrics are the node's own affair by default");
    }
    Ok(())
}

/// H1: load balancers drain a node that the autoscaler is about to remove, while everything on it goes on.
#[test]
fn a_leaving_node_is_unhealthy_but_lives_and_serves() -> Result<()> {
    let bench = Bench::new(1)?;
    let node = bench.cluster.node(1);
    bench.manifests.apply(&web(&bench.cluster).pods(bench.cluster.pods()))?;
    let mut object = node.object();
    object["spec"]["taints"] =
        serde_json::json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    bench.manifests.write("nodes", &[object])?;
    eventually("503 for load balancers", || Ok(bench.outside(1, HEALTH_PORT, "/healthz")?.status == 503))?;
    let health = bench.outside(1, HEALTH_PORT, "/healthz")?.body;
    assert!(health.contains("\"nodeEligible\":false") && health.contains("\"healthy\":true"), "{health}");
    assert_eq!(bench.outside(1, HEALTH_PORT, "/livez")?.status, 200);
    let nodeport = SocketAddr::new(node.address().v4.into(), NODE_PORT);
    assert_eq!(tcp_ask(bench.cluster.client(), nodeport, PATIENCE)?.pod, "pod-1-1");
    bench.manifests.write("nodes", &[node.object()])?;
    eventually("200 again", || Ok(bench.outside(1, HEALTH_PORT, "/healthz")?.status == 200))
}

#[test]
fn metrics_count_what_the_kernel_did() -> Result<()> {
    let bench = Bench::new(1)?;
    let (client, node) = (bench.cluster.client(), bench.cluster.node(1));
    bench.manifests.apply(&web(&bench.cluster).pods(bench.cluster.pods()))?;
    let nodeport = SocketAddr::new(node.address().v4.into(), NODE_PORT);
    eventually("the Service works", || Ok(tcp_ask(client, nodeport, PATIENCE).is_ok()))?;
    let created = |text: &str| sample(text, "fairway_flows_created_total").context("flows created");
    let before = created(&bench.metrics(node)?)?;
    let tally = lab::traffic::Ask::new(nodeport).timeout(PATIENCE).many(Transport::Tcp, client, 20, 2)?;
    ensure!(tally.failures.is_empty(), "{:?}", tally.failures.first());
    let text = bench.metrics(node)?;
    assert_eq!(created(&text)? - before, 20.0, "one flow for each connection");
    for (name, least) in [
        ("kubeproxy_sync_proxy_rules_duration_seconds_count", 2.0),
        ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", 1.0e9),
        ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", 1.0e9),
        ("fairway_ready", 1.0),
        ("fairway_datapath_readable", 1.0),
        ("fairway_source_connected", 1.0),
        ("fairway_interfaces{role=\"uplink\"}", 1.0),
        ("fairway_interfaces{role=\"pod\"}", 1.0),
        ("fairway_map_capacity{map=\"FW_SVC4\"}", 16.0),
        ("fairway_map_capacity{map=\"FW_FLOWS6\"}", 16.0),
        ("fairway_sync_operations_total", 4.0),
    ] {
        let value = sample(&text, name).with_context(|| format!("{name} in\n{text}"))?;
        assert!(value >= least, "{name} is {value}");
    }
    assert!(
        text.contains("fairway_packets_total{hook=\"xdp\",reason=\"fwd_local\",outcome=\"delivered\"}"),
        "{text}"
    );
    assert!(text.contains("fairway_attached_programs{hook=\"xdp\",mode=\"native\"} 1"), "{text}");
    Ok(())
}
