//! One write. The order of the variants is the order of a plan.

use crate::compile::keys::{BackendKey, entry_state, frontend_text};
use crate::tables::{BackendEntry, FrontendKey, SourceRanges};
use lb_common::{SetRef, Svc};
use std::fmt;

/// One write of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new or changed backend. First, because slots refer to it.
    PutBackend {
        /// Index in its family's array.
        id: u32,
        /// What to write.
        entry: BackendEntry,
    },
    /// A set in a range that no visible frontend names.
    PutSlots {
        /// First slot.
        offset: u32,
        /// Backend ids.
        ids: Vec<u32>,
    },
    /// A set of source ranges under an id that no visible frontend names.
    PutRanges {
        /// The set.
        id: u32,
        /// Its networks.
        networks: SourceRanges,
    },
    /// The commit point: packets see the new sets from here on.
    PutFrontend {
        /// Where.
        key: FrontendKey,
        /// What to write.
        svc: Svc,
    },
    /// A frontend that nothing wants any more.
    DeleteFrontend {
        /// Where.
        key: FrontendKey,
    },
    /// A backend that nothing refers to any more: flags 0, generation raised, so that its flows are invalid.
    FreeBackend {
        /// Index in its family's array.
        id: u32,
        /// What to write.
        entry: BackendEntry,
    },
    /// A range that no visible frontend names any more. Nothing is written; the next plan may use it.
    ReleaseSlots {
        /// First slot.
        offset: u32,
        /// Number of slots.
        count: u32,
    },
    /// A set of source ranges that no visible frontend names any more.
    DeleteRanges {
        /// The set.
        id: u32,
        /// Its networks.
        networks: SourceRanges,
    },
}

/// The phase of a plan an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Reading the maps back.
    Restore,
    /// Writing backends.
    Backends,
    /// Writing slots.
    Slots,
    /// Writing source ranges.
    Ranges,
    /// Publishing frontends.
    Frontends,
    /// Deleting frontends.
    Deletes,
    /// Freeing backends.
    Frees,
    /// Releasing ranges of slots.
    Releases,
    /// Deleting source ranges.
    RangeDeletes,
    /// Marking the sync as complete.
    Commit,
}

impl Op {
    /// The phase.
    pub fn step(&self) -> Step {
        match self {
            Op::PutBackend { .. } => Step::Backends,
            Op::PutSlots { .. } => Step::Slots,
            Op::PutRanges { .. } => Step::Ranges,
            Op::PutFrontend { .. } => Step::Frontends,
            Op::DeleteFrontend { .. } => Step::Deletes,
            Op::FreeBackend { .. } => Step::Frees,
            Op::ReleaseSlots { .. } => Step::Releases,
            Op::DeleteRanges { .. } => Step::RangeDeletes,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::PutBackend { id, entry } => write!(f, "put-backend {id} {}", backend_text(entry)),
            Op::PutSlots { offset, ids } => write!(f, "put-slots {offset} {ids:?}"),
            Op::PutFrontend { key, svc } => {
                write!(f, "put-frontend {} {}", frontend_text(key), svc_text(svc))
            }
            Op::DeleteFrontend { key } => write!(f, "delete-frontend {}", frontend_text(key)),
            Op::FreeBackend { id, entry } => write!(f, "free-backend {id} {}", backend_text(entry)),
            Op::ReleaseSlots { offset, count } => write!(f, "release-slots {offset}+{count}"),
            Op::PutRanges { id, networks } => write!(f, "put-ranges {id} {networks:?}"),
            Op::DeleteRanges { id, .. } => write!(f, "delete-ranges {id}"),
        }
    }
}

/// A backend entry in words.
pub fn backend_text(entry: &BackendEntry) -> String {
    let (flags, generation) = entry_state(entry);
    let names = [(1, "live"), (2, "serving"), (4, "local")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    let what = BackendKey::of_entry(entry).map_or_else(|| "unknown protocol".to_string(), |k| k.to_string());
    let state = if set.is_empty() { "free".to_string() } else { set.join(",") };
    format!("{what} {state} gen={generation}")
}

/// A frontend's value in words.
pub fn svc_text(svc: &Svc) -> String {
    use lb_common::service::{SVC_ADDRESS, SVC_HAS_ANY, SVC_KIND_MASK, SVC_POLICY_LOCAL};
    if svc.flags & SVC_ADDRESS != 0 {
        return "address".to_string();
    }
    let kind =
        ["cluster-ip", "node-port", "load-balancer", "external-ip"][(svc.flags & SVC_KIND_MASK) as usize];
    let mut text = format!("id={} {kind}", svc.id);
    for (bit, name) in [(SVC_POLICY_LOCAL, " policy-local"), (SVC_HAS_ANY, " has-any")] {
        if svc.flags & bit != 0 {
            text.push_str(name);
        }
    }
    if svc.affinity_s != 0 {
        text.push_str(&format!(" affinity={}s", svc.affinity_s));
    }
    if svc.ranges_id != 0 {
        text.push_str(&format!(" ranges={}", svc.ranges_id));
    }
    let range = |s: SetRef| if s.count == 0 { "-".to_string() } else { format!("{}+{}", s.offset, s.count) };
    text.push_str(&format!(" cluster={} local={}", range(svc.sets[0]), range(svc.sets[1])));
    text
}
