//! A node without a BPF file system: the agent mounts one, or says clearly why it cannot.

use std::fs;

use anyhow::{Context, Result, ensure};
use lab::Node;
use lb_user::datapath::bpffs;
use nix::errno::Errno;
use nix::mount::umount;

use crate::support::*;

/// Takes the node's BPF file system away, as after a reboot without `/sys/fs/bpf`.
fn unmount(node: &Node) -> Result<()> {
    umount(node.bpffs()).context("the node's own BPF file system")?;
    ensure!(!bpffs::is_bpffs(node.bpffs()), "it is gone");
    Ok(())
}

#[test]
fn a_missing_bpf_file_system_is_mounted_kept_over_restarts_and_taken_away_by_cleanup() -> Result<()> {
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    unmount(node)?;
    fs::remove_dir(node.bpffs())?;
    let first = b.agent(node)?;
    ensure!(bpffs::is_bpffs(node.bpffs()), "the agent has mounted one");
    all_answer(client, outside(node), 20)?;
    assert_eq!(umount(node.bpffs()), Err(Errno::EBUSY), "it cannot be taken from under a running agent");
    let before = (attached(node)?, services(node)?);
    first.kill()?;
    let second = b.agent(node)?;
    assert_eq!((attached(node)?, services(node)?), before, "the same datapath");
    second.terminate()?;
    let said = node.fairway(["cleanup"])?;
    assert!(said.contains("BPF file system"), "{said}");
    ensure!(!bpffs::is_bpffs(node.bpffs()), "and unmounted it");
    Ok(())
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_refused_and_nothing_is_left_behind() -> Result<()> {
    let b = Bench::new(&[(1, 1)])?;
    let node = b.cluster.node(1);
    unmount(node)?;
    let precious = node.bpffs().join("precious");
    fs::write(&precious, "do not cover me")?;
    let agent = node.launch_agent(&b.spec())?;
    let status = agent.ended_within(DEADLINE)?;
    ensure!(!status.success(), "it ended with {status}");
    let log = fs::read_to_string(node.agent_log())?;
    let path = node.bpffs().display().to_string();
    for part in [path.as_str(), "it is not a BPF file system, and not empty"] {
        assert!(log.contains(part), "{part} in {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(fs::read_to_string(&precious)?, "do not cover me");
    ensure!(!bpffs::is_bpffs(node.bpffs()), "nothing was mounted over it");
    let links = node.ns().command("ip").args(["-d", "link", "show", "eth0"]).output()?;
    assert!(!String::from_utf8_lossy(&links.stdout).contains("xdp"), "nothing was attached");
    // What reads the kernel says so too, and there is nothing to clean up but the state.
    let error = node.fairway(["services"]).err().context("there is no datapath")?.to_string();
    assert!(error.contains("no pinned maps"), "{error}");
    fs::remove_file(&precious)?;
    let _agent = b.agent(node)?;
    all_answer(b.cluster.client(), outside(node), 10)?;
    Ok(())
}
