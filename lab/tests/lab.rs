//! The lab keeps its promises: every kind of cluster carries traffic, and nothing stays behind.

use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::panic;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::traffic::{
    Ask, Continuous, Disruption, Flows, PodServer, Transport, tcp_ask, tcp_download, tcp_half_close,
    tcp_upload, udp_ask,
};
use lab::{AgentSpec, Cluster, ClusterSpec, Cni, InterNode, ManifestDir, Masquerade, Ns, residue};

const PATIENCE: Duration = Duration::from_secs(5);

fn small() -> ClusterSpec {
    ClusterSpec { nodes: 2, ..ClusterSpec::default() }
}

/// Asks in both families and protocols and checks who answered whom.
fn assert_answers(from: &Ns, seen_as: [IpAddr; 2], to: [IpAddr; 2], name: &str) -> Result<()> {
    for (dst, seen_as) in to.into_iter().zip(seen_as) {
        let dst = SocketAddr::new(dst, 80);
        for (kind, answer) in [("TCP", tcp_ask(from, dst, PATIENCE)), ("UDP", udp_ask(from, dst, PATIENCE))] {
            let answer = answer.with_context(|| format!("{kind} from {} to {name} at {dst}", from.name()))?;
            assert_eq!(answer.pod, name);
            assert_eq!(answer.src.ip(), seen_as, "{kind} from {} to {dst}", from.name());
        }
    }
    Ok(())
}

fn assert_carries_traffic(spec: ClusterSpec) -> Result<()> {
    let cluster = Cluster::build(spec)?;
    let servers = cluster.pods().iter().map(|pod| PodServer::start(pod, 80)).collect::<Result<Vec<_>>>()?;
    let (here, beside, remote) = (cluster.pod(1, 1), cluster.pod(1, 2), cluster.pod(2, 1));
    for to in [here, beside, remote] {
        assert_answers(&here.ns, here.address.both(), to.address.both(), &to.name)?;
    }
    let node = cluster.node(1);
    assert_answers(node.ns(), cluster_gateway_of(node), here.address.both(), &here.name)?;
    let on_node = PodServer::start_in(node.ns(), node.name(), 80)?;
    assert_answers(cluster.client(), cluster.client_address().both(), node.address().both(), node.name())?;
    assert_answers(
        cluster.node(2).ns(),
        cluster.node(2).address().both(),
        node.address().both(),
        node.name(),
    )?;
    drop((servers, on_node));
    Ok(())
}

/// A node speaks to its own pods as their gateway.
fn cluster_gateway_of(node: &lab::Node) -> [IpAddr; 2] {
    lab::address::gateway(node.number()).both()
}

#[test]
fn point_to_point_pods_on_routed_nodes_reach_each_other() -> Result<()> {
    assert_carries_traffic(ClusterSpec { cni: Cni::Ptp, inter_node: InterNode::Routed, ..small() })
}

#[test]
fn point_to_point_pods_on_vxlan_nodes_reach_each_other() -> Result<()> {
    assert_carries_traffic(ClusterSpec { cni: Cni::Ptp, inter_node: InterNode::Vxlan, ..small() })
}

#[test]
fn bridged_pods_on_routed_nodes_reach_each_other() -> Result<()> {
    assert_carries_traffic(ClusterSpec { cni: Cni::Bridge, inter_node: InterNode::Routed, ..small() })
}

#[test]
fn bridged_pods_on_vxlan_nodes_reach_each_other() -> Result<()> {
    assert_carries_traffic(ClusterSpec { cni: Cni::Bridge, inter_node: InterNode::Vxlan, ..small() })
}

#[test]
fn strict_reverse_path_filters_and_offloads_do_not_hinder_plain_traffic() -> Result<()> {
    for rp_filter in [1, 2] {
        assert_carries_traffic(ClusterSpec { rp_filter, uplink_offload: true, ..small() })?;
    }
    Ok(())
}

#[test]
fn masquerading_hides_pods_from_the_outside_and_not_from_each_other() -> Result<()> {
    for masquerade in [Masquerade::Iptables, Masquerade::Nftables] {
        let cluster = Cluster::build(ClusterSpec { masquerade, ..small() })?;
        let outside = PodServer::start_in(cluster.client(), "outside", 80)?;
        let (pod, remote) = (cluster.pod(1, 1), cluster.pod(2, 1));
        let inside = PodServer::start(remote, 80)?;
        let node = cluster.node(1).address().both();
        assert_answers(&pod.ns, node, cluster.client_address().both(), outside.name())
            .with_context(|| format!("{masquerade:?}"))?;
        assert_answers(&pod.ns, pod.address.both(), remote.address.both(), inside.name())?;
    }
    Ok(())
}

#[test]
fn a_megabyte_arrives_whole_in_both_directions() -> Result<()> {
    let cluster = Cluster::build(small())?;
    let server = PodServer::start(cluster.pod(2, 1), 80)?;
    let from = &cluster.pod(1, 1).ns;
    for address in cluster.pod(2, 1).address.both() {
        let dst = SocketAddr::new(address, 80);
        assert_eq!(tcp_download(from, dst, 1_000_003, PATIENCE)?.bytes, 1_000_003);
        assert_eq!(tcp_upload(from, dst, 1_000_003, PATIENCE)?.bytes, 1_000_003);
    }
    assert_eq!(server.connections(), 4);
    Ok(())
}

#[test]
fn a_chosen_source_port_is_used_again_at_once() -> Result<()> {
    let cluster = Cluster::build(ClusterSpec { nodes: 1, ..small() })?;
    let _server = PodServer::start(cluster.pod(1, 1), 80)?;
    let dst = SocketAddr::new(cluster.pod(1, 1).address.v4.into(), 80);
    let ask = Ask::new(dst).source_port(40_000).reset_on_close();
    for _ in 0..10 {
        assert_eq!(ask.over(Transport::Tcp, &cluster.pod(1, 2).ns)?.src.port(), 40_000);
    }
    Ok(())
}

#[test]
fn long_flows_survive_silence_and_their_loss_is_noticed() -> Result<()> {
    let cluster = Cluster::build(small())?;
    let pod = cluster.pod(2, 1);
    let server = PodServer::start(pod, 80)?;
    let flows = Flows {
        tcp: 200,
        udp: 50,
        every: Duration::from_millis(100),
        patience: Duration::from_millis(500),
        ..Flows::to(SocketAddr::new(pod.address.v6.into(), 80))
    };
    let disruption = Disruption::start(&cluster.pod(1, 1).ns, flows)?;
    assert!(disruption.wait_for_exchanges(500, PATIENCE));
    let calm = disruption.report();
    assert_eq!((calm.tcp_opened, calm.udp_opened, calm.tcp_lost, calm.udp_unanswered), (200, 50, 0, 0));
    drop(server);
    let report = disruption.stop();
    assert_eq!(report.tcp_lost, 200);
    assert!(report.udp_unanswered >= 50, "{report:?}");
    Ok(())
}

#[test]
fn continuous_requests_record_who_answered_when() -> Result<()> {
    let cluster = Cluster::build(ClusterSpec { nodes: 1, ..small() })?;
    let server = PodServer::start(cluster.pod(1, 1), 80)?;
    let dst = SocketAddr::new(cluster.pod(1, 1).address.v4.into(), 80);
    let mut requests = Continuous::tcp(&cluster.pod(1, 2).ns, dst, 2)?;
    assert!(requests.until(PATIENCE, |samples| samples.len() >= 20));
    drop(server);
    assert!(requests.until(PATIENCE, |samples| samples.iter().any(|sample| sample.result.is_err())));
    let samples = requests.stop();
    assert!(samples.iter().take(20).all(|sample| sample.result.as_deref() == Ok("pod-1-1")));
    Ok(())
}

#[test]
fn a_file_of_manifests_holds_the_service_and_a_slice_for_each_family() -> Result<()> {
    let cluster = Cluster::build(small())?;
    let manifests = ManifestDir::new(&cluster)?;
    let web = cluster.service("web").port(8088).target(80).node_port(30080).pods(cluster.pods());
    manifests.apply(&web)?;
    let text = fs::read_to_string(manifests.path().join("web.yaml"))?;
    let documents: Vec<serde_json::Value> =
        text.split("---\n").filter(|d| !d.is_empty()).map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(documents, web.objects());
    assert_eq!(documents[0]["spec"]["ports"][0]["nodePort"], 30080);
    assert_eq!(documents[2]["addressType"], "IPv6");
    assert_eq!(documents[2]["endpoints"][3]["nodeName"], "node-2");
    assert_eq!(cluster.service("web").cluster_ip(), web.cluster_ip());
    assert_ne!(cluster.service("other").cluster_ip(), web.cluster_ip());
    Ok(())
}

#[test]
fn nothing_stays_behind_when_a_cluster_is_dropped() -> Result<()> {
    let cluster = Cluster::build(small())?;
    let (name, cgroup, dir) = (cluster.name(), cluster.node(1).cgroup().to_owned(), cluster.dir());
    let sleeper = cluster.pod(1, 1).ns.command("sleep").arg("1000").spawn()?;
    assert!(cgroup.exists() && cluster.node(1).bpffs().exists());
    drop(cluster);
    assert!(!residue::runs().iter().any(|run| run.name() == name));
    assert!(!cgroup.exists() && !dir.exists());
    assert!(!fs::read_to_string("/proc/self/mounts")?.contains(&format!("{name}/")));
    assert!(!sleeper.wait_with_output()?.status.success());
    Ok(())
}

#[test]
fn nothing_stays_behind_when_a_test_panics() -> Result<()> {
    let (send, receive) = std::sync::mpsc::channel();
    let outcome = panic::catch_unwind(|| {
        let cluster = Cluster::build(small()).unwrap();
        send.send(cluster.name()).unwrap();
        panic!("as a failing test does");
    });
    assert!(outcome.is_err());
    let name = receive.recv()?;
    assert!(!residue::runs().iter().any(|run| run.name() == name));
    Ok(())
}

#[test]
fn clusters_side_by_side_do_not_meet() -> Result<()> {
    let (one, two) = (Cluster::build(small())?, Cluster::build(small())?);
    let _server = PodServer::start(one.pod(1, 1), 80)?;
    let dst = SocketAddr::new(one.pod(1, 1).address.v4.into(), 80);
    assert!(tcp_ask(&one.pod(2, 1).ns, dst, PATIENCE).is_ok());
    assert!(tcp_ask(&two.pod(2, 1).ns, dst, Duration::from_millis(500)).is_err());
    Ok(())
}

#[test]
fn ten_thousand_connections_and_ten_thousand_questions_are_no_burden() -> Result<()> {
    let cluster = Cluster::build(ClusterSpec { nodes: 1, ..small() })?;
    let pod = cluster.pod(1, 1);
    let server = PodServer::start(pod, 80)?;
    let dst = SocketAddr::new(pod.address.v4.into(), 80);
    let from = &cluster.pod(1, 2).ns;
    let flows = Disruption::start(from, Flows { tcp: 10_000, every: PATIENCE, ..Flows::to(dst) })?;
    let tally = Ask::new(dst).many(Transport::Tcp, from, 10_000, 8)?;
    assert!(
        tally.failures.is_empty(),
        "{} failed, first: {:?}",
        tally.failures.len(),
        tally.failures.first()
    );
    let report = flows.stop();
    assert_eq!((report.tcp_opened, report.tcp_lost, tally.answered()), (10_000, 0, 10_000));
    assert_eq!(server.connections(), 20_000);
    Ok(())
}

#[test]
fn a_half_closing_server_still_takes_what_the_client_sends() -> Result<()> {
    let cluster = Cluster::build(ClusterSpec { nodes: 1, ..small() })?;
    let server = PodServer::start(cluster.pod(1, 1), 80)?;
    let dst = SocketAddr::new(cluster.pod(1, 1).address.v6.into(), 80);
    let answer = tcp_half_close(&cluster.pod(1, 2).ns, dst, 1_000_000, PATIENCE)?;
    assert_eq!(answer.pod, server.name());
    assert!(server.wait_for_bytes_after_half_close(1_000_000, PATIENCE));
    Ok(())
}

#[test]
fn the_switch_sides_of_uplinks_run_xdp_unless_offloads_stay() -> Result<()> {
    for uplink_offload in [false, true] {
        let cluster = Cluster::build(ClusterSpec { uplink_offload, ..small() })?;
        let links = cluster.control().command("ip").args(["link", "show", "sw-node-1"]).output()?;
        assert_eq!(String::from_utf8(links.stdout)?.contains("xdp"), !uplink_offload);
        let features = cluster.node(1).ns().command("ethtool").args(["-k", "eth0"]).output()?;
        let expected = format!("tx-checksumming: {}", if uplink_offload { "on" } else { "off" });
        assert!(String::from_utf8(features.stdout)?.contains(&expected));
    }
    Ok(())
}

#[test]
fn an_agent_that_ends_before_it_is_ready_fails_with_its_log() -> Result<()> {
    let cluster = Cluster::build(ClusterSpec { nodes: 1, ..small() })?;
    let spec = AgentSpec::manifests("/nonexistent").binary("/bin/false");
    let error = cluster.node(1).start_agent(&spec).unwrap_err().to_string();
    assert!(error.contains("the agent of node-1 ended with exit status: 1"), "{error}");
    Ok(())
}

#[test]
fn an_agent_is_ready_once_its_file_exists_and_is_killed_on_demand() -> Result<()> {
    let cluster = Cluster::build(ClusterSpec { nodes: 1, ..small() })?;
    let stand_in = cluster.dir().join("stand-in");
    let ready = cluster.node(1).state_dir().join("ready");
    fs::write(&stand_in, format!("#!/bin/sh\necho \"$@\"\ntouch {}\nexec sleep 1000\n", ready.display()))?;
    fs::set_permissions(&stand_in, Permissions::from_mode(0o755))?;
    let spec = AgentSpec::manifests("/manifests").binary(&stand_in).flags(["--xdp-mode", "native"]);
    let agent = cluster.node(1).start_agent(&spec)?;
    assert!(agent.log().contains("run --node-name node-1 --interface eth0 --bpffs"), "{}", agent.log());
    assert!(agent.log().contains("--manifests /manifests --xdp-mode native"), "{}", agent.log());
    assert_eq!(agent.kill()?.signal(), Some(9));
    assert_eq!(cluster.node(1).start_agent(&spec)?.terminate()?.signal(), Some(15));
    Ok(())
}
