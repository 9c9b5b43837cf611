//! A pod goes and a pod comes, while clients ask without pause.
//!
//! As in Kubernetes: the pod that goes is first marked terminating, which takes it out of the selection; its
//! process ends once it is drained, and then its endpoint is removed. Measured is the time from the change of
//! the objects to the datapath of each node, read from the kernel, and what the clients saw of it. No request
//! may fail, and none that began after the change was in the datapath may reach the pod that goes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::example::Member;
use super::facts::ms;
use super::interrupt::Interrupt;
use super::kernel::{Arrival, Watcher};
use super::screen::{Screen, Step, count, millis};
use super::service;
use super::stage::Stage;
use crate::cluster::Pod;
use crate::ns::Ns;
use crate::traffic::{Ask, Continuous, Sample, Transport};

/// Clients of each kind, each asking without pause.
const CLIENTS: usize = 2;
/// Requests of each kind before a change, and after it.
const BEFORE: usize = 200;
const AFTER: usize = 500;
/// Answers of the new pod to wait for.
const NEW_ANSWERS: usize = 50;
/// How long a change may take, and traffic until it has shown enough.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often waiting looks up.
const LOOK: Duration = Duration::from_millis(50);

/// What happened.
#[derive(Debug, Clone, Serialize)]
pub struct ChurnFacts {
    /// Who asked whom.
    pub traffic: Vec<String>,
    /// All requests.
    pub requests: usize,
    /// Without an answer.
    pub failed: usize,
    /// Why, and how often.
    pub failures: BTreeMap<String, usize>,
    /// The pod that went.
    pub removed: Removed,
    /// The pod that came.
    pub added: Added,
}

/// A pod marked terminating, then removed.
#[derive(Debug, Clone, Serialize)]
pub struct Removed {
    /// Its name.
    pub pod: String,
    /// From the change of the objects to the kernel of the slowest node.
    pub objects_to_datapath_ms: f64,
    /// The same, by node.
    pub by_node_ms: BTreeMap<String, f64>,
    /// Requests that began after that.
    pub requests_after: usize,
    /// Those of them that it answered.
    pub answered_after: usize,
}

/// A pod added.
#[derive(Debug, Clone, Serialize)]
pub struct Added {
    /// Its name.
    pub pod: String,
    /// From the change of the objects to the kernel of the slowest node.
    pub objects_to_datapath_ms: f64,
    /// The same, by node.
    pub by_node_ms: BTreeMap<String, f64>,
    /// From the change of the objects to the first answer that a client had of it.
    pub first_answer_ms: Option<f64>,
    /// Its answers until traffic was stopped.
    pub answers: usize,
}

/// Running traffic.
struct Traffic<'a> {
    loads: Vec<Continuous>,
    interrupt: &'a Interrupt,
}

/// Removes the last pod of the Service and adds another; returns what was found, and what of it is wrong.
pub fn churn(stage: &mut Stage, screen: &Screen, interrupt: &Interrupt) -> Result<(ChurnFacts, Vec<String>)> {
    let leaving = stage.example.members.last().context("the Service has pods")?.clone();
    let coming = spare(stage)?;
    let watcher = Watcher::open(stage.cluster.nodes())?;
    let (mut traffic, description) = start_traffic(stage, interrupt)?;
    description.iter().for_each(|line| screen.remark(&format!("{line}, by {CLIENTS} clients without pause")));

    let step = screen.step(format!("Removing {} under traffic", leaving.name));
    traffic.wait(&step, "requests before the change", |samples| samples.len() >= BEFORE)?;
    let (gone, mut problems) = remove(stage, &watcher, &mut traffic, &leaving, &step)?;
    step.done(format!("in every node's datapath after {}", millis(slowest(&gone))));

    let step = screen.step(format!("Adding {} under traffic", coming.name));
    stage.start_workload(&coming.name, &coming.pod)?;
    stage.example.add(&coming.name, &coming.pod);
    let come = change(stage, &watcher, interrupt, &mut problems)?;
    let enough =
        |samples: &[Sample]| answers_of(samples, &coming.name).take(NEW_ANSWERS).count() >= NEW_ANSWERS;
    traffic.wait(&step, "answers of the new pod", enough)?;
    step.done(format!("in every node's datapath after {}", millis(slowest(&come))));

    let samples = traffic.stop();
    let facts = ChurnFacts {
        traffic: description,
        requests: samples.len(),
        failed: samples.iter().filter(|sample| sample.result.is_err()).count(),
        failures: failures(&samples),
        removed: removed(&leaving, &gone, &samples),
        added: added(&coming, &come, &samples),
    };
    problems.extend(facts.problems());
    Ok((facts, problems))
}

/// The pod that comes: one that is not behind the Service yet, under a new name.
fn spare(stage: &Stage) -> Result<Member> {
    let members = &stage.example.members;
    let free = |pod: &&Pod| !members.iter().any(|member| member.pod.name == pod.name);
    // The last but one, so that it is not on the node of the pod that goes.
    let pod = stage.cluster.pods().iter().filter(free).rev().nth(1).context("the cluster has a spare pod")?;
    let name = (members.len() + 1..).map(|n| format!("web-{n}"));
    let name = name.into_iter().find(|name| !members.iter().any(|member| member.name == *name));
    Ok(Member { name: name.context("a free name")?, pod: pod.clone() })
}

fn start_traffic<'a>(stage: &Stage, interrupt: &'a Interrupt) -> Result<(Traffic<'a>, Vec<String>)> {
    let [node_port, _] = stage.node_ports(stage.cluster.node(1));
    let cluster_ip = *stage.cluster_ips().last().context("the Service has clusterIPs")?;
    let pod = stage.cluster.pod(1, 2);
    let start = |ns: &Ns, to: SocketAddr| {
        Continuous::start(ns, Transport::Tcp, Ask::new(to).timeout(PATIENCE), CLIENTS)
    };
    let loads = vec![start(stage.cluster.client(), node_port)?, start(&pod.ns, cluster_ip)?];
    let description = vec![
        format!("outside client → nodePort of node-1 {node_port}"),
        format!("{} on {} → clusterIP {cluster_ip}", pod.name, pod.node_name),
    ];
    Ok((Traffic { loads, interrupt }, description))
}

fn remove(
    stage: &mut Stage,
    watcher: &Watcher,
    traffic: &mut Traffic<'_>,
    leaving: &Member,
    step: &Step,
) -> Result<(Arrival, Vec<String>)> {
    let mut problems = Vec::new();
    stage.example.terminate(&leaving.name);
    let without = stage.example.members.iter().filter(|member| member.name != leaving.name);
    stage.example.members = without.cloned().collect();
    let arrival = change(stage, watcher, traffic.interrupt, &mut problems)?;
    let after = |samples: &[Sample]| started_after(samples, arrival.everywhere).take(AFTER).count() >= AFTER;
    traffic.wait(step, "requests after the change", after)?;
    // Every request that it had is answered by now: what began before the change is over.
    stage.workloads.remove(&leaving.name);
    stage.example.remove(&leaving.name);
    stage.apply()?;
    Ok((arrival, problems))
}

/// Sends the objects, waits for the kernels, and reads there that the change is the right one.
fn change(
    stage: &Stage,
    watcher: &Watcher,
    interrupt: &Interrupt,
    problems: &mut Vec<String>,
) -> Result<Arrival> {
    let before = watcher.snapshot()?;
    let changed = Instant::now();
    stage.apply()?;
    let arrival = watcher.wait(&before, changed, DEADLINE, interrupt)?;
    problems.extend(service::problems(stage, &service::read(stage)?));
    Ok(arrival)
}

impl Traffic<'_> {
    /// Waits until `done` holds for each kind of traffic.
    fn wait(&mut self, step: &Step, what: &'static str, done: impl Fn(&[Sample]) -> bool) -> Result<()> {
        let (end, seen) = (Instant::now() + DEADLINE, Cell::new(0));
        for load in &mut self.loads {
            let look = |samples: &[Sample]| {
                seen.set(samples.len());
                done(samples)
            };
            while !load.until(LOOK, look) {
                step.now(format!("{} requests so far, waiting for {what}", count(seen.get())));
                self.interrupt.check()?;
                ensure!(Instant::now() < end, "traffic did not bring enough {what} within {DEADLINE:?}");
            }
        }
        Ok(())
    }

    fn stop(self) -> Vec<Sample> {
        self.loads.into_iter().flat_map(Continuous::stop).collect()
    }
}

impl ChurnFacts {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.failed > 0 {
            problems.push(format!(
                "{} of {} requests failed while pods changed: {:?}",
                self.failed, self.requests, self.failures
            ));
        }
        let Removed { pod, requests_after, answered_after, .. } = &self.removed;
        if *answered_after > 0 {
            problems.push(format!(
                "{answered_after} of {requests_after} requests reached {pod} after its removal"
            ));
        }
        problems
    }
}

fn removed(pod: &Member, arrival: &Arrival, samples: &[Sample]) -> Removed {
    let after: Vec<&Sample> = started_after(samples, arrival.everywhere).collect();
    Removed {
        pod: pod.name.clone(),
        objects_to_datapath_ms: slowest(arrival),
        by_node_ms: arrival.by_node_ms.clone(),
        requests_after: after.len(),
        answered_after: after.iter().filter(|sample| sample.result.as_ref() == Ok(&pod.name)).count(),
    }
}

fn added(pod: &Member, arrival: &Arrival, samples: &[Sample]) -> Added {
    let first = answers_of(samples, &pod.name).map(|sample| sample.ended).min();
    Added {
        pod: pod.name.clone(),
        objects_to_datapath_ms: slowest(arrival),
        by_node_ms: arrival.by_node_ms.clone(),
        first_answer_ms: first.map(|at| ms(at.saturating_duration_since(arrival.changed))),
        answers: answers_of(samples, &pod.name).count(),
    }
}

fn failures(samples: &[Sample]) -> BTreeMap<String, usize> {
    let mut failures = BTreeMap::new();
    for kind in samples.iter().filter_map(|sample| sample.result.as_ref().err()) {
        *failures.entry(kind.to_string()).or_default() += 1;
    }
    failures
}

/// From the newest on, as the next: whoever waits for a few of the newest need not look at all.
fn answers_of<'a>(samples: &'a [Sample], pod: &'a str) -> impl Iterator<Item = &'a Sample> {
    samples.iter().rev().filter(move |sample| sample.result.as_deref() == Ok(pod))
}

fn started_after(samples: &[Sample], time: Instant) -> impl Iterator<Item = &Sample> {
    samples.iter().rev().filter(move |sample| sample.started > time)
}

fn slowest(arrival: &Arrival) -> f64 {
    arrival.by_node_ms.values().copied().fold(0.0, f64::max)
}

/// Shows both changes.
pub fn show(screen: &Screen, facts: &ChurnFacts) {
    let nodes = |by_node: &BTreeMap<String, f64>| {
        by_node.iter().map(|(node, ms)| format!("{node} {}", millis(*ms))).collect::<Vec<_>>().join("\n")
    };
    let (removed, added) = (&facts.removed, &facts.added);
    let mut table = screen.table(&["CHANGE", "OBJECT → DATAPATH", "WHAT THE CLIENTS SAW"]);
    table.add_row([
        format!("{} removed", removed.pod),
        nodes(&removed.by_node_ms),
        format!(
            "{} of the {} requests\nafter that reached {}",
            removed.answered_after,
            count(removed.requests_after),
            removed.pod
        ),
    ]);
    let first =
        added.first_answer_ms.map_or_else(|| "never".to_owned(), |time| format!("after {}", millis(time)));
    table.add_row([
        format!("{} added", added.pod),
        nodes(&added.by_node_ms),
        format!("its first answer {first},\n{} answers in all", count(added.answers)),
    ]);
    screen.show(&table);
    let verdict = format!("{} requests during both changes, {} failed", count(facts.requests), facts.failed);
    if facts.failed == 0 { screen.praise(&verdict) } else { screen.complain(&verdict) }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn sample(at: Instant, result: Result<&str, ErrorKind>) -> Sample {
        Sample { started: at, ended: at + Duration::from_millis(1), result: result.map(str::to_owned) }
    }

    #[test]
    fn only_requests_that_began_after_the_change_count_against_the_removed_pod() {
        let changed = Instant::now();
        let everywhere = changed + Duration::from_millis(5);
        let samples = [
            sample(changed, Ok("web-3")),
            sample(everywhere + Duration::from_millis(1), Ok("web-1")),
            sample(everywhere + Duration::from_millis(2), Ok("web-3")),
        ];
        let after: Vec<_> = started_after(&samples, everywhere).collect();
        assert_eq!(after.len(), 2);
        assert_eq!(answers_of(&samples, "web-3").count(), 2);
        assert_eq!(after.iter().filter(|s| s.result.as_deref() == Ok("web-3")).count(), 1);
    }

    #[test]
    fn failures_are_counted_by_their_reason() {
        let now = Instant::now();
        let samples = [
            sample(now, Err(ErrorKind::TimedOut)),
            sample(now, Err(ErrorKind::TimedOut)),
            sample(now, Ok("web-1")),
        ];
        assert_eq!(failures(&samples).into_values().collect::<Vec<_>>(), [2]);
    }
}
