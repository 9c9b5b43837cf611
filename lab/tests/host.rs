//! The node's own processes as clients: ClusterIP, nodePort of its own and of another node, over TCP and UDP in both
//! families, by socket hooks and by the packet path; and pods newer than a dead agent.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::traffic::{Ask, PodServer, Tally, Transport};
use lab::{Agent, AgentSpec, Cluster, ClusterSpec, Cni, InterNode, ManifestDir, Ns};

const PATIENCE: Duration = Duration::from_secs(5);
const ASKS: usize = 24;
const NODE_PORT: u16 = 30080;

struct World {
    cluster: Cluster,
    _agents: Vec<Agent>,
    _servers: Vec<PodServer>,
    _manifests: ManifestDir,
}

fn world(spec: ClusterSpec, flags: &[&str]) -> Result<World> {
    let cluster = Cluster::build(spec)?;
    let servers = cluster.pods().iter().map(|p| PodServer::start(p, 80)).collect::<Result<Vec<_>>>()?;
    let manifests = ManifestDir::new(&cluster)?;
    let web = cluster.service("web").port(8088).target(80).node_port(NODE_PORT);
    manifests.apply(&web.pods([cluster.pod(1, 1), cluster.pod(2, 1)]))?;
    let spec = AgentSpec::manifests(manifests.path()).flags(flags.iter().copied());
    let agents = cluster.nodes().iter().map(|n| n.start_agent(&spec)).collect::<Result<Vec<_>>>()?;
    Ok(World { cluster, _agents: agents, _servers: servers, _manifests: manifests })
}

fn many(from: &Ns, transport: Transport, dst: SocketAddr) -> Result<Tally> {
    let tally = Ask::new(dst).timeout(PATIENCE).many(transport, from, ASKS, 4)?;
    ensure!(tally.failures.is_empty(), "{transport:?} {dst}: {:?}", tally.failures.first());
    Ok(tally)
}

/// Every frontend a process of node `n` may use answers from both pods, and the pods see the node.
fn assert_host_client(w: &World, n: usize) -> Result<()> {
    let c = &w.cluster;
    let node = c.node(n);
    for family in [0, 1] {
        let frontends = [
            SocketAddr::new(c.cluster_ip("web").both()[family], 8088),
            SocketAddr::new(node.address().both()[family], NODE_PORT),
            SocketAddr::new(c.node(n % 3 + 1).address().both()[family], NODE_PORT),
        ];
        for dst in frontends {
            for t in [Transport::Tcp, Transport::Udp] {
                let tally =
                    many(node.ns(), t, dst).with_context(|| format!("node-{n} to {dst} over {t:?}"))?;
                let pods: Vec<&str> = tally.by_pod.keys().map(String::as_str).collect();
                assert_eq!(pods, ["pod-1-1", "pod-2-1"], "node-{n} to {dst} over {t:?}");
                let pod_ips: Vec<IpAddr> = c.pods().iter().flat_map(|p| p.address.both()).collect();
                assert!(tally.by_source.keys().all(|src| !pod_ips.contains(src)), "{:?}", tally.by_source);
            }
        }
    }
    Ok(())
}

fn counted(w: &World, n: usize, reason: &str) -> Result<u64> {
    let drops: serde_json::Value =
        serde_json::from_str(&w.cluster.node(n).fairway(["drops", "-o", "json"])?)?;
    let rows = drops["reasons"].as_array().context("reasons")?;
    Ok(rows.iter().filter(|r| r["reason"] == reason).filter_map(|r| r["total"].as_u64()).sum())
}

#[test]
fn a_node_reaches_every_frontend_through_its_socket_hooks() -> Result<()> {
    let w = world(ClusterSpec::default(), &[])?;
    for n in [1, 3] {
        assert_host_client(&w, n)?;
        ensure!(counted(&w, n, "sock_translated")? > 0, "by the socket");
        assert_eq!(counted(&w, n, "fwd_late")?, 0, "and never by the packet");
    }
    Ok(())
}

#[test]
fn a_node_without_socket_hooks_reaches_every_frontend_by_the_packet_path() -> Result<()> {
    for (cni, inter_node) in [(Cni::Ptp, InterNode::Routed), (Cni::Bridge, InterNode::Vxlan)] {
        let w = world(ClusterSpec { cni, inter_node, ..ClusterSpec::default() }, &["--socket-lb", "off"])?;
        for n in [1, 3] {
            assert_host_client(&w, n)?;
            ensure!(counted(&w, n, "fwd_late")? > 0, "by the packet");
            assert_eq!(counted(&w, n, "sock_translated")?, 0, "and never by the socket");
        }
    }
    Ok(())
}
