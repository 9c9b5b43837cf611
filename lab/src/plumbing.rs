//! The wiring of a cluster as text for `ip -batch`, `bridge -batch`, `iptables-restore` and `nft -f`.
//!
//! Pure: from the spec to commands, one batch per namespace, so that a build needs a handful of processes.
//! Interface names: `eth0` in the client, nodes and pods; `veth<pod>` on the node's side of a pod; `cni0`,
//! `vxlan0`; `br0` and `sw-*` on the switch.

use std::fmt::Write;

use crate::address::{self, Dual, PODS_V4, PODS_V6};
use crate::spec::{ClusterSpec, Cni, InterNode, Masquerade};

/// What VXLAN over IPv4 costs of a packet.
const VXLAN_OVERHEAD: u16 = 50;
const UNDERLAY_MTU: u16 = 1500;

/// Node numbers of the cluster.
pub fn node_numbers(spec: &ClusterSpec) -> impl Iterator<Item = u8> + use<> {
    (1..=spec.nodes).filter_map(|n| u8::try_from(n).ok())
}

/// Pod numbers of each node.
pub fn pod_numbers(spec: &ClusterSpec) -> impl Iterator<Item = u8> + use<> {
    (1..=spec.pods_per_node).filter_map(|n| u8::try_from(n).ok())
}

/// `node-1`.
pub fn node_name(node: u8) -> String {
    format!("node-{node}")
}

/// `pod-1-2`: the second pod of the first node.
pub fn pod_name(node: u8, pod: u8) -> String {
    format!("pod-{node}-{pod}")
}

/// The node's side of a pod's veth.
pub fn host_veth(node: u8, pod: u8) -> String {
    format!("veth{}", pod_name(node, pod))
}

/// The switch's side of the uplink of `label`.
pub fn switch_port(label: &str) -> String {
    format!("sw-{label}")
}

/// Creates the veth pairs, run inside the switch namespace; `ns` maps a label to a namespace name.
pub fn cables(spec: &ClusterSpec, ns: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    let uplinks = node_numbers(spec).map(node_name).chain(["client".to_owned()]);
    for label in uplinks {
        line(
            &mut text,
            format!("link add name {} type veth peer name eth0 netns {}", switch_port(&label), ns(&label)),
        );
    }
    for node in node_numbers(spec) {
        for pod in pod_numbers(spec) {
            let (host, inside) = (ns(&node_name(node)), ns(&pod_name(node, pod)));
            let veth = host_veth(node, pod);
            line(
                &mut text,
                format!("link add name {veth} netns {host} type veth peer name eth0 netns {inside}"),
            );
        }
    }
    text
}

/// Inside the switch namespace.
pub fn switch(spec: &ClusterSpec) -> String {
    let mut text = String::from(
        "link set lo up\nlink add br0 address 02:51:00:00:00:01 type bridge forward_delay 0 mcast_snooping 0\n",
    );
    addresses(&mut text, "br0", address::switch(), 24, 64);
    for label in node_numbers(spec).map(node_name).chain(["client".to_owned()]) {
        line(&mut text, format!("link set {} master br0 up", switch_port(&label)));
    }
    line(&mut text, "link set br0 up".into());
    text
}

/// Puts the pinned XDP program at `pinned` on every switch port, in native mode.
pub fn switch_xdp(spec: &ClusterSpec, pinned: &str) -> String {
    node_numbers(spec)
        .map(node_name)
        .chain(["client".to_owned()])
        .map(|label| format!("link set dev {} xdpdrv pinned {pinned}\n", switch_port(&label)))
        .collect()
}

/// Inside the client namespace.
pub fn client() -> String {
    let mut text = String::from("link set lo up\n");
    addresses(&mut text, "eth0", address::client(), 24, 64);
    line(&mut text, "link set eth0 up".into());
    text
}

/// Inside the namespace of node `node`.
pub fn node(spec: &ClusterSpec, node: u8) -> String {
    let mut text = String::from("link set lo up\n");
    addresses(&mut text, "eth0", address::node(node), 24, 64);
    line(&mut text, "link set eth0 up".into());
    // As on a real node: everything unknown goes to a router (here the switch, which forwards nothing).
    default_route(&mut text, address::switch());
    pods_of_node(&mut text, spec, node);
    match spec.inter_node {
        InterNode::Routed => {
            for other in node_numbers(spec).filter(|other| *other != node) {
                for (range, via) in ranges(other).iter().zip(address::node(other).both()) {
                    line(&mut text, format!("route add {range} via {via} dev eth0"));
                }
            }
        }
        InterNode::Vxlan => overlay(&mut text, spec, node),
    }
    text
}

fn pods_of_node(text: &mut String, spec: &ClusterSpec, node: u8) {
    let (mtu, gateway) = (pod_mtu(spec), address::gateway(node));
    if spec.cni == Cni::Bridge {
        line(
            text,
            format!(
                "link add cni0 address 02:c0:00:00:00:{node:02x} mtu {mtu} type bridge forward_delay 0 mcast_snooping 0"
            ),
        );
        addresses(text, "cni0", gateway, 24, 64);
        line(text, "link set cni0 up".into());
    }
    for pod in pod_numbers(spec) {
        pod_of_node(text, spec, node, pod);
    }
}

/// The node's end of one pod's cable.
pub fn pod_of_node(text: &mut String, spec: &ClusterSpec, node: u8, pod: u8) {
    let veth = host_veth(node, pod);
    line(text, format!("link set {veth} mtu {}", pod_mtu(spec)));
    match spec.cni {
        Cni::Bridge => line(text, format!("link set {veth} master cni0 up")),
        Cni::Ptp => {
            addresses(text, &veth, address::gateway(node), 32, 128);
            line(text, format!("link set {veth} up"));
            for address in address::pod(node, pod).both() {
                line(text, format!("route add {address} dev {veth}"));
            }
        }
    }
}

fn overlay(text: &mut String, spec: &ClusterSpec, node: u8) {
    let local = address::node(node).v4;
    line(
        text,
        format!(
            "link add vxlan0 address {} mtu {} type vxlan id 1 dev eth0 local {local} dstport 8472 nolearning",
            vtep_mac(node),
            pod_mtu(spec)
        ),
    );
    addresses(text, "vxlan0", address::pod_range(node, 0), 32, 128);
    line(text, "link set vxlan0 up".into());
    for other in node_numbers(spec).filter(|other| *other != node) {
        for (range, via) in ranges(other).iter().zip(address::pod_range(other, 0).both()) {
            line(text, format!("neigh add {via} lladdr {} dev vxlan0 nud permanent", vtep_mac(other)));
            line(text, format!("route add {range} via {via} dev vxlan0 onlink"));
        }
    }
}

/// For `bridge -batch` inside node `node`: where each other node's VXLAN device is. Empty without VXLAN.
pub fn forwarding_entries(spec: &ClusterSpec, node: u8) -> String {
    if spec.inter_node != InterNode::Vxlan {
        return String::new();
    }
    node_numbers(spec)
        .filter(|other| *other != node)
        .map(|other| format!("fdb append {} dev vxlan0 dst {}\n", vtep_mac(other), address::node(other).v4))
        .collect()
}

/// Inside the namespace of a pod.
pub fn pod(spec: &ClusterSpec, node: u8, pod: u8) -> String {
    let mut text = format!("link set lo up\nlink set eth0 mtu {}\n", pod_mtu(spec));
    let gateway = address::gateway(node);
    let (bits4, bits6) = if spec.cni == Cni::Ptp { (32, 128) } else { (24, 64) };
    addresses(&mut text, "eth0", address::pod(node, pod), bits4, bits6);
    line(&mut text, "link set eth0 up".into());
    if spec.cni == Cni::Ptp {
        for address in gateway.both() {
            line(&mut text, format!("route add {address} dev eth0"));
        }
    }
    default_route(&mut text, gateway);
    text
}

/// Settings of a namespace before it gets interfaces that are up; `forwards` for nodes.
pub fn settings(forwards: bool, rp_filter: u8) -> Vec<(String, String)> {
    let rp_filter = rp_filter.to_string();
    let mut settings = Vec::new();
    for scope in ["all", "default"] {
        settings.push((format!("ipv4/conf/{scope}/rp_filter"), rp_filter.clone()));
        settings.push((format!("ipv6/conf/{scope}/accept_dad"), "0".into()));
        settings.push((format!("ipv6/conf/{scope}/accept_ra"), "0".into()));
        if forwards {
            settings.push((format!("ipv6/conf/{scope}/forwarding"), "1".into()));
        }
    }
    if forwards {
        settings.push(("ipv4/ip_forward".into(), "1".into()));
    } else {
        // Room for tens of thousands of connections to one address, without a search for each free port.
        settings.push(("ipv4/ip_local_port_range".into(), "10000 65535".into()));
    }
    settings
}

/// Programs with arguments and input that install the masquerade rules of node `node`.
pub fn masquerade(spec: &ClusterSpec, node: u8) -> Vec<(&'static str, &'static [&'static str], String)> {
    let [from4, from6] = ranges(node);
    match spec.masquerade {
        Masquerade::Off => Vec::new(),
        Masquerade::Iptables => {
            let rules = |from: &str, all: &str| {
                format!(
                    "*nat\n-A POSTROUTING -s {from} ! -d {all} -m comment --comment cni-masquerade -j MASQUERADE\nCOMMIT\n"
                )
            };
            vec![
                ("iptables-restore", &["--wait", "--noflush"], rules(&from4, PODS_V4)),
                ("ip6tables-restore", &["--wait", "--noflush"], rules(&from6, PODS_V6)),
            ]
        }
        Masquerade::Nftables => {
            let rules = format!(
                "table inet cni {{\n chain postrouting {{\n  type nat hook postrouting priority srcnat;\n  \
                 ip saddr {from4} ip daddr != {PODS_V4} masquerade\n  \
                 ip6 saddr {from6} ip6 daddr != {PODS_V6} masquerade\n }}\n}}\n"
            );
            vec![("nft", &["-f", "-"], rules)]
        }
    }
}

/// The pod ranges of node `node`, IPv4 and IPv6.
pub fn ranges(node: u8) -> [String; 2] {
    let Dual { v4, v6 } = address::pod_range(node, 0);
    [format!("{v4}/24"), format!("{v6}/64")]
}

fn pod_mtu(spec: &ClusterSpec) -> u16 {
    match spec.inter_node {
        InterNode::Routed => UNDERLAY_MTU,
        InterNode::Vxlan => UNDERLAY_MTU - VXLAN_OVERHEAD,
    }
}

fn vtep_mac(node: u8) -> String {
    format!("02:fd:00:00:00:{node:02x}")
}

/// Gives a device both addresses, with prefixes of these lengths.
pub fn addresses(text: &mut String, device: &str, address: Dual, bits4: u8, bits6: u8) {
    line(text, format!("addr add {}/{bits4} dev {device}", address.v4));
    line(text, format!("addr add {}/{bits6} dev {device} nodad", address.v6));
}

fn default_route(text: &mut String, gateway: Dual) {
    for via in gateway.both() {
        line(text, format!("route add default via {via} dev eth0"));
    }
}

fn line(text: &mut String, line: String) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel_limit() {
        assert!(host_veth(99, 99).len() <= 15);
        assert!(switch_port(&node_name(99)).len() <= 15);
    }

    #[test]
    fn vxlan_pods_leave_room_for_the_outer_headers() {
        let spec = ClusterSpec { inter_node: InterNode::Vxlan, ..ClusterSpec::default() };
        assert!(pod(&spec, 1, 1).contains("mtu 1450"));
        assert!(pod(&ClusterSpec::default(), 1, 1).contains("mtu 1500"));
    }

    #[test]
    fn a_node_has_no_route_to_its_own_range_by_another_node() {
        assert!(!node(&ClusterSpec::default(), 2).contains("route add 10.244.2.0/24"));
        assert!(node(&ClusterSpec::default(), 2).contains("route add 10.244.3.0/24 via 172.31.0.13"));
    }
}
