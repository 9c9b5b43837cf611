//! Interfaces that flap, come late, change their name, go and come back; and one that is somebody else's.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::address;
use lab::traffic::{Disruption, Flows, tcp_ask};
use lab::{Node, Ns};
use lb_user::datapath::attach;
use lb_user::datapath::pins::{self, Pins};
use serde_json::Value;

use crate::support::*;

const FLAPS: usize = 20;
/// The node on the second cable.
const SECOND: &str = "192.0.2.1";

/// Every (interface, hook) at most once, and none on an interface that is gone.
fn assert_no_duplicates(node: &Node) -> Result<Vec<Attached>> {
    let all = attached(node)?;
    let places: BTreeSet<_> = all.iter().map(|a| (a.ifindex, &a.hook)).collect();
    assert_eq!(places.len(), all.len(), "{all:?}");
    assert!(all.iter().all(|a| a.live), "{all:?}");
    let pinned = pins::list(&Pins::new(node.bpffs()).links)?;
    let on_interfaces = pinned.iter().filter(|path| attach::parse_link_path(path).is_some()).count();
    assert_eq!(on_interfaces, all.len(), "a pin for each");
    Ok(all)
}

/// Waits until the agent says that `name` is an uplink with programs; gives its index.
fn wait_for_uplink(node: &Node, name: &str) -> Result<u64> {
    let mut index = 0;
    eventually(&format!("{name} is an uplink"), || {
        let Some(entry) = interface(node, name)? else { return Ok(false) };
        index = entry["index"].as_u64().unwrap_or_default();
        let hooks = entry["hooks"].as_str().unwrap_or_default();
        Ok(entry["role"] == "uplink" && hooks.contains("tc-ingress") && hooks.contains("tc-egress"))
    })?;
    Ok(index)
}

/// The routes that went with the uplink, which a network manager would restore.
fn restore_routes(node: &Node) -> Result<()> {
    let mut batch = String::new();
    for via in address::switch().both() {
        batch += &format!("route replace default via {via} dev eth0\n");
    }
    for other in (1..=3).filter(|n| *n != node.number()) {
        let [v4, v6] = address::node(other).both();
        batch += &format!("route replace 10.244.{other}.0/24 via {v4} dev eth0\n");
        batch += &format!("route replace fd44:{other}::/64 via {v6} dev eth0\n");
    }
    ip(node.ns(), &batch)
}

#[test]
fn an_uplink_that_flaps_twenty_times_keeps_its_programs_and_its_connections() -> Result<()> {
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    // IPv6 addresses stay, as a network manager would see to.
    node.ns().sysctl(&[("ipv6/conf/eth0/keep_addr_on_down".into(), "1".into())])?;
    let _agent = b.agent(node)?;
    let flows = Flows {
        tcp: 100,
        udp: 20,
        every: Duration::from_millis(500),
        patience: DEADLINE,
        ..Flows::to(outside(node))
    };
    let load = Disruption::start(client, flows)?;
    let load6 = Disruption::start(client, Flows { dst: outside6(node), ..flows })?;
    let before = assert_no_duplicates(node)?;
    ip(node.ns(), &"link set eth0 down\nlink set eth0 up\n".repeat(FLAPS))?;
    restore_routes(node)?;
    // From both pods: the way to the other node is open only when the node's IPv6 addresses are no longer tentative.
    for dst in [outside(node), outside6(node)] {
        let mut pods = BTreeSet::new();
        eventually(&format!("both pods answer at {dst}"), || {
            pods.extend(tcp_ask(client, dst, Duration::from_millis(500)).map(|answer| answer.pod));
            Ok(pods.len() == 2)
        })?;
    }
    for load in [&load, &load6] {
        ensure!(load.wait_for_exchanges(240, DEADLINE), "flows go on: {:?}", load.report());
    }
    all_answer(client, outside(node), 50)?;
    all_answer(client, outside6(node), 50)?;
    assert_eq!(assert_no_duplicates(node)?, before, "the same programs on the same links");
    for load in [load, load6] {
        let report = load.stop();
        assert_eq!((report.tcp_opened, report.tcp_lost, report.udp_moved), (100, 0, 0), "{report:?}");
    }
    Ok(())
}

/// A second cable from the client to the node, with addresses on both sides.
fn plug(client: &Ns, node: &Node, name: &str) -> Result<()> {
    let other = client.name();
    ip(
        node.ns(),
        &format!(
            "link add {name} type veth peer name eth1 netns {other}\naddr add {SECOND}/24 dev {name}\nlink set {name} up\n"
        ),
    )?;
    ip(client, "addr add 192.0.2.2/24 dev eth1\nlink set eth1 up\n")?;
    // Native XDP on veth needs checksums that are complete.
    let done = client.command("ethtool").args(["-K", "eth1", "tx", "off"]).output()?;
    ensure!(done.status.success(), "ethtool: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[test]
fn an_uplink_may_come_late_change_its_name_go_and_come_back() -> Result<()> {
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let second: SocketAddr = format!("{SECOND}:{NODE_PORT}").parse()?;
    let answers = || Ok(tcp_ask(client, second, Duration::from_millis(500)).is_ok());
    let _agent = node.start_agent(&b.spec().flags(["--interface", "late0", "--interface", "wan0"]))?;
    let without = assert_no_duplicates(node)?;

    plug(client, node, "late0")?;
    let index = wait_for_uplink(node, "late0")?;
    eventually("the late uplink answers", answers)?;
    assert_eq!(all_answer(client, second, 40)?.by_pod.len(), 2, "local and remote backends");
    let late = assert_no_duplicates(node)?;
    let on = |all: &[Attached], index: u64| all.iter().filter(|a| a.ifindex == index).count();
    assert!(on(&late, index) >= 2 && late.len() == without.len() + on(&late, index), "{late:?}");

    let flows = Flows { tcp: 50, every: Duration::from_millis(500), patience: DEADLINE, ..Flows::to(second) };
    let load = Disruption::start(client, flows)?;
    ip(node.ns(), "link set late0 down\nlink set late0 name wan0\nlink set wan0 up\n")?;
    assert_eq!(wait_for_uplink(node, "wan0")?, index, "the same interface");
    ensure!(load.wait_for_exchanges(100, DEADLINE), "flows go on: {:?}", load.report());
    assert_eq!(assert_no_duplicates(node)?, late, "the same programs on the same links");
    let report = load.stop();
    assert_eq!((report.tcp_opened, report.tcp_lost), (50, 0), "{report:?}");

    ip(node.ns(), "link del wan0\n")?;
    eventually("its links are gone", || Ok(attached(node)? == without))?;
    assert_no_duplicates(node)?;
    all_answer(client, outside(node), 20)?;
    plug(client, node, "late0")?;
    let again = wait_for_uplink(node, "late0")?;
    assert_ne!(again, index, "another interface of the same name");
    eventually("the new uplink answers", answers)?;
    all_answer(client, second, 40)?;
    let back = assert_no_duplicates(node)?;
    assert_eq!((on(&back, again), on(&back, index)), (on(&late, index), 0), "{back:?}");
    Ok(())
}

/// The id of the XDP program on `device`, as the kernel says.
fn xdp_program(node: &Node, device: &str) -> Result<Option<u64>> {
    let shown = node.ns().command("ip").args(["-j", "-d", "link", "show", device]).output()?;
    let links: Value = serde_json::from_slice(&shown.stdout).context("ip -j")?;
    Ok(links[0]["xdp"]["prog"]["id"].as_u64())
}

#[test]
fn a_foreign_xdp_program_stays_and_tc_serves_with_the_reason_in_the_status() -> Result<()> {
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    node.attach_foreign_xdp("eth0")?;
    let foreign = xdp_program(node, "eth0")?.context("the foreign program is attached")?;
    let agent = node.start_agent(&b.spec().flags(["--xdp-mode", "native"]))?;
    assert_eq!(all_answer(client, outside(node), 40)?.by_pod.len(), 2, "local and remote backends");
    all_answer(client, outside6(node), 40)?;
    let index = wait_for_uplink(node, "eth0")?;
    let hooks: Vec<String> =
        assert_no_duplicates(node)?.into_iter().filter(|a| a.ifindex == index).map(|a| a.hook).collect();
    assert_eq!(hooks, ["tc-egress", "tc-ingress"]);
    let why = interface(node, "eth0")?.context("in the status")?["reasons"].to_string();
    assert!(why.contains("another XDP program is attached to the interface and is left alone"), "{why}");
    assert!(node.fairway(["status"])?.contains("another XDP program"), "for people, too");
    assert_eq!(xdp_program(node, "eth0")?, Some(foreign));
    agent.terminate()?;
    node.fairway(["cleanup"])?;
    assert_eq!(xdp_program(node, "eth0")?, Some(foreign), "cleanup leaves it alone, too");
    Ok(())
}
