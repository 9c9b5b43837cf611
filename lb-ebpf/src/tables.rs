//! The maps, as the pipeline sees them.

use crate::family::Family;
use lb_common::{Backend, Config, Flow, FlowKey, FlowRef, Iface, Reason, Svc, SvcKey};

/// Maps and clock for one family. Implemented over BPF maps in `kernel/`, over `HashMap`s in [`crate::sim`].
pub trait Tables<F: Family> {
    /// Exact frontend lookup.
    fn svc(&self, k: &SvcKey<F::A>) -> Option<Svc>;
    /// Backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// Backend by id.
    fn backend(&self, id: u32) -> Option<Backend<F::A>>;
    /// Flow index lookup.
    fn index_get(&self, k: &FlowKey<F::A>) -> Option<FlowRef>;
    /// Inserts if absent; false when present or full.
    fn index_insert(&self, k: &FlowKey<F::A>, r: FlowRef) -> bool;
    /// Deletes; missing is fine.
    fn index_delete(&self, k: &FlowKey<F::A>);
    /// Record by slot.
    fn flow(&self, slot: u32) -> Option<*mut Flow<F::A>>;
    /// Advances the clock hand and returns where it stood.
    fn hand(&self) -> u32;
    /// Number of records in use by configuration.
    fn flows_len(&self, c: &Config) -> u32;
    /// A managed interface.
    fn iface(&self, ifindex: u32) -> Option<Iface>;
    /// The settings.
    fn config(&self) -> Option<Config>;
    /// Now, in ticks of `lb_common::flow::TICK_NS`.
    fn now_tick(&self) -> u32;
    /// Counts an event.
    fn count(&self, hook: lb_common::reason::Hook, r: Reason);
}
