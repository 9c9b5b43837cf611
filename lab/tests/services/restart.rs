//! The agent goes and comes back, on a cluster of its own.

use crate::prelude::*;

/// S9: what was served is served throughout; what changed meanwhile, and what comes after, is programmed.
#[test]
fn s9_a_restarted_agent_serves_what_was_what_changed_and_what_is_new() -> Result<()> {
    let mut b = Bench::build()?;
    let web = |b: &Bench, name: &str, node: usize| b.service(name).pods([b.cluster.pod(node, 1)]);
    let up = |b: &Bench, name: &str, node: usize| {
        expect(&b.everyone(), &b.cluster_ip(name), pods([b.cluster.pod(node, 1)]))
    };
    for name in ["kept", "changed"] {
        b.apply(&web(&b, name, 1))?;
    }
    hold(&b, "before", &[up(&b, "kept", 1), up(&b, "changed", 1)].concat())?;
    b.kill_agents()?;
    b.apply(&web(&b, "changed", 2))?;
    b.apply(&web(&b, "meanwhile", 2))?;
    // Nobody learns of the change: the last known state is served.
    hold(&b, "without agents", &[up(&b, "kept", 1), up(&b, "changed", 1)].concat())?;
    b.start_agents()?;
    let changed = [up(&b, "kept", 1), up(&b, "changed", 2), up(&b, "meanwhile", 2)].concat();
    hold(&b, "again", &changed)?;
    b.apply(&web(&b, "new", 1))?;
    hold(&b, "and goes on", &[changed, up(&b, "new", 1)].concat())
}
