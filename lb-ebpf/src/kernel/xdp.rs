//! [`Packet`] at XDP.

use crate::{ctx, fib};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use core::mem::offset_of;
use lb_common::reason::Hook;
use lb_ebpf::csum;
use lb_ebpf::mem::{rd, wr};
use lb_ebpf::packet::{End, Fib, FibQuery, Packet, Verdict};

/// A frame at XDP.
pub struct XdpPacket {
    md: *mut xdp_md,
}

impl XdpPacket {
    /// Wraps the context.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        XdpPacket { md: ctx.as_ptr() as *mut xdp_md }
    }
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the program's context.
        unsafe { ctx::word::<{ offset_of!(xdp_md, data) }, _>(self.md) as usize }
    }
    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the program's context.
        unsafe { ctx::word::<{ offset_of!(xdp_md, data_end) }, _>(self.md) as usize }
    }
}

impl Packet for XdpPacket {
    const IS_XDP: bool = true;
    #[inline(always)]
    fn hook(&self) -> Hook {
        Hook::Xdp
    }
    #[inline(always)]
    fn at(&self, off: usize, len: usize) -> Option<*mut u8> {
        let start = self.data();
        if start + off + len > self.data_end() { None } else { Some((start + off) as *mut u8) }
    }
    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end() - self.data()
    }
    #[inline(always)]
    fn pull(&mut self, _len: usize) {}
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the program's context.
        unsafe { ctx::word::<{ offset_of!(xdp_md, ingress_ifindex) }, _>(self.md) as u32 }
    }
    #[inline(always)]
    fn fix_l4(&mut self, off: usize, addr_diff: u32, port_diff: u32, udp: bool) -> bool {
        let Some(b) = self.at(0, off + 2) else { return false };
        let diff = csum::add(addr_diff, port_diff);
        // SAFETY: off + 2 bytes were checked.
        unsafe {
            let c: u16 = rd(b, off);
            wr(b, off, if udp { csum::apply_udp(c, diff) } else { csum::apply(c, diff) });
        }
        true
    }
    #[inline(always)]
    fn header_changed(&mut self, _diff: u32) {}
    #[inline(always)]
    fn fib(&mut self, q: &FibQuery) -> Fib {
        fib::lookup(self.md.cast(), self.ifindex(), q)
    }
    #[inline(always)]
    fn resize(&mut self, len: usize) -> bool {
        let delta = len as i32 - self.len() as i32;
        // SAFETY: the program's context.
        delta == 0 || unsafe { bpf_xdp_adjust_tail(self.md, delta) } == 0
    }
}

/// The XDP action of an outcome.
#[inline(always)]
pub fn action(e: End) -> u32 {
    match e.verdict {
        // The pipeline asks XDP for no ingress redirect; without a slow program the stack has it.
        Verdict::Pass | Verdict::Slow | Verdict::RedirectIngress => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Tx => xdp_action::XDP_TX,
        // SAFETY: no memory is passed.
        Verdict::Redirect | Verdict::RedirectNeigh => unsafe { bpf_redirect(e.ifindex, 0) as u32 },
    }
}
