//! Names, places and removal of everything a cluster leaves on the machine.
//!
//! A run is one cluster of one process, named `fw<pid>-<n>`. It owns network namespaces with that prefix, a
//! directory under `/run/fairway-lab` with a bpffs per node, and cgroups. A run is a leftover when its process
//! is gone; processes still inside its namespaces then belong to nobody and are ended.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io, process};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ns::NETNS_DIR;

/// Where runs keep their directories.
pub const RUN_DIR: &str = "/run/fairway-lab";
/// The cgroup under the cgroup2 mount that holds the runs' cgroups.
const CGROUP: &str = "fairway-lab";
/// In a run's directory: when the owning process started, so that a reused process id is not taken for it.
const OWNER: &str = "owner";

/// One run and where its things are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pid: u32,
    number: u32,
}

impl Run {
    /// A new run of this process, with its directory made.
    pub fn begin() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let run = Self { pid: process::id(), number: NEXT.fetch_add(1, Ordering::Relaxed) };
        create_dir(&run.dir())?;
        let started = start_time(run.pid).context("read this process's start time")?;
        fs::write(run.dir().join(OWNER), started)?;
        Ok(run)
    }

    /// `fw<pid>-<n>`.
    pub fn name(&self) -> String {
        format!("fw{}-{}", self.pid, self.number)
    }

    /// The name of the run's namespace `label`.
    pub fn ns_name(&self, label: &str) -> String {
        format!("{}-{label}", self.name())
    }

    /// The run's directory.
    pub fn dir(&self) -> PathBuf {
        Path::new(RUN_DIR).join(self.name())
    }

    /// The run's cgroup, if the machine has a cgroup2 mount.
    pub fn cgroup(&self) -> Option<PathBuf> {
        Some(cgroup_root()?.join(self.name()))
    }

    /// Whether the process that made the run is gone.
    pub fn is_orphan(&self) -> bool {
        let Some(now) = start_time(self.pid) else { return true };
        fs::read_to_string(self.dir().join(OWNER)).is_ok_and(|then| then != now)
    }

    /// The names of the run's namespaces that exist.
    pub fn namespaces(&self) -> Vec<String> {
        let prefix = format!("{}-", self.name());
        names_in(Path::new(NETNS_DIR)).filter(|name| name.starts_with(&prefix)).collect()
    }

    /// Mount points inside the run's directory, the deepest last.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let dir = self.dir();
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
        points.filter(|point| point.starts_with(&dir)).collect()
    }

    /// Processes whose network namespace is one of the run's, the calling process excepted.
    pub fn processes(&self) -> Vec<u32> {
        let inodes: BTreeSet<u64> = self
            .namespaces()
            .iter()
            .filter_map(|name| fs::metadata(Path::new(NETNS_DIR).join(name)).ok())
            .map(|metadata| metadata.ino())
            .collect();
        names_in(Path::new("/proc"))
            .filter_map(|name| name.parse().ok())
            .filter(|pid| *pid != process::id())
            .filter(|pid| {
                fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| inodes.contains(&m.ino()))
            })
            .collect()
    }

    /// Removes everything of the run; goes on after failures and returns them.
    pub fn remove(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut note = |what: String, result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failures.push(format!("{what}: {error}"))
            }
            _ => {}
        };
        for pid in self.processes() {
            // It may have ended by itself since it was listed.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        for point in self.mounts().iter().rev() {
            note(
                format!("unmount {}", point.display()),
                umount2(point, MntFlags::MNT_DETACH).map_err(Into::into),
            );
        }
        for name in self.namespaces() {
            let path = Path::new(NETNS_DIR).join(&name);
            // A file without a mount is what an interrupted creation leaves.
            let _ = umount2(&path, MntFlags::MNT_DETACH);
            note(format!("remove namespace {name}"), fs::remove_file(&path));
        }
        if let Some(cgroup) = self.cgroup() {
            for child in subdirs(&cgroup) {
                note(format!("remove cgroup {}", child.display()), fs::remove_dir(&child));
            }
            note(format!("remove cgroup {}", cgroup.display()), fs::remove_dir(&cgroup));
        }
        note(format!("remove {}", self.dir().display()), fs::remove_dir_all(self.dir()));
        // The shared parents go with the last run; while others exist this fails, as it should.
        let _ = fs::remove_dir(RUN_DIR);
        if let Some(root) = cgroup_root() {
            let _ = fs::remove_dir(root);
        }
        failures
    }

    fn parse(name: &str) -> Option<Self> {
        let (pid, rest) = name.strip_prefix("fw")?.split_once('-')?;
        let number = rest.split('-').next()?;
        Some(Self { pid: pid.parse().ok()?, number: number.parse().ok()? })
    }
}

/// Every run of which anything exists, living or not.
pub fn runs() -> Vec<Run> {
    let cgroups = cgroup_root().map(|root| names_in(&root).collect::<Vec<_>>()).unwrap_or_default();
    names_in(Path::new(NETNS_DIR))
        .chain(names_in(Path::new(RUN_DIR)))
        .chain(cgroups)
        .filter_map(|name| Run::parse(&name))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// Creates a directory and its parents, also when another run removes an empty parent meanwhile.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    let mut result = Ok(());
    for _ in 0..10 {
        result = fs::create_dir_all(path);
        if result.is_ok() {
            break;
        }
    }
    result.with_context(|| format!("create {}", path.display()))
}

fn cgroup_root() -> Option<PathBuf> {
    Some(cgroup_mount()?.join(CGROUP))
}

/// Where cgroup2 is mounted on this machine.
pub(crate) fn cgroup_mount() -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))?;
    Some(PathBuf::from(mount.get(1)?))
}

fn names_in(dir: &Path) -> impl Iterator<Item = String> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Field 22 of `/proc/PID/stat`, counted after the command's closing parenthesis.
pub(crate) fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_found_again_from_any_of_its_names() {
        let run = Run { pid: 77, number: 3 };
        assert_eq!(Run::parse(&run.name()), Some(run.clone()));
        assert_eq!(Run::parse(&run.ns_name("pod-1-2")), Some(run));
        assert_eq!(Run::parse("fw-something"), None);
        assert_eq!(Run::parse("cni-1234"), None);
    }

    #[test]
    fn a_run_of_a_dead_process_is_an_orphan_and_one_of_this_process_is_not() {
        assert!(!Run { pid: process::id(), number: 9999 }.is_orphan());
        assert!(Run { pid: u32::MAX, number: 1 }.is_orphan());
    }
}
