//! The agent's own metrics: recorded where things happen, shown by `admin`.
//!
//! Names of kube-proxy are kept where the meaning carries over (spec §1.7), so that its dashboards and SLIs work on;
//! they have no `ip_family` label, since one sync does both families. What kube-proxy has no word for begins with
//! `fairway_`. Clones share the values.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// From 100 µs, which kube-proxy never sees, to five minutes; 30 s, the published objective, is a boundary.
const PROGRAMMING_BUCKETS_S: [f64; 26] = [
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0,
    5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 90.0, 120.0, 300.0,
];

/// A label with the HTTP status.
pub type ByCode = Family<[(&'static str, String); 1], Counter>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// All metrics that the agent records.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Change of an object until it is in the kernel.
    pub network_programming: Histogram,
    /// One sync.
    pub sync_duration: Histogram,
    /// When the last complete sync ended.
    pub last_synced_s: FloatGauge,
    /// When the last change was queued.
    pub last_queued_s: FloatGauge,
    /// Services that changed and are not in the kernel.
    pub service_changes_pending: Gauge,
    /// Changes of Services seen.
    pub service_changes: Counter,
    /// EndpointSlices that changed and are not in the kernel.
    pub endpoint_changes_pending: Gauge,
    /// Changes of EndpointSlices seen.
    pub endpoint_changes: Counter,
    /// Answers of `/healthz`.
    pub healthz: ByCode,
    /// Answers of `/livez`.
    pub livez: ByCode,
    /// Writes to the kernel's tables.
    pub operations: Counter,
    /// Syncs that could not be completed.
    pub sync_failures: Counter,
    /// Listening health-check node ports.
    pub health_check_ports: Gauge,
    /// Failed attempts to listen, of any server.
    pub listen_failures: Counter,
}

impl Metrics {
    /// New metrics, all zero, and a registry that shows them.
    pub fn new() -> (Metrics, Registry) {
        let metrics = Metrics {
            network_programming: Histogram::new(PROGRAMMING_BUCKETS_S),
            sync_duration: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            last_synced_s: Gauge::default(),
            last_queued_s: Gauge::default(),
            service_changes_pending: Gauge::default(),
            service_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
            endpoint_changes: Counter::default(),
            healthz: ByCode::default(),
            livez: ByCode::default(),
            operations: Counter::default(),
            sync_failures: Counter::default(),
            health_check_ports: Gauge::default(),
            listen_failures: Counter::default(),
        };
        let mut registry = Registry::default();
        metrics.register_kube_proxy_names(registry.sub_registry_with_prefix("kubeproxy"));
        metrics.register_own_names(registry.sub_registry_with_prefix("fairway"));
        (metrics, registry)
    }

    fn register_kube_proxy_names(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "network_programming_duration",
            "From the change of an endpoint, as its slice's annotation tells, to the kernel",
            Unit::Seconds,
            self.network_programming.clone(),
        );
        registry.register_with_unit(
            "sync_proxy_rules_duration",
            "One sync of the kernel's tables",
            Unit::Seconds,
            self.sync_duration.clone(),
        );
        for (name, help, gauge) in [
            ("sync_proxy_rules_last_timestamp", "When the last complete sync ended", &self.last_synced_s),
            (
                "sync_proxy_rules_last_queued_timestamp",
                "When the last change was queued",
                &self.last_queued_s,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        }
        for (name, help, gauge) in [
            (
                "sync_proxy_rules_service_changes_pending",
                "Changes of Services that are not in the kernel yet",
                &self.service_changes_pending,
            ),
            (
                "sync_proxy_rules_endpoint_changes_pending",
                "Changes of EndpointSlices that are not in the kernel yet",
                &self.endpoint_changes_pending,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "sync_proxy_rules_service_changes",
            "Changes of Services seen",
            self.service_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_endpoint_changes",
            "Changes of EndpointSlices seen",
            self.endpoint_changes.clone(),
        );
        registry.register("proxy_healthz", "Answers of /healthz by status", self.healthz.clone());
        registry.register("proxy_livez", "Answers of /livez by status", self.livez.clone());
    }

    fn register_own_names(&self, registry: &mut Registry) {
        registry.register(
            "build",
            "Version of the agent and of the datapath inside it",
            Info::new([("version", env!("CARGO_PKG_VERSION")), ("datapath", env!("FAIRWAY_BPF_HASH"))]),
        );
        registry.register("sync_operations", "Writes to the kernel's tables", self.operations.clone());
        registry.register("sync_failures", "Syncs that could not be completed", self.sync_failures.clone());
        registry.register(
            "health_check_node_ports",
            "Addresses on which a Service's health check listens",
            self.health_check_ports.clone(),
        );
        registry.register(
            "listen_failures",
            "Failed attempts to listen, of any server of the agent",
            self.listen_failures.clone(),
        );
    }

    /// Notes an answer of a health endpoint.
    pub fn answered(counters: &ByCode, status: u16) {
        counters.get_or_create(&[("code", status.to_string())]).inc();
    }

    /// Notes how long after a change the kernel had it. A clock that went backwards gives zero, not nonsense.
    pub fn programmed(&self, changed_unix_ns: i64, now_unix_ns: i64) {
        let after_ns = now_unix_ns.saturating_sub(changed_unix_ns).max(0);
        self.network_programming.observe(Duration::from_nanos(after_ns.unsigned_abs()).as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).expect("encodes");
        text
    }

    #[test]
    fn kube_proxys_names_are_spelled_as_dashboards_expect_them() {
        let (metrics, registry) = Metrics::new();
        metrics.service_changes.inc();
        Metrics::answered(&metrics.healthz, 503);
        Metrics::answered(&metrics.livez, 200);
        let text = text(&registry);
        for line in [
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 0",
            "kubeproxy_sync_proxy_rules_service_changes_pending 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "kubeproxy_proxy_livez_total{code=\"200\"} 1",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds 0.0",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds 0.0",
            "kubeproxy_sync_proxy_rules_duration_seconds_count 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.0001\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"30.0\"} 0",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_change_of_the_future_counts_as_just_now() {
        let (metrics, registry) = Metrics::new();
        metrics.programmed(2_000_000_000, 1_000_000_000);
        metrics.programmed(1_000_000_000, 1_003_000_000);
        let text = text(&registry);
        assert!(text.contains("network_programming_duration_seconds_bucket{le=\"0.0001\"} 1\n"), "{text}");
        assert!(text.contains("network_programming_duration_seconds_bucket{le=\"0.005\"} 2\n"), "{text}");
    }
}
