//! Which interfaces carry programs, and in which role: a pure function of the host's facts.
//!
//! Order of the rules, first match wins: loopback and inert devices never; names given with `--interface` are
//! the uplinks, and without any those with a default route or one of the Node object's addresses; overlays by
//! kind or pattern; pod-facing by pattern, by the way local pods are detected, or (when no pattern was given) every
//! other veth and netkit. A bridge
//! is never pod-facing itself: between two pods of one bridge the reply is switched and never reaches the
//! bridge's IP layer, so its veth ports are.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::facts::{Address, HostFacts, Kind, Link};
use crate::config::{Config, DetectLocal};

/// What an interface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Faces the outside.
    Uplink,
    /// Carries packets between nodes, encapsulated.
    Overlay,
    /// Faces one pod.
    Pod,
}

/// An interface that is to carry programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Managed {
    /// ifindex.
    pub index: u32,
    /// Current name.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Whoever sends from behind it is a pod of this node (spec Q4).
    pub local_pods: bool,
    /// The node's IPv4 address to masquerade with on it.
    pub addr4: Option<Ipv4Addr>,
    /// The IPv6 one, never link-local.
    pub addr6: Option<Ipv6Addr>,
    /// Hardware address; zeros without one.
    pub mac: [u8; 6],
    /// XDP may redirect to it. Never so for what faces pods: a packet for a local pod goes up the stack, where
    /// network policies are.
    pub takes_xdp_redirects: bool,
    /// Native XDP on it loses every frame that it sends back: a veth whose peer cannot receive such frames.
    pub loses_xdp_frames: bool,
}

/// Gives every interface its role. `node_addresses` are those of the Node object, when it is known;
/// `known_uplinks` had a default route at some time, which a flap may have taken for a while.
/// Interfaces that are down are included: programs on them do no harm, and are there when they come up.
pub fn classify(
    facts: &HostFacts,
    config: &Config,
    node_addresses: &[IpAddr],
    known_uplinks: &BTreeSet<u32>,
) -> Vec<Managed> {
    let managed = |link: &Link| {
        role_of(link, facts, config, node_addresses, known_uplinks).map(|role| {
            let addresses = facts.addresses_of(link.index);
            Managed {
                index: link.index,
                name: link.name.clone(),
                role,
                local_pods: role == Role::Pod
                    && (config.detect_local == DetectLocal::Interface || is_pods_own(link, facts, config)),
                addr4: source_of(addresses, node_addresses, |ip| match ip {
                    IpAddr::V4(a) => Some(a),
                    IpAddr::V6(_) => None,
                }),
                addr6: source_of(addresses, node_addresses, |ip| match ip {
                    IpAddr::V6(a) => Some(a),
                    IpAddr::V4(_) => None,
                }),
                mac: link.mac.unwrap_or_default(),
                takes_xdp_redirects: role == Role::Uplink && link.takes_xdp_redirects,
                loses_xdp_frames: link.kind == Kind::Veth && !link.takes_xdp_redirects,
            }
        })
    };
    facts.links.values().filter_map(managed).collect()
}

fn role_of(
    link: &Link,
    facts: &HostFacts,
    config: &Config,
    node_addresses: &[IpAddr],
    known_uplinks: &BTreeSet<u32>,
) -> Option<Role> {
    if matches!(link.kind, Kind::Loopback | Kind::Inert) {
        return None;
    }
    let is_uplink = if config.interfaces.is_empty() {
        facts.default_route_links.contains(&link.index)
            || known_uplinks.contains(&link.index)
            || facts.addresses_of(link.index).iter().any(|a| node_addresses.contains(&a.ip))
    } else {
        config.interfaces.contains(&link.name)
    };
    if is_uplink {
        return Some(Role::Uplink);
    }
    if link.kind == Kind::Tunnel || config.overlay_interfaces.matches(&link.name) {
        return Some(Role::Overlay);
    }
    if link.kind == Kind::Bridge {
        return None;
    }
    let guessed = config.pod_interfaces_guessed && matches!(link.kind, Kind::Veth | Kind::Netkit);
    let faces_pods = guessed || config.pod_interfaces.matches(&link.name) || is_pods_own(link, facts, config);
    faces_pods.then_some(Role::Pod)
}

/// True for an interface that the detection of local pods names: by its own name, or as a port of the bridge.
fn is_pods_own(link: &Link, facts: &HostFacts, config: &Config) -> bool {
    match &config.detect_local {
        DetectLocal::BridgeInterface(bridge) => {
            let controller = link.controller.and_then(|index| facts.links.get(&index));
            controller.is_some_and(|controller| controller.name == *bridge)
        }
        DetectLocal::InterfaceNamePrefix(prefix) => link.name.starts_with(prefix.as_str()),
        DetectLocal::Interface | DetectLocal::ClusterCidr(_) | DetectLocal::NodeCidr | DetectLocal::None => {
            false
        }
    }
}

/// The address packets are masqueraded with. Replies have to come back to this very node, so what may be a load
/// balancer's address that several nodes have bound comes last: one of the Node object's own before others, primary
/// before secondary, one with a network before one that stands alone (a /32 or /128), the oldest before newer ones.
fn source_of<A>(
    addresses: &[Address],
    node_addresses: &[IpAddr],
    family: impl Fn(IpAddr) -> Option<A>,
) -> Option<A> {
    // The kernel lists IPv4 addresses in the order of their age and IPv6 ones newest first
    // (net/ipv6/addrconf.c, ipv6_link_dev_addr).
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().filter(|a| is_source(a)).partition(|a| a.ip.is_ipv4());
    let mut usable: Vec<&Address> = v4.into_iter().chain(v6.into_iter().rev()).collect();
    usable.sort_by_key(|a| (!node_addresses.contains(&a.ip), a.secondary, !a.on_link));
    usable.into_iter().find_map(|a| family(a.ip))
}

/// True for an address of this node that other hosts can answer to.
pub(super) fn is_source(a: &Address) -> bool {
    a.global && !a.unusable && is_routable(&a.ip)
}

fn is_routable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => !(a.is_loopback() || a.is_link_local() || a.is_unspecified() || a.is_multicast()),
        IpAddr::V6(a) => {
            !(a.is_loopback() || a.is_unicast_link_local() || a.is_unspecified() || a.is_multicast())
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::RunArgs;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunArgs,
    }

    pub fn config(flags: &[&str]) -> Config {
        let argv = ["fairway", "--node-name", "n"].iter().chain(flags);
        Cli::try_parse_from(argv).expect("flags").run.into_config("n").expect("config")
    }

    pub fn address(ip: &str) -> Address {
        Address {
            ip: ip.parse().expect("ip"),
            global: true,
            unusable: false,
            secondary: false,
            on_link: true,
        }
    }

    /// A host with eth0 (default route), eth1 (an internal net), a CNI bridge with a port, a ptp veth, VXLAN.
    pub fn host() -> HostFacts {
        let mut f = HostFacts::default();
        let mut link = |index: u32, name: &str, kind, controller| {
            let mac = Some([2, 0, 0, 0, 0, index as u8]);
            let link = Link { index, name: name.into(), kind, up: true, controller, mac, ..Link::default() };
            f.links.insert(index, link);
        };
        link(1, "lo", Kind::Loopback, None);
        link(2, "eth0", Kind::Other, None);
        link(3, "eth1", Kind::Other, None);
        link(4, "cni0", Kind::Bridge, None);
        link(5, "vethaa", Kind::Veth, Some(4));
        link(6, "odd-name", Kind::Veth, None);
        link(7, "flannel.1", Kind::Tunnel, None);
        link(8, "kube-ipvs0", Kind::Inert, None);
        f.default_route_links.insert(2);
        f.addresses.insert(1, vec![Address { global: false, ..address("127.0.0.1") }]);
        f.addresses.insert(
            2,
            vec![
                Address { secondary: true, ..address("192.0.2.9") },
                address("192.0.2.1"),
                Address { global: false, ..address("fe80::1") },
                Address { unusable: true, ..address("2001:db8::dead") },
                address("2001:db8::1"),
            ],
        );
        f.addresses.insert(3, vec![address("10.9.0.1")]);
        f.addresses.insert(4, vec![address("10.244.0.1")]);
        f.addresses.insert(8, vec![address("10.96.0.1")]);
        f
    }

    fn roles(flags: &[&str], node_addresses: &[&str]) -> Vec<(String, Role)> {
        let ips: Vec<IpAddr> = node_addresses.iter().map(|s| s.parse().expect("ip")).collect();
        classify(&host(), &config(flags), &ips, &BTreeSet::new())
            .into_iter()
            .map(|m| (m.name, m.role))
            .collect()
    }

    fn expect(list: &[(&str, Role)]) -> Vec<(String, Role)> {
        list.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect()
    }

    #[test]
    fn by_default_the_default_route_is_the_uplink_and_every_other_veth_faces_a_pod() {
        let want = [
            ("eth0", Role::Uplink),
            ("vethaa", Role::Pod),
            ("odd-name", Role::Pod),
            ("flannel.1", Role::Overlay),
        ];
        assert_eq!(roles(&[], &[]), expect(&want));
    }

    #[test]
    fn a_device_with_a_node_address_is_an_uplink_too() {
        assert!(roles(&[], &["10.9.0.1"]).contains(&("eth1".into(), Role::Uplink)));
    }

    #[test]
    fn named_interfaces_replace_the_guess_even_when_they_are_veths() {
        let got = roles(&["--interface", "odd-name"], &["10.9.0.1"]);
        let want = [("vethaa", Role::Pod), ("odd-name", Role::Uplink), ("flannel.1", Role::Overlay)];
        assert_eq!(got, expect(&want));
    }

    #[test]
    fn given_patterns_switch_the_guess_about_veths_off() {
        let got = roles(&["--pod-interface", "vetha?"], &[]);
        assert!(got.contains(&("vethaa".into(), Role::Pod)));
        assert!(!got.iter().any(|(n, _)| n == "odd-name"));
    }

    #[test]
    fn local_pods_are_behind_the_interfaces_that_the_mode_says() {
        let local = |flags: &[&str]| {
            let got = classify(&host(), &config(flags), &[], &BTreeSet::new());
            got.into_iter().filter(|m| m.local_pods).map(|m| m.name).collect::<Vec<_>>()
        };
        assert_eq!(local(&[]), ["vethaa", "odd-name"]);
        let mode = "--detect-local-mode";
        assert_eq!(local(&[mode, "bridge-interface", "--pod-bridge-interface", "cni0"]), ["vethaa"]);
        let prefix = [mode, "interface-name-prefix", "--pod-interface-name-prefix", "odd"];
        assert_eq!(local(&prefix), ["odd-name"]);
        assert_eq!(local(&[&prefix[..], &["--pod-interface", "cali*"]].concat()), ["odd-name"]);
        assert_eq!(local(&[mode, "none"]), [""; 0]);
        assert_eq!(local(&[mode, "node-cidr"]), [""; 0]);
        assert_eq!(local(&[mode, "cluster-cidr", "--cluster-cidr", "10.0.0.0/8"]), [""; 0]);
    }

    #[test]
    fn only_uplinks_are_redirected_to_and_only_those_that_can() {
        let mut f = host();
        f.links.values_mut().for_each(|link| link.takes_xdp_redirects = true);
        let targets = |f: &HostFacts| {
            let got = classify(f, &config(&[]), &["10.9.0.1".parse().expect("ip")], &BTreeSet::new());
            got.into_iter().filter(|m| m.takes_xdp_redirects).map(|m| m.name).collect::<Vec<_>>()
        };
        assert_eq!(targets(&f), ["eth0", "eth1"]);
        f.links.get_mut(&3).expect("eth1").takes_xdp_redirects = false;
        assert_eq!(targets(&f), ["eth0"]);
    }

    #[test]
    fn native_xdp_on_a_veth_loses_frames_unless_its_peer_can_receive_them() {
        let mut f = host();
        let loses = |f: &HostFacts, name: &str| {
            let got = classify(f, &config(&["--interface", name]), &[], &BTreeSet::new());
            got.iter().any(|m| m.name == name && m.role == Role::Uplink && m.loses_xdp_frames)
        };
        assert!(loses(&f, "odd-name") && !loses(&f, "eth0"));
        f.links.values_mut().for_each(|link| link.takes_xdp_redirects = true);
        assert!(!loses(&f, "odd-name"));
    }

    #[test]
    fn bridges_loopback_and_dummies_never_carry_programs() {
        let got = roles(&["--pod-interface", "*"], &["10.96.0.1"]);
        assert!(!got.iter().any(|(n, _)| n == "cni0" || n == "lo" || n == "kube-ipvs0"));
    }

    #[test]
    fn a_bridge_with_the_default_route_is_an_uplink() {
        let mut f = host();
        f.default_route_links = [4].into();
        let got = classify(&f, &config(&[]), &[], &BTreeSet::new());
        assert!(got.iter().any(|m| m.name == "cni0" && m.role == Role::Uplink));
    }

    #[test]
    fn the_masquerade_address_is_primary_global_and_usable() {
        let got = classify(&host(), &config(&[]), &[], &BTreeSet::new());
        assert_eq!(got[0].addr4, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(got[0].addr6, Some("2001:db8::1".parse().expect("ip")));
        assert_eq!(got[0].mac, [2, 0, 0, 0, 0, 2]);
    }

    #[test]
    fn a_load_balancers_bound_address_is_not_masqueraded_with() {
        let mut f = host();
        let alone = |ip| Address { on_link: false, ..address(ip) };
        // As the kernel lists them: IPv6 addresses newest first.
        let mut on_eth0 = vec![alone("203.0.113.1"), alone("2001:db8:cb::1"), address("2001:db8:99::1")];
        on_eth0.append(f.addresses.get_mut(&2).expect("eth0"));
        f.addresses.insert(2, on_eth0);
        let chosen = |node_addresses: &[&str]| {
            let ips: Vec<IpAddr> = node_addresses.iter().map(|s| s.parse().expect("ip")).collect();
            let got = classify(&f, &config(&[]), &ips, &BTreeSet::new()).swap_remove(0);
            (got.addr4.expect("IPv4").to_string(), got.addr6.expect("IPv6").to_string())
        };
        assert_eq!(chosen(&[]), ("192.0.2.1".into(), "2001:db8::1".into()));
        // What the Node object says wins, even over a network of its own.
        assert_eq!(
            chosen(&["203.0.113.1", "2001:db8:99::1"]),
            ("203.0.113.1".into(), "2001:db8:99::1".into())
        );
    }

    #[test]
    fn an_uplink_that_lost_its_default_route_in_a_flap_stays_an_uplink() {
        let mut f = host();
        f.default_route_links.clear();
        let got = classify(&f, &config(&[]), &[], &BTreeSet::from([2]));
        assert!(got.iter().any(|m| m.name == "eth0" && m.role == Role::Uplink));
    }

    #[test]
    fn a_renamed_interface_keeps_its_index_and_gets_the_role_of_its_new_name() {
        let mut f = host();
        f.links.get_mut(&3).expect("eth1").name = "vxlan9".into();
        let got = classify(&f, &config(&[]), &[], &BTreeSet::new());
        assert!(got.iter().any(|m| m.index == 3 && m.role == Role::Overlay));
    }
}
