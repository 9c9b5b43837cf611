//! Pods come and go under load; a pod that is removed gets nothing once the change is in the kernel.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::traffic::{Ask, Continuous, Disruption, Flows, PodServer, Transport};
use lab::{Node, Pod};

use crate::support::*;

const ROUNDS: usize = 24;
const PODS: [(usize, usize); 4] = [(1, 1), (1, 2), (2, 1), (2, 2)];

/// Connections and datagrams that a pod's server has seen. A question of our own to the pod goes first: the server
/// takes both from queues, so whatever had been on its way before is counted when the answer is there. It comes from
/// the pod's own node, from where no masqueraded flow of this test can have the same addresses and ports.
fn seen(node: &Node, pod: &Pod, server: &PodServer) -> Result<(u64, u64)> {
    let dst = (pod.address.v4, 80).into();
    for transport in [Transport::Tcp, Transport::Udp] {
        Ask::new(dst).timeout(PATIENCE).over(transport, node.ns())?;
    }
    Ok((server.connections(), server.datagrams()))
}

/// The time from a change to the proof that it is in the kernel.
struct Change {
    published: Instant,
    applied: Instant,
}

#[test]
fn a_removed_pod_gets_no_request_once_the_change_is_in_the_kernel() -> Result<()> {
    let b = Bench::new(&PODS)?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let _agent = b.agent(node)?;
    let ask = Ask::new(outside(node)).timeout(PATIENCE).reset_on_close();
    let mut fresh = Continuous::start(client, Transport::Tcp, ask, 2)?;
    let udp = Flows { udp: 64, every: Duration::from_millis(50), ..Flows::to(outside6(node)) };
    let udp = Disruption::start(client, udp)?;
    let mut changes = Vec::new();
    for round in 0..ROUNDS {
        let gone = PODS[round % PODS.len()];
        let (own, pod) = (b.cluster.node(gone.0), b.cluster.pod(gone.0, gone.1));
        let rest: Vec<_> = PODS.into_iter().filter(|p| *p != gone).collect();
        let published = Instant::now();
        b.publish(&rest)?;
        let addresses = pod.address.both().map(|a| a.to_string());
        // Both families: a frontend of each is in what the kernel says.
        eventually("the removal", || {
            let kernel = services(node)?.to_string();
            Ok(addresses.iter().all(|a| !kernel.contains(a)))
        })?;
        let applied = Instant::now();
        changes.push(Change { published, applied });
        let server = b.server(&pod.name)?;
        let before = seen(own, pod, server)?;
        ensure!(
            fresh.until(DEADLINE, |s| s.iter().rev().take_while(|s| s.started > applied).count() >= 40),
            "requests go on"
        );
        ensure!(udp.wait_for_exchanges(128, DEADLINE), "datagrams go on: {:?}", udp.report());
        let after = seen(own, pod, server)?;
        // The two questions in between are `seen`'s own.
        assert_eq!(after, (before.0 + 1, before.1 + 1), "round {round}: {} was still asked", pod.name);
        let published = Instant::now();
        b.publish(&PODS)?;
        eventually("the return", || {
            let kernel = services(node)?.to_string();
            Ok(addresses.iter().all(|a| kernel.contains(a)))
        })?;
        changes.push(Change { published, applied: Instant::now() });
    }
    let samples = fresh.stop();
    // A connection that was being opened when its pod went is reset; no other may fail.
    let excused = |started: Instant, ended: Instant| {
        changes.iter().any(|c| started <= c.applied && ended >= c.published)
    };
    let failed: Vec<_> =
        samples.iter().filter(|s| s.result.is_err() && !excused(s.started, s.ended)).collect();
    assert!(failed.is_empty(), "{} of {} failed, first: {:?}", failed.len(), samples.len(), failed.first());
    let report = udp.stop();
    assert_eq!(report.udp_opened, 64, "{report:?}");
    Ok(())
}
