//! Topology hints (X6) and what trafficDistribution becomes of them (X7): PreferSameZone with one and with several nodes
//! in a zone, PreferSameNode, and the fall-backs when hints are missing or name nobody.

use anyhow::{Context, Result};
use lab::objects_extra::{Endpoint, family_of, node_in_zone, slice};
use lab::{ClusterSpec, Pod};

use crate::support::*;

const NODE_PORT: u16 = 30_120;

/// How the slice controller marks an endpoint.
type Hints = fn(Endpoint, &Pod, &str) -> Endpoint;

fn publish(b: &Bench, pods: &[(usize, usize)], zones: [&str; 3], hints: Hints) -> Result<()> {
    let service = b.service("web", &[]).node_port(NODE_PORT);
    let mut objects = vec![service.service()];
    for family in [0, 1] {
        let endpoints = pods.iter().map(|(n, p)| {
            let pod = b.pod(*n, *p);
            hints(Endpoint::at(pod.address.both()[family]).on(&pod.node_name), pod, zones[n - 1])
        });
        let kind = family_of(&b.cluster.cluster_ip("web").both()[family]);
        let ports = [("tcp", "TCP", 80), ("udp", "UDP", 80)];
        objects.push(slice(&format!("web-{family}"), "web", kind, &ports, endpoints));
    }
    b.publish("web", &objects)
}

/// Which pods the clients of node `n` reach: its pods, itself, and whoever comes in there from outside.
fn assert_reaches(b: &Bench, n: usize, pods: &[&str]) -> Result<()> {
    let what = || format!("clients of node {n}");
    let node_port = node_at(b.node(n), NODE_PORT);
    assert_pods(&b.pod(n, 2).ns, &[b.cluster_ip("web"), node_port].concat(), pods).with_context(what)?;
    assert_pods(b.node(n).ns(), &b.cluster_ip("web"), pods).with_context(what)?;
    assert_pods(b.client(), &node_port, pods).with_context(what)
}

#[test]
fn hints_lead_to_the_same_node_then_the_same_zone_then_anywhere() -> Result<()> {
    let b =
        Bench::with(ClusterSpec::default(), |n| if n == 2 { vec!["--socket-lb", "off"] } else { vec![] })?;
    let zones = ["a", "a", "b"];
    let place = |zones: [&str; 3]| {
        let nodes: Vec<_> =
            b.cluster.nodes().iter().zip(zones).map(|(node, zone)| node_in_zone(node, zone)).collect();
        b.publish("nodes", &nodes)
    };
    place(zones)?;
    let everywhere = [(1, 1), (2, 1), (3, 1)];
    let all = ["pod-1-1", "pod-2-1", "pod-3-1"];
    let by_zone: Hints = |e, _, zone| e.for_zones(&[zone]);
    // PreferSameNode gives both hints.
    let by_node: Hints = |e, pod, zone| e.for_zones(&[zone]).for_nodes(&[&pod.node_name]);

    publish(&b, &everywhere, zones, |e, _, _| e)?;
    (1..=3).try_for_each(|n| assert_reaches(&b, n, &all)).context("no hints")?;

    publish(&b, &everywhere, zones, by_zone)?;
    assert_reaches(&b, 1, &["pod-1-1", "pod-2-1"])?;
    assert_reaches(&b, 2, &["pod-1-1", "pod-2-1"])?;
    assert_reaches(&b, 3, &["pod-3-1"])?;

    // A zone without endpoint falls back to all of them.
    publish(&b, &[(1, 1), (2, 1)], zones, by_zone)?;
    assert_reaches(&b, 3, &["pod-1-1", "pod-2-1"])?;

    publish(&b, &everywhere, zones, by_node)?;
    for (n, pod) in [(1, "pod-1-1"), (2, "pod-2-1"), (3, "pod-3-1")] {
        assert_reaches(&b, n, &[pod])?;
    }
    // A node without endpoint falls back to its zone, a zone without to all.
    publish(&b, &[(1, 1), (3, 1)], zones, by_node)?;
    assert_reaches(&b, 1, &["pod-1-1"])?;
    assert_reaches(&b, 2, &["pod-1-1"])?;
    publish(&b, &[(1, 1), (2, 1)], zones, by_node)?;
    assert_reaches(&b, 3, &["pod-1-1", "pod-2-1"])?;

    // One endpoint without hints, as during a roll-out: none counts.
    publish(&b, &everywhere, zones, |e, pod, zone| {
        if pod.node_name == "node-1" { e } else { e.for_zones(&[zone]).for_nodes(&[&pod.node_name]) }
    })?;
    (1..=3).try_for_each(|n| assert_reaches(&b, n, &all)).context("one without hints")?;

    // One node to each zone; the Node moves, and its clients with it, without any change of Service or slices.
    publish(&b, &everywhere, zones, by_zone)?;
    place(["a", "b", "b"])?;
    assert_reaches(&b, 1, &["pod-1-1", "pod-2-1"]).context("the hints say so still")?;
    assert_reaches(&b, 2, &["pod-3-1"])
}
