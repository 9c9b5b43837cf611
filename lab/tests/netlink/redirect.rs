//! A node with two uplinks: the client on one, the backends behind the other. XDP redirects between them while the
//! devices can, and tc does it as soon as they cannot.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::traffic::{Ask, Continuous, PodServer, Sample, Transport};
use lab::{Agent, AgentSpec, Cluster, ClusterSpec, ManifestDir, Node, Ns};
use lb_common::config::IFACE_CAN_XDP_REDIRECT;
use lb_common::{Iface, maps};
use lb_user::datapath::pins::Pins;
use lb_user::datapath::table::Table;
use lb_user::node::xdp_features;
use serde_json::Value;

use crate::{DEADLINE, NODE_PORT, eventually};

/// The node and the client on the second cable.
const NODE: [&str; 2] = ["192.0.2.1", "fd99::1"];
const CLIENT: [&str; 2] = ["192.0.2.2", "fd99::2"];
const PATIENCE: Duration = Duration::from_secs(5);
const ASKS: usize = 64;

struct World {
    cluster: Cluster,
    _agent: Agent,
    _server: PodServer,
    _manifests: ManifestDir,
}

impl World {
    /// Two nodes; the Service's only pod is on the second, the client asks the first one on a cable of its own.
    fn new(xdp_mode: &str) -> Result<World> {
        let cluster = Cluster::build(ClusterSpec { nodes: 2, pods_per_node: 1, ..ClusterSpec::default() })?;
        let server = PodServer::start(cluster.pod(2, 1), 80)?;
        let manifests = ManifestDir::new(&cluster)?;
        let web = cluster.service("web").port(8088).target(80).node_port(NODE_PORT);
        manifests.apply(&web.pods([cluster.pod(2, 1)]))?;
        plug(cluster.client(), cluster.node(1))?;
        let flags = ["--interface", "eth0", "--interface", "eth1", "--xdp-mode", xdp_mode];
        let agent = cluster.node(1).start_agent(&AgentSpec::manifests(manifests.path()).flags(flags))?;
        Ok(World { cluster, _agent: agent, _server: server, _manifests: manifests })
    }

    fn node(&self) -> &Node {
        self.cluster.node(1)
    }

    /// Lets the far end of the second cable receive what XDP redirects into it, or no more.
    fn far_end(&self, able: bool) -> Result<()> {
        ethtool(self.cluster.client(), "eth1", &["gro", if able { "on" } else { "off" }])
    }

    /// Every question is answered, over both families and protocols.
    fn all_answer(&self) -> Result<()> {
        for ip in NODE {
            for t in [Transport::Tcp, Transport::Udp] {
                let dst = SocketAddr::new(ip.parse()?, NODE_PORT);
                let tally = Ask::new(dst).timeout(PATIENCE).many(t, self.cluster.client(), ASKS, 4)?;
                ensure!(tally.failures.is_empty(), "{t:?} {dst}: {:?}", tally.failures.first());
            }
        }
        Ok(())
    }

    /// What XDP and tc of the uplinks have counted for a reason.
    fn counted(&self, reason: &str) -> Result<[u64; 2]> {
        let drops: Value = serde_json::from_str(&self.node().fairway(["drops", "--all", "-o", "json"])?)?;
        let hooks = drops["hooks"].as_array().context("hooks")?;
        let rows = drops["reasons"].as_array().context("reasons")?;
        let row = rows.iter().find(|r| r["reason"] == reason).with_context(|| reason.to_owned())?;
        let of = |label: &str| -> Result<u64> {
            let at =
                hooks.iter().position(|h| h == label).with_context(|| format!("no {label}: {hooks:?}"))?;
            row["by_hook"][at].as_u64().context("a number")
        };
        Ok([of("xdp")?, of("tc-uplink")?])
    }

    /// How often XDP sent requests and replies on, how often tc did, and how often XDP left it to tc, in `work`.
    fn counted_in(&self, work: impl FnOnce() -> Result<()>) -> Result<Counted> {
        let now = || -> Result<[[u64; 2]; 3]> {
            Ok([self.counted("fwd_remote")?, self.counted("reply_redirected")?, self.counted("pass_to_tc")?])
        };
        let before = now()?;
        work()?;
        let after = now()?;
        let [requests, replies, to_tc] =
            [0, 1, 2].map(|i| [0, 1].map(|hook: usize| after[i][hook] - before[i][hook]));
        Ok(Counted { requests, replies, to_tc: to_tc[0] })
    }
}

/// Requests and replies by XDP and by tc.
#[derive(Debug)]
struct Counted {
    requests: [u64; 2],
    replies: [u64; 2],
    to_tc: u64,
}

fn ethtool(ns: &Ns, device: &str, setting: &[&str]) -> Result<()> {
    let done = ns.command("ethtool").args(["-K", device]).args(setting).output()?;
    ensure!(done.status.success(), "ethtool: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A second cable from the client to the node, with addresses on both sides.
fn plug(client: &Ns, node: &Node) -> Result<()> {
    let ip = |ns: &Ns, batch: &str| ns.feed("ip", &["-batch", "-"], batch);
    let addresses = |own: [&str; 2]| {
        format!("addr add {}/24 dev eth1\naddr add {}/64 dev eth1 nodad\nlink set eth1 up\n", own[0], own[1])
    };
    ip(node.ns(), &format!("link add eth1 type veth peer name eth1 netns {}\n", client.name()))?;
    ip(node.ns(), &addresses(NODE))?;
    ip(client, &addresses(CLIENT))?;
    // Native XDP on veth needs checksums that are complete.
    ethtool(client, "eth1", &["tx", "off"])
}

fn ifindex(ns: &Ns, device: &str) -> Result<u32> {
    let shown = ns.command("ip").args(["-j", "link", "show", device]).output()?;
    let links: Value = serde_json::from_slice(&shown.stdout).context("ip -j")?;
    Ok(u32::try_from(links[0]["ifindex"].as_u64().context("an index")?)?)
}

/// Whether the programs know `device` as one that XDP may redirect to.
fn is_target(node: &Node, device: &str) -> Result<bool> {
    let index = ifindex(node.ns(), device)?;
    let table: Table<u32, Iface> = Table::open(&Pins::new(node.bpffs()).maps, maps::IFACES)?;
    Ok(table.get(&index)?.is_some_and(|i| i.flags & IFACE_CAN_XDP_REDIRECT != 0))
}

fn reasons(node: &Node, device: &str) -> Result<String> {
    let status: Value = serde_json::from_str(&node.fairway(["status", "-o", "json"])?)?;
    let all = status["agent"]["interfaces"].as_array().context("interfaces")?;
    let entry = all.iter().find(|i| i["name"] == device).with_context(|| device.to_owned())?;
    Ok(entry["reasons"].to_string())
}

#[test]
fn xdp_redirects_between_uplinks_that_can_and_tc_serves_those_that_cannot() -> Result<()> {
    let w = World::new("native")?;
    assert!(is_target(w.node(), "eth0")?, "the switch's ports run XDP");
    assert!(!is_target(w.node(), "eth1")?, "the client's end runs neither XDP nor GRO");
    w.all_answer()?;
    let questions = (4 * ASKS) as u64;
    let c = w.counted_in(|| w.all_answer())?;
    ensure!(c.requests[0] >= questions && c.requests[1] == 0, "requests by XDP: {c:?}");
    ensure!(c.replies[1] >= questions && c.replies[0] == 0 && c.to_tc >= questions, "replies by tc: {c:?}");
    assert!(reasons(w.node(), "eth0")?.contains("xdp redirect: takes frames of other uplinks"));
    assert!(reasons(w.node(), "eth1")?.contains("xdp redirect: the device takes none"));

    w.far_end(true)?;
    eventually("eth1 is a target", || is_target(w.node(), "eth1"))?;
    w.all_answer()?;
    let c = w.counted_in(|| w.all_answer())?;
    ensure!(c.requests[0] >= questions && c.replies[0] >= questions, "all by XDP: {c:?}");
    ensure!(c.requests[1] + c.replies[1] + c.to_tc == 0, "and nothing by tc: {c:?}");
    eventually("the status says so", || {
        Ok(reasons(w.node(), "eth1")?.contains("xdp redirect: takes frames of other uplinks"))
    })
}

#[test]
fn a_device_that_loses_the_ability_under_traffic_is_served_by_tc_at_once() -> Result<()> {
    let w = World::new("auto")?;
    let without = reasons(w.node(), "eth1")?;
    assert!(without.contains("would lose what XDP sends back"), "no XDP at all there: {without}");
    w.all_answer()?;
    w.far_end(true)?;
    eventually("eth1 is a target", || is_target(w.node(), "eth1"))?;
    let dst = SocketAddr::new(NODE[0].parse()?, NODE_PORT);
    let mut load = Continuous::tcp(w.cluster.client(), dst, 4)?;
    for able in [false, true, false] {
        w.far_end(able)?;
        eventually("the programs know", || Ok(is_target(w.node(), "eth1")? == able))?;
        let known = Instant::now();
        let since = |seen: &[Sample]| seen.iter().filter(|s| s.started > known).count();
        ensure!(load.until(DEADLINE, |seen| since(seen) > 200), "questions go on");
    }
    let samples = load.stop();
    let failed: Vec<_> = samples.iter().filter(|s| s.result.is_err()).collect();
    ensure!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), samples.len(), failed.first());
    assert!(!is_target(w.node(), "eth1")?);
    Ok(())
}

#[test]
fn what_faces_a_pod_is_never_redirected_to_whatever_its_device_can() -> Result<()> {
    let w = World::new("auto")?;
    ethtool(&w.cluster.pod(1, 1).ns, "eth0", &["gro", "on"])?;
    w.far_end(true)?;
    // The pod's end came first, so what the agent has seen has that, too.
    eventually("eth1 is a target", || is_target(w.node(), "eth1"))?;
    let veth = &w.cluster.pod(1, 1).host_veth;
    let features = w.node().ns().run(xdp_features::read)??;
    assert!(features.get(&ifindex(w.node().ns(), veth)?).is_some_and(|f| f.takes_redirects()), "it could");
    assert!(!is_target(w.node(), veth)?);
    Ok(())
}
