//! Requests from outside to every nodePort and from pods to the clusterIPs: who answered, and whom it saw.
//!
//! What is right: every pod of the Service answers its share; a pod's own address is always kept, unless the pod
//! is answered by itself; an outside client's address is kept by a pod of the node that was asked, and is that
//! node's own in the eyes of a pod elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::interrupt::Interrupt;
use super::screen::{Screen, align_right, count};
use super::stage::{Stage, node_addresses};
use crate::cluster::Pod;
use crate::node::Node;
use crate::ns::Ns;
use crate::traffic::{Ask, Tally, Transport};

/// Requests to each frontend: enough for a share of a third to be told from none.
const REQUESTS: usize = 120;
/// At the same time.
const PARALLEL: usize = 8;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests of one client to one frontend.
#[derive(Debug, Clone, Serialize)]
pub struct RequestFacts {
    /// Who asked.
    pub client: String,
    /// What was asked, such as `nodePort of node-1`.
    pub frontend: String,
    /// Its address and port.
    pub address: SocketAddr,
    /// How often.
    pub requests: usize,
    /// Without an answer.
    pub failed: usize,
    /// By pod and source.
    pub answers: Vec<AnswerFacts>,
}

/// Answers of one pod that saw one source address.
#[derive(Debug, Clone, Serialize)]
pub struct AnswerFacts {
    /// Which pod.
    pub pod: String,
    /// How often.
    pub times: usize,
    /// The client's address, as the pod saw it.
    pub source: IpAddr,
    /// Whose address that is.
    pub source_is: String,
}

/// Who asks.
enum Client<'a> {
    Outside { node: &'a Node },
    Pod(&'a Pod),
}

/// Asks everything; returns what was found, and what of it is wrong.
pub fn ask(
    stage: &Stage,
    screen: &Screen,
    interrupt: &Interrupt,
) -> Result<(Vec<RequestFacts>, Vec<String>)> {
    let step = screen.step("Asking every frontend, over IPv4 and IPv6");
    let (mut facts, mut problems) = (Vec::new(), Vec::new());
    for client in clients(stage) {
        for address in client.frontends(stage) {
            step.now(format!("{} → {address}", client.name(stage)));
            let tally = Ask::new(address)
                .timeout(PATIENCE)
                .many(Transport::Tcp, client.ns(stage), REQUESTS, PARALLEL)
                .with_context(|| format!("ask {address}"))?;
            let row = client.facts(stage, address, &tally);
            problems.extend(client.problems(stage, &row, &tally));
            facts.push(row);
            interrupt.check()?;
        }
    }
    let (asked, failed) = facts.iter().fold((0, 0), |(a, f), row| (a + row.requests, f + row.failed));
    step.done(format!("{} requests, {failed} failed", count(asked)));
    Ok((facts, problems))
}

fn clients(stage: &Stage) -> Vec<Client<'_>> {
    let outside = stage.cluster.nodes().iter().map(|node| Client::Outside { node });
    let member = |pod: &Pod| stage.example.members.iter().any(|member| member.pod.name == pod.name);
    let others = stage.cluster.pods().iter().filter(|pod| !member(pod)).map(Client::Pod);
    // A pod that is behind the Service itself: it is answered by itself now and then.
    let itself = stage.example.members.first().map(|member| Client::Pod(&member.pod));
    outside.chain(others).chain(itself).collect()
}

impl Client<'_> {
    fn name(&self, stage: &Stage) -> String {
        match self {
            Client::Outside { .. } => "outside client".to_owned(),
            Client::Pod(pod) => {
                let known = stage.example.name_of(pod.address.both()[0]).unwrap_or(&pod.name);
                format!("{known} on {}", pod.node_name)
            }
        }
    }

    fn ns<'a>(&'a self, stage: &'a Stage) -> &'a Ns {
        match self {
            Client::Outside { .. } => stage.cluster.client(),
            Client::Pod(pod) => &pod.ns,
        }
    }

    fn frontends(&self, stage: &Stage) -> Vec<SocketAddr> {
        match self {
            Client::Outside { node } => stage.node_ports(node).to_vec(),
            Client::Pod(_) => stage.cluster_ips(),
        }
    }

    fn facts(&self, stage: &Stage, address: SocketAddr, tally: &Tally) -> RequestFacts {
        let answers = tally.by_pod_and_source.iter().map(|((pod, source), times)| AnswerFacts {
            pod: pod.clone(),
            times: *times,
            source: *source,
            source_is: stage.whose(*source),
        });
        let frontend = match self {
            Client::Outside { node } => format!("nodePort of {}", node.name()),
            Client::Pod(_) => "clusterIP".to_owned(),
        };
        RequestFacts {
            client: self.name(stage),
            frontend,
            address,
            requests: REQUESTS,
            failed: tally.failures.len(),
            answers: answers.collect(),
        }
    }

    fn problems(&self, stage: &Stage, row: &RequestFacts, tally: &Tally) -> Vec<String> {
        let what = format!("{} → {} {}", row.client, row.frontend, row.address);
        let mut problems = Vec::new();
        if let Some(first) = tally.failures.first() {
            problems
                .push(format!("{what}: {} of {REQUESTS} requests failed, the first: {first}", row.failed));
        }
        let least = REQUESTS / stage.example.members.len() / 3;
        for member in &stage.example.members {
            let times = tally.by_pod.get(&member.name).copied().unwrap_or_default();
            if times < least {
                problems.push(format!("{what}: {} answered {times} times, less than {least}", member.name));
            }
        }
        for answer in &row.answers {
            if !self.may_be_seen_as(stage, &answer.pod, answer.source) {
                let (source, whose) = (answer.source, &answer.source_is);
                problems.push(format!("{what}: {} saw {source}, the address of {whose}", answer.pod));
            }
        }
        problems
    }

    /// Whether the pod `answering` may see `source`.
    fn may_be_seen_as(&self, stage: &Stage, answering: &str, source: IpAddr) -> bool {
        let Some(member) = stage.example.members.iter().find(|member| member.name == answering) else {
            return false;
        };
        let node_of = |name: &str| stage.cluster.nodes().iter().find(|node| node.name() == name);
        match self {
            Client::Outside { node } if member.pod.node_name == node.name() => {
                stage.cluster.client_address().both().contains(&source)
            }
            Client::Outside { node } => node_addresses(node).contains(&source),
            Client::Pod(pod) if pod.name == member.pod.name => {
                node_of(&pod.node_name).is_some_and(|node| node_addresses(node).contains(&source))
            }
            Client::Pod(pod) => pod.address.both().contains(&source),
        }
    }
}

/// Shows one row per client and frontend, with a line per pod that answered.
pub fn show(screen: &Screen, facts: &[RequestFacts]) {
    let mut table = screen.table(&["CLIENT", "FRONTEND", "POD", "TIMES", "SAW SOURCE", "WHOSE"]);
    for row in facts {
        let answer = |a: &AnswerFacts| {
            [a.pod.clone(), a.times.to_string(), a.source.to_string(), described(a, &row.client)]
        };
        let mut lines: Vec<[String; 4]> = row.answers.iter().map(answer).collect();
        if row.failed > 0 {
            lines.push(["nobody".to_owned(), row.failed.to_string(), String::new(), String::new()]);
        }
        let column = |n: usize| lines.iter().map(|line| line[n].as_str()).collect::<Vec<_>>().join("\n");
        let frontend = format!("{}\n{}", row.frontend, row.address);
        let client = row.client.replacen(' ', "\n", 1);
        table.add_row([client, frontend, column(0), column(1), column(2), column(3)]);
    }
    align_right(&mut table, &[3]);
    screen.show(&table);
}

fn described(answer: &AnswerFacts, client: &str) -> String {
    let is_client = |who: &str| client.starts_with(&format!("{who} "));
    match answer.source_is.as_str() {
        "client" => "the client's".to_owned(),
        who if is_client(who) => "the client's".to_owned(),
        node if is_client(&answer.pod) => format!("{node} (hairpin)"),
        node => node.to_owned(),
    }
}
