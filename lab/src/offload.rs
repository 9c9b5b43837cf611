//! What native XDP on veth needs: complete checksums from the senders, and a program on the far end.
//!
//! A veth hands frames with unfinished checksums to its peer, and a program that rewrites such a frame spoils
//! it. And frames sent by `XDP_TX` are only taken by a veth whose peer has an XDP program as well.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// `BPF_PROG_LOAD` of bpf(2).
const PROG_LOAD: libc::c_int = 5;
/// `BPF_OBJ_PIN` of bpf(2).
const OBJ_PIN: libc::c_int = 6;
/// `BPF_PROG_TYPE_XDP`.
const PROG_TYPE_XDP: u32 = 6;
/// `ETHTOOL_STXCSUM` of the ethtool ioctl.
const SET_TX_CHECKSUM: u32 = 0x17;
/// `r0 = 2 (XDP_PASS); exit`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

#[repr(C)]
struct LoadAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// An XDP program that passes everything, pinned in a bpffs for as long as this lives.
pub struct PinnedPass(PathBuf);

impl PinnedPass {
    /// Loads the program and pins it in the bpffs at `directory`.
    pub fn new(directory: &Path) -> Result<Self> {
        let license = c"Dual MIT/GPL";
        let load = LoadAttr {
            kind: PROG_TYPE_XDP,
            instruction_count: PASS.len() as u32,
            instructions: PASS.as_ptr() as u64,
            license: license.as_ptr() as u64,
        };
        let fd = bpf(PROG_LOAD, &load).context("load the XDP pass program")?;
        // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
        let program = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = directory.join("xdp-pass");
        let c_path = CString::new(path.as_os_str().as_bytes())?;
        let pin = PinAttr { path: c_path.as_ptr() as u64, fd: program.as_raw_fd() as u32, flags: 0 };
        bpf(OBJ_PIN, &pin).with_context(|| format!("pin the XDP pass program at {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is pinned.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PinnedPass {
    fn drop(&mut self) {
        // The bpffs itself is removed with the cluster, so a pin that stays cannot outlive it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes `device` of the calling thread's namespace complete the checksums of what it sends.
pub fn complete_checksums(device: &str) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = EthtoolValue { command: SET_TX_CHECKSUM, data: 0 };
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes().take(room)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: `request` is a NUL-terminated name and points to `value`, which has the layout the command
    // expects; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a prefix of the kernel's union for `command`, its pointers are alive in the caller, and
    // the kernel reads no more than the size given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
