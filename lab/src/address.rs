//! The address plan of every cluster: who has which address.
//!
//! The same in all clusters, since their namespaces never meet. Nodes and pods count from 1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// All pod ranges, IPv4.
pub const PODS_V4: &str = "10.244.0.0/16";
/// All pod ranges, IPv6.
pub const PODS_V6: &str = "fd44::/16";
/// The range of clusterIPs, IPv4; no namespace has a route for it beyond its default route.
pub const SERVICES_V4: &str = "10.96.0.0/16";
/// The range of clusterIPs, IPv6.
pub const SERVICES_V6: &str = "fd96::/112";

/// An address in each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dual {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// Both addresses, IPv4 first.
    pub fn both(&self) -> [IpAddr; 2] {
        [IpAddr::V4(self.v4), IpAddr::V6(self.v6)]
    }
}

/// The switch itself: where a control plane can listen and be reached from every node and the client.
pub fn switch() -> Dual {
    underlay(1)
}

/// The outside client.
pub fn client() -> Dual {
    underlay(200)
}

/// A router on the switch, in clusters that have one.
pub fn router() -> Dual {
    underlay(250)
}

/// The network beyond that router: 1 is the router, 2 the host there.
pub fn far(host: u8) -> Dual {
    Dual { v4: Ipv4Addr::new(198, 51, 100, host), v6: Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, host.into()) }
}

/// Node `node` on the switch.
pub fn node(node: u8) -> Dual {
    underlay(10 + node)
}

/// Pod `pod` of node `node`; 0 is the VXLAN device's address and 1 the gateway's.
pub fn pod_range(node: u8, host: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(10, 244, node, host),
        v6: Ipv6Addr::new(0xfd44, node.into(), 0, 0, 0, 0, 0, host.into()),
    }
}

/// The gateway of the pods of node `node`.
pub fn gateway(node: u8) -> Dual {
    pod_range(node, 1)
}

/// Pod `pod` of node `node`.
pub fn pod(node: u8, pod: u8) -> Dual {
    pod_range(node, 1 + pod)
}

/// The clusterIPs of the `index`th Service, counted from 0.
pub fn cluster_ip(index: u16) -> Dual {
    let host = index + 10;
    let [high, low] = host.to_be_bytes();
    Dual { v4: Ipv4Addr::new(10, 96, high, low), v6: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, host) }
}

fn underlay(host: u8) -> Dual {
    Dual { v4: Ipv4Addr::new(172, 31, 0, host), v6: Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, host.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_one_node_share_its_range_and_never_collide_with_the_gateway() {
        assert_eq!(pod(2, 1).v4, Ipv4Addr::new(10, 244, 2, 2));
        assert_eq!(pod(2, 1).v6.to_string(), "fd44:2::2");
        assert_ne!(pod(2, 1), gateway(2));
    }

    #[test]
    fn cluster_ips_differ_by_service() {
        assert_eq!(cluster_ip(0).v4.to_string(), "10.96.0.10");
        assert_eq!(cluster_ip(250).v4.to_string(), "10.96.1.4");
    }
}
