//! The maps, as the pipeline sees them.

use crate::family::Family;
use crate::flow::{self, Claim, Claimed};
use crate::index;
use crate::select;
use lb_common::{
    Affinity, AffinityKey, Backend, Config, Flow, FragKey, FragPorts, Hop, Iface, IndexLine, Reason, SetRef,
    Sock, SockKey, Svc, SvcKey,
};

/// Maps and clock for one family. Implemented over BPF maps in `kernel/`, in memory in the crate `sim`.
///
/// The steps with a body here are those that the kernel's implementation makes functions of their own: the verifier
/// walks through such a function once, and not again for every path that leads to it.
pub trait Tables<F: Family> {
    /// Exact frontend lookup. What is found does not change: the agent replaces frontends whole.
    fn svc(&self, k: &SvcKey<F::A>) -> Option<&Svc>;
    /// Backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// Backend by id.
    fn backend(&self, id: u32) -> Option<Backend<F::A>>;
    /// Is the address in this set of source ranges?
    fn in_ranges(&self, ranges_id: u32, a: &F::A) -> bool;
    /// The backend a client keeps.
    fn affinity(&self, k: &AffinityKey) -> Option<Affinity>;
    /// Notes the backend a client keeps; a full map forgets the one not used for longest.
    fn keep_affinity(&self, k: &AffinityKey, v: &Affinity);
    /// The ports of a datagram whose first fragment passed.
    fn fragment(&self, k: &FragKey<F::A>) -> Option<FragPorts>;
    /// Notes a first fragment.
    fn keep_fragment(&self, k: &FragKey<F::A>, v: &FragPorts);
    /// What a socket's peer stands for.
    fn sock(&self, k: &SockKey) -> Option<Sock>;
    /// Notes what a socket's peer stands for.
    fn keep_sock(&self, k: &SockKey, v: &Sock);
    /// A line of the flow index.
    fn line(&self, at: u32) -> Option<*mut IndexLine>;
    /// Writes `new` into the cell of a line if it holds `old`, at once for all CPUs; returns whether it did.
    fn swap(&self, cell: *mut u64, old: u64, new: u64) -> bool;
    /// Record by slot.
    fn flow(&self, slot: u32) -> Option<*mut Flow<F::A>>;
    /// The next hop towards a backend, as last looked up.
    fn hop(&self, backend_id: u32) -> Option<*mut Hop>;
    /// A word of the bits of what is ours (`lb_common::seen`).
    fn seen(&self, word: u32) -> u64;
    /// Takes a record for a new flow, and frees it if it held another one; `None`: all are in use.
    fn claim_flow(&self, now: u32) -> Option<Claimed>
    where
        Self: Sized,
    {
        flow::claim::<F, Self>(self, now)
    }
    /// Gives the record in `slot` a port of its own towards its backend, and enters its reply tuple into the index.
    fn claim_reply(&self, slot: u32, now: u32) -> Claim
    where
        Self: Sized,
    {
        flow::claim_reply::<F, Self>(self, slot, now)
    }
    /// Enters a tuple of a record into the index; `who` is its slot and the direction. False: another flow has it.
    fn enter(&self, who: u32, now: u32) -> bool
    where
        Self: Sized,
    {
        index::enter::<F, Self>(self, who, now)
    }
    /// The slot of the live flow that has this tuple of a record.
    fn holder(&self, who: u32, now: u32) -> Option<u32>
    where
        Self: Sized,
    {
        index::holder::<F, Self>(self, who, now)
    }
    /// Puts `new` where `old` is in a line of the index; false: it is not there.
    fn replace_entry(&self, line: u32, old: u64, new: u64) -> bool
    where
        Self: Sized,
    {
        index::replace::<F, Self>(self, line, old, new)
    }
    /// Puts `new` in the place of an entry that means nothing any more; false: there is none.
    fn displace_entry(&self, line: u32, new: u64, now: u32) -> bool
    where
        Self: Sized,
    {
        index::displace::<F, Self>(self, line, new, now)
    }
    /// Frees the record in `slot`, its index entries first, if it is the one with this `seq`.
    fn free_flow(&self, slot: u32, seq: u32)
    where
        Self: Sized,
    {
        flow::free_slot::<F, Self>(self, slot, seq)
    }
    /// Frees the record in `slot` if its time is over; returns whether it did.
    fn sweep_flow(&self, slot: u32, now: u32) -> bool
    where
        Self: Sized,
    {
        flow::sweep_slot::<F, Self>(self, slot, now)
    }
    /// Is the backend in the set?
    fn in_set(&self, set: SetRef, id: u32) -> bool
    where
        Self: Sized,
    {
        select::contains::<F, Self>(self, set, id)
    }
    /// The id of the set's backend that a hash points at.
    fn choose(&self, set: SetRef, hash: u32, proto: u32) -> Option<u32>
    where
        Self: Sized,
    {
        select::choose::<F, Self>(self, set, hash, proto)
    }
    /// Advances the clock hand and returns where it stood.
    fn hand(&self) -> u32;
    /// Number of records in use by configuration.
    fn flows_len(&self, c: &Config) -> u32;
    /// A managed interface.
    fn iface(&self, ifindex: u32) -> Option<&Iface>;
    /// The settings.
    fn config(&self) -> Option<&Config>;
    /// Now, in ticks of `lb_common::flow::TICK_NS`.
    fn now_tick(&self) -> u32;
    /// Takes a token for a packet that the datapath makes itself.
    fn may_reply(&self, now: u32) -> bool;
    /// Counts an event.
    fn count(&self, hook: lb_common::reason::Hook, r: Reason);
}
