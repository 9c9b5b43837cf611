//! The benchmark's network: contestants side by side between one client and one far side.
//!
//! A cluster of the lab gives namespaces, places for agents and removal. Each contestant is a node with two
//! direct cables beside the lab's switch, which carries only the control plane:
//!
//! ```text
//!   client ── in-N │ eth2  node N  eth1 │ be-N ── far side (in the switch's namespace)
//!   10.201.N.2        .1          10.200.N.1  .2   backends 10.244.100+N.1…200
//! ```
//!
//! Nodes count from 1, MAC addresses are fixed, neighbours are permanent. 10.202.0.0/16 and 10.203.0.0/16 are
//! clients that exist only in frames: behind `eth1` (one-armed: in and out by one device) and behind `eth2`.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use lab::address::Dual;
use lab::{Cluster, ClusterSpec, Node, Ns};
use serde_json::Value;

use crate::frames::Macs;

/// Backends of a service at most that have addresses of their own.
pub const BACKENDS: u8 = 200;

/// The two cables of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// `eth2`, towards the client.
    Client,
    /// `eth1`, towards the backends.
    Far,
}

impl Side {
    /// The node's device.
    pub fn device(self) -> &'static str {
        match self {
            Side::Client => "eth2",
            Side::Far => "eth1",
        }
    }

    fn octet(self) -> u8 {
        match self {
            Side::Client => 201,
            Side::Far => 200,
        }
    }
}

/// The built network.
#[derive(Debug)]
pub struct Net {
    /// The lab's cluster.
    pub cluster: Cluster,
}

impl Net {
    /// Builds it with `contestants` nodes of one pod each. Needs root.
    pub fn build(contestants: u8) -> Result<Self> {
        let spec = ClusterSpec {
            nodes: contestants.into(),
            pods_per_node: 1,
            uplink_offload: true,
            ..ClusterSpec::default()
        };
        let cluster = Cluster::build(spec).context("build the benchmark's network")?;
        let net = Self { cluster };
        let (client, far) = (net.client().clone(), net.far().clone());
        for n in 1..=contestants {
            let ns = net.node(n).ns();
            batch(&client, &cable("in", n, ns, Side::Client))?;
            batch(&far, &cable("be", n, ns, Side::Far))?;
            batch(ns, &routes_of_node(n))?;
            batch(&client, &routes_of_client(n))?;
            batch(&far, &routes_of_far(n))?;
        }
        Ok(net)
    }

    /// The outside client's namespace.
    pub fn client(&self) -> &Ns {
        self.cluster.client()
    }

    /// The namespace where backends are.
    pub fn far(&self) -> &Ns {
        self.cluster.control()
    }

    /// Node `n`, counted from 1.
    pub fn node(&self, n: u8) -> &Node {
        self.cluster.node(n.into())
    }
}

/// An address of node `n` on a side.
pub fn node_address(n: u8, side: Side) -> Dual {
    side_address(n, side, 1)
}

/// The other end of that cable.
pub fn peer_address(n: u8, side: Side) -> Dual {
    side_address(n, side, 2)
}

fn side_address(n: u8, side: Side, host: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(10, side.octet(), n, host),
        v6: Ipv6Addr::new(0xfd00 + u16::from(side.octet()), n.into(), 0, 0, 0, 0, 0, host.into()),
    }
}

/// Backend `i` (from 1) of the services of node `n`.
pub fn backend(n: u8, i: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(10, 244, 100 + n, i),
        v6: Ipv6Addr::new(0xfd44, 100 + u16::from(n), 0, 0, 0, 0, 0, i.into()),
    }
}

/// An imagined client behind a side of any node.
pub fn imagined_client(side: Side, i: u32) -> Dual {
    let [_, _, high, low] = i.to_be_bytes();
    let net = imagined_octet(side);
    Dual {
        v4: Ipv4Addr::new(10, net, high, low),
        v6: Ipv6Addr::new(0xfd00 + u16::from(net), 0, 0, 0, 0, 0, (i >> 16) as u16, i as u16),
    }
}

fn imagined_octet(side: Side) -> u8 {
    match side {
        Side::Far => 202,
        Side::Client => 203,
    }
}

/// The MAC addresses of a frame that comes in to node `n` by `side`.
pub fn macs_in(n: u8, side: Side) -> Macs {
    Macs { dst: node_mac(n, side), src: peer_mac(n, side) }
}

fn node_mac(n: u8, side: Side) -> [u8; 6] {
    [2, 0xb0, 0, side.octet(), n, 1]
}

fn peer_mac(n: u8, side: Side) -> [u8; 6] {
    [2, 0xb0, 0, side.octet(), n, 2]
}

/// Index and MAC address of a device of a namespace.
pub fn device(ns: &Ns, name: &str) -> Result<(u32, [u8; 6])> {
    let output = ns.command("ip").args(["-j", "link", "show", "dev", name]).output().context("run ip")?;
    let links: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no device {name} in {}", ns.name()))?;
    let index = links[0]["ifindex"].as_u64().context("ip names no ifindex")?;
    let mut mac = [0u8; 6];
    let text = links[0]["address"].as_str().context("ip names no MAC address")?;
    for (byte, hex) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(hex, 16)?;
    }
    Ok((index as u32, mac))
}

/// Runs `ip -batch` in a namespace.
pub fn batch(ns: &Ns, commands: &str) -> Result<()> {
    ns.feed("ip", &["-batch", "-"], commands)
}

/// Switches features of a device by ethtool, such as `tx off`.
pub fn features(ns: &Ns, device: &str, settings: &[&str]) -> Result<()> {
    let out = ns.command("ethtool").args(["-K", device]).args(settings).output().context("run ethtool")?;
    anyhow::ensure!(
        out.status.success(),
        "ethtool -K {device} {settings:?} in {}: {}",
        ns.name(),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Run in the peer's namespace: `<prefix>-N` there, `eth1` or `eth2` in the node.
fn cable(prefix: &str, n: u8, node: &Ns, side: Side) -> String {
    let (device, node_device) = (format!("{prefix}-{n}"), side.device());
    let mut text = format!(
        "link add name {device} address {} type veth peer name {node_device} address {} netns {}\n",
        mac_text(peer_mac(n, side)),
        mac_text(node_mac(n, side)),
        node.name()
    );
    addresses(&mut text, &device, peer_address(n, side));
    neighbours(&mut text, &device, node_address(n, side), node_mac(n, side));
    text
}

fn addresses(text: &mut String, device: &str, address: Dual) {
    line(text, format_args!("addr add {}/24 dev {device}", address.v4));
    line(text, format_args!("addr add {}/64 dev {device} nodad", address.v6));
    line(text, format_args!("link set {device} up"));
}

fn neighbours(text: &mut String, device: &str, address: Dual, mac: [u8; 6]) {
    for ip in address.both() {
        line(text, format_args!("neigh replace {ip} lladdr {} dev {device} nud permanent", mac_text(mac)));
    }
}

fn routes_of_node(n: u8) -> String {
    let mut text = String::new();
    for side in [Side::Far, Side::Client] {
        addresses(&mut text, side.device(), node_address(n, side));
        neighbours(&mut text, side.device(), peer_address(n, side), peer_mac(n, side));
        let (via, net, device) = (peer_address(n, side), imagined_octet(side), side.device());
        line(&mut text, format_args!("route add 10.{net}.0.0/16 via {} dev {device}", via.v4));
        line(&mut text, format_args!("route add fd{net:02x}::/16 via {} dev {device}", via.v6));
    }
    let via = peer_address(n, Side::Far);
    line(&mut text, format_args!("route add 10.244.{}.0/24 via {} dev eth1", 100 + n, via.v4));
    line(&mut text, format_args!("route add fd44:{:x}::/64 via {} dev eth1", 100 + u16::from(n), via.v6));
    text
}

fn routes_of_client(n: u8) -> String {
    let via = node_address(n, Side::Client);
    let mut text = String::new();
    line(&mut text, format_args!("route add 10.244.{}.0/24 via {} dev in-{n}", 100 + n, via.v4));
    line(&mut text, format_args!("route add fd44:{:x}::/64 via {} dev in-{n}", 100 + u16::from(n), via.v6));
    text
}

fn routes_of_far(n: u8) -> String {
    let (via, client) = (node_address(n, Side::Far), peer_address(n, Side::Client));
    let mut text = String::new();
    line(&mut text, format_args!("route add {}/32 via {} dev be-{n}", client.v4, via.v4));
    line(&mut text, format_args!("route add {}/128 via {} dev be-{n}", client.v6, via.v6));
    line(&mut text, format_args!("route add 10.244.{n}.0/24 via {} dev be-{n}", via.v4));
    line(&mut text, format_args!("route add fd44:{n:x}::/64 via {} dev be-{n}", via.v6));
    for i in 1..=BACKENDS {
        let own = backend(n, i);
        line(&mut text, format_args!("addr add {}/32 dev lo", own.v4));
        line(&mut text, format_args!("addr add {}/128 dev lo nodad", own.v6));
    }
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
