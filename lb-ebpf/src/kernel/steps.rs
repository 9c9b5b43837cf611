//! Steps of the pipeline as functions of their own: global ones (`BTF_FUNC_GLOBAL`, kernel/bpf/verifier.c,
//! `do_check_subprogs`), which the verifier walks through once for each program and not for every path to them. Such a
//! function takes and returns numbers. What each does: the method of [`lb_ebpf::tables::Tables`] that calls it.

use crate::maps::Kernel;
use lb_common::SetRef;
use lb_ebpf::family::{V4, V6};
use lb_ebpf::flow::{self, Claim};
use lb_ebpf::{index, select};

/// No record could be claimed.
pub const NONE: u64 = u64::MAX;
/// What was asked for is done.
pub const DONE: u64 = u64::MAX - 1;

/// One family's steps.
macro_rules! global_functions {
    ($family:ty, $claim:ident, $reply:ident, $free:ident, $choose:ident, $sweep:ident, $enter:ident, $holder:ident,
     $replace:ident, $displace:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $claim(now: u32) -> u64 {
            match flow::claim::<$family, Kernel>(&Kernel, now) {
                Some(c) => c.slot as u64 | (c.reclaimed as u64) << 32,
                None => NONE,
            }
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $reply(slot: u32, now: u32) -> u64 {
            match flow::claim_reply::<$family, Kernel>(&Kernel, slot, now) {
                Claim::None => NONE,
                Claim::Done => DONE,
                Claim::Closed { slot } => slot as u64,
            }
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $free(slot: u32, seq: u32) -> u32 {
            flow::free_slot::<$family, Kernel>(&Kernel, slot, seq);
            0
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $sweep(slot: u32, now: u32) -> u32 {
            flow::sweep_slot::<$family, Kernel>(&Kernel, slot, now) as u32
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $enter(who: u32, now: u32) -> u32 {
            index::enter::<$family, Kernel>(&Kernel, who, now) as u32
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $holder(who: u32, now: u32) -> u64 {
            match index::holder::<$family, Kernel>(&Kernel, who, now) {
                Some(slot) => slot as u64,
                None => NONE,
            }
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $replace(line: u32, old: u64, new: u64) -> u32 {
            index::replace::<$family, Kernel>(&Kernel, line, old, new) as u32
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $displace(line: u32, new: u64, now: u32) -> u32 {
            index::displace::<$family, Kernel>(&Kernel, line, new, now) as u32
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $choose(offset: u32, count: u32, hash: u32, proto: u32) -> u64 {
            match select::choose::<$family, Kernel>(&Kernel, SetRef { offset, count }, hash, proto) {
                Some(id) => id as u64,
                None => NONE,
            }
        }
    };
}

global_functions!(
    V4,
    fw_claim4,
    fw_reply4,
    fw_free4,
    fw_choose4,
    fw_sweep4,
    fw_enter4,
    fw_holder4,
    fw_replace4,
    fw_displace4
);
global_functions!(
    V6,
    fw_claim6,
    fw_reply6,
    fw_free6,
    fw_choose6,
    fw_sweep6,
    fw_enter6,
    fw_holder6,
    fw_replace6,
    fw_displace6
);

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fw_in_set(offset: u32, count: u32, id: u32) -> u32 {
    select::contains::<V4, Kernel>(&Kernel, SetRef { offset, count }, id) as u32
}
