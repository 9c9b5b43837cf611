//! A rolling update under load (L12, L13): pod by pod an old one terminates, goes, and a new one becomes ready, while
//! clients outside and inside open connections without pause and others stay connected.
//!
//! Upstream wants 95 % of the requests answered; here it is all of them, and every established connection until its
//! own pod is gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use lab::objects_extra::load_balanced;
use lab::traffic::{Answer, Ask, Continuous, Transport};
use lab::{ClusterSpec, Ns};

use crate::support::*;

const NODES: [u8; 3] = [1, 2, 3];

/// What has become of the pods of each node: the old one is (n, 1), the new one (n, 2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Old,
    OldTerminates,
    Gone,
    New,
}

/// The Service has a load balancer's address for each node, so that a client can come in where it wants.
fn publish(b: &Bench, policy: &str, steps: [Step; 3]) -> Result<()> {
    let at = |wanted: Step, pod: usize| -> Vec<(usize, usize)> {
        NODES.iter().zip(steps).filter(|(_, s)| *s == wanted).map(|(n, _)| (usize::from(*n), pod)).collect()
    };
    let (ready, terminating, starting) =
        ([at(Step::Old, 1), at(Step::New, 2)].concat(), at(Step::OldTerminates, 1), at(Step::Gone, 2));
    let service = b
        .service("web", &ready)
        .terminating_pods(b.pods(&terminating))
        .unready_pods(b.pods(&starting))
        .node_port(30_097)
        .spec_field("externalTrafficPolicy", policy);
    let vips: Vec<_> = NODES.iter().flat_map(|n| vip(*n).both()).collect();
    b.publish("web", &[vec![load_balanced(service.service(), &vips)], service.slices()].concat())
}

/// A connection that stays open, and the pod at its other end.
struct Open {
    stream: TcpStream,
    pod: String,
}

impl Open {
    fn new(from: &Ns, dst: SocketAddr) -> Result<Open> {
        let stream = from.run(|| Ask::new(dst).timeout(PATIENCE).connect())??;
        let mut open = Open { stream, pod: String::new() };
        open.pod = open.ask()?.pod;
        Ok(open)
    }

    fn ask(&mut self) -> Result<Answer> {
        self.stream.write_all(b"ask\n")?;
        let mut line = [0; 128];
        let count = self.stream.read(&mut line)?;
        Ok(Answer::parse(&line[..count])?)
    }
}

/// Requests without pause from one place to one frontend.
struct Load {
    what: String,
    running: Continuous,
}

impl Load {
    fn start(from: &Ns, transport: Transport, dst: SocketAddr) -> Result<Load> {
        let ask = Ask::new(dst).timeout(PATIENCE).reset_on_close();
        let what = format!("{transport:?} from {} to {dst}", from.name());
        Ok(Load { what, running: Continuous::start(from, transport, ask, 1)? })
    }

    fn assert_all_answered(self) -> Result<usize> {
        let samples = self.running.stop();
        let failed: Vec<_> = samples.iter().filter_map(|s| s.result.as_ref().err()).collect();
        ensure!(!samples.is_empty(), "{}: no request", self.what);
        ensure!(failed.is_empty(), "{}: {} of {}: {failed:?}", self.what, failed.len(), samples.len());
        Ok(samples.len())
    }
}

/// What comes in at one node, over either protocol and in one family each.
fn at_node(b: &Bench, n: u8) -> Result<Vec<Load>> {
    let [v4, v6] = at(vip(n), PORT);
    Ok(vec![Load::start(b.client(), Transport::Tcp, v4)?, Load::start(b.client(), Transport::Udp, v6)?])
}

fn roll(policy: &str) -> Result<()> {
    let b = Bench::new(ClusterSpec::default(), &[])?;
    let mut steps = [Step::Old; 3];
    publish(&b, policy, steps)?;
    for n in NODES {
        let node = b.node(n.into()).address();
        let ways = vip(n).both().into_iter().zip(node.both());
        ip(b.client(), &ways.map(|(vip, via)| format!("route add {vip} via {via}\n")).collect::<String>())?;
    }
    let inside = &b.pod(2, 2).ns;
    let within = [
        Load::start(inside, Transport::Tcp, b.cluster_ip("web")[0])?,
        Load::start(inside, Transport::Udp, b.cluster_ip("web")[1])?,
    ];
    let mut outside = NODES.iter().map(|n| at_node(&b, *n)).collect::<Result<Vec<_>>>()?;
    let mut connected = Vec::new();
    let connect = |connected: &mut Vec<Open>, nodes: &[u8]| -> Result<()> {
        for n in nodes {
            connected.push(Open::new(b.client(), at(vip(*n), PORT)[0])?);
            connected.push(Open::new(b.client(), at(vip(*n), PORT)[1])?);
            connected.push(Open::new(inside, b.cluster_ip("web")[1])?);
        }
        Ok(())
    };
    connect(&mut connected, &NODES)?;
    connect(&mut connected, &NODES)?;
    let mut answered = 0;
    for (i, n) in NODES.into_iter().enumerate() {
        let leaving = format!("pod-{n}-1");
        steps[i] = Step::OldTerminates;
        publish(&b, policy, steps)?;
        // The node's health check fails from now on (tests/health): a moment later the load balancer sends it no more
        // new connections, as long as it has no other pod.
        if policy == "Local" {
            for load in outside[i].drain(..) {
                answered += load.assert_all_answered()?;
            }
        }
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
        if policy == "Local" {
            outside[i] = at_node(&b, n)?;
        }
        connect(&mut connected, &[n])?;
    }
    for open in &mut connected {
        open.ask().with_context(|| format!("connected to {}", open.pod))?;
        ensure!(open.pod.ends_with("-2"), "{} is an old pod", open.pod);
    }
    for load in within.into_iter().chain(outside.into_iter().flatten()) {
        answered += load.assert_all_answered()?;
    }
    println!("policy {policy}: {answered} requests, 0 failed");
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
