//! The whole road with real sockets: manifests → agent → maps → programs → pod → reply, in every kind of cluster.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::traffic::{Ask, PodServer, Tally, Transport, tcp_download, tcp_half_close, tcp_upload};
use lab::{AgentSpec, Cluster, ClusterSpec, Cni, InterNode, ManifestDir, Masquerade, Ns, Pod, address};

const PATIENCE: Duration = Duration::from_secs(5);
const ASKS: usize = 48;
const NODE_PORT: u16 = 30080;
const SELF_NODE_PORT: u16 = 30081;

/// A cluster with agents on all nodes, `web` on a pod of node 1 and one of node 2, `own` on pod-1-1 alone.
struct Road {
    cluster: Cluster,
    _agents: Vec<lab::Agent>,
    _servers: Vec<PodServer>,
    _manifests: ManifestDir,
}

impl Road {
    fn build(spec: ClusterSpec, xdp_mode: &str) -> Result<Road> {
        let cluster = Cluster::build(spec)?;
        let servers = cluster.pods().iter().map(|p| PodServer::start(p, 80)).collect::<Result<Vec<_>>>()?;
        let manifests = ManifestDir::new(&cluster)?;
        let web = cluster.service("web").port(8088).target(80).node_port(NODE_PORT);
        manifests.apply(&web.pods([cluster.pod(1, 1), cluster.pod(2, 1)]))?;
        let own = cluster.service("own").port(8088).target(80).node_port(SELF_NODE_PORT);
        manifests.apply(&own.pods([cluster.pod(1, 1)]))?;
        let agents = cluster
            .nodes()
            .iter()
            .map(|n| {
                let spec = AgentSpec::manifests(manifests.path()).flags(["--xdp-mode", xdp_mode]);
                n.start_agent(&spec).with_context(|| n.name().to_owned())
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Road { cluster, _agents: agents, _servers: servers, _manifests: manifests })
    }

    /// Every address a node may masquerade with.
    fn addresses_of_node(&self, n: u8) -> BTreeSet<IpAddr> {
        [address::node(n), address::pod_range(n, 0), address::gateway(n)]
            .iter()
            .flat_map(|d| d.both())
            .collect()
    }
}

fn many(from: &Ns, transport: Transport, dst: SocketAddr) -> Result<Tally> {
    let tally = Ask::new(dst).timeout(PATIENCE).many(transport, from, ASKS, 8)?;
    ensure!(tally.failures.is_empty(), "{transport:?} {dst} from {}: {:?}", from.name(), tally.failures);
    Ok(tally)
}

fn assert_even(tally: &Tally, pods: &[&str], what: &str) {
    let names: Vec<&str> = tally.by_pod.keys().map(String::as_str).collect();
    assert_eq!(names, pods, "{what}");
    let least = ASKS / pods.len() / 3;
    assert!(tally.by_pod.values().all(|n| *n >= least), "{what}: uneven {:?}", tally.by_pod);
}

/// Asks one by one, so that the source is known per answering pod.
fn assert_sources(
    from: &Ns,
    transport: Transport,
    dst: SocketAddr,
    allowed: impl Fn(&str, IpAddr) -> bool,
) -> Result<()> {
    for _ in 0..12 {
        let a = Ask::new(dst).timeout(PATIENCE).over(transport, from)?;
        assert!(allowed(&a.pod, a.src.ip()), "{transport:?} {dst}: {} saw {}", a.pod, a.src);
    }
    Ok(())
}

fn assert_outside(road: &Road) -> Result<()> {
    let c = &road.cluster;
    let client = c.client_address().both();
    for (n, local) in [(1u8, "pod-1-1"), (2, "pod-2-1"), (3, "none")] {
        let nodes = road.addresses_of_node(n);
        for dst in c.node(n as usize).address().both() {
            let dst = SocketAddr::new(dst, NODE_PORT);
            for t in [Transport::Tcp, Transport::Udp] {
                let what = format!("outside → node-{n} {dst} {t:?}");
                assert_even(&many(c.client(), t, dst).context(what.clone())?, &["pod-1-1", "pod-2-1"], &what);
                assert_sources(c.client(), t, dst, |pod, src| {
                    if pod == local { client.contains(&src) } else { nodes.contains(&src) }
                })?;
            }
        }
    }
    Ok(())
}

fn assert_pod(road: &Road, pod: &Pod) -> Result<()> {
    let c = &road.cluster;
    let n = pod.node_name.trim_start_matches("node-").parse::<u8>()?;
    for ((cluster_ip, node), own) in
        c.cluster_ip("web").both().into_iter().zip(address::node(n).both()).zip(pod.address.both())
    {
        for dst in [SocketAddr::new(cluster_ip, 8088), SocketAddr::new(node, NODE_PORT)] {
            for t in [Transport::Tcp, Transport::Udp] {
                let what = format!("{} → {dst} {t:?}", pod.name);
                assert_even(&many(&pod.ns, t, dst).context(what.clone())?, &["pod-1-1", "pod-2-1"], &what);
                // A pod's own address is always kept, unless it talks to itself.
                assert_sources(&pod.ns, t, dst, |who, src| who == pod.name || src == own)?;
            }
        }
    }
    Ok(())
}

fn assert_hairpin(road: &Road) -> Result<()> {
    let c = &road.cluster;
    let pod = c.pod(1, 1);
    for (cluster_ip, node) in c.cluster_ip("own").both().into_iter().zip(address::node(1).both()) {
        for dst in [SocketAddr::new(cluster_ip, 8088), SocketAddr::new(node, SELF_NODE_PORT)] {
            for t in [Transport::Tcp, Transport::Udp] {
                let tally = many(&pod.ns, t, dst).with_context(|| format!("hairpin {dst} {t:?}"))?;
                assert_eq!(tally.by_pod.len(), 1);
                assert!(!tally.by_source.contains_key(&pod.address.both()[0]), "masqueraded");
            }
        }
    }
    Ok(())
}

fn assert_road(spec: ClusterSpec, xdp_mode: &str) -> Result<()> {
    let road = Road::build(spec, xdp_mode)?;
    assert_outside(&road)?;
    for pod in [road.cluster.pod(1, 1), road.cluster.pod(1, 2), road.cluster.pod(3, 1)] {
        assert_pod(&road, pod)?;
    }
    assert_hairpin(&road)
}

fn spec(cni: Cni, inter_node: InterNode) -> ClusterSpec {
    ClusterSpec { cni, inter_node, ..ClusterSpec::default() }
}

#[test]
fn ptp_routed_native_xdp() -> Result<()> {
    assert_road(spec(Cni::Ptp, InterNode::Routed), "native")
}

#[test]
fn ptp_routed_tc() -> Result<()> {
    assert_road(spec(Cni::Ptp, InterNode::Routed), "off")
}

#[test]
fn ptp_vxlan_native_xdp() -> Result<()> {
    assert_road(spec(Cni::Ptp, InterNode::Vxlan), "native")
}

#[test]
fn ptp_vxlan_tc() -> Result<()> {
    assert_road(spec(Cni::Ptp, InterNode::Vxlan), "off")
}

#[test]
fn bridge_routed_native_xdp() -> Result<()> {
    assert_road(spec(Cni::Bridge, InterNode::Routed), "native")
}

#[test]
fn bridge_routed_tc() -> Result<()> {
    assert_road(spec(Cni::Bridge, InterNode::Routed), "off")
}

#[test]
fn bridge_vxlan_native_xdp() -> Result<()> {
    assert_road(spec(Cni::Bridge, InterNode::Vxlan), "native")
}

#[test]
fn bridge_vxlan_tc() -> Result<()> {
    assert_road(spec(Cni::Bridge, InterNode::Vxlan), "off")
}

#[test]
fn strict_reverse_path_filtering_and_cni_masquerade_do_no_harm() -> Result<()> {
    for (rp_filter, masquerade) in [(1, Masquerade::Iptables), (2, Masquerade::Nftables)] {
        assert_road(ClusterSpec { rp_filter, masquerade, ..spec(Cni::Ptp, InterNode::Vxlan) }, "native")?;
    }
    Ok(())
}

fn assert_bulk(spec: ClusterSpec, xdp_mode: &str) -> Result<()> {
    const MB_100: u64 = 100 << 20;
    let road = Road::build(spec, xdp_mode)?;
    let c = &road.cluster;
    let from_outside = SocketAddr::new(c.node(3).address().both()[0], NODE_PORT);
    let from_outside6 = SocketAddr::new(c.node(1).address().both()[1], NODE_PORT);
    let from_pod = SocketAddr::new(c.cluster_ip("web").both()[0], 8088);
    for (ns, dst) in [(c.client(), from_outside), (c.client(), from_outside6), (&c.pod(3, 1).ns, from_pod)] {
        tcp_download(ns, dst, MB_100, PATIENCE).with_context(|| format!("download {dst}"))?;
        tcp_upload(ns, dst, MB_100, PATIENCE).with_context(|| format!("upload {dst}"))?;
        tcp_half_close(ns, dst, 1 << 20, PATIENCE).with_context(|| format!("half close {dst}"))?;
    }
    Ok(())
}

#[test]
fn a_hundred_megabytes_arrive_whole_each_way_through_xdp() -> Result<()> {
    assert_bulk(spec(Cni::Ptp, InterNode::Routed), "native")
}

#[test]
fn a_hundred_megabytes_arrive_whole_each_way_through_tc_with_offloads_on() -> Result<()> {
    assert_bulk(ClusterSpec { uplink_offload: true, ..spec(Cni::Bridge, InterNode::Vxlan) }, "off")
}

#[test]
fn ten_thousand_short_connections_all_succeed() -> Result<()> {
    let road = Road::build(spec(Cni::Ptp, InterNode::Routed), "native")?;
    let dst = SocketAddr::new(road.cluster.node(3).address().both()[0], NODE_PORT);
    let tally = Ask::new(dst).timeout(PATIENCE).reset_on_close().many(
        Transport::Tcp,
        road.cluster.client(),
        10_000,
        16,
    )?;
    ensure!(
        tally.failures.is_empty(),
        "{} failed, first: {:?}",
        tally.failures.len(),
        tally.failures.first()
    );
    Ok(())
}
