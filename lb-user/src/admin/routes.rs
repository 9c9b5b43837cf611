//! The agent's own HTTP endpoints (spec H1 to H3, H7) as routers; who listens where is [`super::mod@listeners`]'.
//!
//! | port | path | says |
//! |---|---|---|
//! | health | `/healthz` | for load balancers: in sync, and the Node stays |
//! | health | `/livez` | for liveness probes: in sync |
//! | health | `/readyz` | for readiness probes: in sync, and this agent's first sync is complete |
//! | metrics | `/metrics`, `/proxyMode`, `/configz`, `/healthz` | numbers, `ebpf`, the effective configuration, `ok` |

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::exposition::Exposition;
use super::health::Health;
use crate::telemetry::metrics::Metrics;

/// What kube-proxy answers with `iptables` or `nftables`.
const PROXY_MODE: &str = "ebpf";
/// What Prometheus asks for, and what `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A JSON answer that no browser takes for anything else.
pub(super) fn json_answer<const N: usize>(
    status: StatusCode,
    more: [(HeaderName, String); N],
    body: &impl Serialize,
) -> Response {
    let body = serde_json::to_string(body).unwrap_or_default();
    let headers = [(CONTENT_TYPE, "application/json"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, more, body).into_response()
}

fn status_of(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The health port.
pub fn health(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state((health, metrics))
}

async fn healthz(State((health, metrics)): State<(Health, Metrics)>) -> Response {
    let verdict = health.verdict(Instant::now());
    let status = status_of(verdict.healthy());
    Metrics::answered(&metrics.healthz, status.as_u16());
    json_answer(status, [], &verdict.healthz(Timestamp::now()))
}

async fn livez(State((health, metrics)): State<(Health, Metrics)>) -> Response {
    let verdict = health.verdict(Instant::now());
    let status = status_of(verdict.in_sync);
    Metrics::answered(&metrics.livez, status.as_u16());
    json_answer(status, [], &verdict.livez(Timestamp::now()))
}

async fn readyz(State((health, _)): State<(Health, Metrics)>) -> Response {
    let verdict = health.verdict(Instant::now());
    let body = json!({"ready": verdict.ready, "healthy": verdict.in_sync});
    json_answer(status_of(verdict.ready && verdict.in_sync), [], &body)
}

/// The metrics port. `config` is the effective configuration.
pub fn metrics(exposition: Arc<Exposition>, config: serde_json::Value) -> Router {
    let config = json!({"fairway": config});
    Router::new()
        .route("/metrics", get(exposed))
        .with_state(exposition)
        .route("/proxyMode", get(|| async { PROXY_MODE }))
        .route("/healthz", get(|| async { "ok" }))
        .route("/configz", get(move || async move { json_answer(StatusCode::OK, [], &config) }))
}

async fn exposed(State(exposition): State<Arc<Exposition>>) -> Response {
    // Reading whole maps takes milliseconds: not on a thread that answers others.
    match tokio::task::spawn_blocking(move || exposition.text()).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
