//! One owner per address, port and protocol (spec M11).
//!
//! The kind decides first, in the order of spec §1.10 step 1: nobody captures a ClusterIP by a VIP, nor a VIP by
//! an external IP, and a VIP that is a node address wins over a NodePort of its number. Then the oldest Service
//! wins, then the first by namespace and name. The loser keeps its other frontends, gets a problem, and has the
//! address back as soon as the winner goes.

use super::frontends::{Candidate, Claim};
use super::keys::{PortKey, frontend_text};
use crate::model::Problem;
use crate::tables::FrontendKey;
use lb_common::service::{SVC_KIND_CLUSTER_IP, SVC_KIND_EXTERNAL_IP, SVC_KIND_LOAD_BALANCER};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// How strong a claim is; the smallest wins. No two claims on a frontend are equal: a service port claims it once.
pub(super) type Rank<'a> = (u8, i64, &'a PortKey);

/// The rank of a claim.
pub(super) fn rank<'a>(candidate: &'a Candidate, claim: &Claim) -> Rank<'a> {
    let kind = match claim.kind {
        SVC_KIND_CLUSTER_IP => 0,
        SVC_KIND_LOAD_BALANCER => 1,
        SVC_KIND_EXTERNAL_IP => 2,
        _ => 3,
    };
    (kind, candidate.created_unix_s, &candidate.key)
}

/// Who owns each frontend that anybody claims.
pub(super) fn owners<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> HashMap<FrontendKey, Rank<'a>> {
    let mut owners: HashMap<FrontendKey, Rank<'a>> = HashMap::new();
    for candidate in candidates {
        for claim in &candidate.claims {
            let rank = rank(candidate, claim);
            match owners.entry(claim.key) {
                Entry::Vacant(free) => drop(free.insert(rank)),
                Entry::Occupied(mut held) if rank < *held.get() => drop(held.insert(rank)),
                Entry::Occupied(_) => {}
            }
        }
    }
    owners
}

/// The claims that a candidate is granted; a problem for each of the others. `owner` gives a frontend's owner.
pub(super) fn granted<'a>(
    candidate: &'a Candidate,
    owner: impl Fn(&FrontendKey) -> Option<&'a PortKey>,
    problems: &mut Vec<Problem>,
) -> Vec<&'a Claim> {
    let mut granted = Vec::with_capacity(candidate.claims.len());
    for claim in &candidate.claims {
        match owner(&claim.key).filter(|owner| **owner != candidate.key) {
            None => granted.push(claim),
            Some(owner) => problems.push(Problem {
                object: format!("Service {}", candidate.key.service),
                field: field_of(claim.kind).to_string(),
                message: format!(
                    "{} belongs to Service {}, which comes first",
                    frontend_text(&claim.key),
                    owner.service
                ),
            }),
        }
    }
    granted
}

fn field_of(kind: u32) -> &'static str {
    match kind {
        SVC_KIND_CLUSTER_IP => "spec.clusterIPs",
        SVC_KIND_LOAD_BALANCER => "status.loadBalancer.ingress",
        SVC_KIND_EXTERNAL_IP => "spec.externalIPs",
        _ => "spec.ports",
    }
}
