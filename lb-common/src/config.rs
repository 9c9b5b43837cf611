//! Run-time configuration the agent gives the programs through maps (never through reloads).

use crate::{A4, A6};

/// One managed interface, keyed by ifindex.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Iface {
    /// `IFACE_*` role.
    pub role: u32,
    /// `IFACE_CAN_*` abilities.
    pub flags: u32,
    /// This node's IPv4 address on it (0 = none): source of masqueraded packets that leave by it.
    pub addr4: A4,
    /// The IPv6 one, never link-local (0 = none).
    pub addr6: A6,
    /// MAC address in the first six bytes, then zeros.
    pub mac: [u32; 2],
}

/// Faces the outside (or an overlay).
pub const IFACE_UPLINK: u32 = 1;
/// Faces pods.
pub const IFACE_POD: u32 = 2;
/// An overlay device such as VXLAN.
pub const IFACE_OVERLAY: u32 = 3;
/// The loopback device: clients and replies of the node itself, where no socket hook serves them.
pub const IFACE_LOOPBACK: u32 = 4;
/// XDP may redirect frames out of it.
pub const IFACE_CAN_XDP_REDIRECT: u32 = 1;
/// Whoever sends from behind it is a pod of this node (detectLocalMode by interface, spec Q4).
pub const IFACE_LOCAL_PODS: u32 = 2;

/// An address prefix as base and mask, both as they lie in packets. An empty mask matches nothing: so all zeros is an
/// unused one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cidr<A> {
    /// First address.
    pub base: A,
    /// Ones for the prefix.
    pub mask: A,
}

impl Cidr<A4> {
    /// Matches nothing.
    pub const NONE4: Cidr<A4> = Cidr { base: A4(0), mask: A4(0) };
    /// True for an address inside.
    #[inline(always)]
    pub fn contains(&self, a: &A4) -> bool {
        self.mask.0 != 0 && a.0 & self.mask.0 == self.base.0
    }
}

impl Cidr<A6> {
    /// Matches nothing.
    pub const NONE6: Cidr<A6> = Cidr { base: A6([0; 4]), mask: A6([0; 4]) };
    /// True for an address inside.
    #[inline(always)]
    pub fn contains(&self, a: &A6) -> bool {
        let (b, m) = (&self.base.0, &self.mask.0);
        let off = ((a.0[0] & m[0]) ^ b[0])
            | ((a.0[1] & m[1]) ^ b[1])
            | ((a.0[2] & m[2]) ^ b[2])
            | ((a.0[3] & m[3]) ^ b[3]);
        m[0] != 0 && off == 0
    }
}

/// Number of ServiceCIDRs per family that are told apart; more are a named problem.
pub const MAX_SERVICE_CIDRS: usize = 4;

/// [`Config::flags`]: every ClusterIP connection is masqueraded (masqueradeAll, spec Q3).
pub const CONFIG_MASQUERADE_ALL: u32 = 1;
/// [`Config::flags`]: under eTP=Cluster the source is always rewritten, as kube-proxy does (spec F5), also where
/// the backend is local or the client is a pod.
pub const CONFIG_MASQUERADE_EXTERNAL: u32 = 2;
/// [`Config::flags`]: a source inside `local_cidr4`/`6` is a local pod (detectLocalMode ClusterCIDR, NodeCIDR).
pub const CONFIG_LOCAL_BY_CIDR: u32 = 4;
/// [`Config::flags`]: some way to tell local pods is configured; without, ClusterIP is never masqueraded for who
/// sends (spec F8, "no mode").
pub const CONFIG_DETECTS_LOCAL: u32 = 8;
/// [`Config::flags`]: translate at the socket for processes outside the host's network namespace, too.
pub const CONFIG_SOCKETS_OF_PODS: u32 = 16;

/// Global settings, the only element of `config`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Config {
    /// 0 until the first complete list is in the maps: programs pass everything untouched until then.
    pub ready: u32,
    /// Seed of the flow hash; random per node, kept across restarts.
    pub seed: u32,
    /// What makes ticks of the kernel's jiffies: see [`crate::flow::tick_of_jiffies`].
    pub tick_scale: u32,
    /// The node's main IPv4 address: fallback masquerade source.
    pub node4: A4,
    /// The node's main IPv6 address.
    pub node6: A6,
    /// Masquerade ports, host byte order, inclusive, when the client's own is taken.
    pub snat_port_min: u32,
    /// Upper end, inclusive.
    pub snat_port_max: u32,
    /// NodePort range, host byte order, inclusive: never used as masquerade ports.
    pub nodeport_min: u32,
    /// Upper end, inclusive.
    pub nodeport_max: u32,
    /// Ports that the node's own sockets are given (`ip_local_port_range`), host byte order, inclusive: a masqueraded flow
    /// that used one could share its tuple with a connection of the node.
    pub local_port_min: u32,
    /// Upper end, inclusive; 0 = unknown.
    pub local_port_max: u32,
    /// Number of records in `flows4`; at most the array's size.
    pub flows4_len: u32,
    /// Number of records in `flows6`.
    pub flows6_len: u32,
    /// Generation of the agent's last complete sync, for display.
    pub sync_generation: u32,
    /// Wall-clock seconds of the last complete sync (low 32 bits), for `fairway status` while the agent is dead.
    pub sync_unix_s: u32,
    /// `CONFIG_*` flags.
    pub flags: u32,
    /// Cookie of the host's network namespace, low word first: tells the node's own processes at socket hooks.
    pub host_netns: [u32; 2],
    /// Service networks: what is inside and no frontend is dropped (spec R6). Unused ones match nothing.
    pub service_cidrs4: [Cidr<A4>; MAX_SERVICE_CIDRS],
    /// The IPv6 ones.
    pub service_cidrs6: [Cidr<A6>; MAX_SERVICE_CIDRS],
    /// Sources that are local pods, with [`CONFIG_LOCAL_BY_CIDR`].
    pub local_cidr4: Cidr<A4>,
    /// The IPv6 one.
    pub local_cidr6: Cidr<A6>,
}
