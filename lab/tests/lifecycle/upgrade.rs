//! An agent with other programs takes over under traffic, and back again.
//!
//! The other agent is a copy of the binary under test whose embedded object says the same in other instructions:
//! `r = imm` with 64 bits becomes `r = imm` with 32, which the kernel extends with zeros. So the object's hash, the
//! programs' tags and their ids all differ, and the verifier sees a new program, while the map layout and the
//! behaviour stay.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::traffic::{Ask, Continuous, Disruption, Flows, Transport};
use lab::{Agent, Node};
use lb_user::datapath::pins::{self, Pins};
use lb_user::datapath::sys;
use object::{Object, ObjectSection, SectionKind};

use crate::support::*;

/// Length of a BPF instruction.
const INSTRUCTION: usize = 8;
/// `r = imm64`, two instructions long.
const LOAD_IMM64: u8 = 0x18;
/// `r = imm`, 64 bits wide, the immediate extended with its sign.
const MOV64_IMM: u8 = 0xb7;
/// `r = imm`, 32 bits wide, the upper half zero.
const MOV32_IMM: u8 = 0xb4;

/// The same programs in other instructions.
fn reworded(object: &[u8]) -> Result<Vec<u8>> {
    let mut reworded = object.to_vec();
    let mut changed = 0;
    for section in object::File::parse(object)?.sections().filter(|s| s.kind() == SectionKind::Text) {
        let (start, length) = section.file_range().context("a text section without bytes")?;
        let (start, length) = (usize::try_from(start)?, usize::try_from(length)?);
        let relocated: Vec<u64> = section.relocations().map(|(at, _)| at).collect();
        let mut at = 0;
        while at + INSTRUCTION <= length {
            let instruction = &mut reworded[start + at..start + at + INSTRUCTION];
            let immediate = i32::from_le_bytes(instruction[4..].try_into()?);
            if instruction[0] == MOV64_IMM && immediate >= 0 && !relocated.contains(&(at as u64)) {
                instruction[0] = MOV32_IMM;
                changed += 1;
            }
            at += if instruction[0] == LOAD_IMM64 { 2 * INSTRUCTION } else { INSTRUCTION };
        }
    }
    ensure!(changed > 10, "only {changed} instructions could be said otherwise");
    Ok(reworded)
}

/// A `fairway` with the reworded object inside; removed with the cluster.
fn other_binary(b: &Bench) -> Result<PathBuf> {
    let object = std::env::var_os("FAIRWAY_BPF_OBJ").context("FAIRWAY_BPF_OBJ: run by cargo xtask test")?;
    let object = fs::read(object)?;
    let mut binary = fs::read(lab::agent::binary()?)?;
    let at = memchr::memmem::find(&binary, &object).context("the binary has another object inside")?;
    binary[at..at + object.len()].copy_from_slice(&reworded(&object)?);
    let path = b.cluster.dir().join("fairway-other");
    fs::write(&path, binary)?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(path)
}

/// Tags of the attached programs: what the kernel makes of their instructions.
fn tags(programs: &[Attached]) -> Result<Vec<[u8; 8]>> {
    let tag = |p: &Attached| Ok(sys::prog_info(sys::prog_by_id(p.prog_id)?.as_fd())?.tag);
    programs.iter().map(tag).collect()
}

/// The directories of loaded objects.
fn objects(node: &Node) -> Result<Vec<PathBuf>> {
    Ok(pins::list(&Pins::new(node.bpffs()).progs)?)
}

/// Ends `old`, starts an agent with another object, and checks that it took over in place.
fn replace(b: &Bench, node: &Node, old: Agent, by: Option<PathBuf>, kill: bool) -> Result<Agent> {
    let (before, was) = (attached(node)?, services(node)?);
    let old_tags = tags(&before)?;
    ensure!(before.iter().all(|p| p.live) && before.len() >= 5, "{before:?}");
    if kill {
        old.kill()?
    } else {
        old.terminate()?
    };
    let mut spec = b.spec();
    spec.binary = by;
    let new = node.start_agent(&spec)?;
    let after = attached(node)?;
    assert_eq!(before.len(), after.len(), "{before:?} {after:?}");
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((old.ifindex, &old.hook, old.link_id), (new.ifindex, &new.hook, new.link_id), "its link");
        assert_ne!(old.prog_id, new.prog_id, "another program: {new:?}");
    }
    assert!(old_tags.iter().zip(tags(&after)?).all(|(old, new)| *old != new), "other instructions");
    assert_eq!(services(node)?, was, "the same maps");
    assert_eq!(objects(node)?.len(), 1, "the former programs are unpinned");
    // The kernel frees a program a little after its last reference went.
    eventually("the former programs are gone", || {
        Ok(before.iter().all(|p| sys::prog_by_id(p.prog_id).is_err()))
    })?;
    Ok(new)
}

#[test]
fn an_upgrade_and_a_downgrade_replace_the_programs_in_place_and_lose_nothing() -> Result<()> {
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let other = other_binary(&b)?;
    let first = b.agent(node)?;
    let first_object = objects(node)?;
    let flows = Flows {
        tcp: 500,
        udp: 100,
        every: Duration::from_millis(500),
        patience: DEADLINE,
        ..Flows::to(outside(node))
    };
    let load = Disruption::start(client, flows)?;
    let ask = Ask::new(outside(node)).timeout(DEADLINE).reset_on_close();
    let mut fresh = Continuous::start(client, Transport::Tcp, ask, 1)?;
    ensure!(fresh.until(DEADLINE, |s| s.len() > 20), "new connections");

    let second = replace(&b, node, first, Some(other), false)?;
    assert_ne!(objects(node)?, first_object);
    ensure!(load.wait_for_exchanges(1_200, DEADLINE), "flows go on: {:?}", load.report());
    let third = replace(&b, node, second, None, true)?;
    assert_eq!(objects(node)?, first_object, "the object of before");
    ensure!(load.wait_for_exchanges(1_200, DEADLINE), "flows go on: {:?}", load.report());
    // The same agent again: nothing is replaced.
    let before = attached(node)?;
    third.kill()?;
    let _fourth = b.agent(node)?;
    assert_eq!(attached(node)?, before);

    let failed: Vec<_> = fresh.stop().into_iter().filter(|s| s.result.is_err()).collect();
    assert!(failed.is_empty(), "{} new connections failed, first: {:?}", failed.len(), failed.first());
    let report = load.stop();
    assert_eq!((report.tcp_opened, report.tcp_lost), (500, 0), "{report:?}");
    assert_eq!((report.udp_opened, report.udp_moved), (100, 0), "{report:?}");
    Ok(())
}

/// Makes this version's pins look like those of another one, as if an agent of that version had made them.
fn age(node: &Node) -> Result<PathBuf> {
    let pins = Pins::new(node.bpffs());
    let former = pins.base.join("v0");
    fs::rename(&pins.version, &former)?;
    Ok(former)
}

/// Starts an agent that cannot complete its first list yet, and waits until it has found the other version's hooks.
fn wait_beside_another_version(node: &Node, server: &apiserver::ApiServer) -> Result<Agent> {
    let kind = apiserver::Kind::EndpointSlice;
    server.hold(kind);
    let waiting = node.launch_agent(&lab::AgentSpec::api(server.url()))?;
    eventually("the agent waits for its first list", || Ok(server.stats(kind).held > 0))?;
    eventually("the status says who serves", || {
        Ok(interface(node, "eth0")?
            .is_some_and(|i| i["reasons"].to_string().contains("another version serves")))
    })?;
    Ok(waiting)
}

#[test]
fn an_agent_of_another_map_version_takes_the_hooks_over_once_it_knows_the_services() -> Result<()> {
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    b.agent(node)?.kill()?;
    let before = attached(node)?;
    let former = age(node)?;
    let former_maps = pins::list(&former.join("maps"))?;
    // Socket hooks, which the status counts apart, are pins here like all others.
    let names = |dir: &Path| -> Result<Vec<_>> {
        Ok(pins::list(dir)?.iter().filter_map(|p| p.file_name().map(ToOwned::to_owned)).collect())
    };
    let all_links = names(&former.join("links"))?;
    ensure!(attached(node).is_err(), "this version has no pins");
    all_answer(client, outside(node), 20)?;

    // Until the first list is complete the former programs serve on.
    let server = crate::api::server(&b.cluster)?;
    let waiting = wait_beside_another_version(node, &server)?;
    all_answer(client, outside(node), 100)?;

    let ask = Ask::new(outside(node)).timeout(PATIENCE).reset_on_close();
    let mut fresh = Continuous::start(client, Transport::Tcp, ask, 1)?;
    ensure!(fresh.until(DEADLINE, |s| s.len() > 20), "new connections");
    crate::api::publish(&server, &b.cluster, "web", NODE_PORT, &[(2, 1)])?;
    server.release(apiserver::Kind::EndpointSlice);
    let agent = waiting.ready()?;
    eventually("every hook is taken over", || Ok(attached(node)?.len() == before.len()))?;
    let after = attached(node)?;
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((old.ifindex, &old.hook, old.link_id), (new.ifindex, &new.hook, new.link_id), "its link");
        assert_ne!(old.prog_id, new.prog_id, "another program: {new:?}");
    }
    assert_eq!(names(&Pins::new(node.bpffs()).links)?, all_links, "every link is ours now");
    assert!(pins::list(&former.join("links"))?.is_empty(), "no program of the former version is attached");
    assert_eq!(pins::list(&former.join("maps"))?, former_maps, "its maps are untouched");
    let taken = std::time::Instant::now();
    let only = |pod: &str| -> Result<()> {
        let answered = all_answer(client, outside(node), 100)?.by_pod;
        ensure!(answered.keys().eq([pod]), "not only {pod}: {answered:?}");
        Ok(())
    };
    only("pod-2-1").context("what this agent knows")?;
    ensure!(fresh.until(DEADLINE, |s| s.iter().filter(|s| s.started > taken).count() > 20), "requests go on");
    // A connection under way in the former maps is reset, which a client that opens one after the other sees once.
    let failed: Vec<_> = fresh.stop().into_iter().filter(|s| s.result.is_err()).collect();
    assert!(failed.len() <= 1, "{} new connections failed, first: {:?}", failed.len(), failed.first());

    // Back to the former version, whose tables still name the pod that was removed meanwhile.
    agent.kill()?;
    let pins = Pins::new(node.bpffs());
    fs::rename(&pins.version, pins.base.join("v9"))?;
    fs::rename(&former, &pins.version)?;
    let waiting = wait_beside_another_version(node, &server)?;
    only("pod-2-1").context("the newer programs serve until the older agent knows as much")?;
    server.release(apiserver::Kind::EndpointSlice);
    let _agent = waiting.ready()?;
    eventually("every hook is taken over again", || Ok(attached(node)?.len() == before.len()))?;
    assert_eq!(attached(node)?, before, "the programs and links of before");
    only("pod-2-1")
}
