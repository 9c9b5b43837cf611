//! Memory: the agent's, and the kernel's for each service, endpoint and flow.
//!
//! The kernel says how much memory each pinned map takes. Maps that grow are compared before and after the world is
//! loaded; for preallocated ones an entry costs its share of the whole.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use lb_common::maps::DEFAULT_FLOWS;
use lb_user::datapath::pins::{self, Pins};
use lb_user::datapath::sys;

use super::{FAIRWAY, Size, clean};
use crate::fairway::Fairway;
use crate::net::Net;
use crate::process;
use crate::report::Cell;
use crate::stats::Summary;
use crate::suites::Setup;

/// One map as the kernel accounts for it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Map {
    bytes: f64,
    capacity: f64,
}

type Maps = BTreeMap<String, Map>;

/// Measures both.
pub fn run(setup: &Setup, net: &Net, size: Size) -> Result<Vec<Cell>> {
    if !setup.wants("memory") {
        return Ok(Vec::new());
    }
    let (agent_before, before) = load(net, Size { services: 1, endpoints: 1 })?;
    let (agent, after) = load(net, size)?;
    let mut rss = size.cell("memory, agent", "fairway", "MB");
    rss.summary = Summary::of(&[agent as f64 / 1e6]);
    rss.extra.insert("with one Service".to_owned(), agent_before as f64 / 1e6);
    let mut cells = vec![rss];
    let shares = [
        ("memory, kernel, per service", grown(&before, &after, "SVC4") / f64::from(size.services.max(2) - 1)),
        ("memory, kernel, per endpoint", share(&after, "BACKENDS4") + share(&after, "SLOTS")),
        ("memory, kernel, per IPv4 flow", flow(&after, "4")),
        ("memory, kernel, per IPv6 flow", flow(&after, "6")),
    ];
    for (case, bytes) in shares {
        let mut cell = size.cell(case, "fairway", "bytes");
        cell.summary = Summary::of(&[bytes]);
        cells.push(cell);
    }
    for (name, map) in &after {
        let mut cell = size.cell(&format!("memory, kernel, map {name}"), "fairway", "MB");
        cell.summary = Summary::of(&[map.bytes / 1e6]);
        cell.extra.insert("capacity".to_owned(), map.capacity);
        cells.push(cell);
    }
    Ok(cells)
}

/// The agent's memory and the maps once a world is loaded.
fn load(net: &Net, size: Size) -> Result<(u64, Maps)> {
    let fairway = Fairway::start(net, FAIRWAY, size.objects(), size.flags())?;
    let maps = maps_of(net)?;
    let agent = process::resident_bytes(fairway.pid().context("the agent has ended")?)?;
    drop(fairway);
    clean(net)?;
    Ok((agent, maps))
}

fn maps_of(net: &Net) -> Result<Maps> {
    let dir = Pins::new(net.node(FAIRWAY).bpffs()).maps;
    let mut maps = Maps::new();
    for path in pins::list(&dir)? {
        let fd = sys::obj_get(&path)?;
        let info = sys::map_info(fd.as_fd())?;
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let line = about.lines().find_map(|line| line.strip_prefix("memlock:"));
        let bytes: f64 = line.context("the kernel names no memlock")?.trim().parse()?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        maps.insert(name, Map { bytes, capacity: f64::from(info.max_entries) });
    }
    Ok(maps)
}

fn grown(before: &Maps, after: &Maps, text: &str) -> f64 {
    let named = after.iter().filter(|(name, _)| name.contains(text));
    named.map(|(name, map)| map.bytes - before.get(name).map_or(0.0, |b| b.bytes)).sum()
}

fn share(maps: &Maps, text: &str) -> f64 {
    maps.iter().filter(|(name, _)| name.contains(text)).map(|(_, map)| map.bytes / map.capacity).sum()
}

/// Everything of one family that flows take, for each flow the table can hold.
fn flow(maps: &Maps, family: &str) -> f64 {
    let of_flows = maps.iter().filter(|(name, _)| name.contains("FLOW") && name.ends_with(family));
    of_flows.map(|(_, map)| map.bytes).sum::<f64>() / f64::from(DEFAULT_FLOWS)
}
