//! Everything is removed, and looked for afterwards.
//!
//! In two steps, because they prove different things: `fairway cleanup` alone must take every program, map and
//! pin away while the cluster still stands; then the cluster goes, and nothing at all may be left of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::inventory::{Census, Inventory};
use super::screen::{Screen, align_right};
use super::stage::Stage;

/// The kernel frees programs and maps a moment after their last user has gone.
const DEADLINE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// What there was, and what is left.
#[derive(Debug, Clone, Serialize)]
pub struct RemovalFacts {
    /// While it ran.
    pub before: Census,
    /// What `fairway cleanup` said that it removed, on all nodes.
    pub cleanup_removed: usize,
    /// After `fairway cleanup` on every node.
    pub after_cleanup: Census,
    /// After the cluster was taken down.
    pub after: Census,
}

/// Removes everything; returns what was found, and what of it is wrong.
pub fn remove(mut stage: Stage, screen: &Screen) -> Result<(RemovalFacts, Vec<String>)> {
    let inventory = Inventory::take(&stage.cluster)?;
    let before = inventory.census()?;

    let step = screen.step("Ending the agents; `fairway cleanup` on every node");
    while let Some((name, agent)) = stage.agents.pop_first() {
        step.now(name.clone());
        agent.terminate().with_context(|| format!("end the agent of {name}"))?;
    }
    let mut cleanup_removed = 0;
    for node in stage.cluster.nodes() {
        step.now(node.name().to_owned());
        cleanup_removed += node.fairway(["cleanup"])?.lines().count();
    }
    let after_cleanup = settle(&inventory, Census::is_clean_of_fairway)?;
    step.done(format!("it removed {cleanup_removed} things"));

    let step = screen.step("Taking the cluster down");
    drop(stage);
    let after = settle(&inventory, Census::is_empty)?;
    step.done("");

    let facts = RemovalFacts { before, cleanup_removed, after_cleanup, after };
    let problems = facts.problems();
    Ok((facts, problems))
}

/// Counts until `done` holds, or the deadline passes.
fn settle(inventory: &Inventory, done: impl Fn(&Census) -> bool) -> Result<Census> {
    let end = Instant::now() + DEADLINE;
    loop {
        let census = inventory.census()?;
        if done(&census) || Instant::now() > end {
            return Ok(census);
        }
        thread::park_timeout(LOOK);
    }
}

impl RemovalFacts {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.before.bpf_links == 0 || self.before.processes == 0 {
            problems.push(format!("there was nothing to remove: {:?}", self.before));
        }
        if !self.after_cleanup.is_clean_of_fairway() {
            problems.push(format!("`fairway cleanup` left something: {:?}", self.after_cleanup));
        }
        for (what, number) in self.after.rows().into_iter().filter(|(_, number)| *number > 0) {
            problems.push(format!("left behind: {number} {what}"));
        }
        problems
    }
}

/// Shows what there was and what is left.
pub fn show(screen: &Screen, facts: &RemovalFacts) {
    let mut table = screen.list(&["HOW MANY THERE ARE", "WHILE IT RAN", "AFTER CLEANUP", "AT THE END"]);
    let columns = facts.before.rows().into_iter().zip(facts.after_cleanup.rows()).zip(facts.after.rows());
    for (((what, before), (_, cleaned)), (_, after)) in columns {
        table.add_row([what.to_owned(), before.to_string(), cleaned.to_string(), after.to_string()]);
    }
    align_right(&mut table, &[1, 2, 3]);
    screen.show(&table);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(kernel: usize, rest: usize) -> Census {
        Census {
            processes: rest,
            bpf_links: kernel,
            bpf_programs: kernel,
            bpf_maps: kernel,
            pins: kernel,
            namespaces: rest,
            network_devices: rest,
            mounts: rest,
            cgroups: rest,
            directories: rest,
        }
    }

    #[test]
    fn a_thing_that_is_left_is_a_problem_with_its_name() {
        let good = RemovalFacts {
            before: census(5, 5),
            cleanup_removed: 20,
            after_cleanup: census(0, 5),
            after: census(0, 0),
        };
        assert_eq!(good.problems(), Vec::<String>::new());
        let bad = RemovalFacts { after: Census { mounts: 1, ..census(0, 0) }, ..good.clone() };
        assert_eq!(bad.problems(), ["left behind: 1 mounts"]);
        assert_eq!(RemovalFacts { after_cleanup: census(1, 5), ..good }.problems().len(), 1);
    }
}
