//! What `admin` knows of the agent: one immutable value, published by the run loop after every event.
//!
//! This is the whole boundary: `admin` reads this value and the kernel's counters, and writes nothing. Ages are
//! monotonic, so that a clock that jumps makes nobody unhealthy; wall-clock time is for showing only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use crate::model::{Family, Key, Objects, Service, Slice, World};

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

/// The health checks of the latest world. Worlds share what did not change, so following them costs what changed, and
/// nothing where no Service has a health check.
#[derive(Debug)]
pub struct HealthChecks {
    services: Objects<Service>,
    slices: Objects<Slice>,
    node_name: String,
    names: BTreeSet<Key>,
    list: Arc<[HealthCheck]>,
}

impl HealthChecks {
    /// Those of an empty world.
    pub fn new() -> HealthChecks {
        HealthChecks {
            services: Objects::new(),
            slices: Objects::new(),
            node_name: String::new(),
            names: BTreeSet::new(),
            list: Arc::from([]),
        }
    }

    /// Those of this world. `node_name` tells which endpoints are local (E5).
    pub fn of(&mut self, world: &World, node_name: &str) -> &Arc<[HealthCheck]> {
        let mut stale = self.node_name != node_name;
        for change in world.services.changes(&self.services) {
            let Some(service) = change.new.or(change.old) else { continue };
            let checked = change.new.is_some_and(|new| new.health_check_node_port != 0);
            let was_checked = if checked {
                !self.names.insert(service.key.clone())
            } else {
                self.names.remove(&service.key)
            };
            stale |= checked || was_checked;
        }
        if !self.names.is_empty() && !stale {
            stale = world.slices.changes(&self.slices).iter().any(|change| {
                let owners = change.new.into_iter().chain(change.old);
                owners.map(|slice| owner(slice)).any(|service| self.names.contains(&service))
            });
        }
        if stale {
            self.list = health_checks(world, node_name, &self.names).into();
        }
        self.services = world.services.clone();
        self.slices = world.slices.clone();
        node_name.clone_into(&mut self.node_name);
        &self.list
    }
}

impl Default for HealthChecks {
    fn default() -> Self {
        HealthChecks::new()
    }
}

/// The Service of a slice.
fn owner(slice: &Slice) -> Key {
    Key::new(slice.key.namespace.clone(), slice.service.clone())
}

/// The health checks of the Services `names`, in order.
fn health_checks(world: &World, node_name: &str, names: &BTreeSet<Key>) -> Vec<HealthCheck> {
    let mut local: HashMap<Key, BTreeMap<Family, HashSet<IpAddr>>> = HashMap::new();
    for slice in world.slices.values().filter(|slice| !slice.ports.is_empty()) {
        let service = owner(slice);
        if names.contains(&service) {
            let here =
                slice.endpoints.iter().filter(|e| e.ready && e.node_name.as_deref() == Some(node_name));
            let known = local.entry(service).or_default().entry(slice.family).or_default();
            known.extend(here.map(|e| e.addr));
        }
    }
    let check = |service: &Arc<Service>| {
        let of = |family| local.get(&service.key).and_then(|l| l.get(&family)).map_or(0, HashSet::len);
        let families = service.cluster_ips.iter().map(Family::of);
        HealthCheck {
            service: service.key.clone(),
            uid: service.uid.clone(),
            port: service.health_check_node_port,
            local_endpoints: families.map(|family| (family, of(family))).collect(),
        }
    };
    names.iter().filter_map(|name| world.services.get(name)).map(check).collect()
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

    fn counts(checks: &mut HealthChecks, world: &World) -> Vec<(u16, usize, usize)> {
        let of = |check: &HealthCheck, family| check.local_endpoints[&family];
        let list = checks.of(world, "n1");
        list.iter().map(|c| (c.port, of(c, Family::V4), of(c, Family::V6))).collect()
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
        assert_eq!(counts(&mut HealthChecks::new(), &world), [(32_000, 2, 0)]);
    }

    #[test]
    fn a_service_without_slices_has_a_check_that_counts_nothing() {
        let mut world = World::default();
        world.services.insert(service("web", 32_000));
        assert_eq!(counts(&mut HealthChecks::new(), &world), [(32_000, 0, 0)]);
    }

    #[test]
    fn a_followed_world_gives_what_the_same_world_gives_afresh() {
        let mut followed = HealthChecks::new();
        let mut world = World::default();
        let one = || slice("web-1", "web", vec![endpoint("10.244.1.2", "n1", true, false)]);
        let steps: [&dyn Fn(&mut World); 8] = [
            &|w| drop(w.services.insert(service("web", 32_000))),
            &|w| drop(w.slices.insert(one())),
            &|w| drop(w.services.insert(service("other", 0))),
            &|w| drop(w.slices.insert(slice("web-1", "other", vec![]))),
            &|w| drop(w.slices.insert(one())),
            &|w| drop(w.services.insert(service("web", 32_001))),
            &|w| drop(w.services.insert(service("web", 0))),
            &|w| drop(w.services.remove(&Key::new("default", "web"))),
        ];
        for (number, step) in steps.iter().enumerate() {
            step(&mut world);
            let afresh = counts(&mut HealthChecks::new(), &world);
            assert_eq!(counts(&mut followed, &world), afresh, "step {number}");
            assert!(Arc::ptr_eq(&followed.of(&world, "n1").clone(), followed.of(&world, "n1")));
        }
    }
}
