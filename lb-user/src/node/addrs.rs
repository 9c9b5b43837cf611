//! The node's addresses: which of them answer on nodePorts, and the [`NodeView`] that `compile` reads.
//!
//! Default: every global address of the uplinks. kube-proxy's nftables mode takes only the Node object's
//! addresses (`--node-port-addresses primary` here); the Node object may be late or absent, the uplinks are not.
//! Link-local addresses never answer, loopback only when asked for by name: packets never go there, only the socket
//! hooks know those frontends.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::classify::{Managed, Role, is_source};
use super::facts::HostFacts;
use crate::config::Config;
use crate::model::{NodeObject, NodeView};

/// Joins host and Node object. Sorted, so that the same facts always give the same view.
pub fn node_view(
    facts: &HostFacts,
    managed: &[Managed],
    config: &Config,
    node: Option<&NodeObject>,
) -> NodeView {
    let local: BTreeSet<IpAddr> = facts.addresses.values().flatten().map(|a| a.ip).collect();
    let mut node_port: BTreeSet<IpAddr> = chosen(facts, managed, config, node, &local);
    if config.node_port_addresses.localhost {
        node_port.extend([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]);
    }
    NodeView {
        name: config.node_name.clone(),
        node_port_addresses: node_port.into_iter().collect(),
        local_addresses: local.into_iter().collect(),
        main_addresses: <[_; 2]>::from(main_addresses(managed, node)).into_iter().flatten().collect(),
        zone: node.and_then(|n| n.zone.clone()),
    }
}

/// The addresses that answer, but loopback.
fn chosen(
    facts: &HostFacts,
    managed: &[Managed],
    config: &Config,
    node: Option<&NodeObject>,
    local: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    let words = &config.node_port_addresses;
    let usable = || facts.addresses.values().flatten().filter(|a| is_source(a)).map(|a| a.ip);
    if words.is_default() {
        let uplinks = managed.iter().filter(|m| m.role == Role::Uplink);
        return uplinks
            .flat_map(|m| facts.addresses_of(m.index))
            .filter(|a| is_source(a))
            .map(|a| a.ip)
            .collect();
    }
    if words.all {
        return usable().collect();
    }
    let mut found = BTreeSet::new();
    if words.primary {
        let addresses = node.map(|n| n.addresses.as_slice()).unwrap_or_default();
        found.extend(addresses.iter().filter(|ip| local.contains(ip)));
    }
    if !words.within.is_empty() {
        // Of a family that no network is given for, every address answers.
        let names_family = |ip: &IpAddr| words.within.iter().any(|net| net.addr().is_ipv4() == ip.is_ipv4());
        let answers = |ip: &IpAddr| !names_family(ip) || words.within.iter().any(|net| net.contains(ip));
        found.extend(usable().filter(answers));
    }
    found
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
    fn networks_select_from_every_interface_but_never_loopback_and_a_family_without_has_all() {
        assert_eq!(
            view(&["--node-port-addresses", "10.0.0.0/8,127.0.0.0/8"], None),
            ["10.9.0.1", "10.96.0.1", "10.244.0.1", "2001:db8::1"]
        );
        assert_eq!(view(&["--node-port-addresses", "10.9.0.0/16,fd00::/8"], None), ["10.9.0.1"]);
        let every = ["10.9.0.1", "10.96.0.1", "10.244.0.1", "192.0.2.1", "192.0.2.9", "2001:db8::1"];
        assert_eq!(view(&["--node-port-addresses", "0.0.0.0/0"], None), every);
        assert_eq!(view(&["--node-port-addresses", "all"], None), every);
    }

    #[test]
    fn localhost_is_chosen_by_name_and_beside_others() {
        let addresses = vec!["192.0.2.1".parse().expect("ip")];
        let node = NodeObject { name: "n".into(), addresses, ..NodeObject::default() };
        assert_eq!(view(&["--node-port-addresses", "localhost"], Some(&node)), ["127.0.0.1", "::1"]);
        let both = view(&["--node-port-addresses", "primary,localhost"], Some(&node));
        assert_eq!(both, ["127.0.0.1", "192.0.2.1", "::1"]);
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
