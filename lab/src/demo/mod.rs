//! `cargo xtask demo`: Fairway at work in a small cluster, measured and shown.
//!
//! [`run`] goes through the parts in order, each measured by a module of its own into a part of [`facts::Facts`]
//! and shown as a table. Whatever is not as it should be becomes a problem and the exit status; a part that
//! cannot be finished ends the demo. In every case but a finished `--keep` all that was made is removed.

pub mod churn;
pub mod example;
pub mod facts;
pub mod interrupt;
pub mod inventory;
pub mod keep;
pub mod kernel;
pub mod removal;
pub mod requests;
pub mod restart;
pub mod screen;
pub mod service;
pub mod stage;
pub mod workload;

use std::io::Write;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::time::Instant;

use anyhow::Result;

use facts::{Facts, ms};
use interrupt::{EXIT_STATUS, Interrupt};
use screen::{Screen, millis};
use stage::Stage;

use crate::residue;

/// What the demo takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Leave the cluster up, and print how to enter it
    #[arg(long)]
    pub keep: bool,
    /// Print the facts as one JSON document; all else goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Directory of the Service and its EndpointSlices
    #[arg(long, default_value = "deploy/demo")]
    pub objects: PathBuf,
}

/// Runs the demo; success means that everything is as it should be.
pub fn run(options: &Options) -> Result<ExitCode> {
    let (started, screen) = (Instant::now(), Screen::new(options.json));
    let interrupt = Interrupt::listen()?;
    let mut facts = Facts::default();
    let finished = play(options, &screen, &interrupt, &mut facts);
    if facts.kept.is_none() {
        facts.problems.extend(leftovers());
    }
    facts.duration_ms = ms(started.elapsed());
    if let Err(error) = &finished
        && !interrupt.asked()
    {
        facts.problems.push(format!("{error:#}"));
    }
    facts.ok = finished.is_ok() && facts.problems.is_empty();
    conclude(&screen, &interrupt, &facts);
    if options.json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&facts)?)?;
    }
    Ok(match (facts.ok, interrupt.asked()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => ExitCode::from(EXIT_STATUS),
        (false, false) => ExitCode::FAILURE,
    })
}

fn play(options: &Options, screen: &Screen, interrupt: &Interrupt, facts: &mut Facts) -> Result<()> {
    screen.heading("1  A small cluster, made of network namespaces");
    let (mut stage, cluster) = Stage::build(&options.objects, screen, interrupt)?;
    stage::show(screen, &cluster);
    facts.cluster = Some(cluster);

    let service = service::read(&stage)?;
    screen.heading(&format!("2  The Service {}, as the kernels of the nodes have it", service.name));
    service::show(&stage, screen, &service);
    note(screen, facts, service::problems(&stage, &service));
    facts.service = Some(service);
    interrupt.check()?;

    screen.heading("3  Requests, from outside to every node and from pods to the clusterIP");
    screen.remark(
        "Right is: a pod's own address is kept, unless it is answered by itself (hairpin).\n\
         An outside client's is kept where the pod is on the node that was asked; elsewhere\n\
         it becomes that node's, so that the answer finds its way back.",
    );
    let (requests, problems) = requests::ask(&stage, screen, interrupt)?;
    requests::show(screen, &requests);
    note(screen, facts, problems);
    facts.requests = Some(requests);

    screen.heading("4  A pod goes and a pod comes, under continuous traffic");
    let (churn, problems) = churn::churn(&mut stage, screen, interrupt)?;
    churn::show(screen, &churn);
    note(screen, facts, problems);
    facts.churn = Some(churn);
    interrupt.check()?;

    screen.heading("5  An agent dies under open connections, and comes back");
    let (restart, problems) = restart::restart(&mut stage, screen, interrupt)?;
    restart::show(screen, &restart);
    note(screen, facts, problems);
    facts.agent_restart = Some(restart);
    interrupt.check()?;

    finish(options, screen, stage, facts)
}

fn finish(options: &Options, screen: &Screen, stage: Stage, facts: &mut Facts) -> Result<()> {
    if options.keep {
        screen.heading("6  The cluster stays");
        let (kept, problems) = keep::hand_over(stage, &options.objects, screen)?;
        keep::show(screen, &kept);
        note(screen, facts, problems);
        facts.kept = Some(kept);
    } else {
        screen.heading("6  Everything is removed");
        let (removal, problems) = removal::remove(stage, screen)?;
        removal::show(screen, &removal);
        note(screen, facts, problems);
        facts.removal = Some(removal);
    }
    Ok(())
}

/// Problems are shown where they were found, and once more at the end.
fn note(screen: &Screen, facts: &mut Facts, problems: Vec<String>) {
    problems.iter().for_each(|problem| screen.complain(problem));
    facts.problems.extend(problems);
}

/// What this process still has on the machine, after all should be gone.
fn leftovers() -> Option<String> {
    let prefix = format!("fw{}-", process::id());
    let left: Vec<String> =
        residue::runs().iter().map(residue::Run::name).filter(|name| name.starts_with(&prefix)).collect();
    (!left.is_empty())
        .then(|| format!("left behind: {}; `cargo xtask lab clean` removes it", left.join(", ")))
}

fn conclude(screen: &Screen, interrupt: &Interrupt, facts: &Facts) {
    screen.say("");
    let took = millis(facts.duration_ms);
    if facts.ok {
        return screen.praise(&format!("All is as it should be ({took})."));
    }
    for problem in &facts.problems {
        screen.complain(problem);
    }
    if interrupt.asked() {
        let removed = if facts.problems.is_empty() { "; what it had made is removed" } else { "" };
        screen.complain(&format!("Interrupted after {took}{removed}."));
    } else {
        screen.complain(&format!("Not as it should be: {} (after {took}).", problems(facts.problems.len())));
    }
}

fn problems(number: usize) -> String {
    if number == 1 { "one problem".to_owned() } else { format!("{number} problems") }
}
