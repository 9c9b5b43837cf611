//! The node's addresses: which of them answer on nodePorts, and the [`NodeView`] that `compile` reads.
//!
//! Default: every global address of the uplinks. kube-proxy's nftables mode takes only the Node object's
//! addresses (`--node-port-addresses primary` here); the Node object may be late or absent, the uplinks are not.
//! Loopback and link-local addresses never answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::classify::{Managed, Role, is_source};
use super::facts::HostFacts;
use crate::config::{Config, NodePortAddresses};
use crate::model::{NodeObject, NodeView};

/// Joins host and Node object. Sorted, so that the same facts always give the same view.
pub fn node_view(
    facts: &HostFacts,
    managed: &[Managed],
    config: &Config,
    node: Option<&NodeObject>,
) -> NodeView {
    let local: BTreeSet<IpAddr> = facts.addresses.values().flatten().map(|a| a.ip).collect();
    let usable: BTreeSet<IpAddr> =
        facts.addresses.values().flatten().filter(|a| is_source(a)).map(|a| a.ip).collect();
    let node_port: BTreeSet<IpAddr> = match &config.node_port_addresses {
        NodePortAddresses::Uplinks => managed
            .iter()
            .filter(|m| m.role == Role::Uplink)
            .flat_map(|m| facts.addresses_of(m.index))
            .filter(|a| is_source(a))
            .map(|a| a.ip)
            .collect(),
        NodePortAddresses::Primary => node
            .map(|n| n.addresses.iter().filter(|ip| local.contains(ip)).copied().collect())
            .unwrap_or_default(),
        NodePortAddresses::Within(nets) => {
            usable.into_iter().filter(|ip| nets.iter().any(|n| n.contains(ip))).collect()
        }
    };
    NodeView {
        name: config.node_name.clone(),
        node_port_addresses: node_port.into_iter().collect(),
        local_addresses: local.into_iter().collect(),
        main_addresses: <[_; 2]>::from(main_addresses(managed, node)).into_iter().flatten().collect(),
        zone: node.and_then(|n| n.zone.clone()),
    }
}

/// The node's main address of each family: the Node object's first, else the first uplink's.
pub fn main_addresses(managed: &[Managed], node: Option<&NodeObject>) -> (Option<IpAddr>, Option<IpAddr>) {
    let of_node = |v4: bool| node.and_then(|n| n.addresses.iter().find(|a| a.is_ipv4() == v4)).copied();
    let uplinks = || managed.iter().filter(|m| m.role == Role::Uplink);
    (
        of_node(true).or_else(|| uplinks().find_map(|m| m.addr4).map(IpAddr::V4)),
        of_node(false).or_else(|| uplinks().find_map(|m| m.addr6).map(IpAddr::V6)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::classify::{classify, tests::config, tests::host};
    use super::*;

    fn view(flags: &[&str], node: Option<&NodeObject>) -> Vec<String> {
        let (facts, config) = (host(), config(flags));
        let managed = classify(&facts, &config, &[], &BTreeSet::new());
        let view = node_view(&facts, &managed, &config, node);
        view.node_port_addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn by_default_every_global_address_of_the_uplinks_answers() {
        assert_eq!(view(&[], None), ["192.0.2.1", "192.0.2.9", "2001:db8::1"]);
    }

    #[test]
    fn primary_takes_the_node_objects_addresses_that_this_host_has() {
        let addresses = ["192.0.2.1", "203.0.113.1"].map(|s| s.parse().expect("ip")).to_vec();
        let node = NodeObject { name: "n".into(), addresses, ..NodeObject::default() };
        assert_eq!(view(&["--node-port-addresses", "primary"], Some(&node)), ["192.0.2.1"]);
        assert!(view(&["--node-port-addresses", "primary"], None).is_empty());
    }

    #[test]
    fn networks_select_from_every_interface_but_never_loopback() {
        assert_eq!(
            view(&["--node-port-addresses", "10.0.0.0/8,127.0.0.0/8"], None),
            ["10.9.0.1", "10.96.0.1", "10.244.0.1"]
        );
    }

    #[test]
    fn the_main_addresses_prefer_the_node_object() {
        let managed = classify(&host(), &config(&[]), &[], &BTreeSet::new());
        let node = NodeObject { addresses: vec!["10.9.0.1".parse().expect("ip")], ..NodeObject::default() };
        let (v4, v6) = main_addresses(&managed, Some(&node));
        assert_eq!(v4, Some("10.9.0.1".parse().expect("ip")));
        assert_eq!(v6, Some("2001:db8::1".parse().expect("ip")));
    }
}
