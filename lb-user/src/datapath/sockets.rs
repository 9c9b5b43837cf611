//! The socket hooks: eight programs on one cgroup v2 directory, each by a pinned link `cgroup-<program>`.
//!
//! They are kept like interface links: a link that runs the wanted program is not touched, another one is moved in
//! place. The link of a cgroup that is not the wanted one is removed. aya 0.14 has neither the update of cgroup links
//! nor a usable attach mode for them, so this goes through `sys`.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya_obj::generated::bpf_attach_type;
use lb_common::maps::progs;

use super::DatapathError;
use super::attach::{FORMER_SERVES, Former, HookState, former_replaced, open_link, remove_link, take_over};
use super::load::Programs;
use super::sys;

/// The hooks in the order of `progs::SOCK4`, then of `progs::SOCK6`.
const HOOKS: [(&str, bpf_attach_type); 8] = [
    (progs::SOCK4[0], bpf_attach_type::BPF_CGROUP_INET4_CONNECT),
    (progs::SOCK4[1], bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
    (progs::SOCK4[2], bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG),
    (progs::SOCK4[3], bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME),
    (progs::SOCK6[0], bpf_attach_type::BPF_CGROUP_INET6_CONNECT),
    (progs::SOCK6[1], bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
    (progs::SOCK6[2], bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG),
    (progs::SOCK6[3], bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME),
];

/// Path of a link's pin.
fn link_path(links: &Path, program: &str) -> PathBuf {
    links.join(format!("cgroup-{program}"))
}

/// The cgroup v2 directory meant by `path`: itself, or `unified` below it on a host that has both versions.
pub fn find_cgroup2(path: &Path) -> Result<PathBuf, String> {
    let candidates = [path.to_owned(), path.join("unified")];
    candidates
        .iter()
        .find(|p| is_cgroup2(p))
        .cloned()
        .ok_or_else(|| format!("{} is no cgroup v2 file system", path.display()))
}

fn is_cgroup2(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type as u64 == libc::CGROUP2_SUPER_MAGIC as u64)
}

/// Attaches all hooks to a cgroup; `None` detaches them. A refusal of the kernel is a state, not an error.
pub fn sync(
    links: &Path,
    former: &Former,
    programs: &Programs,
    cgroup: Option<&Path>,
) -> Result<Vec<HookState>, DatapathError> {
    let Some(cgroup) = cgroup else {
        HOOKS.iter().try_for_each(|(name, _)| remove_link(&link_path(links, name)))?;
        return Ok(Vec::new());
    };
    let dir = File::open(cgroup).map_err(|e| DatapathError::io(cgroup, e))?;
    let id = dir.metadata().map_err(|e| DatapathError::io(cgroup, e))?.ino();
    HOOKS.iter().map(|(name, kind)| ensure(links, former, programs, &dir, id, name, *kind)).collect()
}

fn ensure(
    links: &Path,
    former: &Former,
    programs: &Programs,
    dir: &File,
    cgroup_id: u64,
    name: &str,
    kind: bpf_attach_type,
) -> Result<HookState, DatapathError> {
    let prog = programs.get(name)?;
    let path = link_path(links, name);
    let state = |link_id: Option<u32>, reason: String| HookState {
        hook: name.trim_start_matches("fw_").to_owned(),
        mode: "cgroup".to_owned(),
        prog_id: link_id.map(|_| prog.info.id),
        link_id,
        reason,
    };
    if let Some((fd, info)) = open_link(&path)? {
        let same_cgroup = info.cgroup_id() == cgroup_id;
        if same_cgroup && info.prog_id == prog.info.id {
            return Ok(state(Some(info.id), "attached".to_owned()));
        }
        if same_cgroup {
            return Ok(match sys::link_update(fd.as_fd(), prog.fd.as_fd()) {
                Ok(()) => state(Some(info.id), format!("program {} replaced in place", info.prog_id)),
                Err(e) => state(None, format!("still the former program: {e}")),
            });
        }
        remove_link(&path)?;
    }
    for links in &former.dirs {
        let theirs = link_path(links, name);
        match open_link(&theirs)? {
            Some((_, info)) if info.cgroup_id() == cgroup_id && !former.may_replace => {
                return Ok(state(None, FORMER_SERVES.to_owned()));
            }
            Some((fd, info)) if info.cgroup_id() == cgroup_id && take_over(&fd, prog, &theirs, &path)? => {
                return Ok(state(Some(info.id), former_replaced(info.prog_id)));
            }
            _ => {}
        }
    }
    let target = dir.as_raw_fd().unsigned_abs();
    let link = match sys::link_create(prog.fd.as_fd(), target, kind, 0) {
        Ok(link) => link,
        Err(e) => return Ok(state(None, e.to_string())),
    };
    let info = sys::link_info(link.as_fd()).map_err(|e| DatapathError::kernel(path.display(), e))?;
    sys::obj_pin(link.as_fd(), &path).map_err(|e| DatapathError::kernel(path.display(), e))?;
    Ok(state(Some(info.id), "attached".to_owned()))
}

/// Cookie of this process's network namespace, low word first: what socket hooks compare with.
pub fn netns_cookie() -> Result<[u32; 2], DatapathError> {
    let failed = |e: std::io::Error| DatapathError::io(Path::new("SO_NETNS_COOKIE"), e);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("[::1]:0"));
    let socket = socket.map_err(failed)?;
    let mut cookie: u64 = 0;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` has room for the eight bytes that `len` announces.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    Ok([cookie as u32, (cookie >> 32) as u32])
}
