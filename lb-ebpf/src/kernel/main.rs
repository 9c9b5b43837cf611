//! Kernel entry points: thin programs over one pipeline.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod ctx;
mod fib;
mod maps;
mod sock;
mod steps;
mod tc;
mod xdp;

use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp as xdp_program};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use lb_common::reason::Hook;
use lb_ebpf::family::{V4, V6};
use lb_ebpf::packet::Verdict;
use lb_ebpf::pipeline::{Side, run, run_slow};
use lb_ebpf::select::Role;
use lb_ebpf::tables::Tables;
use maps::{FW_TAILS_TC, FW_TAILS_XDP, Kernel};
use sock::Call;

/// Runs the fast pipeline at tc; what it leaves goes to the slow program at `index` of the same hook.
#[inline(always)]
fn tc_fast(ctx: &TcContext, hook: Hook, side: Side, index: u32) -> i32 {
    let mut p = tc::TcPacket::new(ctx, hook);
    let end = run(&mut p, &Kernel, side);
    if matches!(end.verdict, Verdict::Slow) {
        // SAFETY: the slow program is of this type; when there is none, execution goes on here.
        unsafe { FW_TAILS_TC.tail_call(ctx, index) };
        <Kernel as Tables<V4>>::count(&Kernel, hook, end.reason);
    }
    tc::action(end)
}

#[inline(always)]
fn tc_slow(ctx: &TcContext, hook: Hook, side: Side) -> i32 {
    let mut p = tc::TcPacket::new(ctx, hook);
    tc::action(run_slow(&mut p, &Kernel, side))
}

/// XDP on an uplink.
#[xdp_program]
pub fn fw_xdp_uplink(ctx: XdpContext) -> u32 {
    let mut p = xdp::XdpPacket::new(&ctx);
    let end = run(&mut p, &Kernel, Side::In(Role::Uplink));
    if matches!(end.verdict, Verdict::Slow) {
        // SAFETY: as in `tc_fast`.
        unsafe { FW_TAILS_XDP.tail_call(&ctx, 0) };
        <Kernel as Tables<V4>>::count(&Kernel, Hook::Xdp, end.reason);
    }
    xdp::action(end)
}

/// Fragments and ICMP errors at XDP.
#[xdp_program]
pub fn fw_xdp_slow(ctx: XdpContext) -> u32 {
    let mut p = xdp::XdpPacket::new(&ctx);
    xdp::action(run_slow(&mut p, &Kernel, Side::In(Role::Uplink)))
}

/// tc ingress on an uplink or an overlay device.
#[classifier]
pub fn fw_tc_uplink(ctx: TcContext) -> i32 {
    tc_fast(&ctx, Hook::TcUplink, Side::In(Role::Uplink), 0)
}

/// Its slow program.
#[classifier]
pub fn fw_tc_uplink_slow(ctx: TcContext) -> i32 {
    tc_slow(&ctx, Hook::TcUplink, Side::In(Role::Uplink))
}

/// tc ingress on a pod-facing interface: packets the pod sends.
#[classifier]
pub fn fw_tc_pod(ctx: TcContext) -> i32 {
    tc_fast(&ctx, Hook::TcPod, Side::In(Role::Pod), 1)
}

/// Its slow program.
#[classifier]
pub fn fw_tc_pod_slow(ctx: TcContext) -> i32 {
    tc_slow(&ctx, Hook::TcPod, Side::In(Role::Pod))
}

/// tc egress on a pod-facing interface: replies towards pods.
#[classifier]
pub fn fw_tc_pod_out(ctx: TcContext) -> i32 {
    tc_fast(&ctx, Hook::TcOut, Side::PodOut, 2)
}

/// Its slow program.
#[classifier]
pub fn fw_tc_pod_out_slow(ctx: TcContext) -> i32 {
    tc_slow(&ctx, Hook::TcOut, Side::PodOut)
}

/// tc egress on an uplink or overlay: replies towards clients, and clients of this node that nothing else saw.
#[classifier]
pub fn fw_tc_uplink_out(ctx: TcContext) -> i32 {
    tc_fast(&ctx, Hook::TcUplinkOut, Side::UplinkOut, 3)
}

/// Its slow program.
#[classifier]
pub fn fw_tc_up_out_slow(ctx: TcContext) -> i32 {
    tc_slow(&ctx, Hook::TcUplinkOut, Side::UplinkOut)
}

/// IPv4 connect.
#[cgroup_sock_addr(connect4)]
pub fn fw_connect4(ctx: SockAddrContext) -> i32 {
    sock::run4(ctx.sock_addr, Call::Connect)
}

/// IPv6 connect.
#[cgroup_sock_addr(connect6)]
pub fn fw_connect6(ctx: SockAddrContext) -> i32 {
    sock::run6(ctx.sock_addr, Call::Connect)
}

/// IPv4 datagram with a destination.
#[cgroup_sock_addr(sendmsg4)]
pub fn fw_sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::run4(ctx.sock_addr, Call::Send)
}

/// IPv6 datagram with a destination.
#[cgroup_sock_addr(sendmsg6)]
pub fn fw_sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::run6(ctx.sock_addr, Call::Send)
}

/// IPv4 datagram received: from whom.
#[cgroup_sock_addr(recvmsg4)]
pub fn fw_recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::run4(ctx.sock_addr, Call::Reverse)
}

/// IPv6 datagram received: from whom.
#[cgroup_sock_addr(recvmsg6)]
pub fn fw_recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::run6(ctx.sock_addr, Call::Reverse)
}

/// IPv4 peer.
#[cgroup_sock_addr(getpeername4)]
pub fn fw_peername4(ctx: SockAddrContext) -> i32 {
    sock::run4(ctx.sock_addr, Call::Reverse)
}

/// IPv6 peer.
#[cgroup_sock_addr(getpeername6)]
pub fn fw_peername6(ctx: SockAddrContext) -> i32 {
    sock::run6(ctx.sock_addr, Call::Reverse)
}

/// Frees expired flow records; the agent runs it through BPF_PROG_TEST_RUN with the slice in the frame:
/// start, count and family (4 or 6) as little-endian u32 at offsets 14, 18 and 22. Returns how many were freed; for
/// family 0, what the time is.
#[classifier]
pub fn fw_tc_sweep(ctx: TcContext) -> i32 {
    let Some((start, count, family)) = tc::sweep_args(&ctx) else { return -1 };
    if family == 0 {
        return <Kernel as Tables<V4>>::now_tick(&Kernel) as i32;
    }
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
