//! internalTrafficPolicy and externalTrafficPolicy, and changing them.

use std::time::Duration;

use lab::traffic::{Disruption, Flows, PodServer};

use crate::check::Sources;
use crate::prelude::*;

const INTERNAL: &str = "internalTrafficPolicy";
const EXTERNAL: &str = "externalTrafficPolicy";

/// S34 and S35: pods and processes of a node get its endpoint, or nothing.
#[test]
fn s34_s35_under_internal_policy_local_a_node_is_served_by_its_own_endpoint() -> Result<()> {
    let b = shared()?;
    let web = b.service("s34").pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    let to = b.cluster_ip("s34");
    b.apply(&web.clone().spec_field(INTERNAL, "Local"))?;
    let on = |n: usize| expect(&[b.pod(n, 2), b.host(n)], &to, pods([b.cluster.pod(n, 1)]));
    let nothing = expect(&[b.pod(3, 1), b.host(3), b.outside()], &to, Silent);
    hold(&b, "Local", &[on(1), on(2), nothing].concat())?;
    b.apply(&web)?;
    let both = pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    hold(&b, "Cluster", &expect(&b.everyone(), &to, both))
}

/// S36: the endpoint is the node itself.
#[test]
fn s36_under_internal_policy_local_an_endpoint_may_be_the_node_itself() -> Result<()> {
    let b = shared()?;
    let node = b.cluster.node(1);
    let _server = PodServer::start_at(node.ns(), "on-node-1", node.address(), 8090)?;
    let web = b.service("s36").target(8090).endpoints([Endpoint::host_network("on-node-1", node)]);
    let to = b.cluster_ip("s36");
    b.apply(&web.clone().spec_field(INTERNAL, "Local"))?;
    let near = expect(&[b.pod(1, 1), b.pod(1, 2), b.host(1)], &to, all(["on-node-1"]));
    let far = expect(&[b.pod(2, 1), b.pod(3, 1), b.host(2), b.host(3)], &to, Silent);
    hold(&b, "Local", &[near, far].concat())?;
    b.apply(&web)?;
    hold(&b, "Cluster", &expect(&b.everyone(), &to, all(["on-node-1"])))
}

/// What S37 and S50 say of a nodePort whose only endpoint is pod-1-1.
fn local_node_port(b: &Bench, port: u16) -> Vec<Check> {
    let here = || pods([b.cluster.pod(1, 1)]);
    let strangers = [b.outside(), b.host(2), b.host(3), b.pod(2, 1), b.pod(3, 1)];
    let endpoint_node = expect(&strangers, &b.node_port(1, port), here()).keeping_the_source();
    // Clients elsewhere: the short-circuit is for a node's own processes and pods alone.
    let third = expect(&[b.outside(), b.host(2), b.pod(2, 1)], &b.node_port(3, port), Silent);
    // A process reaches its own node's port, and the server sees the node; a pod's address is kept (F6).
    let own = expect(&[b.host(2)], &b.node_port(2, port), here()).keeping_the_source();
    let own_pod = expect(&[b.pod(3, 1)], &b.node_port(3, port), here()).keeping_the_source();
    let on_endpoint_node = expect(&[b.host(1), b.pod(1, 2)], &b.node_port(1, port), here());
    [endpoint_node, third, own, own_pod, on_endpoint_node].concat()
}

/// S37.
#[test]
fn s37_external_policy_local_keeps_the_clients_address() -> Result<()> {
    let b = shared()?;
    let web = b.service("s37").node_port(30370).spec_field(EXTERNAL, "Local");
    b.apply(&web.pods([b.cluster.pod(1, 1)]))?;
    hold(&b, "Local", &local_node_port(&b, 30370))
}

/// S50: its traffic; `health/service.rs` has its health checks.
#[test]
fn s50_node_ports_follow_the_external_policy_there_and_back() -> Result<()> {
    let b = shared()?;
    let web = b.service("s50").node_port(30500).kind("LoadBalancer").pods([b.cluster.pod(1, 1)]);
    let local = web.clone().spec_field(EXTERNAL, "Local").spec_field("healthCheckNodePort", 32_500);
    for _ in 0..2 {
        b.apply(&local)?;
        hold(&b, "Local", &local_node_port(&b, 30500))?;
        b.apply(&web)?;
        let everywhere = expect(&b.everyone(), &b.node_ports(30500), pods([b.cluster.pod(1, 1)]));
        hold(&b, "Cluster", &everywhere)?;
    }
    Ok(())
}

/// Of issue 3: policies change under traffic, and no flow that was there notices.
#[test]
fn policies_flip_under_traffic_without_a_lost_flow() -> Result<()> {
    let b = shared()?;
    let deadline = Duration::from_secs(20);
    // Servers of its own: these flows' ports are the kernel's choice, which other rows' UDP flows to the same backend
    // may still hold (see `Vantage::fresh_port`).
    let endpoints = [b.cluster.pod(1, 1), b.cluster.pod(2, 1)];
    let serve = |pod: &lab::Pod| PodServer::start_in(&pod.ns, &pod.name, 8082);
    let _servers = endpoints.into_iter().map(serve).collect::<Result<Vec<_>>>()?;
    let web = b.service("flip").target(8082).node_port(30510).pods(endpoints);
    let (cluster_ip, node_ports) = (b.cluster_ip("flip"), b.node_ports(30510));
    let both = pods(endpoints);
    let everywhere = expect(&b.everyone(), &[cluster_ip.clone(), node_ports.clone()].concat(), both);
    b.apply(&web)?;
    hold(&b, "Cluster", &everywhere)?;

    let (outside, third) = (b.outside(), [b.pod(3, 1), b.host(3)]);
    let mut flows = Vec::new();
    let mut start = |from: &Vantage, dst| -> Result<()> {
        let wanted = Flows { tcp: 4, udp: 4, every: Duration::from_millis(100), ..Flows::to(dst) };
        flows.push(Disruption::start(&from.ns, wanted)?);
        Ok(())
    };
    node_ports.iter().try_for_each(|dst| start(&outside, *dst))?;
    for from in &third {
        cluster_ip.iter().chain(&b.node_port(3, 30510)).try_for_each(|dst| start(from, *dst))?;
    }
    for _ in 0..2 {
        b.apply(&web.clone().spec_field(EXTERNAL, "Local").spec_field(INTERNAL, "Local"))?;
        let refused = expect(&third, &cluster_ip, Silent);
        let dropped = expect(std::slice::from_ref(&outside), &b.node_port(3, 30510), Silent);
        hold(&b, "Local", &[refused, dropped].concat())?;
        for flow in &flows {
            ensure!(flow.wait_for_exchanges(16, deadline), "flows stand still: {:?}", flow.report());
        }
        b.apply(&web)?;
        hold(&b, "Cluster", &everywhere)?;
    }
    for flow in flows {
        let report = flow.stop();
        let harm = (report.tcp_lost, report.udp_moved, report.udp_unanswered);
        assert_eq!((report.tcp_opened, report.udp_opened, harm), (4, 4, (0, 0, 0)), "{report:?}");
    }
    Ok(())
}
