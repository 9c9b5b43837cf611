//! Everything that a run has on this machine, by name and number, so that it can be looked for afterwards.
//!
//! [`Inventory::take`] writes down what there is; [`Inventory::census`] counts what of it still exists. Things
//! are known by what cannot be mistaken for another run's: kernel objects by id, processes by id and start.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::{MapInfo, loaded_maps};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, loaded_links, loaded_programs};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::ns::{NETNS_DIR, Ns};
use crate::residue::{self, Run};

/// What a run had when it was written down.
#[derive(Debug)]
pub struct Inventory {
    run: Run,
    namespaces: Vec<String>,
    pins: Vec<PathBuf>,
    link_ids: BTreeSet<u32>,
    program_ids: BTreeSet<u32>,
    map_ids: BTreeSet<u32>,
    cgroups: Vec<PathBuf>,
    processes: Vec<(u32, String)>,
}

/// How many of each exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Census {
    /// Processes inside the namespaces.
    pub processes: usize,
    /// eBPF links: programs attached to interfaces.
    pub bpf_links: usize,
    /// eBPF programs loaded.
    pub bpf_programs: usize,
    /// eBPF maps.
    pub bpf_maps: usize,
    /// Files in the BPF file systems.
    pub pins: usize,
    /// Network namespaces.
    pub namespaces: usize,
    /// Network devices in them.
    pub network_devices: usize,
    /// Mounted file systems.
    pub mounts: usize,
    /// Control groups.
    pub cgroups: usize,
    /// The run's directory.
    pub directories: usize,
}

impl Inventory {
    /// Writes down what `cluster` has.
    pub fn take(cluster: &Cluster) -> Result<Self> {
        let name = cluster.name();
        let run = residue::runs().into_iter().find(|run| run.name() == name).context("the run is known")?;
        let mut pins = Vec::new();
        for node in cluster.nodes() {
            files_below(&node.bpffs().join("fairway"), &mut pins);
        }
        let (mut link_ids, mut program_ids, mut map_ids) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for pin in &pins {
            let failed = || format!("read {}", pin.display());
            if pin.components().any(|part| part.as_os_str() == "links") {
                let link = FdLink::from(PinnedLink::from_pin(pin).with_context(failed)?);
                link_ids.insert(link.info().with_context(failed)?.id());
            } else if pin.components().any(|part| part.as_os_str() == "progs") {
                program_ids.insert(ProgramInfo::from_pin(pin).with_context(failed)?.id());
            } else {
                map_ids.insert(MapInfo::from_pin(pin).with_context(failed)?.id());
            }
        }
        let pids = run.processes().into_iter();
        Ok(Self {
            namespaces: run.namespaces(),
            pins,
            link_ids,
            program_ids,
            map_ids,
            cgroups: cluster
                .nodes()
                .iter()
                .map(Node::cgroup)
                .map(Path::to_owned)
                .chain(run.cgroup())
                .collect(),
            processes: pids.filter_map(|pid| Some((pid, residue::start_time(pid)?))).collect(),
            run,
        })
    }

    /// Counts what still exists.
    pub fn census(&self) -> Result<Census> {
        let existing = |paths: &[PathBuf]| paths.iter().filter(|path| path.exists()).count();
        let alive = |(pid, started): &&(u32, String)| residue::start_time(*pid).as_ref() == Some(started);
        let namespaces: Vec<&String> =
            self.namespaces.iter().filter(|name| Path::new(NETNS_DIR).join(name).exists()).collect();
        let devices = namespaces.iter().map(|name| devices_in(name)).sum::<Result<usize>>()?;
        Ok(Census {
            processes: self.processes.iter().filter(alive).count(),
            bpf_links: ids_among(&self.link_ids, loaded_links().flatten().map(|link| link.id())),
            bpf_programs: ids_among(
                &self.program_ids,
                loaded_programs().flatten().map(|program| program.id()),
            ),
            bpf_maps: ids_among(&self.map_ids, loaded_maps().flatten().map(|map| map.id())),
            pins: existing(&self.pins),
            namespaces: namespaces.len(),
            network_devices: devices,
            mounts: self.run.mounts().len(),
            cgroups: existing(&self.cgroups),
            directories: existing(&[self.run.dir()]),
        })
    }
}

impl Census {
    /// Each count with its name for people; what Fairway made comes first.
    pub fn rows(&self) -> [(&'static str, usize); 10] {
        [
            ("eBPF links (programs on interfaces)", self.bpf_links),
            ("eBPF programs", self.bpf_programs),
            ("eBPF maps", self.bpf_maps),
            ("pins in BPF file systems", self.pins),
            ("processes", self.processes),
            ("network namespaces", self.namespaces),
            ("network devices in them", self.network_devices),
            ("mounts", self.mounts),
            ("cgroups", self.cgroups),
            ("directories", self.directories),
        ]
    }

    /// Nothing that `fairway` makes is there.
    pub fn is_clean_of_fairway(&self) -> bool {
        self.bpf_links + self.bpf_programs + self.bpf_maps + self.pins == 0
    }

    /// Nothing is there at all.
    pub fn is_empty(&self) -> bool {
        self.rows().iter().all(|(_, number)| *number == 0)
    }
}

fn ids_among(ours: &BTreeSet<u32>, loaded: impl Iterator<Item = u32>) -> usize {
    loaded.filter(|id| ours.contains(id)).count()
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// The devices of a namespace, the loopback device included.
fn devices_in(namespace: &str) -> Result<usize> {
    let table = Ns::open(namespace)?.run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    // Two lines of titles come first.
    Ok(table.lines().count().saturating_sub(2))
}
