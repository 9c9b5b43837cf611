//! Services of type LoadBalancer as they change: type, ports, nodePorts (L1, L2, L9).

use anyhow::{Context, Result};
use lab::ClusterSpec;
use lab::objects_extra::{load_balanced, with_node_port};
use lab::traffic::{Disruption, Flows};

use crate::support::Outcome::{Refused, Silent};
use crate::support::*;

const PODS: [&str; 2] = ["pod-1-1", "pod-2-1"];

/// L1, L2: ClusterIP, NodePort, another nodePort, LoadBalancer, another port, ClusterIP again; each step is used from
/// outside, a pod and a node, the former step is over, and what was connected all along stays so.
#[test]
fn type_and_ports_change_under_traffic() -> Result<()> {
    let b = Bench::new(ClusterSpec::default(), &[])?;
    let web = || b.service("web", &[(1, 1), (2, 1)]);
    let (inside, host) = (b.pod(3, 1).ns.clone(), b.node(3).ns().clone());
    let node_ports = |port| b.cluster.nodes().iter().flat_map(move |n| node_at(n, port)).collect::<Vec<_>>();
    let everywhere =
        |to: &[_]| [b.client(), &inside, &host].iter().try_for_each(|f| assert_pods(f, to, &PODS));
    route_vips(b.client(), b.node(3))?;

    b.apply(&web())?;
    let old = b.cluster_ip("web");
    assert_pods(&inside, &old, &PODS).context("as ClusterIP")?;
    assert_all(b.client(), &node_ports(30_081), Refused)?;
    let flows =
        |dst| Flows { tcp: 4, udp: 4, every: std::time::Duration::from_millis(400), ..Flows::to(dst) };
    let long = old.map(|dst| Disruption::start(&inside, flows(dst)));

    b.apply(&web().node_port(30_081))?;
    everywhere(&node_ports(30_081)).context("as NodePort")?;
    let outside = Disruption::start(b.client(), flows(node_at(b.node(3), 30_081)[0]))?;

    b.apply(&web().node_port(30_082))?;
    everywhere(&node_ports(30_082)).context("at the new nodePort")?;
    assert_all(b.client(), &node_ports(30_081), Refused).context("at the old nodePort")?;
    assert_all(&inside, &node_ports(30_081)[..2], Refused).context("at the old nodePort, inside")?;

    let balanced = |port| {
        let service = web().port(port).node_port(30_082);
        let mut objects = vec![load_balanced(service.service(), &vip(1).both())];
        objects.extend(service.slices());
        objects
    };
    b.publish("web", &balanced(PORT))?;
    everywhere(&at(vip(1), PORT)).context("as LoadBalancer")?;
    everywhere(&node_ports(30_082)).context("its nodePort")?;

    b.publish("web", &balanced(PORT + 1))?;
    everywhere(&at(vip(1), PORT + 1)).context("at the new port")?;
    assert_all(b.client(), &at(vip(1), PORT), Silent).context("at the old port, which is nobody's")?;
    assert_all(&inside, &old, Refused).context("at the old port of the clusterIP")?;

    b.apply(&web().port(PORT + 1))?;
    assert_all(b.client(), &at(vip(1), PORT + 1), Silent)?;
    assert_all(b.client(), &node_ports(30_082), Refused)?;
    assert_pods(&inside, &at(b.cluster.cluster_ip("web"), PORT + 1), &PODS).context("as ClusterIP again")?;
    for flows in long.into_iter().collect::<Result<Vec<_>>>()?.into_iter().chain([outside]) {
        let report = flows.stop();
        assert_eq!((report.tcp_lost, report.udp_unanswered), (0, 0), "{report:?}");
    }
    Ok(())
}

/// L9: without any nodePort a load balancer's address is served; one that is added later is served, too.
#[test]
fn a_load_balancer_needs_no_node_port() -> Result<()> {
    let b = Bench::new(ClusterSpec { nodes: 2, ..ClusterSpec::default() }, &[])?;
    let service = b.service("web", &[(1, 1), (2, 1)]).spec_field("allocateLoadBalancerNodePorts", false);
    let balanced = load_balanced(service.service(), &vip(1).both());
    route_vips(b.client(), b.node(2))?;
    let node_port = node_at(b.node(2), 30_083);
    b.publish("web", &[vec![balanced.clone()], service.slices()].concat())?;
    assert_pods(b.client(), &at(vip(1), PORT), &PODS)?;
    assert_all(b.client(), &node_port, Refused)?;
    b.publish("web", &[vec![with_node_port(balanced.clone(), 30_083)], service.slices()].concat())?;
    assert_pods(b.client(), &at(vip(1), PORT), &PODS)?;
    assert_pods(b.client(), &node_port, &PODS)?;
    b.publish("web", &[vec![with_node_port(balanced, 0)], service.slices()].concat())?;
    assert_pods(b.client(), &at(vip(1), PORT), &PODS)?;
    assert_all(b.client(), &node_port, Refused)
}
