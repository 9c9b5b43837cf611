//! The BPF file system, its root-only directories, and the lock against a second agent.
//!
//! Invariants: nothing is pinned in a directory that another user owns or may enter; the lock lies in the
//! state directory *and* on the pin directory, so that two agents that share either one notice.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::DatapathError;

/// `BPF_FS_MAGIC` of the kernel.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// True when `path` lies on a BPF file system.
pub fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == BPF_FS_MAGIC)
}

/// Makes sure that `path` is a BPF file system: uses the one that is there, or mounts one on an empty or
/// missing directory and notes that in the state directory. A directory with other things in it, a relative
/// path or a symlink is refused.
pub fn ensure_mounted(path: &Path, state_dir: &Path) -> Result<(), DatapathError> {
    let refuse = |message: &str| DatapathError::Bpffs { path: path.to_owned(), message: message.to_owned() };
    if !path.is_absolute() {
        return Err(refuse("the path is not absolute"));
    }
    if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_symlink()) {
        return Err(refuse("the path is a symbolic link"));
    }
    if is_bpffs(path) {
        return Ok(());
    }
    match fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(refuse(
                    "it is not a BPF file system, and not empty, so none can be mounted over it",
                ));
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|e| refuse(&format!("the directory cannot be made: {e}")))?;
            if is_bpffs(path) {
                return Ok(());
            }
        }
        Err(e) => return Err(refuse(&e.to_string())),
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", path, "bpf", flags, c"mode=0700")
        .map_err(|e| refuse(&format!("no BPF file system is there, and mounting one failed: {e}")))?;
    let note = mount_note(state_dir);
    fs::write(&note, path.as_os_str().as_encoded_bytes()).map_err(|e| DatapathError::io(&note, e))
}

/// The file that says which BPF file system the agent mounted itself.
fn mount_note(state_dir: &Path) -> PathBuf {
    state_dir.join("bpffs.mounted")
}

/// Unmounts the BPF file system if the agent mounted it and nothing is left in it; says whether it did.
pub fn unmount_own(path: &Path, state_dir: &Path) -> Result<bool, DatapathError> {
    let ours =
        fs::read(mount_note(state_dir)).is_ok_and(|noted| noted == path.as_os_str().as_encoded_bytes());
    // Names with a dot are the kernel's own (`maps.debug`).
    let is_pin =
        |e: std::io::Result<fs::DirEntry>| e.is_ok_and(|e| !e.file_name().as_encoded_bytes().contains(&b'.'));
    let empty = fs::read_dir(path).is_ok_and(|mut entries| !entries.any(is_pin));
    if !(ours && empty && is_bpffs(path)) {
        return Ok(false);
    }
    rustix::mount::unmount(path, UnmountFlags::empty())
        .map(|()| true)
        .map_err(|e| DatapathError::io(path, e.into()))
}

/// Makes `path` if it is missing and enforces that only the agent's own user may enter it (0700).
pub fn ensure_private_dir(path: &Path) -> Result<(), DatapathError> {
    let refuse = |message: String| DatapathError::Unsafe { path: path.to_owned(), message };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(refuse(e.to_string())),
        _ => {}
    }
    let look = || fs::symlink_metadata(path).map_err(|e| refuse(e.to_string()));
    let meta = look()?;
    if !meta.is_dir() {
        return Err(refuse("it is not a directory".to_owned()));
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me {
        return Err(refuse(format!("it belongs to uid {}, not to uid {me}", meta.uid())));
    }
    if meta.mode() & 0o777 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|e| {
            refuse(format!("its mode is {:o} and cannot be changed: {e}", meta.mode() & 0o777))
        })?;
        let mode = look()?.mode() & 0o777;
        if mode != 0o700 {
            return Err(refuse(format!("its mode is {mode:o}, not 700")));
        }
    }
    Ok(())
}

/// Makes the state directory (0700) if it is missing. One that is there keeps its mode, since it may be
/// somebody's, but nobody else may be able to write in it.
pub fn ensure_state_dir(path: &Path) -> Result<(), DatapathError> {
    let refuse = |message: String| DatapathError::Unsafe { path: path.to_owned(), message };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| refuse(format!("it cannot be made: {e}")))?;
    let meta = fs::metadata(path).map_err(|e| DatapathError::io(path, e))?;
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me || meta.mode() & 0o022 != 0 {
        let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
        return Err(refuse(format!("uid {uid}, mode {mode:o}: others than uid {me} can write in it")));
    }
    Ok(())
}

/// Held while an agent (or `cleanup`) owns the datapath; released when dropped or when the process dies.
#[derive(Debug)]
pub struct Lock {
    _state: Option<File>,
    pins: Option<File>,
}

impl Lock {
    /// Lets go of the pin directory, so that its file system can be unmounted.
    pub fn release_pins(&mut self) {
        self.pins = None;
    }
}

/// The lock file's path in a state directory.
pub fn lock_path(state_dir: &Path) -> PathBuf {
    state_dir.join("agent.lock")
}

/// Takes the lock, or says who holds it. `pins` is the pin directory, locked too when it exists.
pub fn lock(state_dir: &Path, pins: &Path) -> Result<Lock, DatapathError> {
    let path = lock_path(state_dir);
    let io = |source| DatapathError::io(&path, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io)?;
    let mut holder = String::new();
    file.read_to_string(&mut holder).map_err(io)?;
    take(&file, &path, &holder)?;
    let pins = take_pins(pins)?;
    file.rewind().map_err(io)?;
    file.set_len(0).map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(Lock { _state: Some(file), pins })
}

/// Takes the pin directory's lock alone, for work without a state directory.
pub fn lock_pins(pins: &Path) -> Result<Lock, DatapathError> {
    Ok(Lock { _state: None, pins: take_pins(pins)? })
}

fn take_pins(pins: &Path) -> Result<Option<File>, DatapathError> {
    match File::open(pins) {
        Ok(dir) => take(&dir, pins, "").map(|()| Some(dir)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(DatapathError::io(pins, e)),
    }
}

fn take(file: &File, path: &Path, holder: &str) -> Result<(), DatapathError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let pid = holder.trim();
            let who = if pid.is_empty() { String::new() } else { format!(" (process {pid})") };
            Err(DatapathError::Locked { path: path.to_owned(), who })
        }
        Err(TryLockError::Error(source)) => Err(DatapathError::io(path, source)),
    }
}
