//! Socket hooks (`struct bpf_sock_addr`): where a process of this node connects or sends, and whom it sees as its peer.
//!
//! They never refuse: what cannot be translated goes on as it is. An IPv6 socket that uses IPv4-mapped addresses comes
//! to the IPv6 hooks and is served from the IPv4 tables.

use crate::maps::Kernel;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use lb_common::reason::Hook;
use lb_common::{A4, A6, Reason};
use lb_ebpf::family::{V4, V6};
use lb_ebpf::sock::{Instead, Request, frontend_of, towards_backend};
use lb_ebpf::tables::Tables;

/// What a hook does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// connect: a backend, once.
    Connect,
    /// sendmsg: a backend, the same for every datagram.
    Send,
    /// recvmsg, getpeername: the frontend again.
    Reverse,
}

/// `::ffff:0:0/96` as it lies in memory: the third word.
const MAPPED: u32 = 0x0000_ffffu32.to_be();
const TCP: u32 = 6;
const UDP: u32 = 17;
/// The hook lets the call go on.
const PROCEED: i32 = 1;

fn words(v: u64) -> [u32; 2] {
    [v as u32, (v >> 32) as u32]
}

#[inline(always)]
fn request<A>(ctx: *mut bpf_sock_addr, addr: A) -> Option<Request<A>> {
    // SAFETY: the program's context; whole aligned words.
    let (proto, port) = unsafe {
        ((&raw const (*ctx).protocol).read_volatile(), (&raw const (*ctx).user_port).read_volatile())
    };
    if proto != TCP && proto != UDP {
        return None;
    }
    // SAFETY: the program's context.
    let (cookie, netns) = unsafe { (bpf_get_socket_cookie(ctx.cast()), bpf_get_netns_cookie(ctx.cast())) };
    Some(Request {
        addr,
        port_be: port as u16,
        proto: proto as u8,
        cookie: words(cookie),
        netns: words(netns),
    })
}

#[inline(always)]
fn decide4(ctx: *mut bpf_sock_addr, addr: A4, call: Call) -> Result<Instead<A4>, Reason> {
    let Some(r) = request(ctx, addr) else { return Err(Reason::NotL4) };
    match call {
        Call::Reverse => frontend_of::<V4, _>(&Kernel, &r),
        _ => towards_backend::<V4, _>(&Kernel, &r, call == Call::Send),
    }
}

#[inline(always)]
fn decide6(ctx: *mut bpf_sock_addr, addr: A6, call: Call) -> Result<Instead<A6>, Reason> {
    let Some(r) = request(ctx, addr) else { return Err(Reason::NotL4) };
    match call {
        Call::Reverse => frontend_of::<V6, _>(&Kernel, &r),
        _ => towards_backend::<V6, _>(&Kernel, &r, call == Call::Send),
    }
}

#[inline(always)]
fn count(r: Reason) {
    <Kernel as Tables<V4>>::count(&Kernel, Hook::Sock, r);
}

#[inline(always)]
fn done(call: Call) {
    count(if call == Call::Reverse { Reason::SockReverse } else { Reason::SockTranslated });
}

/// An IPv4 hook.
#[inline(always)]
pub fn run4(ctx: *mut bpf_sock_addr, call: Call) -> i32 {
    // SAFETY: the program's context; whole aligned words.
    unsafe {
        match decide4(ctx, A4((&raw const (*ctx).user_ip4).read_volatile()), call) {
            Ok(to) => {
                (&raw mut (*ctx).user_ip4).write_volatile(to.addr.0);
                (&raw mut (*ctx).user_port).write_volatile(to.port_be as u32);
                done(call);
            }
            Err(r) => count(r),
        }
    }
    PROCEED
}

/// An IPv6 hook.
#[inline(always)]
pub fn run6(ctx: *mut bpf_sock_addr, call: Call) -> i32 {
    // SAFETY: the program's context; whole aligned words.
    unsafe {
        let p = (&raw mut (*ctx).user_ip6).cast::<u32>();
        let w =
            [p.read_volatile(), p.add(1).read_volatile(), p.add(2).read_volatile(), p.add(3).read_volatile()];
        if w[0] == 0 && w[1] == 0 && w[2] == MAPPED {
            match decide4(ctx, A4(w[3]), call) {
                Ok(to) => {
                    p.add(3).write_volatile(to.addr.0);
                    (&raw mut (*ctx).user_port).write_volatile(to.port_be as u32);
                    done(call);
                }
                Err(r) => count(r),
            }
            return PROCEED;
        }
        match decide6(ctx, A6(w), call) {
            Ok(to) => {
                p.write_volatile(to.addr.0[0]);
                p.add(1).write_volatile(to.addr.0[1]);
                p.add(2).write_volatile(to.addr.0[2]);
                p.add(3).write_volatile(to.addr.0[3]);
                (&raw mut (*ctx).user_port).write_volatile(to.port_be as u32);
                done(call);
            }
            Err(r) => count(r),
        }
    }
    PROCEED
}
