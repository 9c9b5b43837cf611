//! From the object file to pinned maps and programs.
//!
//! Every program is loaded and pinned before any link is touched. The programs of an object lie in a directory
//! named after the object's hash: the same object on restart finds its own programs and loads nothing, so that
//! program ids stay equal.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use lb_common::maps::{self, progs};
use tracing::info;

use super::pins::{self, Found, Pins};
use super::sys::{self, ProgInfo};
use super::{DatapathError, MapSizes, bpffs};

/// The object `cargo xtask build` made; empty in a build without it.
pub static EMBEDDED_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fairway-bpf.o"));

/// Hash of an object, in hexadecimal (FNV-1a, as in `build.rs`): names its directory of programs.
pub fn object_hash(object: &[u8]) -> String {
    let hash = object.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// A loaded program.
#[derive(Debug)]
pub struct Prog {
    /// Its descriptor.
    pub fd: OwnedFd,
    /// What the kernel says about it.
    pub info: ProgInfo,
}

/// All programs of one object, loaded and pinned.
#[derive(Debug)]
pub struct Programs {
    by_name: BTreeMap<&'static str, Prog>,
    /// The object's hash.
    pub hash: String,
    /// False when the programs of an earlier run were found and are used on.
    pub fresh: bool,
}

impl Programs {
    /// A program by its name in `lb_common::maps::progs`.
    pub fn get(&self, name: &str) -> Result<&Prog, DatapathError> {
        self.by_name.get(name).ok_or_else(|| DatapathError::Object(format!("no program {name}")))
    }
}

/// Checks the pinned maps, then reuses or makes maps and programs.
pub fn load(
    pins: &Pins,
    object: &[u8],
    sizes: &MapSizes,
    state_dir: &Path,
) -> Result<Programs, DatapathError> {
    if object.is_empty() {
        return Err(DatapathError::NoObject);
    }
    let wanted = pins::wanted_schemas(object, sizes)?;
    let found = pins::check(&pins.maps, &wanted)?;
    let hash = object_hash(object);
    let dir = pins.progs.join(&hash);
    if found == Found::All
        && let Some(by_name) = open_pinned(&dir)?
    {
        info!(object = %hash, "using the programs that are already loaded");
        return Ok(Programs { by_name, hash, fresh: false });
    }
    // Incomplete, or bound to maps whose pins are gone.
    pins::remove(&dir)?;
    let mut ebpf = open_object(pins, object, sizes)?;
    for name in progs::ALL {
        load_program(&mut ebpf, name, state_dir)?;
    }
    // Pinned under another name until complete: a crash in between leaves nothing that looks whole. (Names on
    // a BPF file system may not hold a dot.)
    let partial = pins.progs.join(format!("{hash}-partial"));
    pins::remove(&partial)?;
    bpffs::ensure_private_dir(&partial)?;
    for name in progs::ALL {
        let path = partial.join(name);
        program(&mut ebpf, name)?.pin(&path).map_err(|e| DatapathError::Object(e.to_string()))?;
    }
    fs::rename(&partial, &dir).map_err(|e| DatapathError::io(&dir, e))?;
    let by_name = open_pinned(&dir)?
        .ok_or_else(|| DatapathError::Object(format!("programs vanished from {}", dir.display())))?;
    info!(object = %hash, "loaded the programs");
    Ok(Programs { by_name, hash, fresh: true })
}

/// Unpins the programs of other objects. Call it once every link was moved to the new ones.
pub fn remove_other_objects(pins: &Pins, hash: &str) -> Result<Vec<PathBuf>, DatapathError> {
    let mut removed = Vec::new();
    for dir in pins::list(&pins.progs)? {
        if dir.file_name().is_none_or(|n| n != hash) {
            pins::remove(&dir)?;
            removed.push(dir);
        }
    }
    Ok(removed)
}

fn open_object(pins: &Pins, object: &[u8], sizes: &MapSizes) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    for (name, max_entries) in sizes.by_map() {
        loader.map_max_entries(name, max_entries);
    }
    for name in maps::ALL {
        loader.map_pin_path(name, pins.maps.join(name));
    }
    loader.load(object).map_err(|e| DatapathError::Object(chain(&e)))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, DatapathError> {
    ebpf.program_mut(name).ok_or_else(|| DatapathError::Object(format!("it has no program {name}")))
}

fn load_program(ebpf: &mut Ebpf, name: &str, state_dir: &Path) -> Result<(), DatapathError> {
    let loaded = match program(ebpf, name)? {
        Program::Xdp(p) => p.load(),
        Program::SchedClassifier(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        _ => {
            return Err(DatapathError::Object(format!(
                "program {name} is neither XDP nor tc nor a socket hook"
            )));
        }
    };
    match loaded {
        Ok(()) => Ok(()),
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            let full = verifier_log.to_string();
            let log = state_dir.join(format!("verifier-{name}.log"));
            fs::write(&log, &full).map_err(|e| DatapathError::io(&log, e))?;
            Err(DatapathError::Verifier {
                program: name.to_owned(),
                reason: io_error.to_string(),
                excerpt: last_lines(&full, 15),
                log,
            })
        }
        Err(e) => Err(DatapathError::Object(format!("program {name}: {}", chain(&e)))),
    }
}

/// Opens all programs of a directory; none when one of them is missing.
fn open_pinned(dir: &Path) -> Result<Option<BTreeMap<&'static str, Prog>>, DatapathError> {
    let mut by_name = BTreeMap::new();
    for name in progs::ALL {
        let path = dir.join(name);
        let fd = match sys::obj_get(&path) {
            Ok(fd) => fd,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(source) => return Err(DatapathError::kernel(path.display(), source)),
        };
        let info = sys::prog_info(fd.as_fd()).map_err(|e| DatapathError::kernel(path.display(), e))?;
        by_name.insert(name, Prog { fd, info });
    }
    Ok(Some(by_name))
}

/// The last lines of a log: the verifier says at the end what it disliked.
fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = e.source();
    }
    text
}
