//! Plans: the difference between what the maps hold and what they shall hold, as plain data in write order.
//!
//! The order and its reasons (see [`Op`]): backends, then slots in fresh ranges and source ranges under fresh ids,
//! then frontends (the commit point: from here on packets see the new sets), then the removal of what nothing
//! shall see any more. A range that a visible frontend names is never written; a range released by a plan is used
//! again by the next one.

mod changes;
mod diff;
mod ids;
mod index;
mod op;
mod ranges;
mod slots;

pub use changes::plan_changes;
pub use diff::diff;
pub use index::Index;
pub use op::{Op, Step, backend_text, svc_text};

use crate::compile::PortKey;
use crate::model::Problem;
use std::collections::BTreeMap;

/// An ordered list of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes, in order.
    pub ops: Vec<Op>,
    /// Ids of the desired service ports.
    pub names: Names,
    /// What must wait for a next plan because room appears only once this one is applied. Empty = complete.
    pub waiting: Vec<Problem>,
}

/// How the ids of service ports are after a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// These are all.
    All(BTreeMap<PortKey, u32>),
    /// Only these have changed; `None` = the service port is gone.
    Changed(Vec<(PortKey, Option<u32>)>),
}

impl Default for Names {
    fn default() -> Self {
        Names::Changed(Vec::new())
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}
