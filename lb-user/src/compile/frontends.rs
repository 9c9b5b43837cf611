//! Service ports and the addresses they claim: ClusterIP, NodePort, load-balancer VIP, external IP.
//!
//! A family without a ClusterIP ignores the whole Service in that family (spec M2). Looks at one Service at a
//! time; who gets an address that several claim is decided in `conflict`.

use super::Context;
use super::keys::{PortKey, address_key, frontend_key};
use super::ranges::{self, SourceRanges};
use crate::model::{Family, Problem, Service, ServicePort};
use crate::tables::FrontendKey;
use lb_common::service::{
    SVC_KIND_CLUSTER_IP, SVC_KIND_EXTERNAL_IP, SVC_KIND_LOAD_BALANCER, SVC_KIND_NODE_PORT,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A service port of one family before conflicts and endpoints are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub key: PortKey,
    pub created_unix_s: i64,
    /// Sorted by key, each key once.
    pub claims: Vec<Claim>,
    /// The entry of its ClusterIP as an address.
    pub address: FrontendKey,
    pub internal_local: bool,
    pub external_local: bool,
    /// Has a NodePort, VIP or external IP (spec M7).
    pub external: bool,
    pub affinity_s: u32,
}

/// A frontend that a service port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub key: FrontendKey,
    /// `SVC_KIND_*`.
    pub kind: u32,
    /// Who may use it; `None` = everybody.
    pub ranges: Option<SourceRanges>,
}

/// The candidates of one Service in key order.
pub(super) fn candidates(
    service: &Service,
    context: &Context<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<Candidate> {
    let usable = Addresses::of(service, context, problems);
    let mut found: Vec<Candidate> = Vec::new();
    for family in [Family::V4, Family::V6] {
        let Some(cluster_ip) = usable.cluster.iter().find(|a| Family::of(a) == family) else { continue };
        for port in &service.ports {
            let candidate = candidate(service, port, *cluster_ip, &usable, context);
            if port.port == 0 {
                problems.push(problem(service, "spec.ports", format!("port {:?} is 0", port.name)));
            } else if found.iter().any(|known| known.key == candidate.key) {
                let message = format!("port {:?} of protocol {} is listed twice", port.name, port.proto);
                problems.push(problem(service, "spec.ports", message));
            } else {
                found.push(candidate);
            }
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found
}

/// A Service's addresses that may be programmed.
struct Addresses {
    cluster: Vec<IpAddr>,
    vip: Vec<IpAddr>,
    external: Vec<IpAddr>,
}

impl Addresses {
    fn of(service: &Service, context: &Context<'_>, problems: &mut Vec<Problem>) -> Addresses {
        let mut usable = |list: &[IpAddr], field: &str| {
            let seen: BTreeSet<IpAddr> = list.iter().copied().collect();
            let (good, bad): (Vec<IpAddr>, Vec<IpAddr>) = seen.into_iter().partition(may_be_frontend);
            problems.extend(bad.iter().map(|a| {
                let message = format!("{a} cannot be a service address (loopback, multicast, link-local …)");
                problem(service, field, message)
            }));
            good
        };
        let cluster = usable(&service.cluster_ips, "spec.clusterIPs");
        let vip = usable(&service.load_balancer_ips, "status.loadBalancer.ingress");
        let external = usable(&service.external_ips, "spec.externalIPs");
        let allowed = &context.options.external_ip_cidrs;
        let (external, refused): (Vec<IpAddr>, Vec<IpAddr>) =
            external.into_iter().partition(|a| allowed.iter().any(|net| net.contains(a)));
        problems.extend(refused.iter().map(|a| {
            let message = match allowed.is_empty() {
                true => format!("{a} is not programmed: external IPs are switched off (--external-ip-cidrs)"),
                false => format!("{a} is not programmed: it is in none of --external-ip-cidrs"),
            };
            problem(service, "spec.externalIPs", message)
        }));
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
    context: &Context<'_>,
) -> Candidate {
    let family = Family::of(&cluster_ip);
    let in_family =
        |list: &[IpAddr]| list.iter().copied().filter(|a| Family::of(a) == family).collect::<Vec<_>>();
    let (vips, externals) = (in_family(&usable.vip), in_family(&usable.external));
    let mut claims = Vec::new();
    let mut claim = |addr, port_number, kind, ranges| {
        claims.push(Claim { key: frontend_key(addr, port_number, port.proto), kind, ranges });
    };
    // Strongest kind first: of equal keys the first stays (spec §1.10 step 1).
    claim(cluster_ip, port.port, SVC_KIND_CLUSTER_IP, None);
    let listed = ranges::of_family(&service.source_ranges, family);
    for addr in &vips {
        let ranges = ranges::of_vip(listed.as_ref(), *addr, &context.node.main_addresses);
        claim(*addr, port.port, SVC_KIND_LOAD_BALANCER, ranges);
    }
    for addr in &externals {
        claim(*addr, port.port, SVC_KIND_EXTERNAL_IP, None);
    }
    if port.node_port != 0 {
        for addr in in_family(&context.node.node_port_addresses) {
            claim(addr, port.node_port, SVC_KIND_NODE_PORT, None);
        }
    }
    claims.sort_by_key(|claim| claim.key);
    claims.dedup_by_key(|claim| claim.key);
    claims.shrink_to_fit();
    Candidate {
        key: PortKey { service: service.key.clone(), port: port.name.clone(), proto: port.proto, family },
        created_unix_s: service.created_unix_s,
        claims,
        address: address_key(cluster_ip),
        internal_local: service.internal_local,
        external_local: service.external_local,
        external: port.node_port != 0 || !vips.is_empty() || !externals.is_empty(),
        affinity_s: service.affinity_timeout_s.unwrap_or(0),
    }
}

fn problem(service: &Service, field: &str, message: String) -> Problem {
    Problem { object: format!("Service {}", service.key), field: field.to_string(), message }
}
