//! Source ranges of load-balancer VIPs (spec M5, R4, §1.4.2).
//!
//! A list in canonical form (sorted, each network once, none inside another) is the identity of a range set:
//! equal lists share one set in the kernel.

use crate::model::Family;
use ipnet::IpNet;
use std::net::IpAddr;

pub use crate::tables::SourceRanges;

/// What a Service's list says for one family; `None` = everybody: the list has nothing of that family, or a
/// network that is everything.
pub(super) fn of_family(listed: &[IpNet], family: Family) -> Option<SourceRanges> {
    let own: Vec<IpNet> = listed.iter().filter(|net| Family::of(&net.addr()) == family).copied().collect();
    (!own.is_empty() && own.iter().all(|net| net.prefix_len() > 0)).then(|| canonical(own))
}

/// Who may use a VIP: the listed networks; and the VIP itself, when one of them has this node's own address: a
/// node that has the VIP bound sends from it.
pub(super) fn of_vip(
    listed: Option<&SourceRanges>,
    vip: IpAddr,
    node_addresses: &[IpAddr],
) -> Option<SourceRanges> {
    let listed = listed?;
    let inside = |addr: &IpAddr| listed.iter().any(|net| net.contains(addr));
    if inside(&vip) || !node_addresses.iter().any(inside) {
        return Some(listed.clone());
    }
    Some(canonical(listed.iter().copied().chain([IpNet::from(vip)]).collect()))
}

fn canonical(mut networks: Vec<IpNet>) -> SourceRanges {
    // By address, then the shortest prefix: whatever lies inside another comes after it.
    networks.iter_mut().for_each(|net| *net = net.trunc());
    networks.sort_by_key(|net| (net.addr(), net.prefix_len()));
    let mut kept: Vec<IpNet> = Vec::with_capacity(networks.len());
    for net in networks {
        if !kept.last().is_some_and(|outer| outer.contains(&net)) {
            kept.push(net);
        }
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("network")).collect()
    }

    fn texts(ranges: Option<SourceRanges>) -> Option<Vec<String>> {
        ranges.map(|ranges| ranges.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_list_is_canonical_and_of_one_family() {
        let listed = nets(&["10.1.0.0/16", "2001:db8::/32", "10.0.0.0/8", "192.0.2.7/24", "10.1.0.0/16"]);
        let v4 = texts(of_family(&listed, Family::V4)).expect("a list");
        assert_eq!(v4, ["10.0.0.0/8", "192.0.2.0/24"]);
        assert_eq!(texts(of_family(&listed, Family::V6)).expect("a list"), ["2001:db8::/32"]);
    }

    #[test]
    fn nothing_of_a_family_or_everything_filters_nothing() {
        assert_eq!(of_family(&nets(&["10.0.0.0/8"]), Family::V6), None);
        assert_eq!(of_family(&nets(&["10.0.0.0/8", "0.0.0.0/0"]), Family::V4), None);
    }

    #[test]
    fn the_vip_itself_may_come_where_this_node_may() {
        let listed = of_family(&nets(&["192.0.2.0/24"]), Family::V4).expect("a list");
        let of = |vip: &str, node: &str| {
            let (vip, node) = (vip.parse().expect("ip"), node.parse().expect("ip"));
            texts(of_vip(Some(&listed), vip, &[node])).expect("a list")
        };
        assert_eq!(of("203.0.113.1", "192.0.2.5"), ["192.0.2.0/24", "203.0.113.1/32"]);
        assert_eq!(of("203.0.113.1", "10.0.0.5"), ["192.0.2.0/24"]);
        assert_eq!(of("192.0.2.9", "192.0.2.5"), ["192.0.2.0/24"]);
        assert_eq!(of_vip(None, "203.0.113.1".parse().expect("ip"), &[]), None);
    }
}
