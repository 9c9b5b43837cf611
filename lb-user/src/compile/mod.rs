//! `compile`: the whole world → what the maps shall hold. Pure and deterministic.
//!
//! Input: the world, this node, the maps' capacities, options, and which frontends are programmed already (for
//! stability when capacity runs out). Output: [`Desired`] and the problems found, each naming its object.
//! The steps, one file each: `frontends` (service ports and the addresses they answer on), `conflict` (one
//! owner per address), `endpoints` (slices merged), `policy` (which endpoints are used), `capacity`.
//! Knows nothing of ids, ranges, the kernel, time or randomness.

mod capacity;
mod conflict;
mod endpoints;
mod frontends;
pub mod keys;
mod policy;

pub use capacity::{backend_budget, slot_budget};
pub use keys::{BackendKey, PortKey};

use crate::model::{NodeView, Problem, World};
use crate::tables::{FrontendKey, Limits};
use lb_common::service::{SVC_HAS_ANY, SVC_KIND_CLUSTER_IP, SVC_POLICY_LOCAL};
use std::collections::BTreeMap;

/// Choices of the administrator that change what is programmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// Program `spec.externalIPs` (off by default: CVE-2020-8554).
    pub external_ips: bool,
}

/// What the maps shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Service ports.
    pub ports: BTreeMap<PortKey, DesiredPort>,
    /// Every backend that a slice of a programmed service port lists, with its `BACKEND_*` flags. An unready one
    /// is here, and so keeps its flows, but in no set.
    pub backends: BTreeMap<BackendKey, u8>,
}

/// One service port of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPort {
    /// Where it answers, with the `SVC_*` flags of each frontend.
    pub frontends: BTreeMap<FrontendKey, u32>,
    /// ClientIP affinity timeout in seconds; 0 = none.
    pub affinity_s: u32,
    /// The cluster set, in order.
    pub cluster: Vec<BackendKey>,
    /// The node-local set, in order.
    pub local: Vec<BackendKey>,
}

/// Compiles a world. `programmed` tells whether a frontend is in the maps now: service ports that are programmed
/// come first when capacity runs out.
pub fn compile(
    world: &World,
    node: &NodeView,
    limits: &Limits,
    options: &CompileOptions,
    programmed: &dyn Fn(&FrontendKey) -> bool,
) -> (Desired, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut candidates = frontends::candidates(world, node, options, &mut problems);
    conflict::resolve(&mut candidates, &mut problems);
    let index = endpoints::index(world);
    let compiled = candidates
        .into_iter()
        .filter(|c| !c.frontends.is_empty())
        .map(|candidate| {
            let merged = endpoints::merge(&index, &candidate.key, node, &mut problems);
            let sets = policy::categorize(&merged, &candidate, node);
            let common = if sets.has_any { SVC_HAS_ANY } else { 0 };
            let frontends = candidate.frontends.iter().map(|(key, kind)| {
                let internal = *kind == SVC_KIND_CLUSTER_IP;
                let local = if internal { candidate.internal_local } else { candidate.external_local };
                (*key, kind | common | if local { SVC_POLICY_LOCAL } else { 0 })
            });
            let port = DesiredPort {
                frontends: frontends.collect(),
                affinity_s: candidate.affinity_s,
                cluster: sets.cluster,
                local: sets.local,
            };
            let backends = merged.iter().map(|(key, e)| (*key, e.flags)).collect();
            capacity::Wanted { key: candidate.key, created_unix_s: candidate.created_unix_s, port, backends }
        })
        .collect();
    let desired = capacity::admit(compiled, limits, programmed, &mut problems);
    problems.sort();
    problems.dedup();
    (desired, problems)
}
