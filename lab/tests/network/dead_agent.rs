//! Pods that come while no agent runs reach their Services all the same; and a node where no cgroup v2 can be used.

use std::fs;

use anyhow::{Context, Result};
use lab::traffic::PodServer;
use lab::{Agent, ClusterSpec, Cni, InterNode};

use crate::support::*;

const NODE_PORT: u16 = 30_140;

fn new_pod(cni: Cni, inter_node: InterNode) -> Result<()> {
    let spec = ClusterSpec { nodes: 2, pods_per_node: 1, cni, inter_node, ..ClusterSpec::default() };
    let mut b = Bench::new(spec, &[])?;
    b.apply(&b.service("web", &[(1, 1), (2, 1)]).node_port(NODE_PORT))?;
    let first = b.agents.remove(0);
    first.kill()?;
    let pod = b.cluster.add_pod(1, 2)?;
    let _server = PodServer::start(&pod, 80)?;
    let pods = ["pod-1-1", "pod-2-1"];
    let other = node_at(b.node(2), NODE_PORT);
    let frontends = [b.cluster_ip("web"), other].concat();
    assert_pods(&pod.ns, &frontends, &pods).context("without an agent")?;
    for dst in b.cluster_ip("web") {
        // Long transfers, and nobody's address changed that need not be.
        lab::traffic::tcp_download(&pod.ns, dst, 4 << 20, PATIENCE)?;
        lab::traffic::tcp_upload(&pod.ns, dst, 4 << 20, PATIENCE)?;
        assert_source(&pod.ns, dst, |_, src| pod.address.both().contains(&src))?;
    }
    // The next agent finds the pod, and it is served like the others.
    b.agents.insert(0, b.node(1).start_agent(&b.spec())?);
    assert_pods(&pod.ns, &[frontends, node_at(b.node(1), NODE_PORT).to_vec()].concat(), &pods)?;
    b.apply(&b.service("web", &[(1, 1), (2, 1)]).pods([&pod]).node_port(NODE_PORT))?;
    assert_pods(b.client(), &node_at(b.node(2), NODE_PORT), &["pod-1-1", "pod-1-2", "pod-2-1"])?;
    assert_pods(&pod.ns, &b.cluster_ip("web"), &["pod-1-1", "pod-1-2", "pod-2-1"]).context("to itself, too")
}

#[test]
fn a_pod_that_is_newer_than_the_agents_death_reaches_its_services_on_point_to_point_links() -> Result<()> {
    new_pod(Cni::Ptp, InterNode::Routed)
}

#[test]
fn a_pod_that_is_newer_than_the_agents_death_reaches_its_services_on_a_bridge() -> Result<()> {
    new_pod(Cni::Bridge, InterNode::Vxlan)
}

/// The agent says that it cannot use the hierarchy, and the packet path serves the node's processes.
#[test]
fn without_cgroup2_the_nodes_own_processes_are_served_by_the_packet() -> Result<()> {
    let mut b = Bench::without_agents(ClusterSpec { nodes: 2, ..ClusterSpec::default() })?;
    let none = b.cluster.dir().join("no-cgroup2");
    fs::create_dir_all(&none)?;
    let spec = b.spec().cgroup(&none);
    b.agents = b.cluster.nodes().iter().map(|n| n.start_agent(&spec)).collect::<Result<Vec<Agent>>>()?;
    b.apply(&b.service("web", &[(1, 1), (2, 1)]).node_port(NODE_PORT))?;
    let node_ports: Vec<_> = b.cluster.nodes().iter().flat_map(|n| node_at(n, NODE_PORT)).collect();
    let frontends = [b.cluster_ip("web").to_vec(), node_ports.clone()].concat();
    let pods = ["pod-1-1", "pod-2-1"];
    for from in [b.node(1).ns(), &b.pod(1, 2).ns] {
        assert_pods(from, &frontends, &pods)?;
    }
    assert_pods(b.client(), &node_ports, &pods)?;
    assert!(counted(b.node(1), "fwd_late")? > 0, "by the packet");
    assert_eq!(counted(b.node(1), "sock_translated")?, 0, "not by the socket");
    let status = b.node(1).fairway(["status"])?;
    assert!(status.contains("no cgroup v2"), "it says why:\n{status}");
    Ok(())
}
