//! `bpf_fib_lookup`, the same at XDP and tc.

use aya_ebpf::helpers::generated::bpf_fib_lookup;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use lb_ebpf::packet::{Fib, FibQuery};

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h), 64 bytes, as words.
///
/// 0: family, l4 protocol, ports, length in / MTU out; 1: ifindex, tos; 2-3: source; 4-5: destination;
/// 6: vlan and the first four bytes of the source MAC; 7: the rest of it, then the destination MAC.
type Params = [u64; 8];

#[inline(always)]
fn pair(lo: u32, hi: u32) -> u64 {
    lo as u64 | ((hi as u64) << 32)
}

/// Asks the FIB on behalf of a frame that came in by `ifindex`.
#[inline(always)]
pub fn lookup(ctx: *mut c_void, ifindex: u32, q: &FibQuery) -> Fib {
    let mut f = MaybeUninit::<Params>::uninit();
    let w = f.as_mut_ptr().cast::<u64>();
    // SAFETY: eight words on the stack, all written; volatile, because LLVM would turn zeros into a `memset` call,
    // which is a byte loop in a subprogram here. `ctx` is this program's context.
    let (status, f) = unsafe {
        w.write_volatile(q.af as u64 | ((q.proto as u64) << 8));
        w.add(1).write_volatile(ifindex as u64);
        w.add(2).write_volatile(pair(q.src[0], q.src[1]));
        w.add(3).write_volatile(pair(q.src[2], q.src[3]));
        w.add(4).write_volatile(pair(q.dst[0], q.dst[1]));
        w.add(5).write_volatile(pair(q.dst[2], q.dst[3]));
        w.add(6).write_volatile(0);
        w.add(7).write_volatile(0);
        let status = bpf_fib_lookup(ctx, w.cast(), size_of::<Params>() as i32, 0);
        (status, f.assume_init())
    };
    let (a, b, c) = ((f[6] >> 32) as u32, f[7] as u32, (f[7] >> 32) as u32);
    Fib {
        status: status as u32,
        ifindex: f[1] as u32,
        // Little endian: source-destination becomes destination-source.
        macs: [(b >> 16) | (c << 16), (c >> 16) | (a << 16), (a >> 16) | (b << 16)],
        mtu: (f[0] >> 48) as u32,
    }
}
