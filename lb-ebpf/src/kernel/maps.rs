//! The maps as statics, and [`Tables`] over them. Names and meanings: `lb_common::maps`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use lb_common::flow::TICK_SHIFT;
use lb_common::maps::*;
use lb_common::reason::{COUNTERS_LEN, Hook};
use lb_common::*;
use lb_ebpf::family::{V4, V6};
use lb_ebpf::tables::Tables;

const BPF_NOEXIST: u64 = 1;

// Services are read by every packet while the agent replaces them: without NO_PREALLOC the kernel recycles an
// element at once, and a reader could see half of another service.
#[map]
static FW_SVC4: HashMap<SvcKey<A4>, Svc> = HashMap::with_max_entries(DEFAULT_SERVICES, BPF_F_NO_PREALLOC);
#[map]
static FW_SVC6: HashMap<SvcKey<A6>, Svc> = HashMap::with_max_entries(DEFAULT_SERVICES, BPF_F_NO_PREALLOC);
#[map]
static FW_BACKENDS4: Array<Backend<A4>> = Array::with_max_entries(DEFAULT_BACKENDS, 0);
#[map]
static FW_BACKENDS6: Array<Backend<A6>> = Array::with_max_entries(DEFAULT_BACKENDS, 0);
#[map]
static FW_SLOTS: Array<u32> = Array::with_max_entries(DEFAULT_SLOTS, 0);
// The index is preallocated: inserts must not depend on the allocator at packet rate; `FlowRef::seq` makes a
// recycled element harmless.
#[map]
static FW_FLOWIDX4: HashMap<FlowKey<A4>, FlowRef> = HashMap::with_max_entries(DEFAULT_FLOWS * 2, 0);
#[map]
static FW_FLOWIDX6: HashMap<FlowKey<A6>, FlowRef> = HashMap::with_max_entries(DEFAULT_FLOWS * 2, 0);
#[map]
static FW_FLOWS4: Array<Flow<A4>> = Array::with_max_entries(DEFAULT_FLOWS, 0);
#[map]
static FW_FLOWS6: Array<Flow<A6>> = Array::with_max_entries(DEFAULT_FLOWS, 0);
#[map]
static FW_HANDS: Array<u64> = Array::with_max_entries(2, 0);
#[map]
static FW_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_LEN, 0);
#[map]
static FW_IFACES: HashMap<u32, Iface> = HashMap::with_max_entries(MAX_IFACES, BPF_F_NO_PREALLOC);
#[map]
static FW_CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// The kernel's maps.
pub struct Kernel;

/// Adds one to a clock hand and returns where it stood; atomic, because every CPU shares the hand.
#[inline(always)]
fn advance(which: u32) -> u32 {
    let Some(p) = FW_HANDS.get_ptr_mut(which) else { return 0 };
    let mut v: u64 = 1;
    // SAFETY: `p` is a map element of eight bytes. Rust's atomics are not available for the BPF target.
    unsafe {
        core::arch::asm!(
            "{v} = atomic_fetch_add((u64 *)({p} + 0), {v})",
            p = in(reg) p,
            v = inout(reg) v,
        );
    }
    v as u32
}

#[inline(always)]
fn count(hook: Hook, r: Reason) {
    if let Some(c) = FW_COUNTERS.get_ptr_mut(hook as u32 * Reason::COUNT + r as u32) {
        // SAFETY: this CPU's own element.
        unsafe { *c += 1 };
    }
}

macro_rules! tables {
    ($family:ty, $a:ty, $svc:ident, $backends:ident, $index:ident, $flows:ident, $hand:expr, $len:ident) => {
        impl Tables<$family> for Kernel {
            #[inline(always)]
            fn svc(&self, k: &SvcKey<$a>) -> Option<Svc> {
                // SAFETY: NO_PREALLOC map: the element stays valid for this program run.
                unsafe { $svc.get(k).copied() }
            }
            #[inline(always)]
            fn slot(&self, index: u32) -> Option<u32> {
                FW_SLOTS.get(index).copied()
            }
            #[inline(always)]
            fn backend(&self, id: u32) -> Option<Backend<$a>> {
                $backends.get(id).copied()
            }
            #[inline(always)]
            fn index_get(&self, k: &FlowKey<$a>) -> Option<FlowRef> {
                // SAFETY: a recycled element shows another `seq`, which no record of this slot has.
                unsafe { $index.get(k).copied() }
            }
            #[inline(always)]
            fn index_insert(&self, k: &FlowKey<$a>, r: FlowRef) -> bool {
                $index.insert(k, &r, BPF_NOEXIST).is_ok()
            }
            #[inline(always)]
            fn index_delete(&self, k: &FlowKey<$a>) {
                let _missing_is_fine = $index.remove(k);
            }
            #[inline(always)]
            fn flow(&self, slot: u32) -> Option<*mut Flow<$a>> {
                $flows.get_ptr_mut(slot)
            }
            #[inline(always)]
            fn hand(&self) -> u32 {
                advance($hand)
            }
            #[inline(always)]
            fn flows_len(&self, c: &Config) -> u32 {
                c.$len
            }
            #[inline(always)]
            fn iface(&self, ifindex: u32) -> Option<Iface> {
                // SAFETY: NO_PREALLOC map: the element stays valid for this program run.
                unsafe { FW_IFACES.get(ifindex).copied() }
            }
            #[inline(always)]
            fn config(&self) -> Option<Config> {
                FW_CONFIG.get(0).copied()
            }
            #[inline(always)]
            fn now_tick(&self) -> u32 {
                // SAFETY: no arguments, no memory.
                (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
            }
            #[inline(always)]
            fn count(&self, hook: Hook, r: Reason) {
                count(hook, r)
            }
        }
    };
}

tables!(V4, A4, FW_SVC4, FW_BACKENDS4, FW_FLOWIDX4, FW_FLOWS4, 0, flows4_len);
tables!(V6, A6, FW_SVC6, FW_BACKENDS6, FW_FLOWIDX6, FW_FLOWS6, 1, flows6_len);
