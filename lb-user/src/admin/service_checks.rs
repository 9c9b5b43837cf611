//! The health checks of Services (spec H4 to H6, P8): for each, a small HTTP server on every nodePort address of the
//! Service's families.
//!
//! One task compares what listens with what shall listen, whenever the agent's view changes, and again after a while
//! when something could not listen. A server answers from the view of the moment of the question.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use axum::Router;
use axum::http::header::HeaderName;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::health::Health;
use super::listeners::RETRY;
use super::routes::json_answer;
use super::serve::{listen, serve};
use super::view::{AgentView, HealthCheck};
use crate::model::{Family, Key, Problem};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notice::{Notice, Notices};
use crate::telemetry::problems::ProblemBoard;

/// Lets a load balancer share its traffic by the number of endpoints.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
const BOARD_PART: &str = "health checks";

/// A server's Service and place.
type Place = (Key, SocketAddr);

/// The task's state.
pub(super) struct ServiceChecks {
    pub health: Health,
    pub view: watch::Receiver<AgentView>,
    pub board: ProblemBoard,
    pub notices: Notices,
    pub metrics: Metrics,
}

impl ServiceChecks {
    /// Keeps the servers as the view wants them, for ever.
    pub(super) async fn run(mut self) {
        let mut open: BTreeMap<Place, Server> = BTreeMap::new();
        let mut failing: BTreeMap<Place, Problem> = BTreeMap::new();
        loop {
            let wanted = wanted(&self.view.borrow_and_update());
            // First make room: a port may go from one Service to another.
            let (kept, unwanted) =
                std::mem::take(&mut open).into_iter().partition(|(place, _)| wanted.contains_key(place));
            open = kept;
            close_all(unwanted).await;
            failing.retain(|place, _| wanted.contains_key(place));
            for (place, uid) in &wanted {
                if !open.contains_key(place) {
                    self.open(place, uid, &mut open, &mut failing);
                }
            }
            self.metrics.health_check_ports.set(open.len() as i64);
            self.board.set(BOARD_PART, failing.values().cloned().collect());
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if !failing.is_empty() => {}
            }
        }
    }

    fn open(
        &self,
        place: &Place,
        uid: &str,
        open: &mut BTreeMap<Place, Server>,
        failing: &mut BTreeMap<Place, Problem>,
    ) {
        let (service, address) = place;
        match listen(*address) {
            Ok(listener) => {
                info!(%service, %address, "health check opened");
                let answer = Answer { service: service.clone(), family: Family::of(&address.ip()) };
                let router = router(answer, self.health.clone(), self.view.clone());
                let task = tokio::spawn(serve(listener, router));
                open.insert(place.clone(), Server { task, place: place.clone() });
                failing.remove(place);
            }
            Err(error) => {
                self.metrics.listen_failures.inc();
                let message = format!("cannot listen on {address}: {error}; will be tried again");
                if !failing.contains_key(place) {
                    warn!(%service, message, "no health check");
                    self.notices.tell(Notice::ServiceHealthFailed {
                        service: service.clone(),
                        uid: uid.to_owned(),
                        message: message.clone(),
                    });
                }
                let object = format!("Service {service}");
                let problem = Problem { object, field: "spec.healthCheckNodePort".to_owned(), message };
                failing.insert(place.clone(), problem);
            }
        }
    }
}

async fn close_all(servers: BTreeMap<Place, Server>) {
    for server in servers.into_values() {
        server.close().await;
    }
}

/// A server that listens. Dropping it closes it, some time later.
struct Server {
    task: JoinHandle<()>,
    place: Place,
}

impl Server {
    /// Closes it; the port is free when this returns.
    async fn close(mut self) {
        self.task.abort();
        // It ends by being aborted.
        let _cancelled = (&mut self.task).await;
        info!(service = %self.place.0, address = %self.place.1, "health check closed");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who shall listen where, with the UID of the Service.
fn wanted(view: &AgentView) -> BTreeMap<Place, String> {
    let mut wanted = BTreeMap::new();
    for check in view.health_checks.iter() {
        for ip in &view.node_port_addresses {
            if check.local_endpoints.contains_key(&Family::of(ip)) {
                let place = (check.service.clone(), SocketAddr::new(*ip, check.port));
                wanted.insert(place, check.uid.clone());
            }
        }
    }
    wanted
}

/// What a server answers for.
#[derive(Clone)]
struct Answer {
    service: Key,
    family: Family,
}

/// Answers on every path.
fn router(answer: Answer, health: Health, view: watch::Receiver<AgentView>) -> Router {
    Router::new().fallback(move |_: Uri| {
        let response = answer.give(&health, &view.borrow().health_checks);
        std::future::ready(response)
    })
}

impl Answer {
    fn give(&self, health: &Health, checks: &[HealthCheck]) -> Response {
        let check = checks.iter().find(|check| check.service == self.service);
        let count = check.and_then(|check| check.local_endpoints.get(&self.family)).copied().unwrap_or(0);
        let in_sync = health.verdict(Instant::now()).in_sync;
        let status = if in_sync && count > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = json!({
            "service": {"namespace": &*self.service.namespace, "name": &*self.service.name},
            "localEndpoints": count,
            "serviceProxyHealthy": in_sync,
        });
        json_answer(status, [(WEIGHT, count.to_string())], &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn check(name: &str, port: u16, v4: usize) -> HealthCheck {
        HealthCheck {
            service: Key::new("default", name),
            uid: format!("uid-{name}"),
            port,
            local_endpoints: BTreeMap::from([(Family::V4, v4)]),
        }
    }

    fn view(addresses: &[&str], checks: Vec<HealthCheck>) -> AgentView {
        AgentView {
            node_port_addresses: addresses.iter().map(|a| a.parse().expect("ip")).collect(),
            health_checks: checks.into(),
            ..AgentView::default()
        }
    }

    #[test]
    fn a_check_listens_on_the_node_port_addresses_of_its_services_families() {
        let view = view(&["192.0.2.1", "192.0.2.2", "2001:db8::1"], vec![check("web", 32_000, 1)]);
        let places: Vec<String> = wanted(&view).keys().map(|(_, address)| address.to_string()).collect();
        assert_eq!(places, ["192.0.2.1:32000", "192.0.2.2:32000"]);
    }

    #[tokio::test]
    async fn ready_endpoints_decide_unless_the_agent_is_late() {
        let (sender, receiver) = watch::channel(AgentView::default());
        let health = Health::new(receiver, Duration::from_secs(60));
        let answer = Answer { service: Key::new("default", "web"), family: Family::V4 };
        let ask = |count| {
            let response = answer.give(&health, &[check("web", 32_000, count)]);
            (response.status().as_u16(), response.headers()[WEIGHT].to_str().expect("text").to_owned())
        };
        assert_eq!(ask(2), (200, "2".to_owned()));
        assert_eq!(ask(0), (503, "0".to_owned()));
        let long_ago = Instant::now().checked_sub(Duration::from_secs(61)).expect("the machine is up");
        sender.send_modify(|view| view.failing_since = Some(long_ago));
        assert_eq!(ask(2), (503, "2".to_owned()), "the weight stays");
    }
}
