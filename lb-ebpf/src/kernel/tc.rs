//! [`Packet`] at tc (TCX), where checksums may be partial or summed by hardware: only the kernel's helper knows.

use crate::{ctx, fib};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_tail,
    bpf_skb_pull_data,
};
use aya_ebpf::programs::TcContext;
use core::mem::offset_of;
use lb_common::reason::Hook;
use lb_ebpf::mem::rd;
use lb_ebpf::packet::{End, FIB_FRAG_NEEDED, FIB_SUCCESS, Fib, FibQuery, Packet, Verdict};

const BPF_F_PSEUDO_HDR: u64 = 1 << 4;
const BPF_F_MARK_MANGLED_0: u64 = 1 << 5;
const BPF_F_INGRESS: u64 = 1;
/// Not ours: let the next program, then the stack, have it.
const TCX_NEXT: i32 = -1;
const TC_ACT_SHOT: i32 = 2;

/// A frame at tc.
pub struct TcPacket {
    skb: *mut __sk_buff,
    hook: Hook,
}

impl TcPacket {
    /// Wraps the context.
    #[inline(always)]
    pub fn new(ctx: &TcContext, hook: Hook) -> Self {
        TcPacket { skb: ctx.skb.skb, hook }
    }
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the program's context.
        unsafe { ctx::word::<{ offset_of!(__sk_buff, data) }, _>(self.skb) as usize }
    }
    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the program's context.
        unsafe { ctx::word::<{ offset_of!(__sk_buff, data_end) }, _>(self.skb) as usize }
    }
}

impl Packet for TcPacket {
    const IS_XDP: bool = false;
    #[inline(always)]
    fn hook(&self) -> Hook {
        self.hook
    }
    #[inline(always)]
    fn at(&self, off: usize, len: usize) -> Option<*mut u8> {
        let start = self.data();
        if start + off + len > self.data_end() { None } else { Some((start + off) as *mut u8) }
    }
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the program's context.
        unsafe { ctx::word::<{ offset_of!(__sk_buff, len) }, _>(self.skb) as usize }
    }
    #[inline(always)]
    fn pull(&mut self, len: usize) {
        if self.data() + len > self.data_end() {
            let want = if self.len() < len { self.len() } else { len };
            // SAFETY: the program's context. Failure shows as a failed bounds check later.
            unsafe { bpf_skb_pull_data(self.skb, want as u32) };
        }
    }
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the program's context.
        unsafe { ctx::word::<{ offset_of!(__sk_buff, ifindex) }, _>(self.skb) as u32 }
    }
    #[inline(always)]
    fn fix_l4(&mut self, off: usize, addr_diff: u32, port_diff: u32, udp: bool) -> bool {
        let udp = if udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        // SAFETY: the program's context. Size 0 in the flags: `to` is a diff.
        unsafe {
            bpf_l4_csum_replace(self.skb, off as u32, 0, addr_diff as u64, BPF_F_PSEUDO_HDR | udp) == 0
                && bpf_l4_csum_replace(self.skb, off as u32, 0, port_diff as u64, udp) == 0
        }
    }
    #[inline(always)]
    fn header_changed(&mut self, diff: u32) {
        // SAFETY: the program's context. Refused (and not needed) unless the hardware summed the packet.
        unsafe { bpf_csum_update(self.skb, diff) };
    }
    #[inline(always)]
    fn fib(&mut self, q: &FibQuery) -> Fib {
        let mut fib = fib::lookup(self.skb.cast(), self.ifindex(), q);
        if fib.status == FIB_FRAG_NEEDED {
            // Without a length given, this is the kernel's judgement of the skb after a lookup that succeeded. The
            // frame goes on: an overlay fragments what carries it, and whoever cannot take it whole at the other end
            // fragments it, or says so to the sender through us.
            fib.status = FIB_SUCCESS;
        }
        fib
    }
    #[inline(always)]
    fn resize(&mut self, len: usize) -> bool {
        // SAFETY: the program's context.
        unsafe {
            bpf_skb_change_tail(self.skb, len as u32, 0) == 0 && bpf_skb_pull_data(self.skb, len as u32) == 0
        }
    }
}

/// The TCX verdict of an outcome.
#[inline(always)]
pub fn action(e: End) -> i32 {
    match e.verdict {
        Verdict::Pass => TCX_NEXT,
        Verdict::Drop => TC_ACT_SHOT,
        // SAFETY: no memory is passed.
        Verdict::Redirect => unsafe { bpf_redirect(e.ifindex, 0) as i32 },
        // SAFETY: null parameters ask for a neighbour lookup by the packet's destination.
        Verdict::RedirectNeigh => unsafe {
            bpf_redirect_neigh(e.ifindex, core::ptr::null_mut(), 0, 0) as i32
        },
        // SAFETY: no memory is passed.
        Verdict::RedirectIngress => unsafe { bpf_redirect(e.ifindex, BPF_F_INGRESS) as i32 },
        Verdict::Tx => TC_ACT_SHOT,
        Verdict::Slow => TCX_NEXT,
    }
}

/// The sweep's arguments: start, count, family.
#[inline(always)]
pub fn sweep_args(ctx: &TcContext) -> Option<(u32, u32, u32)> {
    let p = TcPacket::new(ctx, Hook::TcOut);
    let b = p.at(0, 26)?;
    // SAFETY: 26 bytes were checked.
    unsafe { Some((u32::from_le(rd(b, 14)), u32::from_le(rd(b, 18)), u32::from_le(rd(b, 22)))) }
}
