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
/// XDP may redirect frames out of it.
pub const IFACE_CAN_XDP_REDIRECT: u32 = 1;

/// Global settings, the only element of `config`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Config {
    /// 0 until the first complete list is in the maps: programs pass everything untouched until then.
    pub ready: u32,
    /// Seed of the flow hash; random per node, kept across restarts.
    pub seed: u32,
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
    /// Number of records in `flows4`; at most the array's size.
    pub flows4_len: u32,
    /// Number of records in `flows6`.
    pub flows6_len: u32,
    /// Generation of the agent's last complete sync, for display.
    pub sync_generation: u32,
    /// Wall-clock seconds of the last complete sync (low 32 bits), for `fairway status` while the agent is dead.
    pub sync_unix_s: u32,
    /// Always 0; reserved.
    pub reserved: u32,
}
