//! Endpoints on the host network (N14): a backend is the node itself, for its own pods, its own processes, other nodes
//! and the world outside; the `kubernetes` Service is of this kind.

use anyhow::{Context, Result};
use lab::objects_extra::{Endpoint, family_of, slice};
use lab::traffic::PodServer;
use lab::{ClusterSpec, Cni, InterNode};

use crate::support::*;

const NODE_PORT: u16 = 30_105;
const HOST_PORT: u16 = 6_443;

fn serve(spec: ClusterSpec, flags: &[&str]) -> Result<()> {
    let b = Bench::new(spec, flags)?;
    let nodes = [b.node(1), b.node(2)];
    let _servers = nodes
        .iter()
        .map(|node| PodServer::start_at(node.ns(), node.name(), node.address(), HOST_PORT))
        .collect::<Result<Vec<_>>>()?;
    let publish = |which: &[&lab::Node]| {
        let service = b.service("api", &[]).target(HOST_PORT).node_port(NODE_PORT);
        let mut objects = vec![service.service()];
        for (family, ip) in b.cluster.cluster_ip("api").both().into_iter().enumerate() {
            let endpoints = which.iter().map(|n| Endpoint::at(n.address().both()[family]).on(n.name()));
            let ports = [("tcp", "TCP", HOST_PORT), ("udp", "UDP", HOST_PORT)];
            objects.push(slice(&format!("api-{family}"), "api", family_of(&ip), &ports, endpoints));
        }
        b.publish("api", &objects)
    };
    publish(&nodes)?;
    let names = ["node-1", "node-2"];
    let node_ports: Vec<_> = b.cluster.nodes().iter().flat_map(|n| node_at(n, NODE_PORT)).collect();
    let frontends = [b.cluster_ip("api").to_vec(), node_ports.clone()].concat();
    assert_pods(b.client(), &node_ports, &names).context("outside")?;
    for n in [1, 2, 3] {
        assert_pods(&b.pod(n, 1).ns, &frontends, &names).with_context(|| format!("a pod of node {n}"))?;
        assert_pods(b.node(n).ns(), &frontends, &names).with_context(|| format!("node {n}"))?;
    }
    // The one endpoint is the client's own node, or another one.
    for n in [1, 2] {
        publish(&[nodes[n - 1]])?;
        let name = [names[n - 1]];
        assert_pods(b.node(1).ns(), &frontends, &name).with_context(|| format!("node 1 to node {n}"))?;
        assert_pods(&b.pod(1, 2).ns, &frontends, &name)
            .with_context(|| format!("a pod of node 1 to node {n}"))?;
        assert_pods(b.client(), &node_ports, &name)?;
    }
    Ok(())
}

#[test]
fn endpoints_on_the_host_network_are_reached_from_everywhere() -> Result<()> {
    serve(ClusterSpec::default(), &[])
}

#[test]
fn endpoints_on_the_host_network_are_reached_without_socket_hooks_and_xdp() -> Result<()> {
    let spec = ClusterSpec { cni: Cni::Bridge, inter_node: InterNode::Vxlan, ..ClusterSpec::default() };
    serve(spec, &["--socket-lb", "off", "--xdp-mode", "off"])
}
