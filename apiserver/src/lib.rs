//! A small Kubernetes API server for tests and the demo: Services, EndpointSlices, Nodes and
//! ServiceCIDRs.
//!
//! It lists (whole or in pages), watches (resource versions, bookmarks, 410), selects by labels and some fields,
//! creates, replaces and deletes, over plain HTTP or TLS. It allocates nothing: cluster IPs and node ports are what
//! the objects say. And it fails on command: see the fault methods of [`ApiServer`].

mod http;
mod kind;
pub mod manifests;
mod selector;
mod server;
mod store;
mod tls;
mod watch;

pub use kind::Kind;
pub use server::{ApiServer, Error, Options, Stats};
