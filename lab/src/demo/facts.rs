//! The document of `--json`: what was measured, part by part, and what was wrong with it.
//!
//! Every part is written by the module that measures it; a part that was not reached is `null`. `ok` is true only
//! if every part was reached and `problems` is empty. Times are in milliseconds.

use std::time::Duration;

use serde::Serialize;

use super::churn::ChurnFacts;
use super::keep::KeepFacts;
use super::removal::RemovalFacts;
use super::requests::RequestFacts;
use super::restart::RestartFacts;
use super::service::ServiceFacts;
use super::stage::ClusterFacts;

/// Everything that the demo found.
#[derive(Debug, Default, Serialize)]
pub struct Facts {
    /// All is as it should be.
    pub ok: bool,
    /// What is not, in words.
    pub problems: Vec<String>,
    /// From the start of the demo to this document, without building.
    pub duration_ms: f64,
    /// The cluster.
    pub cluster: Option<ClusterFacts>,
    /// The Service, as the kernels of the nodes have it.
    pub service: Option<ServiceFacts>,
    /// Requests, and who answered them.
    pub requests: Option<Vec<RequestFacts>>,
    /// A pod removed and one added under traffic.
    pub churn: Option<ChurnFacts>,
    /// An agent killed and restarted under open connections.
    pub agent_restart: Option<RestartFacts>,
    /// What was there and what is left.
    pub removal: Option<RemovalFacts>,
    /// With `--keep`: how to go on.
    pub kept: Option<KeepFacts>,
}

/// Milliseconds, to the hundredth.
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_keep_two_digits() {
        assert_eq!(ms(Duration::from_micros(1_234)), 1.23);
    }
}
