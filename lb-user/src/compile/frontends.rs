//! Service ports and the addresses they answer on: ClusterIP, NodePort, load-balancer VIP, external IP.
//!
//! A family without a ClusterIP ignores the whole Service in that family (spec M2).

use super::CompileOptions;
use super::keys::{PortKey, frontend_key};
use crate::model::{Family, NodeView, Problem, Service, ServicePort, World};
use crate::tables::FrontendKey;
use lb_common::service::{
    SVC_KIND_CLUSTER_IP, SVC_KIND_EXTERNAL_IP, SVC_KIND_LOAD_BALANCER, SVC_KIND_NODE_PORT,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A service port of one family before conflicts and endpoints are looked at.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub key: PortKey,
    pub created_unix_s: i64,
    /// Frontend → `SVC_KIND_*`.
    pub frontends: BTreeMap<FrontendKey, u32>,
    pub internal_local: bool,
    pub external_local: bool,
    /// Has a NodePort, VIP or external IP (spec M7).
    pub external: bool,
    pub affinity_s: u32,
}

/// All candidates in key order.
pub(super) fn candidates(
    world: &World,
    node: &NodeView,
    options: &CompileOptions,
    problems: &mut Vec<Problem>,
) -> Vec<Candidate> {
    let mut found = BTreeMap::new();
    for service in world.services.values() {
        let usable = Addresses::of(service, options, problems);
        for family in [Family::V4, Family::V6] {
            let Some(cluster_ip) = usable.cluster.iter().find(|a| Family::of(a) == family) else { continue };
            for port in &service.ports {
                let candidate = candidate(service, port, *cluster_ip, &usable, node);
                if port.port == 0 {
                    problems.push(problem(service, "spec.ports", format!("port {:?} is 0", port.name)));
                } else if found.contains_key(&candidate.key) {
                    let message = format!("port {:?} of protocol {} is listed twice", port.name, port.proto);
                    problems.push(problem(service, "spec.ports", message));
                } else {
                    found.insert(candidate.key.clone(), candidate);
                }
            }
        }
    }
    found.into_values().collect()
}

/// A Service's addresses that may be programmed.
struct Addresses {
    cluster: Vec<IpAddr>,
    vip: Vec<IpAddr>,
    external: Vec<IpAddr>,
}

impl Addresses {
    fn of(service: &Service, options: &CompileOptions, problems: &mut Vec<Problem>) -> Addresses {
        let mut usable = |list: &[IpAddr], field: &str| {
            let seen: BTreeSet<IpAddr> = list.iter().copied().collect();
            let (good, bad): (Vec<IpAddr>, Vec<IpAddr>) = seen.into_iter().partition(may_be_frontend);
            problems.extend(bad.iter().map(|a| {
                problem(
                    service,
                    field,
                    format!("{a} cannot be a service address (loopback, multicast, link-local …)"),
                )
            }));
            good
        };
        let cluster = usable(&service.cluster_ips, "spec.clusterIPs");
        let vip = usable(&service.load_balancer_ips, "status.loadBalancer.ingress");
        let mut external = Vec::new();
        if options.external_ips {
            external = usable(&service.external_ips, "spec.externalIPs");
        } else if !service.external_ips.is_empty() {
            let message = "external IPs are switched off; they are not programmed".to_string();
            problems.push(problem(service, "spec.externalIPs", message));
        }
        Addresses { cluster, vip, external }
    }
}

fn may_be_frontend(a: &IpAddr) -> bool {
    let link_local = match a {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.to_ipv4_mapped().is_some(),
    };
    !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || link_local)
}

fn candidate(
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
    usable: &Addresses,
    node: &NodeView,
) -> Candidate {
    let family = Family::of(&cluster_ip);
    let in_family =
        |list: &[IpAddr]| list.iter().copied().filter(|a| Family::of(a) == family).collect::<Vec<_>>();
    let (vips, externals) = (in_family(&usable.vip), in_family(&usable.external));
    let mut frontends = BTreeMap::new();
    // Weakest kind first: a later insert of the same address wins (spec §1.10 step 1).
    if port.node_port != 0 {
        for addr in in_family(&node.node_port_addresses) {
            frontends.insert(frontend_key(addr, port.node_port, port.proto), SVC_KIND_NODE_PORT);
        }
    }
    for addr in &externals {
        frontends.insert(frontend_key(*addr, port.port, port.proto), SVC_KIND_EXTERNAL_IP);
    }
    for addr in &vips {
        frontends.insert(frontend_key(*addr, port.port, port.proto), SVC_KIND_LOAD_BALANCER);
    }
    frontends.insert(frontend_key(cluster_ip, port.port, port.proto), SVC_KIND_CLUSTER_IP);
    Candidate {
        key: PortKey { service: service.key.clone(), port: port.name.clone(), proto: port.proto, family },
        created_unix_s: service.created_unix_s,
        frontends,
        internal_local: service.internal_local,
        external_local: service.external_local,
        external: port.node_port != 0 || !vips.is_empty() || !externals.is_empty(),
        affinity_s: service.affinity_timeout_s.unwrap_or(0),
    }
}

fn problem(service: &Service, field: &str, message: String) -> Problem {
    Problem { object: format!("Service {}", service.key), field: field.to_string(), message }
}
