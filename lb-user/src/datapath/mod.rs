//! The kernel side as the agent sees it: pinned maps, loaded programs, attached links.
//!
//! [`Datapath::open`] takes the lock, makes or checks the pins and loads the programs unless they are loaded
//! already; [`Datapath::sync_interfaces`] attaches them; [`Viewer`] reads the pins without any of that, so it
//! works while the agent is dead; [`cleanup`] removes everything. Dropping a [`Datapath`] releases the lock and
//! nothing else: packets go on.
//!
//! This module and `tables/aya.rs` alone name aya.

pub mod attach;
pub mod bpffs;
mod cidrs;
mod cleanup;
mod error;
pub mod load;
pub mod pins;
pub mod sockets;
pub mod sys;
pub mod table;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use lb_common::config::IFACE_CAN_XDP_REDIRECT;
use lb_common::flow::{SWEEP_MAX, index_lines};
use lb_common::maps::{self, progs};
use lb_common::{Config, Iface};
use serde::Serialize;
use tracing::{info, warn};

pub use attach::{AttachState, HookState, Role, WantedInterface, XdpMode};
pub use cleanup::cleanup;
pub use error::DatapathError;
pub use view::{AttachedProgram, Counter, MapUsage, Viewer};

use crate::tables::aya::AyaTables;
use attach::Former;
use load::Programs;
use pins::Pins;
use table::Table;

/// Capacities of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapSizes {
    /// Frontends per family.
    pub services: u32,
    /// Backends per family.
    pub backends: u32,
    /// Selection slots, both families together.
    pub slots: u32,
    /// Flow records per family; the index holds two entries for each.
    pub flows: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        MapSizes {
            services: maps::DEFAULT_SERVICES,
            backends: maps::DEFAULT_BACKENDS,
            slots: maps::DEFAULT_SLOTS,
            flows: maps::DEFAULT_FLOWS,
        }
    }
}

impl MapSizes {
    /// The capacity of each map that has a configurable one.
    pub fn by_map(&self) -> BTreeMap<&'static str, u32> {
        BTreeMap::from([
            (maps::SVC4, self.services),
            (maps::SVC6, self.services),
            (maps::BACKENDS4, self.backends),
            (maps::BACKENDS6, self.backends),
            (maps::SLOTS, self.slots),
            (maps::HOPS4, self.backends),
            (maps::HOPS6, self.backends),
            (maps::FLOWS4, self.flows),
            (maps::FLOWS6, self.flows),
            (maps::FLOW_INDEX4, index_lines(self.flows)),
            (maps::FLOW_INDEX6, index_lines(self.flows)),
        ])
    }
}

/// How to open the datapath.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// Directory for the lock and verifier logs.
    pub state_dir: PathBuf,
    /// Capacities.
    pub sizes: MapSizes,
    /// XDP on uplinks.
    pub xdp_mode: XdpMode,
}

/// The node's part of the programs' configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Main IPv4 address: masquerade source of last resort.
    pub node4: Option<Ipv4Addr>,
    /// Main IPv6 address.
    pub node6: Option<Ipv6Addr>,
    /// Ports for masquerading when the client's own is taken.
    pub snat_ports: RangeInclusive<u16>,
    /// NodePort range, never used for masquerading.
    pub node_ports: RangeInclusive<u16>,
    /// `CONFIG_*` flags.
    pub flags: u32,
    /// Service networks; `None` keeps what is there.
    pub service_cidrs: Option<Vec<IpNet>>,
    /// Sources that are local pods; `None` keeps what is there.
    pub local_cidrs: Option<Vec<IpNet>>,
    /// Cookie of the host's network namespace, low word first.
    pub host_netns: [u32; 2],
}

/// Result of one sweep step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SweepReport {
    /// Records looked at, both families.
    pub examined: u32,
    /// IPv4 flows freed.
    pub freed4: u32,
    /// IPv6 flows freed.
    pub freed6: u32,
    /// True when the end of either table was reached: the next step begins anew there.
    pub wrapped: bool,
}

/// The kernel side, owned by one agent.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    programs: Programs,
    tables: AyaTables,
    ifaces: Table<u32, Iface>,
    xdp_mode: XdpMode,
    /// Next slot to sweep in flows4 and flows6.
    sweep_at: [u32; 2],
    flow_slots: [u32; 2],
    /// Generation and time of the last sync before this value was opened.
    synced_before: (u32, u32),
    _lock: bpffs::Lock,
}

impl Datapath {
    /// Takes the lock, makes or checks the pins, and loads the embedded object unless it runs already.
    pub fn open(opts: &OpenOptions) -> Result<Datapath, DatapathError> {
        Self::open_object(opts, load::EMBEDDED_OBJECT)
    }

    /// As [`Datapath::open`], with another object.
    pub fn open_object(opts: &OpenOptions, object: &[u8]) -> Result<Datapath, DatapathError> {
        if object.is_empty() {
            return Err(DatapathError::NoObject);
        }
        bpffs::ensure_state_dir(&opts.state_dir)?;
        let pins = Pins::new(&opts.bpffs);
        bpffs::ensure_mounted(&opts.bpffs, &opts.state_dir)?;
        bpffs::ensure_private_dir(&pins.base)?;
        let lock = bpffs::lock(&opts.state_dir, &pins.base)?;
        pins.create()?;
        let programs = load::load(&pins, object, &opts.sizes, &opts.state_dir)?;
        let tables = AyaTables::open(&pins.maps)?;
        let ifaces = Table::open(&pins.maps, maps::IFACES)?;
        let flow_slots = tables.flow_capacities();
        let config = tables.config().map_err(|e| DatapathError::kernel(maps::CONFIG, e))?;
        Ok(Datapath {
            pins,
            programs,
            tables,
            ifaces,
            xdp_mode: opts.xdp_mode,
            sweep_at: [0; 2],
            flow_slots,
            synced_before: (config.sync_generation, config.sync_unix_s),
            _lock: lock,
        })
    }

    /// False when the programs of an earlier run were found loaded and are used on.
    pub fn programs_are_fresh(&self) -> bool {
        self.programs.fresh
    }

    /// Name and kernel id of every program.
    pub fn program_ids(&self) -> Result<BTreeMap<&'static str, u32>, DatapathError> {
        progs::ALL.into_iter().map(|name| Ok((name, self.programs.get(name)?.info.id))).collect()
    }

    /// The tables for `apply`; they share the maps with this value.
    pub fn tables(&self) -> AyaTables {
        self.tables.clone()
    }

    /// Attaches to exactly these interfaces: new ones are attached, known ones kept or moved to the current
    /// programs, all others detached. Doing it again changes nothing. A hook the kernel refuses is reported in
    /// the state and tried again by the next call.
    pub fn sync_interfaces(&mut self, wanted: &[WantedInterface]) -> Result<Vec<AttachState>, DatapathError> {
        let kernel = |e| DatapathError::kernel(maps::IFACES, e);
        let indexes: BTreeSet<u32> = wanted.iter().map(|w| w.ifindex).collect();
        for path in attach::detach_others(&self.pins.links, |i| indexes.contains(&i))? {
            info!(link = %path.display(), "detached");
        }
        let former = self.former()?;
        let mut states = Vec::with_capacity(wanted.len());
        let mut failed = None;
        for w in wanted {
            // One interface that fails keeps no other from being attached.
            match self.sync_interface(w, &former) {
                Ok(state) => states.push(state),
                Err(e) => {
                    warn!(interface = %w.name, error = %e, "cannot attach");
                    failed.get_or_insert(e);
                }
            }
        }
        let mut gone = Vec::new();
        self.ifaces.for_each(|index, _| gone.push(index)).map_err(kernel)?;
        for index in gone.iter().filter(|i| !indexes.contains(i)) {
            self.ifaces.delete(index).map_err(kernel)?;
        }
        if let Some(error) = failed {
            return Err(error);
        }
        for dir in former.dirs.iter().filter(|_| former.may_replace) {
            // What is left there is on hooks that this version does not use.
            for path in pins::list(dir)? {
                attach::remove_link(&path)?;
                info!(link = %path.display(), "detached what another version had attached");
            }
        }
        // No link needs another object's pins any more.
        match load::remove_other_objects(&self.pins, &self.programs.hash) {
            Ok(removed) => {
                removed.iter().for_each(|dir| info!(object = %dir.display(), "released the former programs"));
            }
            Err(e) => warn!(error = %e, "cannot release the former programs"),
        }
        Ok(states)
    }

    /// Links of other map versions. They are taken over only after a sync of this agent: our own tables may be older
    /// than theirs, from before an upgrade that is now taken back.
    fn former(&self) -> Result<Former, DatapathError> {
        let config = self.tables.config().map_err(|e| DatapathError::kernel(maps::CONFIG, e))?;
        let synced = (config.sync_generation, config.sync_unix_s) != self.synced_before;
        Ok(Former { dirs: self.pins.former_links()?, may_replace: config.ready != 0 && synced })
    }

    fn sync_interface(
        &self,
        wanted: &WantedInterface,
        former: &Former,
    ) -> Result<AttachState, DatapathError> {
        let kernel = |e| DatapathError::kernel(maps::IFACES, e);
        let old = self.ifaces.get(&wanted.ifindex).map_err(kernel)?;
        let write = |entry: Iface| self.ifaces.put(&wanted.ifindex, &entry).map_err(kernel);
        // The role first: the program may run the moment it is attached. Redirects are a matter for afterwards.
        let mut entry = wanted.entry();
        entry.flags &= !IFACE_CAN_XDP_REDIRECT | old.map_or(0, |o| o.flags);
        if old != Some(entry) {
            write(entry)?;
        }
        let state =
            attach::attach_interface(&self.pins.links, former, &self.programs, self.xdp_mode, wanted)?;
        let flags = if state.takes_redirects {
            entry.flags | IFACE_CAN_XDP_REDIRECT
        } else {
            entry.flags & !IFACE_CAN_XDP_REDIRECT
        };
        if flags != entry.flags {
            write(Iface { flags, ..entry })?;
        }
        Ok(state)
    }

    /// Attaches the socket hooks to a cgroup v2 directory; `None` detaches them. Doing it again changes nothing. Comes
    /// before [`Datapath::sync_interfaces`], which detaches what is left of other versions.
    pub fn sync_sockets(&mut self, cgroup: Option<&Path>) -> Result<Vec<HookState>, DatapathError> {
        sockets::sync(&self.pins.links, &self.former()?, &self.programs, cgroup)
    }

    /// Detaches everything from one interface and forgets it.
    pub fn detach_interface(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        attach::detach_interface(&self.pins.links, ifindex)?;
        self.ifaces.delete(&ifindex).map_err(|e| DatapathError::kernel(maps::IFACES, e))
    }

    /// Writes the node's configuration. The hash seed of an earlier run and the state of the last sync are kept.
    pub fn set_config(&mut self, node: &NodeConfig) -> Result<Config, DatapathError> {
        let mut fresh = [0u8; 4];
        rustix::rand::getrandom(&mut fresh, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| DatapathError::io(Path::new("getrandom"), e.into()))?;
        let flow_slots = self.flow_slots;
        self.tables
            .update_config(|c| {
                if c.seed == 0 {
                    c.seed = u32::from_ne_bytes(fresh).max(1);
                    cidrs::clear(c);
                }
                c.flags = node.flags;
                c.host_netns = node.host_netns;
                cidrs::fill(c, node.service_cidrs.as_deref(), node.local_cidrs.as_deref());
                c.node4 = node.node4.map(Into::into).unwrap_or_default();
                c.node6 = node.node6.map(Into::into).unwrap_or_default();
                c.snat_port_min = u32::from(*node.snat_ports.start());
                c.snat_port_max = u32::from(*node.snat_ports.end());
                c.nodeport_min = u32::from(*node.node_ports.start());
                c.nodeport_max = u32::from(*node.node_ports.end());
                [c.local_port_min, c.local_port_max] = local_ports();
                [c.flows4_len, c.flows6_len] = flow_slots;
                c.tick_scale = tick_scale();
            })
            .map_err(|e| DatapathError::kernel(maps::CONFIG, e))
    }

    /// Frees expired flows among the next `count` records of each family, where the last call stopped.
    pub fn sweep(&mut self, count: u32) -> Result<SweepReport, DatapathError> {
        let mut report = SweepReport::default();
        let mut freed = [0; 2];
        for (i, family) in [4, 6].into_iter().enumerate() {
            let start = self.sweep_at[i];
            let n = count.min(self.flow_slots[i].saturating_sub(start));
            freed[i] = self.sweep_range(family, start, n)?;
            report.examined += n;
            self.sweep_at[i] = start + n;
            if self.sweep_at[i] >= self.flow_slots[i] {
                self.sweep_at[i] = 0;
                report.wrapped = true;
            }
        }
        [report.freed4, report.freed6] = freed;
        Ok(report)
    }

    /// Runs the sweep program on `count` records from `start` of one family (4 or 6), in as many runs as its
    /// own bound asks for.
    fn sweep_range(&self, family: u32, start: u32, count: u32) -> Result<u32, DatapathError> {
        let sweep = self.programs.get(progs::TC_SWEEP)?;
        let mut freed = 0;
        let mut done = 0;
        while done < count {
            let step = (count - done).min(SWEEP_MAX);
            let now = run_sweep(&sweep.fd, [start + done, step, family])?;
            if now > step {
                return Err(DatapathError::Object(format!("{} answered {now:#x}", progs::TC_SWEEP)));
            }
            freed += now;
            done += step;
        }
        Ok(freed)
    }
}

/// The ports that this network namespace's sockets are given, first and last; zeros when the kernel does not tell.
fn local_ports() -> [u32; 2] {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut words = text.split_whitespace().map(|w| w.parse().unwrap_or(0));
    [words.next().unwrap_or(0), words.next().unwrap_or(0)]
}

/// The ticks of a jiffy: the coarse clock advances once a jiffy (kernel/time/posix-timers.c, `KTIME_LOW_RES`).
fn tick_scale() -> u32 {
    let jiffy = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    lb_common::flow::tick_scale(u32::try_from(jiffy.tv_nsec).unwrap_or(0))
}

/// Runs the sweep program once. For family 0 it tells the time.
fn run_sweep<P: AsFd>(program: P, [start, count, family]: [u32; 3]) -> Result<u32, DatapathError> {
    const ETHERNET: usize = 14;
    let mut data = [0u8; 64];
    // An ethertype for local experiments (IEEE 802), so that the kernel takes the frame for no protocol.
    data[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
    for (i, word) in [start, count, family].into_iter().enumerate() {
        let at = ETHERNET + 4 * i;
        data[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    sys::prog_test_run(program, &data).map_err(|e| DatapathError::kernel(progs::TC_SWEEP, e))
}
