//! Pinned maps that are not what the agent means, pins of other versions, and who may open them.

use std::fs::{self, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya_obj::generated::bpf_map_type::{self, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH};
use lab::Node;
use lb_user::datapath::pins::{self, Pins};
use lb_user::datapath::sys::{self, MapInfo};

use crate::support::*;

/// Any id but root's.
const SOMEBODY: libc::c_int = 65_534;

fn info(path: &Path) -> Result<MapInfo> {
    Ok(sys::map_info(sys::obj_get(path)?.as_fd())?)
}

fn create(kind: bpf_map_type, like: &MapInfo, change: impl FnOnce(&mut MapInfo)) -> Result<OwnedFd> {
    let mut want = *like;
    change(&mut want);
    let map =
        sys::map_create(kind, want.key_size, want.value_size, want.max_entries, want.map_flags, "another");
    Ok(map?)
}

/// Puts another map where `path` is pinned; returns its id.
fn swap(path: &Path, map: &OwnedFd) -> Result<u32> {
    fs::remove_file(path)?;
    sys::obj_pin(map.as_fd(), path)?;
    Ok(info(path)?.id)
}

/// Starts an agent that must refuse, and returns what it said.
fn refusal(b: &Bench, node: &Node, flags: &[&str]) -> Result<String> {
    let said_before = fs::read_to_string(node.agent_log()).unwrap_or_default().len();
    let agent = node.launch_agent(&b.spec().flags(flags.iter().copied()))?;
    let status = agent.ended_within(DEADLINE)?;
    ensure!(!status.success(), "it ended with {status}");
    ensure!(!node.state_dir().join("ready").exists(), "it called itself ready");
    let log = fs::read_to_string(node.agent_log())?;
    Ok(log[said_before..].to_owned())
}

/// Ids of every map below `dir`, by path.
fn map_ids(dir: &Path) -> Result<Vec<(PathBuf, u32)>> {
    pins::list(dir)?.into_iter().map(|path| Ok((path.clone(), info(&path)?.id))).collect()
}

#[test]
fn other_sizes_are_refused_by_name_and_the_old_datapath_serves_on() -> Result<()> {
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    b.agent(node)?.terminate()?;
    let maps = Pins::new(node.bpffs()).maps;
    let before = (attached(node)?, services(node)?, map_ids(&maps)?);
    let said = refusal(&b, node, &["--max-flows", "1024"])?;
    let capacity = info(&maps.join("FW_FLOWS4"))?.max_entries;
    for part in [format!("map FW_FLOWS4: max_entries is {capacity}, wanted 1024"), "fairway cleanup".into()] {
        assert!(said.contains(&part), "{part} in {said}");
    }
    all_answer(client, outside(node), 50)?;
    assert_eq!((attached(node)?, services(node)?, map_ids(&maps)?), before, "untouched");
    let _agent = b.agent(node)?;
    assert_eq!((attached(node)?, services(node)?, map_ids(&maps)?), before, "adopted with the old sizes");
    Ok(())
}

#[test]
fn a_map_of_another_layout_is_refused_by_name_and_left_as_it_is() -> Result<()> {
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    b.agent(node)?.terminate()?;
    let (programs, path) = (attached(node)?, Pins::new(node.bpffs()).maps.join("FW_SVC4"));
    // Kept open: the programs use it all the time, and at the end it is put back.
    let own = sys::obj_get(&path)?;
    let is = sys::map_info(own.as_fd())?;
    let entries = is.max_entries;
    let others = [
        (
            create(BPF_MAP_TYPE_ARRAY, &is, |m| (m.key_size, m.map_flags) = (4, 0))?,
            format!("type is {}, wanted {}", BPF_MAP_TYPE_ARRAY as u32, is.map_type),
        ),
        (
            create(BPF_MAP_TYPE_HASH, &is, |m| m.value_size += 8)?,
            format!("value size is {}, wanted {}", is.value_size + 8, is.value_size),
        ),
        (
            create(BPF_MAP_TYPE_HASH, &is, |m| m.map_flags ^= 1)?,
            format!("flags is {}, wanted {}", is.map_flags ^ 1, is.map_flags),
        ),
        (
            create(BPF_MAP_TYPE_HASH, &is, |m| m.max_entries += 1)?,
            format!("max_entries is {}, wanted {entries}", entries + 1),
        ),
    ];
    for (map, difference) in &others {
        let id = swap(&path, map)?;
        let said = refusal(&b, node, &[])?;
        let part = format!("map FW_SVC4: {difference}");
        assert!(said.contains(&part), "{part} in {said}");
        assert!(said.contains("left untouched"), "{said}");
        assert_eq!(info(&path)?.id, id, "the other map is still there");
        // Readers refuse it as well, or cannot know; packets do not care, the programs hold the map they had.
        all_answer(client, outside(node), 20)?;
    }
    assert_eq!(swap(&path, &own)?, is.id);
    let _agent = b.agent(node)?;
    assert_eq!(attached(node)?, programs, "adopted again");
    Ok(())
}

#[test]
fn pins_of_another_version_lie_untouched_beside_ours() -> Result<()> {
    let b = Bench::new(&[(1, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let other = node.bpffs().join("fairway/v0/maps");
    fs::create_dir_all(&other)?;
    let map = sys::map_create(BPF_MAP_TYPE_HASH, 4, 4, 8, 0, "old")?;
    sys::map_update(map.as_fd(), &7u32, &42u32)?;
    sys::obj_pin(map.as_fd(), &other.join("FW_SVC4"))?;
    let error = node.fairway(["services"]).err().context("there are no services yet")?.to_string();
    assert!(error.contains("Pins of other versions are there: v0"), "{error}");
    let _agent = b.agent(node)?;
    all_answer(client, outside(node), 20)?;
    let mut value = [0u32];
    sys::map_lookup(sys::obj_get(&other.join("FW_SVC4"))?.as_fd(), &7u32, &mut value)?;
    assert_eq!(value, [42]);
    assert!(Pins::new(node.bpffs()).maps.join("FW_SVC4").exists(), "ours lie beside them");
    Ok(())
}

/// Runs `work` as another user, on a thread of its own.
fn as_somebody<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the raw system calls change the ids of this thread alone, which ends with the closure.
            let changed = unsafe {
                libc::syscall(libc::SYS_setresgid, SOMEBODY, SOMEBODY, SOMEBODY) == 0
                    && libc::syscall(libc::SYS_setresuid, SOMEBODY, SOMEBODY, SOMEBODY) == 0
            };
            ensure!(changed, "change the user: {}", std::io::Error::last_os_error());
            Ok(work())
        });
        thread.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
    })
}

#[test]
fn only_root_may_enter_the_pins_even_where_the_file_system_is_open_to_all() -> Result<()> {
    let b = Bench::new(&[(1, 1)])?;
    let node = b.cluster.node(1);
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o1777));
    // As on a host whose /sys/fs/bpf anybody may enter.
    open(node.bpffs().parent().context("the node's directory")?)?;
    open(node.bpffs())?;
    let _agent = b.agent(node)?;
    let pins = Pins::new(node.bpffs());
    let mut dirs =
        vec![pins.base.clone(), pins.version, pins.maps.clone(), pins.links.clone(), pins.progs.clone()];
    dirs.extend(pins::list(&pins.progs)?);
    for dir in &dirs {
        let meta = fs::metadata(dir)?;
        assert_eq!((meta.uid(), meta.mode() & 0o777), (0, 0o700), "{}", dir.display());
    }
    let files: Vec<PathBuf> =
        dirs.iter().flat_map(|d| pins::list(d).unwrap_or_default()).filter(|p| !p.is_dir()).collect();
    assert!(files.len() > 15, "maps, links and programs: {files:?}");
    let base = pins.base.clone();
    as_somebody(|| -> Result<()> {
        ensure!(fs::read_dir(base.parent().context("a bpffs")?).is_ok(), "the file system itself is open");
        let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
        ensure!(fs::read_dir(&base).is_err_and(denied), "the directory is listed");
        for file in &files {
            ensure!(fs::metadata(file).is_err_and(denied), "{} is seen", file.display());
            let refused = sys::obj_get(file).err().with_context(|| format!("{} opens", file.display()))?;
            ensure!(matches!(refused.errno(), libc::EACCES | libc::EPERM), "{}: {refused}", file.display());
        }
        Ok(())
    })?
}
