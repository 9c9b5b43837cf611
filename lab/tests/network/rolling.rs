//! A rolling update under load (L12, L13): pod by pod an old one terminates, goes, and a new one becomes ready, while
//! clients outside and inside open connections without pause and others stay connected.
//!
//! Upstream wants 95 % of the requests answered; here it is all of them, and every established connection until its
//! own pod is gone.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use lab::objects_extra::load_balanced;
use lab::traffic::{Answer, Ask, Continuous};
use lab::{ClusterSpec, Ns};

use crate::support::*;

const NODE_PORT: u16 = 30_097;
const NODES: [usize; 3] = [1, 2, 3];

/// What has become of the pods of each node: the old one is (n, 1), the new one (n, 2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Old,
    OldTerminates,
    Gone,
    New,
}

fn publish(b: &Bench, policy: &str, steps: [Step; 3]) -> Result<()> {
    let at = |wanted: Step, pod: usize| -> Vec<(usize, usize)> {
        NODES.iter().zip(steps).filter(|(_, s)| *s == wanted).map(|(n, _)| (*n, pod)).collect()
    };
    let (ready, terminating, starting) =
        ([at(Step::Old, 1), at(Step::New, 2)].concat(), at(Step::OldTerminates, 1), at(Step::Gone, 2));
    let service = b
        .service("web", &ready)
        .terminating_pods(b.pods(&terminating))
        .unready_pods(b.pods(&starting))
        .node_port(NODE_PORT)
        .spec_field("externalTrafficPolicy", policy);
    b.publish("web", &[vec![load_balanced(service.service(), &vip(1).both())], service.slices()].concat())
}

/// A connection that stays open, and the pod at its other end.
struct Open {
    stream: TcpStream,
    pod: String,
}

impl Open {
    fn ask(&mut self) -> Result<Answer> {
        self.stream.write_all(b"ask\n")?;
        let mut line = [0; 128];
        let count = self.stream.read(&mut line)?;
        Ok(Answer::parse(&line[..count])?)
    }
}

fn open(from: &Ns, dst: std::net::SocketAddr) -> Result<Open> {
    let stream = from.run(|| Ask::new(dst).timeout(PATIENCE).connect())??;
    let mut open = Open { stream, pod: String::new() };
    open.pod = open.ask()?.pod;
    Ok(open)
}

fn roll(policy: &str) -> Result<()> {
    let b = Bench::new(ClusterSpec::default(), &[])?;
    let mut steps = [Step::Old; 3];
    publish(&b, policy, steps)?;
    // What a load balancer does when a node's health check fails: it uses another node.
    let lead = |n: usize| route_vips(b.client(), b.node(n));
    lead(3)?;
    let vips = at(vip(1), PORT);
    let inside = &b.pod(2, 2).ns;
    let mut load = Vec::new();
    for transport in TRANSPORTS {
        for (from, dst) in [(b.client(), vips[0]), (b.client(), vips[1]), (inside, b.cluster_ip("web")[0])] {
            let ask = Ask::new(dst).timeout(PATIENCE).reset_on_close();
            load.push((from.name().to_owned(), dst, transport, Continuous::start(from, transport, ask, 1)?));
        }
    }
    let mut connected = Vec::new();
    for _ in 0..12 {
        connected.push(open(b.client(), vips[0])?);
        connected.push(open(inside, b.cluster_ip("web")[1])?);
    }
    for (i, n) in NODES.into_iter().enumerate() {
        let leaving = format!("pod-{n}-1");
        steps[i] = Step::OldTerminates;
        publish(&b, policy, steps)?;
        // Its health check fails from now on (tests/health), so the load balancer leaves the node.
        lead(if n == 1 { 3 } else { 1 })?;
        for open in &mut connected {
            let still = open.ask().with_context(|| format!("connected to {}", open.pod))?.pod;
            ensure!(still == open.pod, "a connection moved from {} to {still}", open.pod);
        }
        // The pod ends what is left before it ends itself.
        connected.retain(|open| open.pod != leaving);
        steps[i] = Step::Gone;
        publish(&b, policy, steps)?;
        steps[i] = Step::New;
        publish(&b, policy, steps)?;
        for _ in 0..3 {
            connected.push(open(b.client(), vips[1])?);
            connected.push(open(inside, b.cluster_ip("web")[0])?);
        }
    }
    for open in &mut connected {
        open.ask().with_context(|| format!("connected to {}", open.pod))?;
        ensure!(open.pod.ends_with("-2"), "{} is an old pod", open.pod);
    }
    for (from, dst, transport, load) in load {
        let samples = load.stop();
        let failed: Vec<_> = samples.iter().filter_map(|s| s.result.as_ref().err()).collect();
        println!(
            "{policy}: {transport:?} from {from} to {dst}: {} of {} failed",
            failed.len(),
            samples.len()
        );
        ensure!(samples.len() > 50, "only {} requests", samples.len());
        ensure!(failed.is_empty(), "{policy}: {transport:?} from {from} to {dst}: {failed:?}");
    }
    Ok(())
}

#[test]
fn a_rolling_update_loses_nothing_under_policy_cluster() -> Result<()> {
    roll("Cluster")
}

#[test]
fn a_rolling_update_loses_nothing_under_policy_local() -> Result<()> {
    roll("Local")
}
