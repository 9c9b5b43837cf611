//! `bpf_fib_lookup`, the same at XDP and tc.

use aya_ebpf::bindings::bpf_fib_lookup as Params;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use core::ffi::c_void;
use lb_ebpf::packet::{Fib, FibQuery};

/// Asks the FIB on behalf of a frame that came in by `ifindex`.
#[inline(always)]
pub fn lookup(ctx: *mut c_void, ifindex: u32, q: &FibQuery) -> Fib {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut f: Params = unsafe { core::mem::zeroed() };
    f.family = q.af;
    f.l4_protocol = q.proto;
    f.ifindex = ifindex;
    f.__bindgen_anon_3.ipv6_src = q.src;
    f.__bindgen_anon_4.ipv6_dst = q.dst;
    // SAFETY: `ctx` is this program's context, `f` lives on the stack.
    let status = unsafe { bpf_fib_lookup(ctx, &mut f, size_of::<Params>() as i32, 0) };
    let (d, s) = (f.dmac, f.smac);
    Fib {
        status: status as u32,
        ifindex: f.ifindex,
        macs: [
            u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
            u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
            u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
        ],
        // SAFETY: both arms of the union are a u16.
        mtu: unsafe { f.__bindgen_anon_1.mtu_result } as u32,
    }
}
