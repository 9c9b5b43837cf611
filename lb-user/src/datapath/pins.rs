//! Where things are pinned, and the check that pinned maps are what this build means.
//!
//! `<bpffs>/fairway/v<ABI>/{maps/<NAME>, links/<ifindex>-<hook>, progs/<object hash>/<program>}`. The version
//! is part of the path: an older or newer agent's pins lie untouched beside ours. aya 0.14 reuses a pinned map
//! without comparing it with the object, so every property is compared here, before anything is opened by it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya_obj::Object;
use lb_common::abi::ABI_VERSION;
use lb_common::maps;
use serde::Serialize;

use super::sys;
use super::{DatapathError, MapSizes, bpffs};

/// The directories of one ABI version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// `<bpffs>/fairway`.
    pub base: PathBuf,
    /// `<bpffs>/fairway/v<ABI>`.
    pub version: PathBuf,
    /// Maps.
    pub maps: PathBuf,
    /// Links.
    pub links: PathBuf,
    /// Programs, one directory per object.
    pub progs: PathBuf,
}

impl Pins {
    /// The paths below a BPF file system; touches nothing.
    pub fn new(bpffs: &Path) -> Pins {
        let base = base_dir(bpffs);
        let version = base.join(format!("v{ABI_VERSION}"));
        Pins {
            maps: version.join("maps"),
            links: version.join("links"),
            progs: version.join("progs"),
            base,
            version,
        }
    }

    /// The links directories of other versions.
    pub fn former_links(&self) -> Result<Vec<PathBuf>, DatapathError> {
        Ok(list(&self.base)?.into_iter().filter(|v| *v != self.version).map(|v| v.join("links")).collect())
    }

    /// Makes the directories, each 0700 and our own, or refuses.
    pub fn create(&self) -> Result<(), DatapathError> {
        [&self.base, &self.version, &self.maps, &self.links, &self.progs]
            .into_iter()
            .try_for_each(|dir| bpffs::ensure_private_dir(dir))
    }
}

/// `<bpffs>/fairway`, below which every version's pins lie.
pub fn base_dir(bpffs: &Path) -> PathBuf {
    bpffs.join("fairway")
}

/// The properties of a map that must be equal before it is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapSchema {
    /// `bpf_map_type`.
    pub map_type: u32,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// Creation flags.
    pub flags: u32,
}

/// One property of a pinned map that is not what we want.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The map's name.
    pub map: String,
    /// Which property.
    pub property: &'static str,
    /// What the pinned map has.
    pub pinned: u64,
    /// What this agent wants.
    pub wanted: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map {}: {} is {}, wanted {}", self.map, self.property, self.pinned, self.wanted)
    }
}

/// The maps an object file declares, with the configured capacities in place of its own.
pub fn wanted_schemas(
    object: &[u8],
    sizes: &MapSizes,
) -> Result<BTreeMap<&'static str, MapSchema>, DatapathError> {
    let parsed = Object::parse(object).map_err(|e| DatapathError::Object(e.to_string()))?;
    let sizes = sizes.by_map();
    maps::ALL
        .into_iter()
        .map(|name| {
            let map = parsed
                .maps
                .get(name)
                .ok_or_else(|| DatapathError::Object(format!("it declares no map {name}")))?;
            let schema = MapSchema {
                map_type: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: sizes.get(name).copied().unwrap_or_else(|| map.max_entries()),
                flags: map.map_flags(),
            };
            Ok((name, schema))
        })
        .collect()
}

/// What [`check`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Every map is pinned and is as wanted.
    All,
    /// Those that are pinned are as wanted; some are missing.
    Some,
    /// None is pinned.
    None,
}

/// Compares every pinned map with what is wanted. Changes nothing. Any difference is an error that names all of
/// them: [`DatapathError::Resize`] when only capacities differ, else [`DatapathError::Schema`].
pub fn check(dir: &Path, wanted: &BTreeMap<&'static str, MapSchema>) -> Result<Found, DatapathError> {
    let mut mismatches = Vec::new();
    let mut present = 0;
    for (name, schema) in wanted {
        let path = dir.join(name);
        let fd = match sys::obj_get(&path) {
            Ok(fd) => fd,
            Err(e) if e.is_not_found() => continue,
            Err(source) => return Err(DatapathError::kernel(path.display(), source)),
        };
        present += 1;
        let info = sys::map_info(fd.as_fd()).map_err(|e| DatapathError::kernel(path.display(), e))?;
        for (property, pinned, wanted) in [
            ("type", info.map_type, schema.map_type),
            ("key size", info.key_size, schema.key_size),
            ("value size", info.value_size, schema.value_size),
            (CAPACITY, info.max_entries, schema.max_entries),
            ("flags", info.map_flags, schema.flags),
        ] {
            if pinned != wanted {
                let (pinned, wanted) = (u64::from(pinned), u64::from(wanted));
                mismatches.push(Mismatch { map: (*name).to_owned(), property, pinned, wanted });
            }
        }
    }
    if !mismatches.is_empty() {
        return Err(if mismatches.iter().all(|m| m.property == CAPACITY) {
            DatapathError::Resize(mismatches)
        } else {
            DatapathError::Schema(mismatches)
        });
    }
    Ok(match present {
        0 => Found::None,
        n if n == wanted.len() => Found::All,
        _ => Found::Some,
    })
}

const CAPACITY: &str = "max_entries";

/// The entries of a directory, sorted by name; none when it does not exist.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(DatapathError::io(dir, e)),
    };
    let mut paths = entries
        .map(|e| e.map(|e| e.path()).map_err(|e| DatapathError::io(dir, e)))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

/// Removes a file or directory; a missing one is no error.
pub fn remove(path: &Path) -> Result<(), DatapathError> {
    let meta = fs::symlink_metadata(path);
    let removed = match meta {
        Ok(m) if m.is_dir() => {
            list(path)?.iter().try_for_each(|p| remove(p))?;
            fs::remove_dir(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(DatapathError::io(path, e)),
        _ => Ok(()),
    }
}
