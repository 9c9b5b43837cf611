//! What differs between XDP and tc, and nothing else.

use lb_common::reason::Hook;

/// A question to the kernel's FIB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibQuery {
    /// Address family, `AF_INET` or `AF_INET6`.
    pub af: u8,
    /// IP protocol number.
    pub proto: u8,
    /// Source address words; IPv4 uses the first.
    pub src: [u32; 4],
    /// Destination address words.
    pub dst: [u32; 4],
}

/// The FIB's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fib {
    /// `BPF_FIB_LKUP_RET_*`.
    pub status: u32,
    /// Interface to leave by (valid for [`FIB_SUCCESS`] and [`FIB_NO_NEIGH`]).
    pub ifindex: u32,
    /// Destination MAC and source MAC, as they lie in a frame (valid for [`FIB_SUCCESS`]).
    pub macs: [u32; 3],
    /// MTU of the route; 0 = unknown.
    pub mtu: u32,
}

/// Route and neighbour found.
pub const FIB_SUCCESS: u32 = 0;
/// The destination is this node.
pub const FIB_NOT_FWDED: u32 = 4;
/// Route and neighbour found, but the packet is larger than the device takes.
pub const FIB_FRAG_NEEDED: u32 = 8;
/// Route found, neighbour not resolved.
pub const FIB_NO_NEIGH: u32 = 7;

/// A frame at one hook. Offsets count from the destination MAC.
pub trait Packet {
    /// True at XDP: no stack behind a redirect, so neighbours and odd devices are left to tc.
    const IS_XDP: bool;
    /// Which hook it is, for the counters.
    fn hook(&self) -> Hook;
    /// Pointer to `off`, if `off + len` lies inside the linear frame. `len` and `off` must be constants.
    fn at(&self, off: usize, len: usize) -> Option<*mut u8>;
    /// Length of the whole frame, non-linear part included.
    fn len(&self) -> usize;
    /// True for an empty frame.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Makes the first `len` bytes linear if the frame has them (tc; nothing at XDP).
    fn pull(&mut self, len: usize);
    /// Interface the frame came in by (tc egress: leaves by).
    fn ifindex(&self) -> u32;
    /// Repairs the L4 checksum at `off`: `addr_diff` belongs to the pseudo header, `port_diff` to the segment.
    /// False = refused by the kernel.
    fn fix_l4(&mut self, off: usize, addr_diff: u32, port_diff: u32, udp: bool) -> bool;
    /// Tells the hook that header words outside any checksum (IPv6) changed by `diff`, for hardware sums.
    fn header_changed(&mut self, diff: u32);
    /// Asks the FIB.
    fn fib(&mut self, q: &FibQuery) -> Fib;
    /// Cuts or stretches the frame to `len` bytes, which are linear afterwards. False = refused.
    fn resize(&mut self, len: usize) -> bool;
}

/// What the hook is to do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Up the stack.
    Pass,
    /// Nowhere.
    Drop,
    /// Out of the interface it came in by.
    Tx,
    /// Out of `End::ifindex`; the Ethernet header is complete.
    Redirect,
    /// Out of `End::ifindex`; the stack fills in the neighbour (tc only).
    RedirectNeigh,
    /// Up the stack as if it had come in by `End::ifindex` (tc only).
    RedirectIngress,
    /// To the slow program of the same hook, which looks at the packet anew; where there is none, up the stack.
    Slow,
}

/// A verdict and the one reason it is counted under.
///
/// Plain fields, no payload in the enum: an unused payload is an undefined value to LLVM, which may spill it, which the
/// verifier refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// What to do.
    pub verdict: Verdict,
    /// Interface of a redirect; 0 otherwise.
    pub ifindex: u32,
    /// Why.
    pub reason: lb_common::Reason,
}

impl End {
    /// Up the stack.
    #[inline(always)]
    pub fn pass(reason: lb_common::Reason) -> End {
        End { verdict: Verdict::Pass, ifindex: 0, reason }
    }
    /// Dropped.
    #[inline(always)]
    pub fn drop(reason: lb_common::Reason) -> End {
        End { verdict: Verdict::Drop, ifindex: 0, reason }
    }
    /// To the slow program; `reason` if there is none.
    #[inline(always)]
    pub fn slow(reason: lb_common::Reason) -> End {
        End { verdict: Verdict::Slow, ifindex: 0, reason }
    }
    /// In one register, for functions that are not inlined; the reason is lost, whoever packs has counted it.
    #[inline(always)]
    pub fn pack(self) -> u64 {
        self.verdict as u64 | (self.ifindex as u64) << 32
    }
    /// What [`End::pack`] made, with a reason that means nothing.
    #[inline(always)]
    pub fn unpack(packed: u64) -> End {
        const PASS: u8 = Verdict::Pass as u8;
        const TX: u8 = Verdict::Tx as u8;
        const REDIRECT: u8 = Verdict::Redirect as u8;
        const NEIGH: u8 = Verdict::RedirectNeigh as u8;
        const INGRESS: u8 = Verdict::RedirectIngress as u8;
        let verdict = match packed as u8 {
            PASS => Verdict::Pass,
            TX => Verdict::Tx,
            REDIRECT => Verdict::Redirect,
            NEIGH => Verdict::RedirectNeigh,
            INGRESS => Verdict::RedirectIngress,
            _ => Verdict::Drop,
        };
        End { verdict, ifindex: (packed >> 32) as u32, reason: lb_common::Reason::NotIp }
    }
    /// Out of an interface.
    #[inline(always)]
    pub fn out(verdict: Verdict, ifindex: u32, reason: lb_common::Reason) -> End {
        End { verdict, ifindex, reason }
    }
}
