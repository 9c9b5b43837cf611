//! Which endpoints each traffic policy uses: CategorizeEndpoints and topology hints (spec §1.3.1, §1.3.2).

use super::endpoints::Merged;
use super::frontends::Candidate;
use super::keys::BackendKey;
use crate::model::{Endpoint, NodeView};

/// The selection sets of a service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sets {
    pub cluster: Vec<BackendKey>,
    pub local: Vec<BackendKey>,
    /// Some endpoint anywhere is usable, whatever the policy.
    pub has_any: bool,
}

/// Sorts a service port's endpoints into sets. The two sets fall back to terminating endpoints independently.
pub(super) fn categorize(endpoints: &[Merged<'_>], candidate: &Candidate, node: &NodeView) -> Sets {
    let pick = |wanted: &dyn Fn(&Merged<'_>) -> bool| -> Vec<BackendKey> {
        let count = endpoints.iter().filter(|m| wanted(m)).count();
        let mut set = Vec::with_capacity(count);
        set.extend(endpoints.iter().filter(|m| wanted(m)).map(|m| m.key));
        set
    };
    let has_any = endpoints.iter().any(|m| m.endpoint.ready || serves_while_terminating(m.endpoint));
    let mut sets = Sets { has_any, ..Sets::default() };
    if !candidate.internal_local || candidate.external {
        let hint = Hint::choose(endpoints, node);
        sets.cluster = pick(&|m| m.endpoint.ready && hint.admits(m.endpoint));
        if sets.cluster.is_empty() {
            sets.cluster = pick(&|m| serves_while_terminating(m.endpoint));
        }
    }
    if candidate.internal_local || (candidate.external_local && candidate.external) {
        sets.local = pick(&|m| m.local && m.endpoint.ready);
        if sets.local.is_empty() {
            sets.local = pick(&|m| m.local && serves_while_terminating(m.endpoint));
        }
    }
    sets
}

fn serves_while_terminating(e: &Endpoint) -> bool {
    e.serving && e.terminating
}

/// How topology narrows the cluster set.
enum Hint<'a> {
    All,
    Node(&'a str),
    Zone(&'a str),
}

impl<'a> Hint<'a> {
    /// Node hints first, then zone hints; each only if every ready endpoint has them and one names us.
    fn choose(endpoints: &[Merged<'_>], node: &'a NodeView) -> Hint<'a> {
        let ready = || endpoints.iter().map(|m| m.endpoint).filter(|e| e.ready);
        let covers = |hint: &Hint<'_>| ready().any(|e| hint.admits(e));
        let by_node = Hint::Node(&node.name);
        if ready().all(|e| !e.hint_nodes().is_empty()) && covers(&by_node) {
            return by_node;
        }
        if let Some(zone) = &node.zone {
            let by_zone = Hint::Zone(zone);
            if ready().all(|e| !e.hint_zones().is_empty()) && covers(&by_zone) {
                return by_zone;
            }
        }
        Hint::All
    }

    fn admits(&self, e: &Endpoint) -> bool {
        match self {
            Hint::All => true,
            Hint::Node(name) => e.hint_nodes().iter().any(|n| n == name),
            Hint::Zone(zone) => e.hint_zones().iter().any(|z| z == zone),
        }
    }
}
