//! Services (spec O1 to O4, M1 to M6, M10).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use super::{Converted, Notes, Selection};
use crate::model::{Family, Service, ServicePort};

/// Kubernetes' default for `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const DEFAULT_AFFINITY_TIMEOUT_S: u32 = 10_800;
/// Kubernetes' upper limit for the same: a day.
const MAX_AFFINITY_TIMEOUT_S: u32 = 86_400;

/// Converts a Service; one that is not Fairway's to program gives nothing.
pub fn service(json: &Value, selection: &Selection) -> Converted<Service> {
    let mut notes = Notes::new("Service", json);
    let typed = notes.typed::<core::Service>(&without_conditions(json));
    let value = typed.and_then(|typed| convert(&mut notes, &typed, selection));
    notes.done(value)
}

/// The conditions of a status are nobody's business here, and clients write a zero time into them (upstream's own tests
/// do) that does not parse.
fn without_conditions(json: &Value) -> Cow<'_, Value> {
    if json.pointer("/status/conditions").is_none() {
        return Cow::Borrowed(json);
    }
    let mut json = json.clone();
    if let Some(status) = json.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("conditions");
    }
    Cow::Owned(json)
}

fn convert(notes: &mut Notes, typed: &core::Service, selection: &Selection) -> Option<Service> {
    let spec = typed.spec.as_ref()?;
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    if !selection.admits(typed.metadata.labels.as_ref()) || external_name || matches!(cluster_ip, "" | "None")
    {
        return None;
    }
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let accessible = balanced
        || spec.type_.as_deref() == Some("NodePort")
        || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    // The policy means nothing where nothing outside can come in.
    let external_local =
        local(notes, "spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref()) && accessible;
    Some(Service {
        key: notes.key(&typed.metadata)?,
        uid: typed.metadata.uid.clone().unwrap_or_default(),
        created_unix_s: typed.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        cluster_ips: cluster_ips(notes, spec, cluster_ip),
        external_ips: external_ips(notes, spec),
        load_balancer_ips: load_balancer_ips(notes, typed),
        ports: ports(notes, spec),
        internal_local: local(notes, "spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref()),
        external_local,
        affinity_timeout_s: affinity(notes, spec),
        source_ranges: source_ranges(notes, spec),
        health_check_node_port: match balanced && external_local {
            true => health_check_node_port(notes, spec),
            false => 0,
        },
    })
}

/// One address per family: the one at the family's index in `ipFamilies`; without `ipFamilies`, `clusterIP` (M2).
fn cluster_ips(notes: &mut Notes, spec: &core::ServiceSpec, cluster_ip: &str) -> Vec<IpAddr> {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    if families.is_empty() || listed.is_empty() {
        return notes.address("spec.clusterIP", cluster_ip).into_iter().collect();
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, (family, text)) in families.iter().zip(listed).enumerate() {
        let field = format!("spec.clusterIPs[{index}]");
        let Some(address) = notes.address(field.as_str(), text) else { continue };
        let wanted = match family.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                notes.add(format!("spec.ipFamilies[{index}]"), format!("`{other}` is not an address family"));
                continue;
            }
        };
        if Family::of(&address) != wanted {
            notes.add(field, format!("`{text}` is not of the family {family} that spec.ipFamilies gives it"));
        } else if !addresses.iter().any(|known| Family::of(known) == wanted) {
            addresses.push(address);
        } else {
            notes.add(field, format!("a second {family} address is not used"));
        }
    }
    addresses
}

/// M3: what does not parse is left out.
fn external_ips(notes: &mut Notes, spec: &core::ServiceSpec) -> Vec<IpAddr> {
    let texts = spec.external_ips.iter().flatten().enumerate();
    texts.filter_map(|(index, text)| notes.address(format!("spec.externalIPs[{index}]"), text)).collect()
}

/// M4: only `ip`, and only where the load balancer does not translate itself.
fn load_balancer_ips(notes: &mut Notes, typed: &core::Service) -> Vec<IpAddr> {
    let balancer = typed.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let vips = ingress
        .iter()
        .enumerate()
        .filter(|(_, entry)| matches!(entry.ip_mode.as_deref(), None | Some("VIP")));
    vips.filter_map(|(index, entry)| {
        let text = entry.ip.as_deref().filter(|text| !text.is_empty())?;
        notes.address(format!("status.loadBalancer.ingress[{index}].ip"), text)
    })
    .collect()
}

/// M5: white space around does no harm, what is no network is left out.
fn source_ranges(notes: &mut Notes, spec: &core::ServiceSpec) -> Vec<IpNet> {
    let texts = spec.load_balancer_source_ranges.iter().flatten().enumerate();
    let networks = texts
        .filter_map(|(index, text)| notes.network(format!("spec.loadBalancerSourceRanges[{index}]"), text));
    let mut networks: Vec<IpNet> = networks.collect();
    networks.sort();
    networks.dedup();
    networks
}

/// M6: of a load-balanced Service whose policy is Local; the API server gives it a number then.
fn health_check_node_port(notes: &mut Notes, spec: &core::ServiceSpec) -> u16 {
    match spec.health_check_node_port.unwrap_or(0) {
        0 => {
            notes.add("spec.healthCheckNodePort", "is missing, although externalTrafficPolicy is Local");
            0
        }
        number => notes.port("spec.healthCheckNodePort", number).unwrap_or(0),
    }
}

/// M1: one entry per name and protocol.
fn ports(notes: &mut Notes, spec: &core::ServiceSpec) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}]{name}");
        let Some(proto) = notes.proto(field(".protocol"), port.protocol.as_deref()) else { continue };
        let Some(number) = notes.port(field(".port"), port.port) else { continue };
        let node_port = match port.node_port {
            None | Some(0) => 0,
            Some(number) => notes.port(field(".nodePort"), number).unwrap_or(0),
        };
        let name: Arc<str> = port.name.as_deref().unwrap_or_default().into();
        if ports.iter().any(|known| known.name == name && known.proto == proto) {
            notes.add(
                field(".name"),
                format!("a second port named `{name}` for {proto}; the first one is used"),
            );
            continue;
        }
        if ports.iter().any(|known| known.port == number && known.proto == proto) {
            notes.add(field(".port"), format!("a second port {number}/{proto}; the first one is used"));
            continue;
        }
        ports.push(ServicePort { name, proto, port: number, node_port });
    }
    ports
}

fn local(notes: &mut Notes, field: &str, policy: Option<&str>) -> bool {
    match policy {
        Some("Local") => true,
        None | Some("" | "Cluster") => false,
        Some(other) => {
            notes.add(field, format!("`{other}` is not a traffic policy; Cluster is used"));
            false
        }
    }
}

fn affinity(notes: &mut Notes, spec: &core::ServiceSpec) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            notes.add("spec.sessionAffinity", format!("`{other}` is not an affinity; None is used"));
            return None;
        }
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let Some(timeout_s) = client_ip.and_then(|client_ip| client_ip.timeout_seconds) else {
        return Some(DEFAULT_AFFINITY_TIMEOUT_S);
    };
    match u32::try_from(timeout_s) {
        Ok(timeout_s @ 1..=MAX_AFFINITY_TIMEOUT_S) => Some(timeout_s),
        _ => {
            notes.add(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                format!("{timeout_s} is not from 1 to {MAX_AFFINITY_TIMEOUT_S}; {DEFAULT_AFFINITY_TIMEOUT_S} is used"),
            );
            Some(DEFAULT_AFFINITY_TIMEOUT_S)
        }
    }
}
