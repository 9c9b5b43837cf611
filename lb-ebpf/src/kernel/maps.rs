//! The maps as statics, and [`Tables`] over them. Names and meanings: `lb_common::maps`.

use crate::steps::*;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use lb_common::flow::{index_lines, tick_of_jiffies};
use lb_common::maps::*;
use lb_common::reason::{COUNTERS_LEN, Hook};
use lb_common::seen::SEEN_LEN;
use lb_common::*;
use lb_ebpf::family::{V4, V6, V6Frag};
use lb_ebpf::flow::{Claim, Claimed};
use lb_ebpf::reject::take_token;
use lb_ebpf::tables::Tables;

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
// The elements of a mappable array begin at a page: so lines and records lie on cache lines.
#[map]
static FW_FLOWIDX4: Array<IndexLine> = Array::with_max_entries(index_lines(DEFAULT_FLOWS), BPF_F_MMAPABLE);
#[map]
static FW_FLOWIDX6: Array<IndexLine> = Array::with_max_entries(index_lines(DEFAULT_FLOWS), BPF_F_MMAPABLE);
#[map]
static FW_FLOWS4: Array<Flow<A4>> = Array::with_max_entries(DEFAULT_FLOWS, BPF_F_MMAPABLE);
#[map]
static FW_FLOWS6: Array<Flow<A6>> = Array::with_max_entries(DEFAULT_FLOWS, BPF_F_MMAPABLE);
#[map]
static FW_HOPS4: Array<Hop> = Array::with_max_entries(DEFAULT_BACKENDS, 0);
#[map]
static FW_HOPS6: Array<Hop> = Array::with_max_entries(DEFAULT_BACKENDS, 0);
#[map]
static FW_SEEN: Array<u64> = Array::with_max_entries(SEEN_LEN, 0);
#[map]
static FW_HANDS: Array<u64> = Array::with_max_entries(2, 0);
#[map]
static FW_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_LEN, 0);
#[map]
static FW_IFACES: HashMap<u32, Iface> = HashMap::with_max_entries(MAX_IFACES, BPF_F_NO_PREALLOC);
#[map]
static FW_CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
static FW_RANGES4: LpmTrie<[u32; 2], u32> = LpmTrie::with_max_entries(DEFAULT_RANGES, 0);
#[map]
static FW_RANGES6: LpmTrie<[u32; 5], u32> = LpmTrie::with_max_entries(DEFAULT_RANGES, 0);
#[map]
static FW_AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(DEFAULT_AFFINITY, 0);
#[map]
static FW_FRAGS4: LruHashMap<FragKey<A4>, FragPorts> = LruHashMap::with_max_entries(MAX_FRAGS, 0);
#[map]
static FW_FRAGS6: LruHashMap<FragKey<A6>, FragPorts> = LruHashMap::with_max_entries(MAX_FRAGS, 0);
#[map]
static FW_SOCKS: LruHashMap<SockKey, Sock> = LruHashMap::with_max_entries(DEFAULT_SOCKS, 0);
#[map]
static FW_LIMIT: PerCpuArray<Bucket> = PerCpuArray::with_max_entries(1, 0);
// The slow programs. Pinned beside the programs of their object, so an upgrade never mixes two.
#[map]
pub static FW_TAILS_XDP: ProgramArray = ProgramArray::with_max_entries(TAILS_XDP, 0);
#[map]
pub static FW_TAILS_TC: ProgramArray = ProgramArray::with_max_entries(TAILS_TC, 0);

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

/// True when `cell` held `old`, and now holds `new`.
#[inline(always)]
fn compare_and_swap(cell: *mut u64, old: u64, new: u64) -> bool {
    let was: u64;
    // SAFETY: `cell` is a word of a map element.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({p} + 0, r0, {new})",
            p = in(reg) cell,
            new = in(reg) new,
            inout("r0") old => was,
        );
    }
    was == old
}

#[inline(always)]
fn count(hook: Hook, r: Reason) {
    if let Some(c) = FW_COUNTERS.get_ptr_mut(hook as u32 * Reason::COUNT + r as u32) {
        // SAFETY: this CPU's own element.
        unsafe { *c += 1 };
    }
}

/// True when the trie has a prefix of the set that holds the address.
#[inline(always)]
fn in_ranges4(id: u32, a: &A4) -> bool {
    FW_RANGES4.get(Key::new(64, [id, a.0])).is_some()
}

#[inline(always)]
fn in_ranges6(id: u32, a: &A6) -> bool {
    let w = &a.0;
    FW_RANGES6.get(Key::new(160, [id, w[0], w[1], w[2], w[3]])).is_some()
}

macro_rules! tables {
    ($family:ty, $a:ty, $svc:ident, $backends:ident, $index:ident, $flows:ident, $hand:expr, $len:ident,
     $in_ranges:ident, $frags:ident, $hops:ident, $claim:ident, $reply:ident, $free:ident, $choose:ident, $sweep:ident, $enter:ident, $holder:ident, $replace:ident, $displace:ident) => {
        impl Tables<$family> for Kernel {
            #[inline(always)]
            fn svc(&self, k: &SvcKey<$a>) -> Option<&Svc> {
                // SAFETY: NO_PREALLOC map: the element stays valid for this program run.
                unsafe { $svc.get(k) }
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
            fn line(&self, at: u32) -> Option<*mut IndexLine> {
                $index.get_ptr_mut(at)
            }
            #[inline(always)]
            fn swap(&self, cell: *mut u64, old: u64, new: u64) -> bool {
                compare_and_swap(cell, old, new)
            }
            #[inline(always)]
            fn enter(&self, who: u32, now: u32) -> bool {
                $enter(who, now) != 0
            }
            #[inline(always)]
            fn holder(&self, who: u32, now: u32) -> Option<u32> {
                let v = $holder(who, now);
                (v != NONE).then_some(v as u32)
            }
            #[inline(always)]
            fn replace_entry(&self, line: u32, old: u64, new: u64) -> bool {
                $replace(line, old, new) != 0
            }
            #[inline(always)]
            fn displace_entry(&self, line: u32, new: u64, now: u32) -> bool {
                $displace(line, new, now) != 0
            }
            #[inline(always)]
            fn flow(&self, slot: u32) -> Option<*mut Flow<$a>> {
                $flows.get_ptr_mut(slot)
            }
            #[inline(always)]
            fn claim_flow(&self, now: u32) -> Option<Claimed> {
                let v = $claim(now);
                (v != NONE).then_some(Claimed { slot: v as u32, reclaimed: v >> 32 != 0 })
            }
            #[inline(always)]
            fn claim_reply(&self, slot: u32, now: u32) -> Claim {
                match $reply(slot, now) {
                    NONE => Claim::None,
                    DONE => Claim::Done,
                    other => Claim::Closed { slot: other as u32 },
                }
            }
            #[inline(always)]
            fn free_flow(&self, slot: u32, seq: u32) {
                $free(slot, seq);
            }
            #[inline(always)]
            fn sweep_flow(&self, slot: u32, now: u32) -> bool {
                $sweep(slot, now) != 0
            }
            #[inline(always)]
            fn in_set(&self, set: SetRef, id: u32) -> bool {
                fw_in_set(set.offset, set.count, id) != 0
            }
            #[inline(always)]
            fn choose(&self, set: SetRef, hash: u32, proto: u32) -> Option<u32> {
                let v = $choose(set.offset, set.count, hash, proto);
                (v != NONE).then_some(v as u32)
            }
            #[inline(always)]
            fn hop(&self, backend_id: u32) -> Option<*mut Hop> {
                $hops.get_ptr_mut(backend_id)
            }
            #[inline(always)]
            fn seen(&self, word: u32) -> u64 {
                match FW_SEEN.get(word) {
                    Some(w) => *w,
                    None => 0,
                }
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
            fn iface(&self, ifindex: u32) -> Option<&Iface> {
                // SAFETY: NO_PREALLOC map: the element stays valid for this program run.
                unsafe { FW_IFACES.get(ifindex) }
            }
            #[inline(always)]
            fn config(&self) -> Option<&Config> {
                FW_CONFIG.get(0)
            }
            #[inline(always)]
            fn in_ranges(&self, ranges_id: u32, a: &$a) -> bool {
                $in_ranges(ranges_id, a)
            }
            #[inline(always)]
            fn affinity(&self, k: &AffinityKey) -> Option<Affinity> {
                // SAFETY: a recycled element shows another client's choice: checked against the set all the same.
                unsafe { FW_AFFINITY.get(k).copied() }
            }
            #[inline(always)]
            fn keep_affinity(&self, k: &AffinityKey, v: &Affinity) {
                let _best_effort = FW_AFFINITY.insert(k, v, 0);
            }
            #[inline(always)]
            fn fragment(&self, k: &FragKey<$a>) -> Option<FragPorts> {
                // SAFETY: a recycled element shows another datagram's ports; they lead to no flow of this tuple.
                unsafe { $frags.get(k).copied() }
            }
            #[inline(always)]
            fn keep_fragment(&self, k: &FragKey<$a>, v: &FragPorts) {
                let _best_effort = $frags.insert(k, v, 0);
            }
            #[inline(always)]
            fn sock(&self, k: &SockKey) -> Option<Sock> {
                // SAFETY: elements of a live socket are used often; a recycled one is caught by the generation.
                unsafe { FW_SOCKS.get(k).copied() }
            }
            #[inline(always)]
            fn keep_sock(&self, k: &SockKey, v: &Sock) {
                let _best_effort = FW_SOCKS.insert(k, v, 0);
            }
            #[inline(always)]
            fn may_reply(&self, now: u32) -> bool {
                match FW_LIMIT.get_ptr_mut(0) {
                    // SAFETY: this CPU's own element.
                    Some(b) => take_token(unsafe { &mut *b }, now),
                    None => false,
                }
            }
            #[inline(always)]
            fn now_tick(&self) -> u32 {
                let Some(c) = FW_CONFIG.get(0) else { return 0 };
                // SAFETY: no arguments, no memory.
                tick_of_jiffies(unsafe { bpf_jiffies64() }, c.tick_scale)
            }
            #[inline(always)]
            fn count(&self, hook: Hook, r: Reason) {
                count(hook, r)
            }
        }
    };
}

tables!(
    V4,
    A4,
    FW_SVC4,
    FW_BACKENDS4,
    FW_FLOWIDX4,
    FW_FLOWS4,
    0,
    flows4_len,
    in_ranges4,
    FW_FRAGS4,
    FW_HOPS4,
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
tables!(
    V6,
    A6,
    FW_SVC6,
    FW_BACKENDS6,
    FW_FLOWIDX6,
    FW_FLOWS6,
    1,
    flows6_len,
    in_ranges6,
    FW_FRAGS6,
    FW_HOPS6,
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
tables!(
    V6Frag,
    A6,
    FW_SVC6,
    FW_BACKENDS6,
    FW_FLOWIDX6,
    FW_FLOWS6,
    1,
    flows6_len,
    in_ranges6,
    FW_FRAGS6,
    FW_HOPS6,
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
