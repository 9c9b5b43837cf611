//! The host: its interfaces ([`links`]), what they are for ([`classify`]) and its addresses ([`addrs`]).
//!
//! `links` is the only part that talks to the kernel (rtnetlink); the others are pure functions of [`HostFacts`].

pub mod addrs;
pub mod classify;
pub mod facts;
pub mod links;

pub use addrs::node_view;
pub use classify::{Managed, Role, classify};
pub use facts::{Address, HostFacts, Kind, Link};
pub use links::{LinkError, LinkWatch};
