//! externalTrafficPolicy through a load balancer's address that no host has: L14 to L17 (L18 and the health checks of
//! L15 are in tests/health).

use anyhow::{Context, Result};
use lab::ClusterSpec;
use lab::objects_extra::load_balanced;
use lab::traffic::{Disruption, Flows};

use crate::support::Outcome::{Answered, Silent};
use crate::support::*;

fn publish(b: &Bench, policy: &str, pods: &[(usize, usize)]) -> Result<()> {
    let service = b.service("web", pods).node_port(30_096).spec_field("externalTrafficPolicy", policy);
    b.publish("web", &[vec![load_balanced(service.service(), &vip(1).both())], service.slices()].concat())
}

/// L14, L15, L16: with pod-1-1 and pod-2-1 as endpoints.
#[test]
fn policy_local_keeps_clients_addresses_and_serves_those_inside_from_anywhere() -> Result<()> {
    let b =
        Bench::with(ClusterSpec::default(), |n| if n == 2 { vec!["--socket-lb", "off"] } else { vec![] })?;
    let vips = at(vip(1), PORT);
    let client = b.cluster.client_address().both();
    publish(&b, "Local", &[(1, 1), (2, 1)])?;
    for (n, pod) in [(1, "pod-1-1"), (2, "pod-2-1")] {
        route_vips(b.client(), b.node(n))?;
        for dst in vips {
            assert_source(b.client(), dst, |who, src| who == pod && client.contains(&src))?;
        }
    }
    route_vips(b.client(), b.node(3))?;
    assert_all(b.client(), &vips, Silent).context("a node without endpoint")?;
    // The endpoint moves, and the right nodes with it.
    publish(&b, "Local", &[(3, 1), (2, 1)])?;
    assert_pods(b.client(), &vips, &["pod-3-1"])?;
    route_vips(b.client(), b.node(1))?;
    assert_all(b.client(), &vips, Silent)?;

    publish(&b, "Local", &[(1, 1), (2, 1)])?;
    for n in [1, 3] {
        let pod = b.pod(n, 2);
        assert_pods(&pod.ns, &vips, &["pod-1-1", "pod-2-1"]).context("from a pod")?;
        for dst in vips {
            assert_source(&pod.ns, dst, |_, src| pod.address.both().contains(&src))?;
        }
    }
    for n in [1, 2, 3] {
        let node = b.node(n);
        assert_pods(node.ns(), &vips, &["pod-1-1", "pod-2-1"]).context("from a node")?;
        let gateway = lab::address::gateway(node.number());
        let own = [node.address().both(), gateway.both()].concat();
        for dst in vips {
            assert_source(node.ns(), dst, |_, src| own.contains(&src))?;
        }
    }
    Ok(())
}

/// L17: the policy flips to and fro; new connections follow it at once, established ones do not notice.
#[test]
fn the_policy_flips_live() -> Result<()> {
    let b = Bench::new(ClusterSpec::default(), &[])?;
    let vips = at(vip(1), PORT);
    let client = b.cluster.client_address().both();
    let nodes: Vec<_> = b.cluster.nodes().iter().flat_map(|n| n.address().both()).collect();
    route_vips(b.client(), b.node(1))?;
    publish(&b, "Local", &[(1, 1), (2, 1)])?;
    let every = std::time::Duration::from_millis(400);
    let flows = |dst| Disruption::start(b.client(), Flows { tcp: 8, udp: 8, every, ..Flows::to(dst) });
    let mut long = vips.map(flows).into_iter().collect::<Result<Vec<_>>>()?;
    for round in 0..2 {
        publish(&b, "Cluster", &[(1, 1), (2, 1)])?;
        assert_pods(b.client(), &vips, &["pod-1-1", "pod-2-1"])?;
        for dst in vips {
            // The documented difference to kube-proxy: a backend of this node sees the client.
            assert_source(b.client(), dst, |pod, src| {
                if pod == "pod-1-1" { client.contains(&src) } else { nodes.contains(&src) }
            })?;
        }
        if round == 0 {
            // These have remote backends as well.
            long.extend(vips.map(flows).into_iter().collect::<Result<Vec<_>>>()?);
        }
        assert_all(b.client(), &node_at(b.node(3), 30_096), Answered)?;
        publish(&b, "Local", &[(1, 1), (2, 1)])?;
        assert_pods(b.client(), &vips, &["pod-1-1"])?;
        for dst in vips {
            assert_source(b.client(), dst, |_, src| client.contains(&src))?;
        }
        assert_all(b.client(), &node_at(b.node(3), 30_096), Silent)?;
    }
    for flows in long {
        let report = flows.stop();
        assert_eq!((report.tcp_lost, report.udp_unanswered, report.udp_moved), (0, 0, 0), "{report:?}");
    }
    Ok(())
}
