//! The agent's own two ports, kept open: listens, serves, and tries again where it cannot.
//!
//! An agent whose port is taken works on (kube-proxy's `bindAddressHardFail: false`): the failure is a problem, and for
//! the health port an Event.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tracing::{info, warn};

use super::serve::{listen, serve};
use crate::model::Problem;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::notice::{Notice, Notices};
use crate::telemetry::problems::ProblemBoard;

/// Between two attempts.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// One of the two ports.
pub(super) struct OwnPort {
    /// The flag that gives its address.
    pub flag: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// What.
    pub router: Router,
    /// What to tell the cluster when it cannot listen.
    pub notice: Option<fn(String) -> Notice>,
}

/// Keeps the port open for ever.
pub(super) async fn keep_open(port: OwnPort, board: ProblemBoard, notices: Notices, metrics: Metrics) {
    let mut told = false;
    let listener = loop {
        match listen(port.address) {
            Ok(listener) => break listener,
            Err(error) => {
                metrics.listen_failures.inc();
                let message = format!("cannot listen on {}: {error}; will be tried again", port.address);
                let (object, field) = ("agent".to_owned(), port.flag.to_owned());
                board.set(port.flag, vec![Problem { object, field, message: message.clone() }]);
                if !std::mem::replace(&mut told, true) {
                    warn!(flag = port.flag, message);
                    if let Some(notice) = port.notice {
                        notices.tell(notice(message));
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    info!(flag = port.flag, address = %port.address, "listening");
    board.set(port.flag, Vec::new());
    serve(listener, port.router).await;
}
