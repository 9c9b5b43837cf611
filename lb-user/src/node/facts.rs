//! Facts about the host, as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What kind of device a link is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// A physical device, or one of a kind that needs no special care.
    #[default]
    Other,
    /// One end of a pair; the other end is usually in a pod.
    Veth,
    /// One end of a netkit pair.
    Netkit,
    /// A bridge.
    Bridge,
    /// VXLAN, Geneve, IPIP, WireGuard …: carries packets between nodes.
    Tunnel,
    /// Loopback.
    Loopback,
    /// `dummy`, `ifb`, `nlmon`: never carries packets of others.
    Inert,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Link {
    /// ifindex.
    pub index: u32,
    /// Current name.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Administratively up.
    pub up: bool,
    /// ifindex of the bridge, bond or VRF it belongs to.
    pub controller: Option<u32>,
    /// Hardware address, when it is an Ethernet one.
    pub mac: Option<[u8; 6]>,
    /// It sends frames that XDP programs of other devices redirect to it. False where that is not known.
    pub takes_xdp_redirects: bool,
}

/// One address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Scope global (not link, not host).
    pub global: bool,
    /// Deprecated, tentative or failed duplicate detection: must not be used as a source.
    pub unusable: bool,
    /// A secondary address (IPv4) or a temporary one (IPv6).
    pub secondary: bool,
    /// Its network has other hosts: the prefix is shorter than the address.
    pub on_link: bool,
}

/// Everything the agent knows of the host.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Interfaces by ifindex.
    pub links: BTreeMap<u32, Link>,
    /// Addresses by ifindex, in the kernel's order.
    pub addresses: BTreeMap<u32, Vec<Address>>,
    /// Interfaces that a default route of the main table leaves by.
    pub default_route_links: BTreeSet<u32>,
}

impl HostFacts {
    /// Addresses of an interface.
    pub fn addresses_of(&self, index: u32) -> &[Address] {
        self.addresses.get(&index).map_or(&[], Vec::as_slice)
    }
}
