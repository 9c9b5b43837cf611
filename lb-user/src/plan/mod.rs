//! Plans: the difference between what the maps hold and what they shall hold, as plain data in write order.
//!
//! The order and its reasons (see [`Op`]): backends, then slots in fresh ranges and source ranges under fresh ids,
//! then frontends (the commit point: from here on packets see the new sets), then the removal of what nothing
//! shall see any more. A range that a visible frontend names is never written; a range released by a plan is used
//! again by the next one.

mod diff;
mod ids;
mod op;
mod ranges;
mod slots;

pub use diff::diff;
pub use op::{Op, Step, backend_text, svc_text};

use crate::compile::PortKey;
use crate::model::Problem;
use std::collections::BTreeMap;

/// An ordered list of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes, in order.
    pub ops: Vec<Op>,
    /// Ids of all desired service ports.
    pub names: BTreeMap<PortKey, u32>,
    /// What must wait for a next plan because room appears only once this one is applied. Empty = complete.
    pub waiting: Vec<Problem>,
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}
