//! Reading the datapath from its pins alone: what the CLI shows, also while the agent is dead.
//!
//! Takes no lock, writes nothing, and reads large maps in bounded slices.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::path::Path;

use lb_common::flow::{self, Flow, LINE_ENTRIES};
use lb_common::maps::{self, progs};
use lb_common::reason::{COUNTERS_LEN, Hook};
use lb_common::{A4, A6, Config, Iface, IndexLine, Reason};
use serde::Serialize;

use super::DatapathError;
use super::attach::{open_link, parse_link_path};
use super::pins::{self, Pins, base_dir};
use super::sys::{self, ProgInfo, SysError};
use super::table::Table;
use crate::tables::aya::AyaTables;
use crate::tables::{BackendEntry, Dump, FrontendKey};

/// One counter, summed over the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Where it was counted.
    pub hook: Hook,
    /// What was counted.
    pub reason: Reason,
    /// How often.
    pub count: u64,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapUsage {
    /// The map.
    pub map: &'static str,
    /// Elements in use.
    pub used: u32,
    /// Capacity.
    pub capacity: u32,
}

/// A program that runs on an interface, as its pinned link says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachedProgram {
    /// Interface index.
    pub ifindex: u32,
    /// Hook: `xdp`, `tc-ingress` or `tc-egress`.
    pub hook: &'static str,
    /// `native`, `generic` or `tcx`.
    pub mode: &'static str,
    /// Program id.
    pub prog_id: u32,
    /// Program name, as long as the kernel keeps it (15 bytes).
    pub prog_name: String,
    /// Program tag in hexadecimal.
    pub prog_tag: String,
    /// Link id.
    pub link_id: u32,
    /// False when the interface is gone and the pin is a leftover.
    pub live: bool,
}

/// A reader of the pinned maps and links.
#[derive(Debug)]
pub struct Viewer {
    pins: Pins,
    tables: AyaTables,
    flows4: Table<u32, Flow<A4>>,
    flows6: Table<u32, Flow<A6>>,
    index4: Table<u32, IndexLine>,
    index6: Table<u32, IndexLine>,
    ifaces: Table<u32, Iface>,
    counters: Table<u32, u64>,
}

impl Viewer {
    /// Opens this version's pins below a BPF file system.
    pub fn open(bpffs: &Path) -> Result<Viewer, DatapathError> {
        let pins = Pins::new(bpffs);
        if !pins.maps.join(maps::CONFIG).exists() {
            let others: Vec<String> = pins::list(&base_dir(bpffs))?
                .iter()
                .filter(|p| **p != pins.version)
                .filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()))
                .collect();
            let other = if others.is_empty() {
                String::new()
            } else {
                format!(" Pins of other versions are there: {}.", others.join(", "))
            };
            return Err(DatapathError::NotPinned { path: pins.maps, other });
        }
        let dir = &pins.maps;
        Ok(Viewer {
            tables: AyaTables::open(dir)?,
            flows4: Table::open(dir, maps::FLOWS4)?,
            flows6: Table::open(dir, maps::FLOWS6)?,
            index4: Table::open(dir, maps::FLOW_INDEX4)?,
            index6: Table::open(dir, maps::FLOW_INDEX6)?,
            ifaces: Table::open(dir, maps::IFACES)?,
            counters: Table::open(dir, maps::COUNTERS)?,
            pins,
        })
    }

    /// Frontends, backends and slots.
    pub fn dump(&self) -> Result<Dump, DatapathError> {
        self.tables.read_all().map_err(|e| DatapathError::kernel("service maps", e))
    }

    /// The programs' configuration and the state of the last sync.
    pub fn config(&self) -> Result<Config, DatapathError> {
        self.tables.config().map_err(|e| DatapathError::kernel(maps::CONFIG, e))
    }

    /// Every IPv4 flow in use, with its slot.
    pub fn for_each_flow4(&self, mut see: impl FnMut(u32, &Flow<A4>)) -> Result<(), DatapathError> {
        self.flows4
            .for_each(|slot, f| {
                if f.state & flow::ST_USED != 0 {
                    see(slot, &f);
                }
            })
            .map_err(|e| DatapathError::kernel(maps::FLOWS4, e))
    }

    /// Every IPv6 flow in use, with its slot.
    pub fn for_each_flow6(&self, mut see: impl FnMut(u32, &Flow<A6>)) -> Result<(), DatapathError> {
        self.flows6
            .for_each(|slot, f| {
                if f.state & flow::ST_USED != 0 {
                    see(slot, &f);
                }
            })
            .map_err(|e| DatapathError::kernel(maps::FLOWS6, e))
    }

    /// Every counter of every hook, zeros too, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<Counter>, DatapathError> {
        let failed = |e| DatapathError::kernel(maps::COUNTERS, e);
        let cpus = aya::util::nr_cpus().map_err(|(path, e)| DatapathError::io(Path::new(path), e))?;
        let mut per_cpu = vec![0u64; cpus];
        let mut counters = Vec::with_capacity(COUNTERS_LEN as usize);
        for hook in Hook::ALL {
            for &reason in Reason::ALL {
                let index = hook as u32 * Reason::COUNT + reason as u32;
                sys::map_lookup(self.counters.as_fd(), &index, &mut per_cpu).map_err(failed)?;
                let count = per_cpu.iter().fold(0, |sum: u64, n| sum.wrapping_add(*n));
                counters.push(Counter { hook, reason, count });
            }
        }
        Ok(counters)
    }

    /// The managed interfaces by index.
    pub fn ifaces(&self) -> Result<Vec<(u32, Iface)>, DatapathError> {
        let mut all = Vec::new();
        self.ifaces.for_each(|i, v| all.push((i, v))).map_err(|e| DatapathError::kernel(maps::IFACES, e))?;
        all.sort_by_key(|(i, _)| *i);
        Ok(all)
    }

    /// How full each map is, by counting.
    pub fn usage(&self) -> Result<Vec<MapUsage>, DatapathError> {
        let dump = self.dump()?;
        let limits = self.tables.capacities();
        let v4 = dump.frontends.iter().filter(|(k, _)| matches!(k, FrontendKey::V4(_))).count() as u32;
        let v6 = dump.frontends.len() as u32 - v4;
        let mut live = [0u32; 2];
        for (_, b) in &dump.backends {
            match b {
                BackendEntry::V4(b) if b.flags != 0 => live[0] += 1,
                BackendEntry::V6(b) if b.flags != 0 => live[1] += 1,
                _ => {}
            }
        }
        let ranges: BTreeSet<(u32, u32)> =
            dump.frontends.iter().flat_map(|(_, s)| s.sets).map(|r| (r.offset, r.count)).collect();
        let slots = ranges.iter().fold(0u32, |sum, (_, count)| sum.saturating_add(*count));
        let mut flows = [0u32; 2];
        self.for_each_flow4(|_, _| flows[0] += 1)?;
        self.for_each_flow6(|_, _| flows[1] += 1)?;
        let count = |e: SysError, map| DatapathError::kernel(map, e);
        let mut index = [0u32; 2];
        let used = |line: IndexLine| line.0.iter().filter(|entry| **entry != 0).count() as u32;
        self.index4.for_each(|_, line| index[0] += used(line)).map_err(|e| count(e, maps::FLOW_INDEX4))?;
        self.index6.for_each(|_, line| index[1] += used(line)).map_err(|e| count(e, maps::FLOW_INDEX6))?;
        let entries = |lines: u32| lines.saturating_mul(LINE_ENTRIES as u32);
        let usage = |map, used, capacity| MapUsage { map, used, capacity };
        Ok(vec![
            usage(maps::SVC4, v4, limits.services),
            usage(maps::SVC6, v6, limits.services),
            usage(maps::BACKENDS4, live[0], limits.backends),
            usage(maps::BACKENDS6, live[1], limits.backends),
            usage(maps::SLOTS, slots, limits.slots),
            usage(maps::FLOWS4, flows[0], self.flows4.max_entries),
            usage(maps::FLOWS6, flows[1], self.flows6.max_entries),
            usage(maps::FLOW_INDEX4, index[0], entries(self.index4.max_entries)),
            usage(maps::FLOW_INDEX6, index[1], entries(self.index6.max_entries)),
            usage(maps::IFACES, self.ifaces()?.len() as u32, self.ifaces.max_entries),
        ])
    }

    /// What runs where, from the pinned links.
    pub fn attached(&self) -> Result<Vec<AttachedProgram>, DatapathError> {
        let mut all = Vec::new();
        let pinned = self.pinned_programs()?;
        for path in pins::list(&self.pins.links)? {
            let Some((ifindex, point)) = parse_link_path(&path) else { continue };
            // Unpinned since it was listed: not attached any more.
            let Some((_, link)) = open_link(&path)? else { continue };
            let failed = |e| DatapathError::kernel(path.display(), e);
            let program = match pinned.get(&link.prog_id) {
                Some(program) => *program,
                // Another version's: its name is for who may ask by id.
                None => match sys::prog_by_id(link.prog_id) {
                    Ok(program) => sys::prog_info(program.as_fd()).map_err(failed)?,
                    Err(e) if e.errno() == libc::EPERM => nameless(link.prog_id),
                    Err(e) => return Err(failed(e)),
                },
            };
            let name = program.name.iter().take_while(|b| **b != 0).copied().collect::<Vec<u8>>();
            all.push(AttachedProgram {
                ifindex,
                hook: point.label(),
                mode: point.mode(),
                prog_id: program.id,
                prog_name: String::from_utf8_lossy(&name).into_owned(),
                prog_tag: program.tag.iter().map(|b| format!("{b:02x}")).collect(),
                link_id: link.id,
                live: link.ifindex == ifindex,
            });
        }
        Ok(all)
    }

    /// Every pinned program by its id. The kernel gives programs away by id to CAP_SYS_ADMIN only, and the agent
    /// does not have that.
    /// The datapath's clock in ticks, comparable with `Flow::last_tick`: asked of a pinned program.
    pub fn now_tick(&self) -> Result<u32, DatapathError> {
        for object in pins::list(&self.pins.progs)? {
            let path = object.join(progs::TC_SWEEP);
            match sys::obj_get(&path) {
                Ok(program) => return super::run_sweep(&program, [0, 0, 0]),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(DatapathError::kernel(path.display(), e)),
            }
        }
        Err(DatapathError::NotPinned { path: self.pins.progs.clone(), other: String::new() })
    }

    fn pinned_programs(&self) -> Result<HashMap<u32, ProgInfo>, DatapathError> {
        let mut programs = HashMap::new();
        for object in pins::list(&self.pins.progs)? {
            for path in pins::list(&object)? {
                let failed = |e| DatapathError::kernel(path.display(), e);
                let program = match sys::obj_get(&path) {
                    Ok(program) => program,
                    // Unpinned since it was listed.
                    Err(e) if e.is_not_found() => continue,
                    Err(e) => return Err(failed(e)),
                };
                let info = sys::prog_info(program.as_fd()).map_err(failed)?;
                programs.insert(info.id, info);
            }
        }
        Ok(programs)
    }
}

fn nameless(id: u32) -> ProgInfo {
    let mut program = ProgInfo::default();
    program.id = id;
    program
}
