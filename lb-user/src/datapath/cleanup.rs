//! `fairway cleanup`: removes every trace, without an agent.
//!
//! Links go first, so that no program runs on half-removed state.

use std::fs;
use std::path::Path;

use super::bpffs;
use super::pins::{self, base_dir};
use super::{DatapathError, attach};

/// Removes links, programs and maps of every ABI version below `<bpffs>/fairway`, and the state; returns what
/// was removed, in words. Refuses while an agent holds the lock, unless forced.
pub fn cleanup(bpffs: &Path, state_dir: &Path, force: bool) -> Result<Vec<String>, DatapathError> {
    let base = base_dir(bpffs);
    let taken = if state_dir.is_dir() { bpffs::lock(state_dir, &base) } else { bpffs::lock_pins(&base) };
    let mut lock = match taken {
        Ok(lock) => Some(lock),
        Err(DatapathError::Locked { .. }) if force => None,
        Err(e) => return Err(e),
    };
    let mut removed = Vec::new();
    for version in pins::list(&base)? {
        for link in pins::list(&version.join("links"))? {
            let what = match attach::parse_link_path(&link) {
                Some((ifindex, point)) => format!("link of {} on interface {ifindex}", point.label()),
                None => "link".to_owned(),
            };
            attach::remove_link(&link)?;
            removed.push(format!("{what}: {}", link.display()));
        }
        for object in pins::list(&version.join("progs"))? {
            for program in pins::list(&object)? {
                pins::remove(&program)?;
                removed.push(format!("program {}", program.display()));
            }
        }
        for map in pins::list(&version.join("maps"))? {
            pins::remove(&map)?;
            removed.push(format!("map {}", map.display()));
        }
        pins::remove(&version)?;
        removed.push(format!("directory {}", version.display()));
    }
    if base.exists() {
        pins::remove(&base)?;
        removed.push(format!("directory {}", base.display()));
    }
    if let Some(lock) = &mut lock {
        lock.release_pins();
    }
    if bpffs::unmount_own(bpffs, state_dir)? {
        removed.push(format!("BPF file system {}", bpffs.display()));
    }
    for file in pins::list(state_dir)? {
        if file.file_name().and_then(|n| n.to_str()).is_some_and(is_state_file) {
            pins::remove(&file)?;
            removed.push(format!("file {}", file.display()));
        }
    }
    drop(lock);
    if fs::remove_dir(state_dir).is_ok() {
        removed.push(format!("directory {}", state_dir.display()));
    }
    Ok(removed)
}

/// The state directory is the user's: only files of names we make are removed.
fn is_state_file(name: &str) -> bool {
    matches!(name, "agent.lock" | "bpffs.mounted" | "status.json")
        || (name.starts_with("verifier-") && name.ends_with(".log"))
}
