//! One owner per address, port and protocol (spec M11).
//!
//! A ClusterIP beats every other kind (spec §1.10 step 1), so nobody captures one by an external IP; otherwise
//! the oldest Service wins, then the first by namespace and name. The loser keeps its other frontends, gets a
//! problem, and has the address back as soon as the winner goes: every compile decides anew.

use super::frontends::Candidate;
use super::keys::frontend_text;
use crate::model::Problem;
use crate::tables::FrontendKey;
use lb_common::service::{SVC_KIND_CLUSTER_IP, SVC_KIND_EXTERNAL_IP, SVC_KIND_LOAD_BALANCER};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Leaves every frontend with one owner.
pub(super) fn resolve(candidates: &mut [Candidate], problems: &mut Vec<Problem>) {
    let mut owners: HashMap<FrontendKey, usize> = HashMap::new();
    for index in 0..candidates.len() {
        for (key, kind) in candidates[index].frontends.clone() {
            let (winner, loser) = match owners.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(index);
                    continue;
                }
                Entry::Occupied(mut held) => {
                    let other = *held.get();
                    let other_kind = candidates[other].frontends[&key];
                    if rank(&candidates[index], kind) < rank(&candidates[other], other_kind) {
                        held.insert(index);
                        (index, other)
                    } else {
                        (other, index)
                    }
                }
            };
            let lost_kind = candidates[loser].frontends.remove(&key).unwrap_or(kind);
            problems.push(Problem {
                object: format!("Service {}", candidates[loser].key.service),
                field: field_of(lost_kind).to_string(),
                message: format!(
                    "{} belongs to Service {}, which comes first",
                    frontend_text(&key),
                    candidates[winner].key.service
                ),
            });
        }
    }
}

/// Smaller wins.
fn rank(c: &Candidate, kind: u32) -> (bool, i64, &super::PortKey) {
    (kind != SVC_KIND_CLUSTER_IP, c.created_unix_s, &c.key)
}

fn field_of(kind: u32) -> &'static str {
    match kind {
        SVC_KIND_CLUSTER_IP => "spec.clusterIPs",
        SVC_KIND_LOAD_BALANCER => "status.loadBalancer.ingress",
        SVC_KIND_EXTERNAL_IP => "spec.externalIPs",
        _ => "spec.ports",
    }
}
