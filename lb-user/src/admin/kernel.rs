//! The kernel's own numbers for `/metrics`: outcomes of packets, flows, maps, attached programs.
//!
//! Read from the pinned maps through [`Viewer`], never from what the agent meant to write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lb_common::Reason;
use lb_common::service::{SET_LOCAL, SVC_HAS_ANY, SVC_KIND_CLUSTER_IP, SVC_KIND_MASK, SVC_POLICY_LOCAL, Svc};
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::exposition::{Sample, family};
use crate::datapath::{AttachedProgram, Counter, DatapathError, MapUsage, Viewer};

/// What is cheap to read.
#[derive(Debug)]
pub(super) struct KernelReading {
    counters: Vec<Counter>,
    attached: Vec<AttachedProgram>,
}

/// What takes a walk through the maps.
#[derive(Debug)]
pub(super) struct Census {
    usage: Vec<MapUsage>,
    no_local: NoLocal,
}

/// Service ports with endpoints, but none here, under the policy Local (spec R2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NoLocal {
    internal: u64,
    external: u64,
}

impl KernelReading {
    pub(super) fn read(viewer: &Viewer) -> Result<KernelReading, DatapathError> {
        Ok(KernelReading { counters: viewer.counters()?, attached: viewer.attached()? })
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let packets = self.counters.iter().filter(|c| event(c.reason).is_none()).map(|c| {
            let outcome = if c.reason.is_drop() { "dropped" } else { "delivered" };
            let labels = vec![
                ("hook", c.hook.label().to_owned()),
                ("reason", c.reason.label().to_owned()),
                ("outcome", outcome.to_owned()),
            ];
            (labels, c.count)
        });
        let help = "How packets ended, by hook and reason";
        family(encoder, "fairway_packets", help, MetricType::Counter, packets)?;
        for (reason, name, help) in EVENTS {
            let sum = self.counters.iter().filter(|c| c.reason == reason).map(|c| c.count).sum();
            family(encoder, name, help, MetricType::Counter, [(vec![], sum)])?;
        }
        let help = "Programs on interfaces, by hook and mode";
        family(encoder, "fairway_attached_programs", help, MetricType::Gauge, self.programs())
    }

    fn programs(&self) -> Vec<Sample> {
        let mut by: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for program in self.attached.iter().filter(|p| p.live) {
            *by.entry((program.hook, program.mode)).or_default() += 1;
        }
        let sample = |((hook, mode), n): ((&str, &str), u64)| {
            (vec![("hook", hook.to_owned()), ("mode", mode.to_owned())], n)
        };
        by.into_iter().map(sample).collect()
    }
}

/// Counted reasons that are no packet's end, with the name of their metric.
const EVENTS: [(Reason, &str, &str); 4] = [
    (Reason::FlowCreated, "fairway_flows_created", "Flows made"),
    (Reason::Reclaimed, "fairway_flows_reclaimed", "Flows whose record was used for another"),
    (Reason::Swept, "fairway_flows_expired", "Flows that ended of age"),
    (Reason::AffinityHit, "fairway_affinity_hits", "New flows that kept their client's backend"),
];

fn event(reason: Reason) -> Option<&'static str> {
    EVENTS.iter().find(|(event, ..)| *event == reason).map(|(_, name, _)| *name)
}

impl Census {
    pub(super) fn take(viewer: &Viewer) -> Result<Census, DatapathError> {
        let dump = viewer.dump()?;
        Ok(Census {
            usage: viewer.usage()?,
            no_local: NoLocal::of(dump.frontends.iter().map(|(_, svc)| svc)),
        })
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let by_map = |value: fn(&MapUsage) -> u32| {
            self.usage.iter().map(move |u| (vec![("map", u.map.to_owned())], u64::from(value(u))))
        };
        let gauge = MetricType::Gauge;
        family(encoder, "fairway_map_entries", "Elements in use", gauge, by_map(|u| u.used))?;
        family(encoder, "fairway_map_capacity", "Elements that fit", gauge, by_map(|u| u.capacity))?;
        let policies = [("internal", self.no_local.internal), ("external", self.no_local.external)];
        let samples = policies.map(|(policy, n)| (vec![("traffic_policy", policy.to_owned())], n));
        family(
            encoder,
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Service ports with policy Local whose endpoints are all on other nodes",
            gauge,
            samples,
        )
    }
}

impl NoLocal {
    /// Counts service ports, not frontends: a nodePort has one of those per address.
    fn of<'a>(frontends: impl Iterator<Item = &'a Svc>) -> NoLocal {
        let wanted = SVC_POLICY_LOCAL | SVC_HAS_ANY;
        let empty = frontends.filter(|s| s.flags & wanted == wanted && s.sets[SET_LOCAL].count == 0);
        let ports: BTreeSet<(bool, u32)> =
            empty.map(|s| (s.flags & SVC_KIND_MASK == SVC_KIND_CLUSTER_IP, s.id)).collect();
        let count = |internal| ports.iter().filter(|(i, _)| *i == internal).count() as u64;
        NoLocal { internal: count(true), external: count(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::service::{SVC_KIND_NODE_PORT, SetRef};

    fn svc(id: u32, flags: u32, local: u32) -> Svc {
        Svc { id, flags, sets: [SetRef::default(), SetRef { offset: 0, count: local }], ..Svc::default() }
    }

    #[test]
    fn service_ports_without_local_endpoints_count_once_for_each_policy() {
        let local = SVC_POLICY_LOCAL | SVC_HAS_ANY;
        let frontends = [
            svc(1, local | SVC_KIND_NODE_PORT, 0),
            svc(1, local | SVC_KIND_NODE_PORT, 0),
            svc(1, local | SVC_KIND_CLUSTER_IP, 0),
            svc(2, local | SVC_KIND_NODE_PORT, 1),
            svc(3, SVC_POLICY_LOCAL | SVC_KIND_NODE_PORT, 0),
            svc(4, SVC_HAS_ANY | SVC_KIND_NODE_PORT, 0),
        ];
        assert_eq!(NoLocal::of(frontends.iter()), NoLocal { internal: 1, external: 1 });
    }

    #[test]
    fn what_is_no_packets_end_is_not_counted_as_one() {
        assert!(event(Reason::FlowCreated).is_some() && event(Reason::Swept).is_some());
        assert!(event(Reason::FwdLocal).is_none() && event(Reason::NoSnatPort).is_none());
    }
}
