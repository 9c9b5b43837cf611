//! `fairway services`: frontends and their backends as the kernel has them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::backend::{BACKEND_LIVE, BACKEND_LOCAL, BACKEND_SERVING};
use lb_common::service::{
    SET_CLUSTER, SET_LOCAL, SVC_ADDRESS, SVC_HAS_ANY, SVC_KIND_CLUSTER_IP, SVC_KIND_LOAD_BALANCER,
    SVC_KIND_MASK, SVC_KIND_NODE_PORT, SVC_POLICY_LOCAL, SetRef, Svc,
};
use serde::Serialize;

use super::{Show, lines, table};
use crate::model::{Family, Proto};
use crate::tables::{BackendEntry, Dump, FrontendKey};
use crate::telemetry::status::{FrontendNames, frontend_name_key, node_port_name_key};

/// A backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendView {
    /// Backend id.
    pub id: u32,
    /// Generation.
    pub generation: u32,
    /// Address and port.
    pub address: String,
    /// `serving`, `draining`, or `missing` when the slot names a free backend.
    pub state: &'static str,
    /// It is on this node.
    pub local: bool,
    /// Slots of the cluster set that name it.
    pub slots_cluster: u32,
    /// Slots of the local set that name it.
    pub slots_local: u32,
}

/// A frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrontendView {
    /// `namespace/name:port`, when the agent left its names.
    pub service: Option<String>,
    /// Service-port id.
    pub svc_id: u32,
    /// ClusterIP, NodePort, LoadBalancer or ExternalIP.
    pub kind: &'static str,
    /// TCP, UDP or the number.
    pub proto: String,
    /// Address and port.
    pub address: String,
    /// `Cluster` or `Local`.
    pub policy: &'static str,
    /// ClientIP affinity in seconds; 0 = none.
    pub affinity_s: u32,
    /// Some endpoint anywhere is usable.
    pub has_any: bool,
    /// Who may use it; `None` = everybody.
    pub source_ranges: Option<Vec<String>>,
    /// Backends of both sets.
    pub backends: Vec<BackendView>,
}

/// All frontends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicesView {
    /// Sorted by service, then kind and address.
    pub frontends: Vec<FrontendView>,
}

/// Protocol by number.
pub(super) fn proto_of(number: u32) -> Option<Proto> {
    match number {
        6 => Some(Proto::Tcp),
        17 => Some(Proto::Udp),
        _ => None,
    }
}

/// Builds the view. `name` keeps only frontends whose service is that name, `namespace/name`, or whose address is it.
pub fn view(dump: &Dump, names: &FrontendNames, name: Option<&str>) -> ServicesView {
    let backends: HashMap<(Family, u32), BackendEntry> = dump
        .backends
        .iter()
        .map(|(id, entry)| match entry {
            BackendEntry::V4(_) => ((Family::V4, *id), *entry),
            BackendEntry::V6(_) => ((Family::V6, *id), *entry),
        })
        .collect();
    let mut frontends: Vec<FrontendView> = dump
        .frontends
        .iter()
        .filter(|(_, svc)| svc.flags & SVC_ADDRESS == 0)
        .map(|(key, svc)| FrontendView {
            source_ranges: source_ranges(svc, dump),
            ..frontend(key, svc, &dump.slots, &backends, names)
        })
        .filter(|f| name.is_none_or(|wanted| f.is_called(wanted)))
        .collect();
    frontends.sort_by(|a, b| {
        let order = |f: &FrontendView| (f.service.is_none(), f.service.clone(), f.kind, f.proto.clone());
        order(a).cmp(&order(b)).then_with(|| a.address.cmp(&b.address))
    });
    ServicesView { frontends }
}

impl FrontendView {
    fn is_called(&self, wanted: &str) -> bool {
        let by_name = self.service.as_deref().is_some_and(|full| {
            let without_port = full.split_once(':').map_or(full, |(name, _)| name);
            full == wanted || without_port == wanted || without_port.rsplit('/').next() == Some(wanted)
        });
        by_name || self.address == wanted || self.address.rsplit_once(':').is_some_and(|(ip, _)| ip == wanted)
    }
}

fn frontend(
    key: &FrontendKey,
    svc: &Svc,
    slots: &[u32],
    backends: &HashMap<(Family, u32), BackendEntry>,
    names: &FrontendNames,
) -> FrontendView {
    let (addr, port, proto_number) = match key {
        FrontendKey::V4(k) => (IpAddr::V4(k.addr.into()), u16::from_be(k.port_be), u32::from(k.proto)),
        FrontendKey::V6(k) => (IpAddr::V6(k.addr.into()), u16::from_be(k.port_be), u32::from(k.proto)),
    };
    let kind = svc.flags & SVC_KIND_MASK;
    let proto = proto_of(proto_number);
    let service = proto.and_then(|proto| {
        let key = if kind == SVC_KIND_NODE_PORT {
            node_port_name_key(Family::of(&addr), proto, port)
        } else {
            frontend_name_key(proto, addr, port)
        };
        names.get(&key).cloned()
    });
    FrontendView {
        service,
        svc_id: svc.id,
        kind: match kind {
            SVC_KIND_CLUSTER_IP => "ClusterIP",
            SVC_KIND_NODE_PORT => "NodePort",
            SVC_KIND_LOAD_BALANCER => "LoadBalancer",
            _ => "ExternalIP",
        },
        proto: proto.map_or_else(|| proto_number.to_string(), |p| p.to_string()),
        address: SocketAddr::new(addr, port).to_string(),
        policy: if svc.flags & SVC_POLICY_LOCAL != 0 { "Local" } else { "Cluster" },
        affinity_s: svc.affinity_s,
        has_any: svc.flags & SVC_HAS_ANY != 0,
        source_ranges: None,
        backends: backends_of(svc, Family::of(&addr), slots, backends),
    }
}

/// The networks of a frontend's set of source ranges; an empty list lets nobody in.
fn source_ranges(svc: &Svc, dump: &Dump) -> Option<Vec<String>> {
    let own = dump.ranges.iter().filter(|(id, _)| *id == svc.ranges_id);
    (svc.ranges_id != 0).then(|| own.map(|(_, network)| network.to_string()).collect())
}

fn backends_of(
    svc: &Svc,
    family: Family,
    slots: &[u32],
    backends: &HashMap<(Family, u32), BackendEntry>,
) -> Vec<BackendView> {
    let mut counts: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for id in range(slots, &svc.sets[SET_CLUSTER]) {
        counts.entry(*id).or_default().0 += 1;
    }
    for id in range(slots, &svc.sets[SET_LOCAL]) {
        counts.entry(*id).or_default().1 += 1;
    }
    let mut list: Vec<BackendView> = counts
        .into_iter()
        .map(|(id, (slots_cluster, slots_local))| {
            let (addr, port, flags, generation) = match backends.get(&(family, id)) {
                Some(BackendEntry::V4(b)) => {
                    (Ipv4Addr::from(b.addr).into(), u16::from_be(b.port_be), b.flags, b.generation)
                }
                Some(BackendEntry::V6(b)) => {
                    (Ipv6Addr::from(b.addr).into(), u16::from_be(b.port_be), b.flags, b.generation)
                }
                None => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, 0, 0),
            };
            BackendView {
                id,
                generation,
                address: SocketAddr::new(addr, port).to_string(),
                state: match (flags & BACKEND_LIVE != 0, flags & BACKEND_SERVING != 0) {
                    (true, true) => "serving",
                    (true, false) => "draining",
                    (false, _) => "missing",
                },
                local: flags & BACKEND_LOCAL != 0,
                slots_cluster,
                slots_local,
            }
        })
        .collect();
    list.sort_by(|a, b| a.address.cmp(&b.address));
    list
}

/// The slots of a set; a set that points outside the array is empty.
fn range<'a>(slots: &'a [u32], set: &SetRef) -> &'a [u32] {
    let start = set.offset as usize;
    slots.get(start..start + set.count as usize).unwrap_or_default()
}

impl Show for ServicesView {
    fn text(&self) -> String {
        if self.frontends.is_empty() {
            return "no services in the kernel".to_owned();
        }
        let mut t = table(&["SERVICE", "KIND", "PROTO", "FRONTEND", "POLICY", "BACKENDS"]);
        for f in &self.frontends {
            let backends: Vec<String> = f
                .backends
                .iter()
                .map(|b| {
                    let place = if b.local { ", local" } else { "" };
                    format!("{} ({}{place})", b.address, b.state)
                })
                .collect();
            let backends = if backends.is_empty() { "none".to_owned() } else { backends.join("\n") };
            let service = f.service.clone().unwrap_or_else(|| format!("#{}", f.svc_id));
            let policy = match &f.source_ranges {
                None => f.policy.to_owned(),
                Some(ranges) if ranges.is_empty() => format!("{}\nfrom nowhere", f.policy),
                Some(ranges) => format!("{}\nfrom {}", f.policy, ranges.join("\nfrom ")),
            };
            t.add_row([service, f.kind.into(), f.proto.clone(), f.address.clone(), policy, backends]);
        }
        lines(&t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::{A4, Backend, SvcKey};

    fn dump() -> Dump {
        let key = |last: u8, port: u16| {
            FrontendKey::V4(SvcKey {
                addr: A4::from(Ipv4Addr::new(10, 96, 0, last)),
                port_be: port.to_be(),
                proto: 6,
                pad: 0,
            })
        };
        let backend = |last: u8, flags| {
            BackendEntry::V4(Backend {
                addr: A4::from(Ipv4Addr::new(10, 244, 0, last)),
                port_be: 80u16.to_be(),
                proto: 6,
                flags,
                generation: 3,
            })
        };
        let sets = [SetRef { offset: 2, count: 3 }, SetRef { offset: 4, count: 1 }];
        let svc = |flags, sets| Svc { id: 7, flags, sets, ..Svc::default() };
        Dump {
            frontends: vec![
                (key(8, 8088), svc(SVC_HAS_ANY, sets)),
                (key(1, 30080), svc(SVC_KIND_NODE_PORT | SVC_POLICY_LOCAL, [SetRef::default(); 2])),
            ],
            backends: vec![
                (1, backend(2, BACKEND_LIVE | BACKEND_SERVING)),
                (2, backend(3, BACKEND_LIVE | BACKEND_LOCAL)),
            ],
            slots: vec![0, 0, 1, 1, 2],
            ranges: Vec::new(),
        }
    }

    fn names() -> FrontendNames {
        [("TCP 10.96.0.8:8088", "default/web:http"), ("TCP4 :30080", "default/web:http")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    #[test]
    fn backends_show_state_place_and_share() {
        let v = view(&dump(), &names(), None);
        let f = v.frontends.iter().find(|f| f.kind == "ClusterIP").expect("cluster IP");
        assert_eq!(f.service.as_deref(), Some("default/web:http"));
        let got: Vec<_> = f
            .backends
            .iter()
            .map(|b| (b.address.as_str(), b.state, b.local, b.slots_cluster, b.slots_local))
            .collect();
        assert_eq!(
            got,
            [("10.244.0.2:80", "serving", false, 2, 0), ("10.244.0.3:80", "draining", true, 1, 1)]
        );
    }

    #[test]
    fn without_names_addresses_still_show() {
        let text = view(&dump(), &FrontendNames::new(), None).text();
        assert!(text.contains("#7") && text.contains("10.96.0.8:8088"), "{text}");
    }

    #[test]
    fn a_name_selects_with_or_without_namespace_and_port() {
        for wanted in ["web", "default/web", "default/web:http"] {
            assert_eq!(view(&dump(), &names(), Some(wanted)).frontends.len(), 2, "{wanted}");
        }
        assert_eq!(view(&dump(), &names(), Some("10.96.0.8")).frontends.len(), 1);
        assert!(view(&dump(), &names(), Some("we")).frontends.is_empty());
    }

    #[test]
    fn a_set_outside_the_slots_is_empty_and_a_free_backend_is_missing() {
        let mut d = dump();
        d.frontends[0].1.sets[SET_LOCAL] = SetRef { offset: 4, count: 9 };
        d.backends.clear();
        let v = view(&d, &names(), None);
        let f = v.frontends.iter().find(|f| f.kind == "ClusterIP").expect("cluster IP");
        assert!(f.backends.iter().all(|b| b.state == "missing" && b.slots_local == 0));
    }

    #[test]
    fn source_ranges_show_and_addresses_do_not() {
        let mut d = dump();
        d.frontends[0].1.ranges_id = 4;
        d.frontends[1].1.flags = SVC_ADDRESS;
        d.ranges =
            vec![(4, "192.0.2.0/24".parse().expect("network")), (5, "10.0.0.0/8".parse().expect("network"))];
        let v = view(&d, &names(), None);
        assert_eq!(v.frontends.len(), 1);
        assert_eq!(v.frontends[0].source_ranges.as_deref(), Some(&["192.0.2.0/24".to_owned()][..]));
        assert!(v.text().contains("from 192.0.2.0/24"), "{}", v.text());
        d.ranges.clear();
        assert!(view(&d, &names(), None).text().contains("from nowhere"));
    }

    #[test]
    fn the_table_has_one_line_per_backend() {
        let text = view(&dump(), &names(), None).text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("SERVICE"), "{text}");
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].contains("10.244.0.2:80 (serving)"), "{text}");
        assert!(lines[2].trim() == "10.244.0.3:80 (draining, local)", "{text}");
        assert!(lines[3].contains("Local") && lines[3].ends_with("none"), "{text}");
    }
}
