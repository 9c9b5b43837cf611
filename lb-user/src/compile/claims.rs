//! Who claims which frontend, kept up to date: the index behind `conflict` when Services change one at a time.
//!
//! Nearly every frontend has one claimant; the winner among several is found when it is asked for.

use super::conflict::{Rank, rank};
use super::frontends::Candidate;
use super::keys::PortKey;
use crate::tables::FrontendKey;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The claimants of every frontend.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    by_frontend: HashMap<FrontendKey, Claimants>,
}

#[derive(Clone, Debug)]
enum Claimants {
    One(PortKey),
    Several(Vec<PortKey>),
}

impl Claimants {
    fn as_slice(&self) -> &[PortKey] {
        match self {
            Claimants::One(key) => std::slice::from_ref(key),
            Claimants::Several(keys) => keys,
        }
    }
}

impl Claims {
    /// Notes all claims of a candidate.
    pub fn add(&mut self, candidate: &Candidate) {
        for claim in &candidate.claims {
            match self.by_frontend.entry(claim.key) {
                Entry::Vacant(free) => drop(free.insert(Claimants::One(candidate.key.clone()))),
                Entry::Occupied(mut held) => {
                    let mut keys = held.get().as_slice().to_vec();
                    keys.push(candidate.key.clone());
                    held.insert(Claimants::Several(keys));
                }
            }
        }
    }

    /// Forgets all claims of a candidate.
    pub fn remove(&mut self, candidate: &Candidate) {
        for claim in &candidate.claims {
            let Entry::Occupied(mut held) = self.by_frontend.entry(claim.key) else { continue };
            let rest = held.get().as_slice().iter().filter(|key| **key != candidate.key);
            let mut rest: Vec<PortKey> = rest.cloned().collect();
            match (rest.pop(), rest.is_empty()) {
                (None, _) => drop(held.remove()),
                (Some(last), true) => drop(held.insert(Claimants::One(last))),
                (Some(last), false) => {
                    rest.push(last);
                    held.insert(Claimants::Several(rest));
                }
            }
        }
    }

    /// Everybody who claims a frontend.
    pub fn of(&self, frontend: &FrontendKey) -> &[PortKey] {
        self.by_frontend.get(frontend).map(Claimants::as_slice).unwrap_or_default()
    }

    /// The owner of a frontend; `candidate` finds a claimant.
    pub fn owner<'a>(
        &'a self,
        frontend: &FrontendKey,
        candidate: impl Fn(&PortKey) -> Option<&'a Candidate>,
    ) -> Option<&'a PortKey> {
        match self.of(frontend) {
            [only] => Some(only),
            several => {
                let ranks = several.iter().filter_map(|key| {
                    let candidate = candidate(key)?;
                    let claim = candidate.claims.iter().find(|claim| claim.key == *frontend)?;
                    Some(rank(candidate, claim))
                });
                ranks.min().map(|rank: Rank<'a>| rank.2)
            }
        }
    }
}
