//! The agent of one node is killed with SIGKILL under open connections, and started again.
//!
//! Every connection asks a question each second, before, without and with the new agent. None may be lost, new
//! connections must work while no agent is there, and the new agent must come back to the same programs and
//! backend ids.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::facts::ms;
use super::interrupt::Interrupt;
use super::kernel;
use super::screen::{Screen, Step, count, millis};
use super::stage::Stage;
use crate::node::Node;
use crate::traffic::{Ask, Disruption, Flows, Transport};

/// Connections of each family.
const CONNECTIONS: usize = 500;
/// New connections of each family while there is no agent.
const NEW_CONNECTIONS: usize = 100;
const PARALLEL: usize = 8;
const PATIENCE: Duration = Duration::from_secs(5);
/// How long every connection may take for its next answer, all in all.
const DEADLINE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

/// What happened.
#[derive(Debug, Clone, Serialize)]
pub struct RestartFacts {
    /// Whose agent was killed.
    pub node: String,
    /// Connections open through its nodePort, half IPv4 and half IPv6.
    pub connections: usize,
    /// Those that were lost.
    pub lost: usize,
    /// Questions answered on them.
    pub answers: u64,
    /// Those of them that were answered while there was no agent.
    pub answers_without_agent: u64,
    /// The longest that any connection waited for an answer.
    pub longest_wait_ms: f64,
    /// New connections opened while there was no agent.
    pub new_connections: usize,
    /// Those that failed.
    pub new_connections_failed: usize,
    /// From the kill to the start of the next agent.
    pub without_agent_ms: f64,
    /// From the start of the next agent to its first complete sync.
    pub ready_again_ms: f64,
    /// The same programs run on the same interfaces.
    pub same_programs: bool,
    /// The frontends have the same backends with the same ids and generations.
    pub same_backends: bool,
}

/// Connections of both families.
struct Load<'a> {
    flows: Vec<Disruption>,
    interrupt: &'a Interrupt,
}

/// Kills and restarts the agent of node 1; returns what was found, and what of it is wrong.
pub fn restart(
    stage: &mut Stage,
    screen: &Screen,
    interrupt: &Interrupt,
) -> Result<(RestartFacts, Vec<String>)> {
    let node = stage.cluster.node(1).clone();
    let name = node.name().to_owned();
    let total = 2 * CONNECTIONS;
    let step = screen.step(format!("Opening {} connections to the nodePort of {name}", count(total)));
    let load = Load::open(stage, &node, interrupt)?;
    load.wait_for_an_answer_each(&step)?;
    step.done("each is asked once a second");

    let before = Identity::of(&node)?;
    let step = screen.step(format!("Killing the agent of {name} with SIGKILL"));
    let answers_before = load.answers();
    stage.agents.remove(&name).context("the node has an agent")?.kill()?;
    let killed = Instant::now();
    let failed = open_new(stage, &node)?;
    load.wait_for_an_answer_each(&step)?;
    let answers_without_agent = load.answers() - answers_before;
    let without_agent_ms = ms(killed.elapsed());
    step.done(format!("{} without an agent", millis(without_agent_ms)));

    let step = screen.step(format!("Starting the agent of {name} again"));
    let started = Instant::now();
    let agent = node.start_agent(&stage.agent_spec())?;
    let ready_again_ms = ms(started.elapsed());
    stage.agents.insert(name.clone(), agent);
    let after = Identity::of(&node)?;
    load.wait_for_an_answer_each(&step)?;
    step.done(format!("ready after {}", millis(ready_again_ms)));

    let facts = RestartFacts {
        answers_without_agent,
        new_connections: 2 * NEW_CONNECTIONS,
        new_connections_failed: failed,
        without_agent_ms,
        ready_again_ms,
        same_programs: before.programs == after.programs,
        same_backends: before.frontends == after.frontends,
        ..load.close(name)
    };
    let problems = facts.problems();
    Ok((facts, problems))
}

/// What must survive: programs with their ids, and frontends with the ids of their backends.
struct Identity {
    programs: Vec<kernel::Program>,
    frontends: Vec<kernel::Frontend>,
}

impl Identity {
    fn of(node: &Node) -> Result<Self> {
        Ok(Self { programs: kernel::programs(node)?, frontends: kernel::frontends(node)? })
    }
}

/// Opens new connections; returns how many failed.
fn open_new(stage: &Stage, node: &Node) -> Result<usize> {
    let mut failed = 0;
    for address in stage.node_ports(node) {
        let ask = Ask::new(address).timeout(PATIENCE);
        failed += ask.many(Transport::Tcp, stage.cluster.client(), NEW_CONNECTIONS, PARALLEL)?.failures.len();
    }
    Ok(failed)
}

impl<'a> Load<'a> {
    fn open(stage: &Stage, node: &Node, interrupt: &'a Interrupt) -> Result<Self> {
        let open = |address| {
            let flows = Flows { tcp: CONNECTIONS, ..Flows::to(address) };
            Disruption::start(stage.cluster.client(), flows).with_context(|| format!("connect to {address}"))
        };
        let flows = stage.node_ports(node).into_iter().map(open).collect::<Result<_>>()?;
        Ok(Self { flows, interrupt })
    }

    fn answers(&self) -> u64 {
        self.flows.iter().map(|flows| flows.report().exchanges).sum()
    }

    /// Waits until as many answers came as there are connections that live.
    fn wait_for_an_answer_each(&self, step: &Step) -> Result<()> {
        let goals: Vec<u64> =
            self.flows.iter().map(|flows| flows.report().exchanges + living(flows)).collect();
        let end = Instant::now() + DEADLINE;
        for (flows, goal) in self.flows.iter().zip(goals) {
            while flows.report().exchanges < goal {
                let left = goal - flows.report().exchanges;
                step.now(format!("{left} connections to be answered"));
                self.interrupt.check()?;
                ensure!(Instant::now() < end, "connections are not answered: {:?}", flows.report());
                std::thread::park_timeout(LOOK);
            }
        }
        Ok(())
    }

    /// Asks once more on every connection and closes it.
    fn close(self, node: String) -> RestartFacts {
        let reports: Vec<_> = self.flows.into_iter().map(Disruption::stop).collect();
        RestartFacts {
            node,
            connections: reports.iter().map(|report| report.tcp_opened).sum(),
            lost: reports.iter().map(|report| report.tcp_lost).sum(),
            answers: reports.iter().map(|report| report.exchanges).sum(),
            longest_wait_ms: reports.iter().map(|report| ms(report.longest_gap)).fold(0.0, f64::max),
            answers_without_agent: 0,
            new_connections: 0,
            new_connections_failed: 0,
            without_agent_ms: 0.0,
            ready_again_ms: 0.0,
            same_programs: false,
            same_backends: false,
        }
    }
}

fn living(flows: &Disruption) -> u64 {
    let report = flows.report();
    u64::try_from(report.tcp_opened.saturating_sub(report.tcp_lost)).unwrap_or_default()
}

impl RestartFacts {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut wrong = |is_wrong: bool, what: String| problems.extend(is_wrong.then_some(what));
        let opened = 2 * CONNECTIONS;
        wrong(
            self.connections != opened,
            format!("{} of {opened} connections were opened", self.connections),
        );
        wrong(self.lost > 0, format!("{} of {} connections were lost", self.lost, self.connections));
        wrong(
            self.new_connections_failed > 0,
            format!(
                "{} of {} new connections failed without an agent",
                self.new_connections_failed, self.new_connections
            ),
        );
        wrong(!self.same_programs, "the new agent did not keep the programs".to_owned());
        wrong(!self.same_backends, "the new agent did not keep the backends and their ids".to_owned());
        problems
    }
}

/// Shows what happened.
pub fn show(screen: &Screen, facts: &RestartFacts) {
    let kept = |same: bool| if same { "the same" } else { "changed" }.to_owned();
    let mut table = screen.list(&["SIGKILL OF AN AGENT", &facts.node]);
    let mut row = |what: &str, value: String| {
        table.add_row([what.to_owned(), value]);
    };
    row("connections open before", count(facts.connections));
    row("time without an agent", millis(facts.without_agent_ms));
    row(
        "answers on them meanwhile",
        count(usize::try_from(facts.answers_without_agent).unwrap_or(usize::MAX)),
    );
    row(
        "new connections meanwhile",
        format!("{}, {} failed", facts.new_connections, facts.new_connections_failed),
    );
    row("new agent ready in", millis(facts.ready_again_ms));
    row("programs, backend ids", format!("{}, {}", kept(facts.same_programs), kept(facts.same_backends)));
    row("longest wait for an answer", millis(facts.longest_wait_ms));
    screen.show(&table);
    let verdict = format!("{} of {} connections lost", facts.lost, count(facts.connections));
    if facts.lost == 0 { screen.praise(&verdict) } else { screen.complain(&verdict) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> RestartFacts {
        RestartFacts {
            node: "node-1".to_owned(),
            connections: 2 * CONNECTIONS,
            lost: 0,
            answers: 3000,
            answers_without_agent: 1000,
            longest_wait_ms: 20.0,
            new_connections: 2 * NEW_CONNECTIONS,
            new_connections_failed: 0,
            without_agent_ms: 1000.0,
            ready_again_ms: 300.0,
            same_programs: true,
            same_backends: true,
        }
    }

    #[test]
    fn one_lost_connection_is_a_problem() {
        assert_eq!(good().problems(), Vec::<String>::new());
        assert_eq!(RestartFacts { lost: 1, ..good() }.problems(), ["1 of 1000 connections were lost"]);
    }

    #[test]
    fn whatever_did_not_survive_is_a_problem() {
        let bad = RestartFacts {
            connections: 999,
            new_connections_failed: 2,
            same_programs: false,
            same_backends: false,
            ..good()
        };
        assert_eq!(bad.problems().len(), 4);
    }
}
