//! One agent per node; its orderly end leaves the datapath; cleanup leaves nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::traffic::tcp_ask;

use crate::support::*;

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() -> Result<()> {
    let b = Bench::new(&[(1, 1)])?;
    let node = b.cluster.node(1);
    let _agent = b.agent(node)?;
    let manifests = b.manifests.path().to_string_lossy().into_owned();
    let second = ["run", "--manifests", &manifests, "--node-name", "node-1", "--interface", "eth0"];
    let refusal = node.fairway(second).err().context("a second agent ran")?.to_string();
    assert!(refusal.contains("another"), "{refusal}");
    assert_eq!(tcp_ask(b.cluster.client(), outside(node), PATIENCE)?.pod, "pod-1-1");
    Ok(())
}

#[test]
fn sigterm_leaves_the_datapath_and_cleanup_removes_all_of_it() -> Result<()> {
    let b = Bench::new(&[(1, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let running = b.agent(node)?;
    let asked = Instant::now();
    ensure!(running.terminate()?.success(), "a clean end");
    ensure!(asked.elapsed() < Duration::from_secs(2), "within two seconds");
    assert_eq!(tcp_ask(client, outside(node), PATIENCE)?.pod, "pod-1-1");
    let said = node.fairway(["cleanup"])?;
    assert!(said.contains("link") || said.contains("eth0"), "it says what it removed: {said}");
    assert!(!node.bpffs().join("fairway").exists(), "nothing is pinned");
    assert!(tcp_ask(client, outside(node), Duration::from_secs(1)).is_err());
    Ok(())
}
