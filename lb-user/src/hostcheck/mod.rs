//! What about this host gets in Fairway's way: leftovers of kube-proxy, kernel settings, local listeners.
//!
//! Everything here looks and reports; nothing is changed. (The one exception, removing what kube-proxy left, happens
//! only when an administrator says so: [`leftovers::remove`].) Looked at when the agent starts, when the Services' ports
//! change, and once a minute.

pub mod leftovers;
mod listeners;
mod netfilter;
mod rules;
mod sysctls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::PortRange;
use crate::model::{Objects, Problem, Service};
use crate::sources::Snapshot;
use crate::telemetry::problems::ProblemBoard;

/// Between two looks without a reason.
const PERIOD: Duration = Duration::from_secs(60);
/// After a change of ports: several come together.
const SETTLE: Duration = Duration::from_secs(1);
const BOARD_PART: &str = "host";

/// Ports that Services have, with the Service and the field.
type Ports = BTreeMap<listeners::Claim, (String, &'static str)>;

/// What the checks need to know.
#[derive(Debug)]
pub struct HostChecks {
    /// The Services.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Ports that flows are masqueraded with.
    pub snat_ports: PortRange,
    /// The cluster's nodePort range.
    pub nodeport_range: PortRange,
    /// Where problems go.
    pub board: ProblemBoard,
}

impl HostChecks {
    /// Looks again and again, for ever.
    pub async fn run(mut self) {
        let mut ports = Ports::new();
        let mut services = Objects::new();
        loop {
            let (snat, node_ports, looked_for) = (self.snat_ports, self.nodeport_range, ports.clone());
            // Programs are run and files read.
            let look = tokio::task::spawn_blocking(move || all(snat, node_ports, &looked_for));
            if let Ok(problems) = look.await {
                self.board.set(BOARD_PART, problems);
            }
            let next_look = tokio::time::sleep(PERIOD);
            tokio::pin!(next_look);
            loop {
                tokio::select! {
                    () = &mut next_look => break,
                    changed = self.snapshots.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        // Most changes are of endpoints.
                        let now = self.services();
                        if !now.is_same(&services) {
                            services = now;
                            ports = claims(&services);
                            tokio::time::sleep(SETTLE).await;
                            break;
                        }
                    }
                }
            }
        }
    }

    fn services(&mut self) -> Objects<Service> {
        let snapshot = self.snapshots.borrow_and_update();
        snapshot.as_ref().map_or_else(Objects::new, |s| s.world.services.clone())
    }
}

fn all(snat: PortRange, node_ports: PortRange, ports: &Ports) -> Vec<Problem> {
    let mut problems = leftovers::problems(&leftovers::find());
    problems.extend(sysctls::problems(&sysctls::Settings::read(), snat, node_ports));
    problems.extend(listeners::problems(ports, &listeners::read()));
    problems
}

/// What Services lay claim to on this host.
fn claims(services: &Objects<Service>) -> Ports {
    let mut ports = Ports::new();
    for service in services.values() {
        for port in &service.ports {
            let mut claim = |address, number: u16, field| {
                let claim = listeners::Claim { proto: port.proto, address, port: number };
                ports.entry(claim).or_insert_with(|| (format!("Service {}", service.key), field));
            };
            if port.node_port != 0 {
                claim(None, port.node_port, "spec.ports.nodePort");
            }
            for address in service.load_balancer_ips.iter().chain(&service.external_ips) {
                claim(Some(*address), port.port, "spec.ports.port");
            }
        }
    }
    ports
}

/// A problem of the host.
fn problem(object: impl Into<String>, field: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem { object: object.into(), field: field.into(), message: message.into() }
}
