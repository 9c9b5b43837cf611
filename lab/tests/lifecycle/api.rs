//! The real agent against an API server that goes away, forgets, repeats itself and serves garbage.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use apiserver::{ApiServer, Kind, Options};
use lab::traffic::{Ask, Continuous, Disruption, Flows, Transport, tcp_ask};
use lab::{AgentSpec, Cluster, Node};
use serde_json::json;

use crate::support::*;

const OUTAGE: Duration = Duration::from_secs(60);
/// The pauses between attempts grow to 15 seconds, and their jitter may double that; then all goes at once.
const REDISCOVERY: Duration = Duration::from_secs(35);
const OTHER_NODE_PORT: u16 = 30081;

/// A server that every node reaches, with the Node objects.
pub fn server(cluster: &Cluster) -> Result<ApiServer> {
    let address = (cluster.control_address().v4, 6443);
    let listener = cluster.control().run(|| TcpListener::bind(address))??;
    let server = ApiServer::start(Options { listener: Some(listener), ..Options::default() })?;
    cluster.nodes().iter().try_for_each(|node| server.apply(node.object()))?;
    Ok(server)
}

/// Writes a NodePort Service with these pods. The slices come first: order must not matter.
pub fn publish(
    server: &ApiServer,
    cluster: &Cluster,
    name: &str,
    port: u16,
    pods: &[(usize, usize)],
) -> Result<()> {
    let service = cluster.service(name).port(8088).target(80).node_port(port);
    let service = service.pods(pods.iter().map(|(n, p)| cluster.pod(*n, *p)));
    service.objects().into_iter().rev().try_for_each(|object| server.apply(object))?;
    Ok(())
}

fn at(node: &Node, port: u16) -> SocketAddr {
    SocketAddr::new(node.address().v4.into(), port)
}

fn answers(cluster: &Cluster, dst: SocketAddr) -> bool {
    tcp_ask(cluster.client(), dst, Duration::from_millis(500)).is_ok()
}

#[test]
fn a_minute_without_the_api_server_harms_no_flow_and_then_every_change_arrives() -> Result<()> {
    let b = Bench::new(&[])?;
    let (cluster, client, node) = (&b.cluster, b.cluster.client(), b.cluster.node(1));
    let server = server(cluster)?;
    publish(&server, cluster, "web", NODE_PORT, &[(1, 1), (2, 1)])?;
    publish(&server, cluster, "removed", OTHER_NODE_PORT, &[(1, 1)])?;
    let agent = node.start_agent(&AgentSpec::api(server.url()))?;
    let before = services(node)?;
    let flows = Flows {
        tcp: 50,
        udp: 10,
        every: Duration::from_secs(1),
        patience: DEADLINE,
        ..Flows::to(outside(node))
    };
    let load = Disruption::start(client, flows)?;

    server.stop()?;
    let gone = Instant::now();
    publish(&server, cluster, "web", NODE_PORT, &[(1, 1), (2, 1), (2, 2)])?;
    publish(&server, cluster, "added", OTHER_NODE_PORT + 1, &[(1, 2)])?;
    for (kind, name) in [
        (Kind::Service, "removed"),
        (Kind::EndpointSlice, "removed-ipv4"),
        (Kind::EndpointSlice, "removed-ipv6"),
    ] {
        ensure!(server.delete(kind, "default", name), "{name} is there");
    }
    // What happened meanwhile cannot be watched any more: only a new list can tell.
    server.compact();
    while gone.elapsed() < OUTAGE {
        ensure!(load.wait_for_exchanges(60, DEADLINE), "flows stand still: {:?}", load.report());
        all_answer(client, outside(node), 4)?;
    }
    assert_eq!(services(node)?, before, "the last known state serves on");
    assert_eq!(status(node)?["agent"]["source"]["connected"], false, "and the loss is told");
    all_answer(client, at(node, OTHER_NODE_PORT), 10)?;

    server.resume()?;
    let third = cluster.pod(2, 2).address.v4.to_string();
    eventually_within(REDISCOVERY, "the changes arrive", || {
        Ok(answers(cluster, at(node, OTHER_NODE_PORT + 1)) && services(node)?.to_string().contains(&third))
    })
    .with_context(|| agent.log())?;
    ensure!(!answers(cluster, at(node, OTHER_NODE_PORT)), "the removed Service is gone");
    eventually("the source is connected", || Ok(status(node)?["agent"]["source"]["connected"] == true))?;
    let report = load.stop();
    assert_eq!((report.tcp_opened, report.tcp_lost, report.udp_moved), (50, 0, 0), "{report:?}");
    Ok(())
}

#[test]
fn a_410_in_mid_stream_and_repeated_events_change_nothing_but_what_has_changed() -> Result<()> {
    let b = Bench::new(&[])?;
    let (cluster, client, node) = (&b.cluster, b.cluster.client(), b.cluster.node(1));
    let server = server(cluster)?;
    publish(&server, cluster, "web", NODE_PORT, &[(1, 1), (2, 1)])?;
    let _agent = node.start_agent(&AgentSpec::api(server.url()))?;
    let before = services(node)?;
    let ask = Ask::new(outside(node)).timeout(DEADLINE).reset_on_close();
    let mut fresh = Continuous::start(client, Transport::Tcp, ask, 1)?;
    for round in 0..5u16 {
        let lists = server.stats(Kind::Service).lists;
        server.gone_410();
        for name in ["web-ipv4", "web-ipv6"] {
            ensure!(server.repeat(Kind::EndpointSlice, "default", name), "{name} is there");
        }
        eventually("a new list", || Ok(server.stats(Kind::Service).lists > lists))?;
        // What comes after the new list arrives; what was there before is as before.
        publish(&server, cluster, "late", OTHER_NODE_PORT + round, &[(1, 1)])?;
        eventually("the change arrives", || Ok(answers(cluster, at(node, OTHER_NODE_PORT + round))))?;
        let now = services(node)?;
        let web = |all: &serde_json::Value| -> Vec<serde_json::Value> {
            let all = all["frontends"].as_array().cloned().unwrap_or_default();
            all.into_iter().filter(|f| f["service"].as_str().is_some_and(|s| s.contains("/web"))).collect()
        };
        ensure!(web(&before).len() == 8, "two families, two protocols, two kinds: {before}");
        assert_eq!(web(&now), web(&before), "round {round}");
    }
    ensure!(fresh.until(DEADLINE, |s| s.len() > 50), "requests went on");
    let failed: Vec<_> = fresh.stop().into_iter().filter(|s| s.result.is_err()).collect();
    assert!(failed.is_empty(), "{} requests failed, first: {:?}", failed.len(), failed.first());
    Ok(())
}

#[test]
fn garbage_is_named_in_the_status_and_everything_else_is_programmed() -> Result<()> {
    let b = Bench::new(&[])?;
    let (cluster, client, node) = (&b.cluster, b.cluster.client(), b.cluster.node(1));
    let server = server(cluster)?;
    let slice = |name: &str, rest: serde_json::Value| {
        let mut slice = json!({"metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": "web"}}});
        slice
            .as_object_mut()
            .into_iter()
            .zip(rest.as_object())
            .for_each(|(to, from)| to.extend(from.clone()));
        slice
    };
    let listed = [
        (
            Kind::Service,
            json!({"metadata": {"namespace": "default", "name": "bad-port"}, "spec": {"clusterIP": "10.96.9.9", "ports": [{"port": "eighty"}]}}),
        ),
        (Kind::Service, json!({"metadata": {"namespace": "default", "name": "bad-spec"}, "spec": 7})),
        (Kind::EndpointSlice, slice("bad-list", json!({"addressType": "IPv4", "endpoints": "none"}))),
    ];
    let watched = [
        (
            Kind::Service,
            json!({"metadata": {"namespace": "default", "name": "bad-ip"}, "spec": {"clusterIP": "10.96.9.300", "ports": [{"port": 80}]}}),
        ),
        (
            Kind::EndpointSlice,
            slice(
                "bad-address",
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.244.1.256"]}], "ports": [{"name": "tcp", "port": 80}]}),
            ),
        ),
    ];
    listed.iter().for_each(|(kind, garbage)| server.add_garbage(*kind, garbage.clone()));
    publish(&server, cluster, "web", NODE_PORT, &[(1, 1), (2, 1)])?;
    let _agent = node.start_agent(&AgentSpec::api(server.url()))?;
    assert_eq!(all_answer(client, outside(node), 40)?.by_pod.len(), 2);

    watched.iter().for_each(|(kind, garbage)| server.add_garbage(*kind, garbage.clone()));
    publish(&server, cluster, "later", OTHER_NODE_PORT, &[(1, 1), (2, 1)])?;
    eventually("what comes after the garbage is programmed", || {
        Ok(answers(cluster, at(node, OTHER_NODE_PORT)))
    })?;
    all_answer(client, outside(node), 20)?;
    let mut problems = String::new();
    let all_named = |problems: &str| {
        listed.iter().chain(&watched).all(|(kind, object)| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            problems.contains(&format!("{} default/{name}", kind.name()))
        })
    };
    let names_any = |problems: &str| {
        listed.iter().chain(&watched).any(|(kind, object)| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            problems.contains(&format!("{} default/{name}", kind.name()))
        })
    };
    let named = eventually("every bad object is named", || {
        problems = status(node)?["agent"]["problems"].to_string();
        Ok(all_named(&problems))
    });
    named.with_context(|| problems.clone())?;
    [Kind::Service, Kind::EndpointSlice].into_iter().for_each(|kind| server.clear_garbage(kind));
    eventually("none of them is left", || Ok(!names_any(&status(node)?["agent"]["problems"].to_string())))?;
    all_answer(client, outside(node), 20)?;
    Ok(())
}
