//! "Granular checks" of upstream's networking tests over TCP and UDP in both families (N5 to N11, D3), and Services of
//! one family or of both in either order (D2). Large requests are in `fragments`, affinity in `affinity`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use lab::ClusterSpec;
use lab::objects_extra::{Endpoint, bare_service, family_of, service_port, slice, with_node_port, with_spec};

use crate::support::Outcome::Refused;
use crate::support::*;

const NODE_PORT: u16 = 30_100;
const ALL: [&str; 4] = ["pod-1-1", "pod-1-2", "pod-2-1", "pod-3-1"];
const ALL_AT: [(usize, usize); 4] = [(1, 1), (1, 2), (2, 1), (3, 1)];

fn node_ports(b: &Bench, port: u16) -> Vec<SocketAddr> {
    b.cluster.nodes().iter().flat_map(|n| node_at(n, port)).collect()
}

/// N5, N6, N7: pods, nodes and the endpoints themselves as clients of clusterIP and of every node's nodePort.
#[test]
fn pods_nodes_and_endpoints_reach_every_endpoint_by_every_frontend() -> Result<()> {
    let b =
        Bench::with(ClusterSpec::default(), |n| if n == 2 { vec!["--socket-lb", "off"] } else { vec![] })?;
    b.apply(&b.service("web", &ALL_AT).node_port(NODE_PORT))?;
    let frontends = [b.cluster_ip("web").to_vec(), node_ports(&b, NODE_PORT)].concat();
    assert_pods(&b.pod(3, 2).ns, &frontends, &ALL).context("pod")?;
    for n in [1, 2] {
        assert_pods(b.node(n).ns(), &frontends, &ALL).context("node")?;
    }
    for pod in [b.pod(1, 1), b.pod(3, 1)] {
        assert_pods(&pod.ns, &frontends, &ALL).context("endpoint")?;
    }
    // Alone behind the Service: every connection is one to itself.
    b.apply(&b.service("web", &[(2, 1)]).node_port(NODE_PORT))?;
    assert_pods(&b.pod(2, 1).ns, &frontends, &["pod-2-1"]).context("to itself")
}

/// N8: two Services on the same pods; when one goes, the other does not notice.
#[test]
fn two_services_share_their_endpoints() -> Result<()> {
    let b = Bench::new(ClusterSpec::default(), &[])?;
    b.apply(&b.service("one", &ALL_AT).node_port(NODE_PORT))?;
    b.apply(&b.service("two", &ALL_AT).node_port(NODE_PORT + 1))?;
    let frontends = |name: &str, port| [b.cluster_ip(name).to_vec(), node_ports(&b, port)].concat();
    let froms = [&b.pod(1, 1).ns, &b.pod(3, 2).ns];
    for from in froms {
        assert_pods(from, &frontends("one", NODE_PORT), &ALL)?;
        assert_pods(from, &frontends("two", NODE_PORT + 1), &ALL)?;
    }
    b.withdraw("one")?;
    for from in froms {
        assert_pods(from, &frontends("two", NODE_PORT + 1), &ALL)?;
        assert_all(from, &node_ports(&b, NODE_PORT), Refused)?;
    }
    Ok(())
}

/// N9, N10, N11: an endpoint that is gone never answers again; a nodePort that is gone is a closed port.
#[test]
fn endpoints_and_node_ports_that_are_gone_answer_no_more() -> Result<()> {
    let b = Bench::new(ClusterSpec::default(), &[])?;
    b.apply(&b.service("web", &ALL_AT).node_port(NODE_PORT))?;
    let frontends = [b.cluster_ip("web").to_vec(), node_ports(&b, NODE_PORT)].concat();
    let froms = [&b.pod(1, 2).ns, &b.pod(2, 2).ns, b.node(3).ns()];
    froms.iter().try_for_each(|from| assert_pods(from, &frontends, &ALL))?;
    b.apply(&b.service("web", &ALL_AT[1..]).node_port(NODE_PORT))?;
    froms.iter().try_for_each(|from| assert_pods(from, &frontends, &ALL[1..]))?;
    assert_pods(b.client(), &node_ports(&b, NODE_PORT), &ALL[1..])?;
    b.apply(&b.service("web", &ALL_AT[1..]))?;
    for from in froms.into_iter().chain([b.client()]) {
        assert_all(from, &node_ports(&b, NODE_PORT), Refused)?;
    }
    assert_pods(froms[0], &b.cluster_ip("web"), &ALL[1..])
}

/// D2: a Service has the families it says, with the first one first; a nodePort answers in those alone.
#[test]
fn single_stack_and_dual_stack_services_serve_their_families() -> Result<()> {
    let b =
        Bench::with(ClusterSpec::default(), |n| if n == 2 { vec!["--socket-lb", "off"] } else { vec![] })?;
    let froms = [&b.pod(1, 2).ns, &b.pod(3, 1).ns, b.node(1).ns(), b.node(2).ns()];
    let [v4, v6] = b.cluster.cluster_ip("web").both();
    for cluster_ips in [vec![v4], vec![v6], vec![v4, v6], vec![v6, v4]] {
        let ports = ["TCP", "UDP"].map(|protocol| service_port(&protocol.to_lowercase(), protocol, PORT));
        let service = bare_service("web", &cluster_ips, &ports);
        let mut objects = vec![with_spec(with_node_port(service, NODE_PORT), "type", "NodePort")];
        // Slices of both families exist whatever the Service says: a family without clusterIP is not served.
        for family in [0, 1] {
            let endpoints = [b.pod(1, 1), b.pod(2, 1)]
                .map(|pod| Endpoint::at(pod.address.both()[family]).on(&pod.node_name));
            let ip = [v4, v6][family];
            let name = format!("web-{}", family_of(&ip).to_lowercase());
            objects.push(slice(
                &name,
                "web",
                family_of(&ip),
                &[("tcp", "TCP", 80), ("udp", "UDP", 80)],
                endpoints,
            ));
        }
        b.publish("web", &objects)?;
        for family in [0, 1] {
            let has_it = cluster_ips.contains(&[v4, v6][family]);
            let node_ports = [1, 2, 3].map(|n| node_at(b.node(n), NODE_PORT)[family]);
            let cluster_ip = [SocketAddr::new([v4, v6][family], PORT)];
            let what = || format!("clusterIPs {cluster_ips:?}, family {family}");
            for from in froms {
                if has_it {
                    assert_pods(from, &cluster_ip, &["pod-1-1", "pod-2-1"]).with_context(what)?;
                }
            }
            if has_it {
                assert_pods(b.client(), &node_ports, &["pod-1-1", "pod-2-1"]).with_context(what)?;
            } else {
                assert_all(b.client(), &node_ports, Refused).with_context(what)?;
            }
        }
    }
    Ok(())
}
