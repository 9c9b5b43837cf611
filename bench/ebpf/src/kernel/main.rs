//! Prologues, generator, sink and empty programs; see the library for what they read.
//!
//! A prologue that finds no program in its array returns a value that no program under test returns, so that a
//! benchmark of nothing is noticed.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_skb_change_tail, bpf_xdp_adjust_tail};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use bench_ebpf::{Control, FRAME4, FRAME6, MAX_FLOWS, Patch4, Patch6, SINK_STRIDE, Sunk};

#[map]
static BENCH_CONTROL: Array<Control> = Array::with_max_entries(1, 0);
#[map]
static BENCH_PATCHES4: Array<Patch4> = Array::with_max_entries(MAX_FLOWS, 0);
#[map]
static BENCH_PATCHES6: Array<Patch6> = Array::with_max_entries(MAX_FLOWS, 0);
#[map]
static BENCH_XDP: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static BENCH_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static BENCH_SUNK: PerCpuArray<Sunk> = PerCpuArray::with_max_entries(1, 0);

/// Not ours at tc: let the next program have it.
const TCX_NEXT: i32 = -1;
/// What a tc prologue without target returns.
const TC_NO_TARGET: i32 = 0x7f;

/// Where the frame lies; the two hooks differ in this and in how a frame is cut.
trait Frame {
    fn start(&self) -> usize;
    fn end(&self) -> usize;
    /// False = refused.
    fn set_len(&self, len: u32) -> bool;
}

struct Xdp(*mut xdp_md);
struct Tc(*mut __sk_buff);

impl Frame for Xdp {
    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the program's context.
        unsafe { (*self.0).data as usize }
    }
    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: the program's context.
        unsafe { (*self.0).data_end as usize }
    }
    #[inline(always)]
    fn set_len(&self, len: u32) -> bool {
        let delta = len as i32 - (self.end() - self.start()) as i32;
        // SAFETY: the program's context.
        delta == 0 || unsafe { bpf_xdp_adjust_tail(self.0, delta) } == 0
    }
}

impl Frame for Tc {
    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the program's context.
        unsafe { (*self.0).data as usize }
    }
    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: the program's context.
        unsafe { (*self.0).data_end as usize }
    }
    #[inline(always)]
    fn set_len(&self, len: u32) -> bool {
        // SAFETY: the program's context.
        unsafe { (*self.0).len == len || bpf_skb_change_tail(self.0, len, 0) == 0 }
    }
}

/// Stores a `T`; plain, since the JITs we run on allow unaligned access.
///
/// # Safety
/// `off + size_of::<T>()` bytes from `p` were bounds-checked.
#[inline(always)]
unsafe fn put<T>(p: usize, off: usize, v: T) {
    // SAFETY: the caller's promise. Volatile: LLVM must not make a loop of these a memcpy call.
    unsafe { ((p + off) as *mut T).write_volatile(v) }
}

/// Takes the next flow and brings the frame to its length.
#[inline(always)]
fn next(f: &impl Frame) -> Option<(&'static Control, u32)> {
    let c = BENCH_CONTROL.get_ptr_mut(0)?;
    // SAFETY: a map element; only the one CPU that runs the benchmark uses it.
    let c = unsafe { &mut *c };
    let flow = c.next;
    c.next = if flow + 1 >= c.count { 0 } else { flow + 1 };
    f.set_len(c.len).then_some((c, flow))
}

#[inline(always)]
fn restore4(f: &impl Frame) -> Option<()> {
    let (c, flow) = next(f)?;
    // SAFETY: a map element.
    let patch = unsafe { &*BENCH_PATCHES4.get_ptr(flow)? };
    let p = f.start();
    if p + FRAME4 > f.end() {
        return None;
    }
    // SAFETY: FRAME4 bytes were checked.
    unsafe {
        put(p, 0, c.base[0]);
        put(p, 8, c.base[1]);
        put(p, 16, c.base[2]);
        put(p, 32, c.base[4]);
        put(p, 40, c.base[5]);
        put(p, 48, c.base[6] as u32);
        put(p, 52, (c.base[6] >> 32) as u16);
        put(p, 24, patch.ip_csum);
        put(p, 26, patch.src);
        put(p, 30, patch.dst);
        put(p, 34, patch.ports);
        if c.is_udp != 0 {
            put(p, 40, patch.l4_csum);
        } else {
            put(p, 50, patch.l4_csum);
        }
    }
    Some(())
}

#[inline(always)]
fn restore6(f: &impl Frame) -> Option<()> {
    let (c, flow) = next(f)?;
    // SAFETY: a map element.
    let patch = unsafe { &*BENCH_PATCHES6.get_ptr(flow)? };
    let p = f.start();
    if p + FRAME6 > f.end() {
        return None;
    }
    // SAFETY: FRAME6 bytes were checked.
    unsafe {
        put(p, 0, c.base[0]);
        put(p, 8, c.base[1]);
        put(p, 16, c.base[2]);
        put(p, 56, c.base[7]);
        put(p, 64, c.base[8]);
        put(p, 72, c.base[9] as u16);
        put(p, 22, patch.src[0]);
        put(p, 30, patch.src[1]);
        put(p, 38, patch.dst[0]);
        put(p, 46, patch.dst[1]);
        put(p, 54, patch.ports);
        if c.is_udp != 0 {
            put(p, 60, patch.l4_csum);
        } else {
            put(p, 70, patch.l4_csum);
        }
    }
    Some(())
}

#[inline(always)]
fn xdp_run(ctx: &XdpContext, restored: Option<()>) -> u32 {
    if restored.is_some() {
        // SAFETY: nothing here is left undone by the jump.
        unsafe { BENCH_XDP.tail_call(ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn tc_run(ctx: &TcContext, restored: Option<()>) -> i32 {
    if restored.is_some() {
        // SAFETY: nothing here is left undone by the jump.
        unsafe { BENCH_TC.tail_call(ctx, 0) };
    }
    TC_NO_TARGET
}

/// Restores an IPv4 frame, then becomes the XDP program under test.
#[xdp]
pub fn bench_xdp4(ctx: XdpContext) -> u32 {
    xdp_run(&ctx, restore4(&Xdp(ctx.as_ptr().cast())))
}

/// The same for IPv6.
#[xdp]
pub fn bench_xdp6(ctx: XdpContext) -> u32 {
    xdp_run(&ctx, restore6(&Xdp(ctx.as_ptr().cast())))
}

/// Restores an IPv4 frame, then becomes the tc program under test.
#[classifier]
pub fn bench_tc4(ctx: TcContext) -> i32 {
    tc_run(&ctx, restore4(&Tc(ctx.skb.skb)))
}

/// The same for IPv6.
#[classifier]
pub fn bench_tc6(ctx: TcContext) -> i32 {
    tc_run(&ctx, restore6(&Tc(ctx.skb.skb)))
}

/// Passes everything: the floor, and a prologue's target when its own cost is measured.
#[xdp]
pub fn bench_xdp_nil(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The same at tc.
#[classifier]
pub fn bench_tc_nil(_ctx: TcContext) -> i32 {
    TCX_NEXT
}

/// Generator, for live frames: a whole IPv4 header, then out of the interface it runs on.
#[xdp]
pub fn bench_gen4(ctx: XdpContext) -> u32 {
    match restore4(&Xdp(ctx.as_ptr().cast())) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// The same for IPv6.
#[xdp]
pub fn bench_gen6(ctx: XdpContext) -> u32 {
    match restore6(&Xdp(ctx.as_ptr().cast())) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Counts and drops.
#[xdp]
pub fn bench_sink(_ctx: XdpContext) -> u32 {
    if let Some(s) = BENCH_SUNK.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        let s = unsafe { &mut *s };
        s.count += 1;
        if s.count & (SINK_STRIDE - 1) == 0 {
            // SAFETY: no arguments, no memory.
            s.last_ns = unsafe { bpf_ktime_get_ns() };
            s.last_count = s.count;
            if s.first_ns == 0 {
                s.first_ns = s.last_ns;
                s.first_count = s.count;
            }
        }
    }
    xdp_action::XDP_DROP
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // No panic path survives to the object: indexing and arithmetic are checked by hand.
    loop {}
}

/// As the datapath's: the source is (Apache-2.0 OR MIT) and offered under the GPL too.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
