//! Kernel entry points: five programs over one pipeline.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod fib;
mod maps;
mod tc;
mod xdp;

use aya_ebpf::macros::{classifier, xdp as xdp_program};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::reason::Hook;
use lb_ebpf::family::{V4, V6};
use lb_ebpf::pipeline::{run_egress, run_ingress};
use lb_ebpf::select::Role;
use maps::Kernel;

/// XDP on an uplink.
#[xdp_program]
pub fn fw_xdp_uplink(ctx: XdpContext) -> u32 {
    let mut p = xdp::XdpPacket::new(&ctx);
    xdp::action(run_ingress(&mut p, &Kernel, Role::Uplink))
}

/// tc ingress on an uplink or an overlay device.
#[classifier]
pub fn fw_tc_uplink(ctx: TcContext) -> i32 {
    let mut p = tc::TcPacket::new(&ctx, Hook::TcUplink);
    tc::action(run_ingress(&mut p, &Kernel, Role::Uplink))
}

/// tc ingress on a pod-facing interface: packets the pod sends.
#[classifier]
pub fn fw_tc_pod(ctx: TcContext) -> i32 {
    let mut p = tc::TcPacket::new(&ctx, Hook::TcPod);
    tc::action(run_ingress(&mut p, &Kernel, Role::Pod))
}

/// tc egress on every managed interface: replies towards clients.
#[classifier]
pub fn fw_tc_out(ctx: TcContext) -> i32 {
    let mut p = tc::TcPacket::new(&ctx, Hook::TcOut);
    tc::action(run_egress(&mut p, &Kernel))
}

/// Frees expired flow records; the agent runs it through BPF_PROG_TEST_RUN with the slice in the frame:
/// start, count and family (4 or 6) as little-endian u32 at offsets 14, 18 and 22. Returns how many were freed.
#[classifier]
pub fn fw_tc_sweep(ctx: TcContext) -> i32 {
    let Some((start, count, family)) = tc::sweep_args(&ctx) else { return -1 };
    let freed = if family == 4 {
        lb_ebpf::flow::sweep::<V4, _>(&Kernel, start, count)
    } else {
        lb_ebpf::flow::sweep::<V6, _>(&Kernel, start, count)
    };
    freed as i32
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // No panic path survives to the object: indexing and arithmetic are checked by hand.
    loop {}
}

/// The helpers used are GPL-only for some kernels; the source is (Apache-2.0 OR MIT) and offered under the GPL too.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
