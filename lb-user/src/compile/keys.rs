//! Identities that compile, plan and restore share, and their translation to and from map entries.

use crate::model::{Family, Key, Proto};
use crate::tables::{BackendEntry, FrontendKey};
use lb_common::{A4, A6, Backend, SvcKey};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A service port in one family: the unit of programming (spec M1, M2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// The Service.
    pub service: Key,
    /// Port name; empty for a single unnamed port.
    pub port: Arc<str>,
    /// Protocol.
    pub proto: Proto,
    /// Address family.
    pub family: Family,
}

impl std::fmt::Display for PortKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        write!(f, "{}:{}/{}/{family}", self.service, self.port, self.proto)
    }
}

/// A backend's identity: flows to the same address, port and protocol share one backend id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// Address.
    pub addr: IpAddr,
    /// Port, host byte order.
    pub port: u16,
    /// Protocol.
    pub proto: Proto,
}

impl BackendKey {
    /// Family of the address.
    pub fn family(&self) -> Family {
        Family::of(&self.addr)
    }

    /// The map entry of this backend.
    pub fn entry(&self, flags: u8, generation: u32) -> BackendEntry {
        let (port_be, proto) = (self.port.to_be(), self.proto.number());
        match self.addr {
            IpAddr::V4(a) => BackendEntry::V4(Backend { addr: a.into(), port_be, proto, flags, generation }),
            IpAddr::V6(a) => BackendEntry::V6(Backend { addr: a.into(), port_be, proto, flags, generation }),
        }
    }

    /// The identity in a map entry; `None` for a protocol number that Fairway does not write.
    pub fn of_entry(entry: &BackendEntry) -> Option<BackendKey> {
        let (addr, port_be, proto) = match entry {
            BackendEntry::V4(b) => (IpAddr::V4(b.addr.into()), b.port_be, b.proto),
            BackendEntry::V6(b) => (IpAddr::V6(b.addr.into()), b.port_be, b.proto),
        };
        Some(BackendKey { addr, port: u16::from_be(port_be), proto: proto_of(proto)? })
    }
}

impl std::fmt::Display for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", std::net::SocketAddr::new(self.addr, self.port), self.proto)
    }
}

/// Protocol of an IP protocol number.
pub fn proto_of(number: u8) -> Option<Proto> {
    [Proto::Tcp, Proto::Udp].into_iter().find(|p| p.number() == number)
}

/// Key of the frontend `addr:port/proto`.
pub fn frontend_key(addr: IpAddr, port: u16, proto: Proto) -> FrontendKey {
    let (port_be, proto) = (port.to_be(), proto.number());
    match addr {
        IpAddr::V4(a) => FrontendKey::V4(SvcKey { addr: A4::from(a), port_be, proto, pad: 0 }),
        IpAddr::V6(a) => FrontendKey::V6(SvcKey { addr: A6::from(a), port_be, proto, pad: 0 }),
    }
}

/// Key of the entry that says that an address is an active ClusterIP (`SVC_ADDRESS`).
pub fn address_key(addr: IpAddr) -> FrontendKey {
    match addr {
        IpAddr::V4(a) => FrontendKey::V4(SvcKey { addr: A4::from(a), port_be: 0, proto: 0, pad: 0 }),
        IpAddr::V6(a) => FrontendKey::V6(SvcKey { addr: A6::from(a), port_be: 0, proto: 0, pad: 0 }),
    }
}

/// Family of a frontend.
pub fn frontend_family(key: &FrontendKey) -> Family {
    match key {
        FrontendKey::V4(_) => Family::V4,
        FrontendKey::V6(_) => Family::V6,
    }
}

/// A frontend in words: `10.0.0.1:80/TCP`, or the address alone where the key is one.
pub fn frontend_text(key: &FrontendKey) -> String {
    let (addr, port_be, proto) = match key {
        FrontendKey::V4(k) => (IpAddr::V4(Ipv4Addr::from(k.addr)), k.port_be, k.proto),
        FrontendKey::V6(k) => (IpAddr::V6(Ipv6Addr::from(k.addr)), k.port_be, k.proto),
    };
    let socket = std::net::SocketAddr::new(addr, u16::from_be(port_be));
    match proto_of(proto) {
        None if proto == 0 && port_be == 0 => addr.to_string(),
        Some(p) => format!("{socket}/{p}"),
        None => format!("{socket}/{proto}"),
    }
}

/// `(flags, generation)` of a backend entry.
pub fn entry_state(entry: &BackendEntry) -> (u8, u32) {
    match entry {
        BackendEntry::V4(b) => (b.flags, b.generation),
        BackendEntry::V6(b) => (b.flags, b.generation),
    }
}

/// The entry with other flags and generation.
pub fn with_state(mut entry: BackendEntry, flags: u8, generation: u32) -> BackendEntry {
    match &mut entry {
        BackendEntry::V4(b) => (b.flags, b.generation) = (flags, generation),
        BackendEntry::V6(b) => (b.flags, b.generation) = (flags, generation),
    }
    entry
}

/// Family of a backend entry: ids of the two families are separate.
pub fn entry_family(entry: &BackendEntry) -> Family {
    match entry {
        BackendEntry::V4(_) => Family::V4,
        BackendEntry::V6(_) => Family::V6,
    }
}
