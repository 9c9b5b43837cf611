//! A thin wrapper of bpf(2) for what aya 0.14 does not offer: batched map access, links by interface index
//! without aya's silent fall-back to netlink (which cannot be pinned), LINK_UPDATE for every link type,
//! and object information as plain data.
//!
//! Invariants: every pointer given to the kernel lives longer than the call; every buffer is as long as its
//! count says; every file descriptor returned is owned by the caller. Nothing here knows Fairway's maps.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_map_type};

/// A bpf(2) call that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{command}: {source}")]
pub struct SysError {
    /// The command, as the kernel names it.
    pub command: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

impl SysError {
    /// The errno; 0 when there is none.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// The element, object or file does not exist.
    pub fn is_not_found(&self) -> bool {
        self.errno() == libc::ENOENT
    }

    /// The map has no room for the element.
    pub fn is_full(&self) -> bool {
        matches!(self.errno(), libc::E2BIG | libc::ENOSPC | libc::ENOMEM)
    }
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, SysError>;

/// Calls bpf(2).
///
/// # Safety
/// `A` is the attribute struct of `cmd`, and every pointer in it is valid for the sizes it names.
unsafe fn bpf<A>(cmd: bpf_cmd, command: &'static str, attr: &mut A) -> Result<i32> {
    let attr_ptr: *mut A = attr;
    // SAFETY: the attribute is writable memory of the size given; the rest is this function's contract.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, cmd as libc::c_long, attr_ptr, size_of::<A>()) };
    if ret < 0 { Err(SysError { command, source: io::Error::last_os_error() }) } else { Ok(ret as i32) }
}

/// Calls a command that returns a file descriptor.
///
/// # Safety
/// As for [`bpf`], and the command returns a new file descriptor.
unsafe fn bpf_fd<A>(cmd: bpf_cmd, command: &'static str, attr: &mut A) -> Result<OwnedFd> {
    // SAFETY: the caller's contract.
    let fd = unsafe { bpf(cmd, command, attr)? };
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn fd_u32(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn addr<T: ?Sized>(p: *const T) -> u64 {
    p.cast::<u8>() as u64
}

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// Creates a map. The loader leaves this to aya; tests and tools use it.
pub fn map_create(
    map_type: bpf_map_type,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: &str,
) -> Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type: map_type as u32,
        key_size,
        value_size,
        max_entries,
        map_flags,
        ..CreateAttr::default()
    };
    for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf_fd(bpf_cmd::BPF_MAP_CREATE, "BPF_MAP_CREATE", &mut attr) }
}

#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn elem<K>(map: BorrowedFd<'_>, key: &K, value: u64) -> ElemAttr {
    ElemAttr { map_fd: fd_u32(map), pad: 0, key: addr(key), value, flags: 0 }
}

/// Reads one element into `value`, whose length must be the map's value size (times possible CPUs, each
/// rounded up to 8 bytes, for per-CPU maps).
pub fn map_lookup<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: &mut [V]) -> Result<()> {
    let mut attr = elem(map, key, addr(value.as_mut_ptr()));
    // SAFETY: key and value outlive the call; their sizes are the caller's duty (checked by `Table::open`).
    unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, "BPF_MAP_LOOKUP_ELEM", &mut attr) }.map(drop)
}

/// Writes one element, new or not.
pub fn map_update<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> Result<()> {
    let mut attr = elem(map, key, addr(value));
    // SAFETY: as for `map_lookup`.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, "BPF_MAP_UPDATE_ELEM", &mut attr) }.map(drop)
}

/// Deletes one element of a hash.
pub fn map_delete<K: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> Result<()> {
    let mut attr = elem(map, key, 0);
    // SAFETY: as for `map_lookup`.
    unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, "BPF_MAP_DELETE_ELEM", &mut attr) }.map(drop)
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A batch that stopped early: how many elements were done, and why it stopped.
#[derive(Debug, thiserror::Error)]
#[error("{source} after {done} elements")]
pub struct BatchError {
    /// Elements done before the failure.
    pub done: usize,
    /// The failure.
    pub source: SysError,
}

/// Writes `keys[i] → values[i]`. Both slices have the same length.
pub fn map_update_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> std::result::Result<(), BatchError> {
    let count = keys.len().min(values.len());
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: addr(keys.as_ptr()),
        values: addr(values.as_ptr()),
        count: count as u32,
        map_fd: fd_u32(map),
        elem_flags: 0,
        flags: 0,
    };
    if count == 0 {
        return Ok(());
    }
    // SAFETY: both slices hold at least `count` elements and outlive the call.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, "BPF_MAP_UPDATE_BATCH", &mut attr) }
        .map(drop)
        .map_err(|source| BatchError { done: (attr.count as usize).min(count), source })
}

/// Deletes keys of a hash; stops at the first that does not exist (ENOENT, `done` says which). Arrays cannot
/// delete: the kernel answers ENOTSUPP.
pub fn map_delete_batch<K: aya::Pod>(map: BorrowedFd<'_>, keys: &[K]) -> std::result::Result<(), BatchError> {
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: addr(keys.as_ptr()),
        values: 0,
        count: keys.len() as u32,
        map_fd: fd_u32(map),
        elem_flags: 0,
        flags: 0,
    };
    if keys.is_empty() {
        return Ok(());
    }
    // SAFETY: the slice holds `count` keys and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_BATCH, "BPF_MAP_DELETE_BATCH", &mut attr) }
        .map(drop)
        .map_err(|source| BatchError { done: (attr.count as usize).min(keys.len()), source })
}

/// Where a batched read stands; starts at the beginning.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// The kernel's opaque position: a key for arrays, a bucket number for hashes.
    token: [u64; 8],
    started: bool,
    done: bool,
}

impl Cursor {
    /// True when everything was read.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// A cursor of an array that begins after element `last`.
    pub fn after_index(last: u32) -> Cursor {
        let mut token = [0; 8];
        let low = last.to_ne_bytes();
        token[0] = u64::from_ne_bytes([low[0], low[1], low[2], low[3], 0, 0, 0, 0]);
        Cursor { token, started: true, done: false }
    }
}

/// Reads up to `keys.len()` elements and moves the cursor on; returns how many were read. Keys are at most
/// 64 bytes long. ENOSPC means that a hash bucket is larger than the slices.
pub fn map_lookup_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    keys: &mut [K],
    values: &mut [V],
) -> Result<usize> {
    if cursor.done || keys.is_empty() || size_of::<K>() > size_of::<[u64; 8]>() {
        return Ok(0);
    }
    let count = keys.len().min(values.len());
    let mut next = [0u64; 8];
    let mut attr = BatchAttr {
        in_batch: if cursor.started { addr(cursor.token.as_ptr()) } else { 0 },
        out_batch: addr(next.as_mut_ptr()),
        keys: addr(keys.as_mut_ptr()),
        values: addr(values.as_mut_ptr()),
        count: count as u32,
        map_fd: fd_u32(map),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: both slices hold at least `count` elements, the tokens 64 bytes, and all outlive the call.
    match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, "BPF_MAP_LOOKUP_BATCH", &mut attr) } {
        Ok(_) => {
            cursor.token = next;
            cursor.started = true;
        }
        Err(e) if e.is_not_found() => cursor.done = true,
        Err(e) => return Err(e),
    }
    Ok((attr.count as usize).min(count))
}

#[repr(C)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn c_path(path: &Path, command: &'static str) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| SysError { command, source: io::Error::other(e) })
}

/// Opens a pinned object.
pub fn obj_get(path: &Path) -> Result<OwnedFd> {
    let c = c_path(path, "BPF_OBJ_GET")?;
    let mut attr = ObjAttr { pathname: addr(c.as_ptr()), bpf_fd: 0, file_flags: 0 };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { bpf_fd(bpf_cmd::BPF_OBJ_GET, "BPF_OBJ_GET", &mut attr) }
}

/// Pins an object.
pub fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let c = c_path(path, "BPF_OBJ_PIN")?;
    let mut attr = ObjAttr { pathname: addr(c.as_ptr()), bpf_fd: fd_u32(fd), file_flags: 0 };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, "BPF_OBJ_PIN", &mut attr) }.map(drop)
}

#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

fn info<I: Default>(fd: BorrowedFd<'_>) -> Result<I> {
    let mut out = I::default();
    let mut attr = InfoAttr { bpf_fd: fd_u32(fd), info_len: size_of::<I>() as u32, info: addr(&raw mut out) };
    // SAFETY: `out` is `info_len` zeroed bytes of a `#[repr(C)]` struct of integers: any bytes are valid.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, "BPF_OBJ_GET_INFO_BY_FD", &mut attr)? };
    Ok(out)
}

/// Beginning of the kernel's `bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapInfo {
    /// `bpf_map_type`.
    pub map_type: u32,
    /// Id.
    pub id: u32,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// Creation flags.
    pub map_flags: u32,
    /// Name, zero-padded.
    pub name: [u8; 16],
}

/// Information about a map.
pub fn map_info(fd: BorrowedFd<'_>) -> Result<MapInfo> {
    info(fd)
}

/// Beginning of the kernel's `bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgInfo {
    /// `bpf_prog_type`.
    pub prog_type: u32,
    /// Id.
    pub id: u32,
    /// Hash of the instructions, map references masked.
    pub tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited_insns: u64,
    xlated_insns: u64,
    /// When it was loaded, nanoseconds since boot.
    pub load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    /// Name, zero-padded.
    pub name: [u8; 16],
}

/// Information about a program.
pub fn prog_info(fd: BorrowedFd<'_>) -> Result<ProgInfo> {
    info(fd)
}

/// Beginning of the kernel's `bpf_link_info` for XDP and TCX links.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// `bpf_link_type`.
    pub link_type: u32,
    /// Id.
    pub id: u32,
    /// Id of the attached program.
    pub prog_id: u32,
    pad: u32,
    /// Interface index; 0 when the interface is gone.
    pub ifindex: u32,
    /// Attach type (TCX only).
    pub attach_type: u32,
}

impl LinkInfo {
    /// Id of the cgroup, for a cgroup link: the kernel puts it where other links have their interface.
    pub fn cgroup_id(&self) -> u64 {
        u64::from(self.ifindex) | u64::from(self.attach_type) << 32
    }
}

/// Information about a link.
pub fn link_info(fd: BorrowedFd<'_>) -> Result<LinkInfo> {
    info(fd)
}

#[repr(C)]
struct ByIdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Opens a program by its id.
pub fn prog_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = ByIdAttr { id, next_id: 0, open_flags: 0 };
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf_fd(bpf_cmd::BPF_PROG_GET_FD_BY_ID, "BPF_PROG_GET_FD_BY_ID", &mut attr) }
}

#[repr(C)]
struct LinkCreateAttr {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program by a link to an interface (its index) or a cgroup (its descriptor); never replaces anything.
/// `flags` are the XDP mode flags.
pub fn link_create(
    prog: BorrowedFd<'_>,
    target: u32,
    attach_type: bpf_attach_type,
    flags: u32,
) -> Result<OwnedFd> {
    let mut attr = LinkCreateAttr { prog_fd: fd_u32(prog), target, attach_type: attach_type as u32, flags };
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, "BPF_LINK_CREATE", &mut attr) }
}

#[repr(C)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces a link's program atomically. Works for every link type, cgroup links too.
pub fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> Result<()> {
    let mut attr =
        LinkUpdateAttr { link_fd: fd_u32(link), new_prog_fd: fd_u32(prog), flags: 0, old_prog_fd: 0 };
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, "BPF_LINK_UPDATE", &mut attr) }.map(drop)
}

#[repr(C)]
struct LinkDetachAttr {
    link_fd: u32,
}

/// Detaches a link's program at once; closing or unpinning the last reference does it only some time later.
pub fn link_detach(link: BorrowedFd<'_>) -> Result<()> {
    let mut attr = LinkDetachAttr { link_fd: fd_u32(link) };
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, "BPF_LINK_DETACH", &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// Runs a program once on `data`; returns its return value.
pub fn prog_test_run<P: AsFd>(prog: P, data: &[u8]) -> Result<u32> {
    let mut attr = TestRunAttr {
        prog_fd: fd_u32(prog.as_fd()),
        data_size_in: data.len() as u32,
        data_in: addr(data.as_ptr()),
        repeat: 1,
        ..TestRunAttr::default()
    };
    // SAFETY: the data is `data_size_in` bytes and outlives the call; nothing is written back.
    unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, "BPF_PROG_TEST_RUN", &mut attr)? };
    Ok(attr.retval)
}
