//! Session affinity by client address: through load balancers' addresses under both policies (L4 to L7), nodePorts and
//! clusterIPs, for pods, nodes and the world outside, TCP and UDP (N12); switched on and off on a live Service.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use lab::objects_extra::load_balanced;
use lab::traffic::{Ask, Transport};
use lab::{ClusterSpec, Ns};

use crate::support::*;

const ASKS: usize = 20;
const NODE_PORT: u16 = 30_095;

/// The first of the ports that questions are asked from: none of those that sockets are given, nor of nodePorts.
static NEXT_PORT: AtomicU16 = AtomicU16::new(11_000);

/// Who answers many questions, each from a port that was never used before: a UDP flow keeps its pod.
fn answering(from: &Ns, transport: Transport, dst: &[SocketAddr]) -> Result<BTreeSet<String>> {
    let mut pods = BTreeSet::new();
    for dst in dst {
        for _ in 0..ASKS {
            let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
            ensure!(port < 30_000, "ports are used up");
            let answer = Ask::new(*dst).timeout(PATIENCE).source_port(port).over(transport, from);
            pods.insert(answer.with_context(|| format!("{transport:?} {dst} from port {port}"))?.pod);
        }
    }
    Ok(pods)
}

#[test]
fn affinity_holds_on_every_frontend_and_is_switched_live() -> Result<()> {
    let b =
        Bench::with(ClusterSpec::default(), |n| if n == 2 { vec!["--socket-lb", "off"] } else { vec![] })?;
    route_vips(b.client(), b.node(1))?;
    // Two of these are on node 1, where the client comes in: policy Local has a choice there, too.
    let pods = [(1, 1), (1, 2), (2, 1)];
    for policy in ["Cluster", "Local"] {
        for affinity in ["ClientIP", "None", "ClientIP"] {
            let service = b
                .service("web", &pods)
                .node_port(NODE_PORT)
                .spec_field("externalTrafficPolicy", policy)
                .spec_field("sessionAffinity", affinity);
            let balanced = load_balanced(service.service(), &vip(1).both());
            b.publish("web", &[vec![balanced], service.slices()].concat())?;
            for family in [0, 1] {
                let (vip, cluster_ip) = (at(vip(1), PORT)[family], b.cluster_ip("web")[family]);
                let node_port = |n| node_at(b.node(n), NODE_PORT)[family];
                // One client by one node is one client, whichever frontend it uses (A1).
                let from_outside = [vip, node_port(1)];
                let clients = [
                    (b.client(), &from_outside[..]),
                    (&b.pod(3, 1).ns, &[vip, cluster_ip, node_port(3)][..]),
                    (b.node(3).ns(), &[vip, cluster_ip, node_port(3)][..]),
                    (b.node(2).ns(), &[vip, cluster_ip][..]),
                ];
                for (from, frontends) in clients {
                    for transport in TRANSPORTS {
                        let pods = answering(from, transport, frontends)?;
                        let what = format!(
                            "{affinity}, policy {policy}: {transport:?} from {} to {frontends:?}: {pods:?}",
                            from.name()
                        );
                        ensure!((pods.len() == 1) == (affinity == "ClientIP"), what);
                    }
                }
            }
        }
    }
    Ok(())
}
