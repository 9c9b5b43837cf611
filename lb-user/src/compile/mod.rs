//! `compile`: the whole world → what the maps shall hold. Pure and deterministic.
//!
//! Input: the world, this node, the maps' capacities, options, and which frontends are programmed already (for
//! stability when capacity runs out). Output: [`Desired`] and the problems found, each naming its object.
//! The steps, one file each: `frontends` (service ports and the addresses they claim), `conflict` (one owner per
//! address), `endpoints` (slices merged), `policy` (which endpoints are used), `capacity`.
//! [`Compiler`] keeps the same result up to date change by change (`claims`, `shared`).
//! Knows nothing of ids, ranges, the kernel, time or randomness.

mod capacity;
mod claims;
mod compiler;
mod conflict;
mod endpoints;
mod frontends;
pub mod keys;
mod policy;
mod ranges;
mod shared;

pub use capacity::{backend_budget, range_budget, slot_budget};
pub use compiler::{Changes, Compiler};
pub use keys::{BackendKey, PortKey};
pub use ranges::SourceRanges;

use crate::model::{NodeView, Problem, Slice, World};
use crate::tables::{FrontendKey, Limits};
use capacity::Wanted;
use frontends::Candidate;
use ipnet::IpNet;
use lb_common::service::{SVC_HAS_ANY, SVC_KIND_CLUSTER_IP, SVC_POLICY_LOCAL};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Choices of the administrator that change what is programmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompileOptions {
    /// `spec.externalIPs` are programmed if they lie in one of these (CVE-2020-8554: whoever may create Services
    /// could catch others' traffic). Empty: none are.
    pub external_ip_cidrs: Vec<IpNet>,
}

/// What the maps shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Service ports.
    pub ports: BTreeMap<PortKey, DesiredPort>,
    /// Every backend that a slice of a programmed service port lists, with its `BACKEND_*` flags. An unready one
    /// is here, and so keeps its flows, but in no set.
    pub backends: BTreeMap<BackendKey, u8>,
    /// Active ClusterIPs, of which ports that are no frontend are rejected (spec R5), as `SVC_ADDRESS` entries.
    pub addresses: BTreeSet<FrontendKey>,
}

/// One service port of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPort {
    /// Where it answers, sorted by key.
    pub frontends: Vec<DesiredFrontend>,
    /// ClientIP affinity timeout in seconds; 0 = none.
    pub affinity_s: u32,
    /// The cluster set, in order of address.
    pub cluster: Vec<BackendKey>,
    /// The node-local set, in order of address.
    pub local: Vec<BackendKey>,
    /// Every backend that its slices list, in order, with its `BACKEND_*` flags.
    pub backends: Vec<(BackendKey, u8)>,
    /// Its ClusterIP as an address.
    pub address: FrontendKey,
}

/// One address of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFrontend {
    /// Address, port, protocol.
    pub key: FrontendKey,
    /// `SVC_*` flags.
    pub flags: u32,
    /// Who may use it (load-balancer VIPs only); `None` = everybody.
    pub ranges: Option<SourceRanges>,
}

/// What is the same for all Services.
struct Context<'a> {
    node: &'a NodeView,
    own_addresses: Arc<HashSet<IpAddr>>,
    options: &'a CompileOptions,
}

impl<'a> Context<'a> {
    fn new(node: &'a NodeView, options: &'a CompileOptions) -> Self {
        Context { node, own_addresses: Arc::new(own_addresses(node)), options }
    }
}

fn own_addresses(node: &NodeView) -> HashSet<IpAddr> {
    node.local_addresses.iter().copied().collect()
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
    let context = Context::new(node, options);
    let mut problems = Vec::new();
    let services = world.services.values();
    let candidates: Vec<Candidate> =
        services.flat_map(|service| frontends::candidates(service, &context, &mut problems)).collect();
    let owners = conflict::owners(candidates.iter());
    let owner = |key: &FrontendKey| owners.get(key).map(|rank| rank.2);
    let index = endpoints::index(world);
    let wanted = candidates.iter().filter_map(|candidate| {
        let slices = index.get(&candidate.key.service).map(Vec::as_slice).unwrap_or_default();
        build(candidate, owner, slices, &context, &mut problems)
    });
    let wanted = wanted.collect();
    let desired = capacity::admit(wanted, limits, programmed, &mut problems);
    problems.sort();
    problems.dedup();
    (desired, problems)
}

/// A service port with everything decided but capacity; `None` when others own all its addresses.
fn build<'a>(
    candidate: &'a Candidate,
    owner: impl Fn(&FrontendKey) -> Option<&'a PortKey>,
    slices: &[Arc<Slice>],
    context: &Context<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Wanted> {
    let claims = conflict::granted(candidate, owner, problems);
    if claims.is_empty() {
        return None;
    }
    let merged = endpoints::merge(slices, &candidate.key, context, problems);
    let sets = policy::categorize(&merged, candidate, context.node);
    let common = if sets.has_any { SVC_HAS_ANY } else { 0 };
    let frontends = claims.into_iter().map(|claim| {
        let internal = claim.kind == SVC_KIND_CLUSTER_IP;
        let local = if internal { candidate.internal_local } else { candidate.external_local };
        let flags = claim.kind | common | if local { SVC_POLICY_LOCAL } else { 0 };
        DesiredFrontend { key: claim.key, flags, ranges: claim.ranges.clone() }
    });
    Some(Wanted {
        key: candidate.key.clone(),
        created_unix_s: candidate.created_unix_s,
        port: DesiredPort {
            frontends: frontends.collect(),
            affinity_s: candidate.affinity_s,
            cluster: sets.cluster,
            local: sets.local,
            backends: merged.iter().map(|e| (e.key, e.flags)).collect(),
            address: candidate.address,
        },
    })
}
