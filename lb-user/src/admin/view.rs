//! What `admin` knows of the agent: one immutable value, published by the run loop after every event.
//!
//! This is the whole boundary: `admin` reads this value and the kernel's counters, and writes nothing. Ages are
//! monotonic, so that a clock that jumps makes nobody unhealthy; wall-clock time is for showing only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use crate::model::{Family, Key, World};

/// The agent at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentView {
    /// This agent has completed its first sync, and is not about to end.
    pub ready: bool,
    /// Generation of the last snapshot that is in the kernel; 0 = none.
    pub synced_generation: u64,
    /// When that sync ended.
    pub synced_at: Option<Timestamp>,
    /// Syncs fail since then.
    pub failing_since: Option<Instant>,
    /// The own Node goes away (spec H1).
    pub leaving: bool,
    /// The source reaches everything it reads.
    pub source_connected: bool,
    /// Addresses that answer on nodePorts (spec P8).
    pub node_port_addresses: Vec<IpAddr>,
    /// The health checks that shall answer on this node.
    pub health_checks: Arc<[HealthCheck]>,
    /// Number of problems by kind of object.
    pub problems: BTreeMap<String, u64>,
    /// Number of managed interfaces by role.
    pub interfaces: BTreeMap<String, u64>,
}

/// The health check of one Service (spec H4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: Key,
    /// Its UID.
    pub uid: String,
    /// healthCheckNodePort, host byte order.
    pub port: u16,
    /// Distinct ready endpoints of this node, for each family that the Service has.
    pub local_endpoints: BTreeMap<Family, usize>,
}

/// The health checks of a world, in order of their Services. `node_name` tells which endpoints are local (E5).
pub fn health_checks(world: &World, node_name: &str) -> Vec<HealthCheck> {
    let mut local: HashMap<Key, BTreeMap<Family, HashSet<IpAddr>>> = HashMap::new();
    let checked = || world.services.values().filter(|s| s.health_check_node_port != 0);
    let names: BTreeSet<&Key> = checked().map(|s| &s.key).collect();
    if names.is_empty() {
        return Vec::new();
    }
    for slice in world.slices.values().filter(|slice| !slice.ports.is_empty()) {
        let service = Key::new(slice.key.namespace.clone(), slice.service.clone());
        if !names.contains(&service) {
            continue;
        }
        let here = slice.endpoints.iter().filter(|e| e.ready && e.node_name.as_deref() == Some(node_name));
        let known = local.entry(service).or_default().entry(slice.family).or_default();
        known.extend(here.map(|e| e.addr));
    }
    checked()
        .map(|service| {
            let of = |family| local.get(&service.key).and_then(|l| l.get(&family)).map_or(0, HashSet::len);
            let families = service.cluster_ips.iter().map(Family::of);
            HealthCheck {
                service: service.key.clone(),
                uid: service.uid.clone(),
                port: service.health_check_node_port,
                local_endpoints: families.map(|family| (family, of(family))).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Proto, Service, Slice, SlicePort};

    fn service(name: &str, port: u16) -> Service {
        Service {
            key: Key::new("default", name),
            uid: format!("uid-{name}"),
            created_unix_s: 0,
            cluster_ips: vec!["10.96.0.1".parse().expect("ip"), "fd96::1".parse().expect("ip")],
            external_ips: vec![],
            load_balancer_ips: vec![],
            ports: vec![],
            internal_local: false,
            external_local: true,
            affinity_timeout_s: None,
            source_ranges: vec![],
            health_check_node_port: port,
        }
    }

    fn endpoint(addr: &str, node: &str, ready: bool, terminating: bool) -> Endpoint {
        Endpoint {
            addr: addr.parse().expect("ip"),
            ready,
            serving: true,
            terminating,
            node_name: Some(node.into()),
            hints: None,
        }
    }

    fn slice(name: &str, service: &str, endpoints: Vec<Endpoint>) -> Slice {
        Slice {
            key: Key::new("default", name),
            service: service.into(),
            family: Family::V4,
            ports: vec![SlicePort { name: "".into(), proto: Proto::Tcp, port: 80 }],
            endpoints,
        }
    }

    fn counts(world: &World) -> Vec<(u16, usize, usize)> {
        let of = |check: &HealthCheck, family| check.local_endpoints[&family];
        health_checks(world, "n1").iter().map(|c| (c.port, of(c, Family::V4), of(c, Family::V6))).collect()
    }

    #[test]
    fn distinct_ready_addresses_of_this_node_count_in_their_family() {
        let mut world = World::default();
        for s in [service("web", 32_000), service("plain", 0)] {
            world.services.insert(s);
        }
        let local = || endpoint("10.244.1.2", "n1", true, false);
        let slices = [
            slice(
                "web-1",
                "web",
                vec![
                    local(),
                    endpoint("10.244.1.3", "n1", false, true),
                    endpoint("10.244.1.4", "n1", false, false),
                    endpoint("10.244.2.2", "n2", true, false),
                ],
            ),
            slice("web-2", "web", vec![local(), endpoint("10.244.1.5", "n1", true, false)]),
            slice("plain", "plain", vec![endpoint("10.244.1.9", "n1", true, false)]),
        ];
        for s in slices {
            world.slices.insert(s);
        }
        assert_eq!(counts(&world), [(32_000, 2, 0)]);
    }

    #[test]
    fn a_service_without_slices_has_a_check_that_counts_nothing() {
        let mut world = World::default();
        world.services.insert(service("web", 32_000));
        assert_eq!(counts(&world), [(32_000, 0, 0)]);
    }
}
