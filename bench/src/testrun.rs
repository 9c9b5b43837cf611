//! BPF_PROG_TEST_RUN with everything it takes: context, repetition, live frames.
//!
//! aya's wrapper wants programs that aya loaded; those under test were loaded by the agent and are known by their
//! descriptor. A run happens on the calling thread's CPU and in its network namespace. The duration is the
//! kernel's own, which leaves out the time in which other tasks had the CPU.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result, ensure};

/// `BPF_PROG_TEST_RUN` of bpf(2).
const PROG_TEST_RUN: libc::c_long = 10;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 1 << 1;

#[repr(C)]
#[derive(Default)]
struct Attr {
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
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Where a frame comes in: the context of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// XDP on the device with this index; it must carry native XDP, or the kernel refuses.
    Xdp(u32),
    /// tc on the device with this index.
    Tc(u32),
}

impl Entry {
    /// `struct xdp_md` for a frame of `len` bytes, or the beginning of `struct __sk_buff`.
    fn context(self, len: u32) -> Vec<u8> {
        let words: Vec<u32> = match self {
            Entry::Xdp(ifindex) => vec![0, len, 0, ifindex, 0, 0],
            Entry::Tc(ifindex) => {
                let mut skb = vec![0; 11];
                skb[10] = ifindex;
                skb
            }
        };
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }
}

/// What a run gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The program's return value; of the last repetition.
    pub retval: u32,
    /// Nanoseconds of one repetition on average, rounded down by the kernel.
    pub ns: u32,
    /// The frame afterwards, if it was asked for.
    pub frame: Vec<u8>,
}

fn call(attr: &mut Attr) -> io::Result<()> {
    // SAFETY: the attribute is as long as said, and its pointers are buffers of the sizes beside them that the
    // callers below keep alive.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, std::ptr::from_mut(attr), size_of::<Attr>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn attr(prog: BorrowedFd<'_>, frame: &[u8], context: &[u8]) -> Attr {
    Attr {
        prog_fd: prog.as_raw_fd().cast_unsigned(),
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        ctx_size_in: context.len() as u32,
        ctx_in: context.as_ptr() as u64,
        repeat: 1,
        ..Attr::default()
    }
}

/// Runs `prog` once on `frame` and returns the frame as the program left it.
pub fn once(prog: BorrowedFd<'_>, entry: Entry, frame: &[u8]) -> Result<Outcome> {
    let context = entry.context(frame.len() as u32);
    let mut out = vec![0u8; 2048];
    let mut attr = attr(prog, frame, &context);
    attr.data_out = out.as_mut_ptr() as u64;
    attr.data_size_out = out.len() as u32;
    call(&mut attr).with_context(|| format!("run a program at {entry:?}"))?;
    out.truncate(attr.data_size_out as usize);
    Ok(Outcome { retval: attr.retval, ns: attr.duration, frame: out })
}

/// Runs `prog` `repeat` times on the same frame; what it writes stays for the next repetition.
pub fn repeat(prog: BorrowedFd<'_>, entry: Entry, frame: &[u8], repeat: u32) -> Result<Outcome> {
    let context = entry.context(frame.len() as u32);
    let mut attr = attr(prog, frame, &context);
    attr.repeat = repeat;
    call(&mut attr).with_context(|| format!("run a program {repeat} times at {entry:?}"))?;
    Ok(Outcome { retval: attr.retval, ns: attr.duration, frame: Vec::new() })
}

/// Sends `count` live frames: `prog` decides over each, and redirects really happen.
pub fn live(prog: BorrowedFd<'_>, ifindex: u32, frame: &[u8], count: u32) -> Result<()> {
    let context = Entry::Xdp(ifindex).context(frame.len() as u32);
    let mut attr = attr(prog, frame, &context);
    attr.repeat = count;
    attr.flags = LIVE_FRAMES;
    attr.batch_size = 64;
    call(&mut attr).context("send live frames")?;
    ensure!(attr.retval == 0, "sending live frames returned {}", attr.retval);
    Ok(())
}
