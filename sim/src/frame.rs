//! A frame in a vector, seen as XDP or tc, with a FIB of the test's choice.
//!
//! What the kernel's helpers do to a frame is done here in the same steps: `bpf_l4_csum_replace` is called twice, and
//! skips or mends a zero UDP checksum each time.

use crate::Sim;
use lb_common::reason::Hook;
use lb_ebpf::csum;
use lb_ebpf::packet::{End, FIB_NO_NEIGH, FIB_NOT_FWDED, FIB_SUCCESS, Fib, FibQuery, Packet, Verdict};
use lb_ebpf::pipeline::{Side, run, run_slow};
use lb_ebpf::select::Role;
use std::cell::UnsafeCell;
use std::collections::HashMap;

/// Answers by destination, and one for all others.
#[derive(Clone, Debug, Default)]
pub struct FakeFib {
    /// Destination address words → answer.
    pub routes: HashMap<[u32; 4], Fib>,
    /// The answer for every other destination.
    pub other: Fib,
}

impl From<Fib> for FakeFib {
    fn from(other: Fib) -> FakeFib {
        FakeFib { routes: HashMap::new(), other }
    }
}

/// A FIB answer with a resolved neighbour.
pub fn route_out(ifindex: u32) -> Fib {
    Fib { status: FIB_SUCCESS, ifindex, macs: [0x0202_0202, 0x0303_0202, 0x0303_0303], mtu: 1500 }
}

/// A FIB answer without a neighbour.
pub fn route_unresolved(ifindex: u32) -> Fib {
    Fib { status: FIB_NO_NEIGH, ifindex, macs: [0; 3], mtu: 1500 }
}

/// The FIB says that the destination is this node.
pub fn route_local() -> Fib {
    Fib { status: FIB_NOT_FWDED, ..Fib::default() }
}

/// A frame in a vector, seen as XDP or tc.
pub struct Frame<'a, const XDP: bool> {
    /// Written through pointers that [`Packet::at`] gives out, as in the kernel.
    bytes: UnsafeCell<Vec<u8>>,
    ifindex: u32,
    hook: Hook,
    fib: &'a FakeFib,
    /// By how many bytes it can grow.
    pub tailroom: usize,
}

impl<'a, const XDP: bool> Frame<'a, XDP> {
    /// A copy of `bytes` (from the destination MAC on) at a hook of an interface.
    pub fn new(bytes: &[u8], ifindex: u32, hook: Hook, fib: &'a FakeFib) -> Self {
        Frame { bytes: UnsafeCell::new(bytes.to_vec()), ifindex, hook, fib, tailroom: usize::MAX }
    }
    /// The frame as the datapath left it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_inner()
    }
    /// The datapath's step `new` on the checksum field at `off`, if there is one.
    fn change(&mut self, off: usize, new: impl FnOnce(u16) -> u16) -> bool {
        let Some(field) = self.bytes.get_mut().get_mut(off..off + 2) else { return false };
        let c = u16::from_ne_bytes([field[0], field[1]]);
        field.copy_from_slice(&new(c).to_ne_bytes());
        true
    }
}

/// What `bpf_l4_csum_replace` makes of a checksum field and a diff.
fn l4_csum_replace(c: u16, diff: u32, mangled_0: bool) -> u16 {
    match mangled_0 {
        true if c == 0 => 0,
        true => csum::apply_udp(c, diff),
        false => csum::apply(c, diff),
    }
}

impl<const XDP: bool> Packet for Frame<'_, XDP> {
    const IS_XDP: bool = XDP;
    fn hook(&self) -> Hook {
        self.hook
    }
    fn at(&self, off: usize, len: usize) -> Option<*mut u8> {
        // SAFETY: single-threaded, and no reference into the vector outlives a call.
        let bytes = unsafe { &mut *self.bytes.get() };
        // SAFETY: `off` lies inside, or just behind the last byte.
        (off + len <= bytes.len()).then(|| unsafe { bytes.as_mut_ptr().add(off) })
    }
    fn len(&self) -> usize {
        // SAFETY: as in `at`.
        unsafe { (*self.bytes.get()).len() }
    }
    fn pull(&mut self, _len: usize) {}
    fn ifindex(&self) -> u32 {
        self.ifindex
    }
    fn fix_l4(&mut self, off: usize, addr_diff: u32, port_diff: u32, udp: bool) -> bool {
        if XDP {
            let d = csum::add(addr_diff, port_diff);
            return self.change(off, |c| if udp { csum::apply_udp(c, d) } else { csum::apply(c, d) });
        }
        self.change(off, |c| l4_csum_replace(c, addr_diff, udp))
            && self.change(off, |c| l4_csum_replace(c, port_diff, udp))
    }
    fn header_changed(&mut self, _diff: u32) {}
    fn fib(&mut self, q: &FibQuery) -> Fib {
        self.fib.routes.get(&q.dst).copied().unwrap_or(self.fib.other)
    }
    fn resize(&mut self, len: usize) -> bool {
        let bytes = self.bytes.get_mut();
        let fits = len.saturating_sub(bytes.len()) <= self.tailroom;
        if fits {
            bytes.resize(len, 0);
        }
        fits
    }
}

/// The counters' hook of a side.
pub fn hook_of(xdp: bool, side: Side) -> Hook {
    match side {
        Side::In(Role::Uplink) if xdp => Hook::Xdp,
        Side::In(Role::Uplink) => Hook::TcUplink,
        Side::In(_) => Hook::TcPod,
        Side::PodOut => Hook::TcOut,
        Side::UplinkOut => Hook::TcUplinkOut,
    }
}

/// Runs one hook over a frame as the kernel does: the fast program, then the slow one if it asks for it.
pub fn hook<const X: bool>(
    s: &Sim,
    side: Side,
    ifindex: u32,
    fib: impl Into<FakeFib>,
    bytes: &[u8],
) -> (End, Vec<u8>) {
    let fib = fib.into();
    let mut f = Frame::<X>::new(bytes, ifindex, hook_of(X, side), &fib);
    if X {
        f.tailroom = s.tailroom.get();
    }
    let mut end = run(&mut f, s, side);
    if end.verdict == Verdict::Slow {
        end = run_slow(&mut f, s, side);
        end.reason = s.last.get();
    }
    (end, f.into_bytes())
}

/// As [`hook`], for a hook known at run time. XDP is on uplinks only.
pub fn run_at(s: &Sim, xdp: bool, side: Side, ifindex: u32, fib: &FakeFib, bytes: &[u8]) -> (End, Vec<u8>) {
    match xdp {
        true => hook::<true>(s, side, ifindex, fib.clone(), bytes),
        false => hook::<false>(s, side, ifindex, fib.clone(), bytes),
    }
}
