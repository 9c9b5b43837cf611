//! The benchmark's own kernel programs, loaded; nothing of it is pinned, so it goes with this process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use aya::maps::MapData;
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use bench_ebpf::{CONTROL, Control, PATCHES4, PATCHES6, Patch4, Patch6, SUNK, Sunk, TC_TARGET, XDP_TARGET};
use lb_user::datapath::sys;

use crate::frames::{FlowSet, Patches};
use crate::testrun::Entry;

/// The environment variable that says where the object is; set by `cargo xtask`.
pub const OBJECT_VARIABLE: &str = "FAIRWAY_BENCH_OBJ";

/// CPUs a machine has at most.
const CPUS: usize = 1_024;

/// The loaded programs and their maps.
pub struct BenchObject {
    ebpf: Ebpf,
}

impl BenchObject {
    /// Loads the object that [`OBJECT_VARIABLE`] names.
    pub fn load() -> Result<Self> {
        let path = std::env::var_os(OBJECT_VARIABLE)
            .with_context(|| format!("{OBJECT_VARIABLE} is not set: run it by `cargo xtask bench`"))?;
        let mut ebpf = EbpfLoader::new().load_file(&path).context("open the benchmark's kernel object")?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::Xdp(p) => p.load(),
                Program::SchedClassifier(p) => p.load(),
                _ => continue,
            }
            .with_context(|| format!("load {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// A program's descriptor.
    pub fn program(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program = self.ebpf.program(name).with_context(|| format!("the object has no program {name}"))?;
        Ok(program.fd()?.as_fd())
    }

    fn map(&self, name: &str) -> Result<&MapData> {
        use aya::maps::Map;
        match self.ebpf.map(name) {
            Some(Map::Array(m) | Map::PerCpuArray(m) | Map::ProgramArray(m)) => Ok(m),
            _ => anyhow::bail!("the object has no array {name}"),
        }
    }

    fn fd(&self, name: &str) -> Result<BorrowedFd<'_>> {
        Ok(self.map(name)?.fd().as_fd())
    }

    /// Makes `flows` what the prologues and the generator write next, from the first flow on.
    pub fn choose(&self, flows: &FlowSet) -> Result<()> {
        let control = Control {
            next: 0,
            count: flows.count() as u32,
            len: flows.frame_len as u32,
            is_udp: u32::from(flows.is_udp),
            base: flows.base,
        };
        let keys: Vec<u32> = (0..flows.count() as u32).collect();
        match &flows.patches {
            Patches::V4(p) => put_all::<Patch4>(self.fd(PATCHES4)?, &keys, p)?,
            Patches::V6(p) => put_all::<Patch6>(self.fd(PATCHES6)?, &keys, p)?,
        }
        sys::map_update(self.fd(CONTROL)?, &0u32, &control).context("set the benchmark's control")
    }

    /// The first flow is the next one again.
    pub fn rewind(&self) -> Result<()> {
        let mut control = [Control::default()];
        sys::map_lookup(self.fd(CONTROL)?, &0u32, &mut control)?;
        control[0].next = 0;
        sys::map_update(self.fd(CONTROL)?, &0u32, &control[0]).context("rewind")
    }

    /// Makes `program` what the prologues become.
    pub fn aim(&self, entry: Entry, program: BorrowedFd<'_>) -> Result<()> {
        use std::os::fd::AsRawFd;
        let name = match entry {
            Entry::Xdp(_) => XDP_TARGET,
            Entry::Tc(_) => TC_TARGET,
        };
        sys::map_update(self.fd(name)?, &0u32, &program.as_raw_fd().cast_unsigned())
            .context("the program under test cannot be reached by a tail call")
    }

    /// The restoring prologue for a hook and a family.
    pub fn prologue(&self, entry: Entry, flows: &FlowSet) -> Result<BorrowedFd<'_>> {
        self.program(match (entry, &flows.patches) {
            (Entry::Xdp(_), Patches::V4(_)) => "bench_xdp4",
            (Entry::Xdp(_), Patches::V6(_)) => "bench_xdp6",
            (Entry::Tc(_), Patches::V4(_)) => "bench_tc4",
            (Entry::Tc(_), Patches::V6(_)) => "bench_tc6",
        })
    }

    /// The empty program of a hook.
    pub fn nil(&self, entry: Entry) -> Result<BorrowedFd<'_>> {
        self.program(match entry {
            Entry::Xdp(_) => "bench_xdp_nil",
            Entry::Tc(_) => "bench_tc_nil",
        })
    }

    /// What reached the sinks since [`BenchObject::drain`], all CPUs together.
    pub fn sunk(&self) -> Result<Sunk> {
        let mut per_cpu = vec![Sunk::default(); possible_cpus()?];
        sys::map_lookup(self.fd(SUNK)?, &0u32, &mut per_cpu)?;
        let mut all = Sunk { first_ns: u64::MAX, ..Sunk::default() };
        for s in per_cpu.iter().filter(|s| s.first_ns != 0) {
            all.first_ns = all.first_ns.min(s.first_ns);
            all.last_ns = all.last_ns.max(s.last_ns);
            all.first_count += s.first_count;
            all.last_count += s.last_count;
        }
        all.count = per_cpu.iter().map(|s| s.count).sum();
        Ok(all)
    }

    /// Lets the sinks count from nothing.
    pub fn drain(&self) -> Result<()> {
        // The kernel reads one value for each possible CPU.
        anyhow::ensure!(possible_cpus()? <= CPUS, "more than {CPUS} CPUs");
        let zeros = [[0u64; size_of::<Sunk>() / 8]; CPUS];
        sys::map_update(self.fd(SUNK)?, &0u32, &zeros).context("reset the sink's counters")
    }

    /// Attaches one of the programs to a device of the calling thread's namespace, until the link is dropped.
    pub fn attach_xdp(&self, program: &str, ifindex: u32) -> Result<OwnedFd> {
        /// `XDP_FLAGS_DRV_MODE`.
        const NATIVE: u32 = 1 << 2;
        let kind = aya_obj::generated::bpf_attach_type::BPF_XDP;
        sys::link_create(self.program(program)?, ifindex, kind, NATIVE)
            .with_context(|| format!("attach {program} to device {ifindex}"))
    }
}

fn put_all<V: aya::Pod>(map: BorrowedFd<'_>, keys: &[u32], values: &[V]) -> Result<()> {
    const CHUNK: usize = 65_536;
    for (keys, values) in keys.chunks(CHUNK).zip(values.chunks(CHUNK)) {
        sys::map_update_batch(map, keys, values).context("write the flows' headers")?;
    }
    Ok(())
}

fn possible_cpus() -> Result<usize> {
    aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))
}
