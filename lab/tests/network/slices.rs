//! Services without selector and EndpointSlices made by hand (X1, X2) or mirrored from Endpoints (X4): no node names,
//! no conditions beyond "ready", ports and addresses spread over slices.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use lab::objects_extra::{Endpoint, bare_service, family_of, service_port, slice};
use lab::traffic::{PodServer, Transport};
use lab::{ClusterSpec, Ns};
use serde_json::{Value, json};

use crate::support::*;

fn bare(b: &Bench, name: &str) -> Value {
    // Port names as in the upstream test; TCP only, as there.
    let ports = [service_port("portname1", "TCP", 8_081), service_port("portname2", "TCP", 8_082)];
    bare_service(name, &b.cluster.cluster_ip(name).both(), &ports)
}

fn froms(b: &Bench) -> [&Ns; 3] {
    [&b.pod(1, 2).ns, &b.pod(3, 1).ns, b.node(2).ns()]
}

fn assert_port(b: &Bench, name: &str, port: u16, pods: &[&str]) -> Result<()> {
    for from in froms(b) {
        for ip in b.cluster.cluster_ip(name).both() {
            assert_pods_over(from, Transport::Tcp, SocketAddr::new(ip, port), pods)?;
        }
    }
    Ok(())
}

#[test]
fn ports_and_addresses_may_be_spread_over_slices() -> Result<()> {
    let b =
        Bench::with(ClusterSpec::default(), |n| if n == 2 { vec!["--socket-lb", "off"] } else { vec![] })?;
    let second = |pod: &lab::Pod| PodServer::start_in(&pod.ns, &format!("{} at 3001", pod.name), 3_001);
    let _servers = [second(b.pod(1, 1))?, second(b.pod(2, 1))?];
    // X1: one pod in two slices, one port in each.
    let mut objects = vec![bare(&b, "ports")];
    for (family, ip) in b.pod(1, 1).address.both().into_iter().enumerate() {
        let kind = family_of(&ip);
        let first = [("portname1", "TCP", 80)];
        let second = [("portname2", "TCP", 3_001)];
        objects.push(slice(&format!("ports-1-{family}"), "ports", kind, &first, [Endpoint::at(ip)]));
        objects.push(slice(&format!("ports-2-{family}"), "ports", kind, &second, [Endpoint::at(ip)]));
    }
    b.publish("ports", &objects)?;
    assert_port(&b, "ports", 8_081, &["pod-1-1"]).context("X1")?;
    assert_port(&b, "ports", 8_082, &["pod-1-1 at 3001"]).context("X1")?;

    // X2: two pods in two slices, each with a port of its own.
    let mut objects = vec![bare(&b, "addresses")];
    for family in [0, 1] {
        let (one, two) = (b.pod(1, 1).address.both()[family], b.pod(2, 1).address.both()[family]);
        let kind = family_of(&one);
        let first = [("portname1", "TCP", 3_001)];
        let second = [("portname2", "TCP", 80)];
        objects.push(slice(&format!("addresses-1-{family}"), "addresses", kind, &first, [Endpoint::at(one)]));
        objects.push(slice(
            &format!("addresses-2-{family}"),
            "addresses",
            kind,
            &second,
            [Endpoint::at(two)],
        ));
    }
    b.publish("addresses", &objects)?;
    assert_port(&b, "addresses", 8_081, &["pod-1-1 at 3001"]).context("X2")?;
    assert_port(&b, "addresses", 8_082, &["pod-2-1"]).context("X2")?;

    // X4: an Endpoints object with two subsets of one address, as the mirroring controller writes it.
    let mut objects = vec![bare(&b, "mirrored")];
    for (family, ip) in b.pod(2, 1).address.both().into_iter().enumerate() {
        let kind = family_of(&ip);
        for (n, port) in [("portname1", 80), ("portname2", 3_001)].into_iter().enumerate() {
            let name = format!("mirrored-{n}-{family}");
            let mut mirror = slice(&name, "mirrored", kind, &[(port.0, "TCP", port.1)], [Endpoint::at(ip)]);
            mirror["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
                json!("endpointslicemirroring-controller.k8s.io");
            objects.push(mirror);
        }
    }
    b.publish("mirrored", &objects)?;
    assert_port(&b, "mirrored", 8_081, &["pod-2-1"]).context("X4")?;
    assert_port(&b, "mirrored", 8_082, &["pod-2-1 at 3001"]).context("X4")?;

    // A slice loses its endpoint, then comes back with another one.
    let emptied: Vec<Value> = [0, 1]
        .map(|f| {
            slice(
                &format!("mirrored-0-{f}"),
                "mirrored",
                ["IPv4", "IPv6"][f],
                &[("portname1", "TCP", 80)],
                [],
            )
        })
        .to_vec();
    b.publish("mirrored", &[vec![bare(&b, "mirrored")], emptied].concat())?;
    for from in froms(&b) {
        for ip in b.cluster.cluster_ip("mirrored").both() {
            let error = lab::traffic::tcp_ask(from, SocketAddr::new(ip, 8_081), PATIENCE);
            assert!(
                error.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused),
                "{error:?}"
            );
        }
    }
    Ok(())
}
