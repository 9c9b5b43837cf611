//! The host: its interfaces ([`links`], [`xdp_features`]), what they are for ([`classify`]), its addresses
//! ([`addrs`]), and the sockets of its own processes ([`sockets`]).
//!
//! `links`, `xdp_features` and `sockets` talk to the kernel (netlink); the others are pure functions of [`HostFacts`].

pub mod addrs;
pub mod classify;
pub mod facts;
pub mod links;
mod netlink;
pub mod sockets;
pub mod xdp_features;

pub use addrs::node_view;
pub use classify::{Managed, Role, classify};
pub use facts::{Address, HostFacts, Kind, Link};
pub use links::{LinkError, LinkWatch};
pub use netlink::NetlinkError;
