//! The one door to the kernel's maps for `apply`: a trait with a real (`aya.rs`) and a fault-injecting fake
//! (`fake.rs`) implementation.

pub mod aya;
pub mod fake;
mod seen;

use ipnet::IpNet;
use lb_common::{A4, A6, Backend, Svc, SvcKey};
use std::sync::Arc;

/// A set of source ranges: networks of one family, sorted, none inside another.
pub type SourceRanges = Arc<[IpNet]>;

/// Address-family-neutral frontend key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKey {
    /// IPv4.
    V4(SvcKey<A4>),
    /// IPv6.
    V6(SvcKey<A6>),
}

/// Address-family-neutral backend entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendEntry {
    /// IPv4.
    V4(Backend<A4>),
    /// IPv6.
    V6(Backend<A6>),
}

/// A map operation that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The map has no room (E2BIG/ENOSPC/ENOMEM). Retrying alone does not help.
    #[error("map {map} is full")]
    Full {
        /// Name of the map.
        map: &'static str,
    },
    /// Any other refusal; worth a retry.
    #[error("map {map}: {message}")]
    Failed {
        /// Name of the map.
        map: &'static str,
        /// The system's words.
        message: String,
    },
}

/// Capacities of the maps as they are in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of each service map.
    pub services: u32,
    /// Entries of each backend array.
    pub backends: u32,
    /// Entries of the slots array.
    pub slots: u32,
    /// Entries of each source-range trie.
    pub ranges: u32,
}

/// Everything the maps hold, as read back at start (commitment 1: the kernel is the truth).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// All frontends.
    pub frontends: Vec<(FrontendKey, Svc)>,
    /// All IPv4/IPv6 backends whose generation is not 0 (free ones keep their generation), with their id.
    pub backends: Vec<(u32, BackendEntry)>,
    /// The slots array, whole.
    pub slots: Vec<u32>,
    /// All source ranges: set, network.
    pub ranges: Vec<(u32, IpNet)>,
}

/// The tables `apply` writes. Every batch call is allowed to fail part-way; the caller retries idempotently.
pub trait LbTables {
    /// Capacities as created.
    fn limits(&self) -> Limits;
    /// Reads everything back.
    fn dump(&mut self) -> Result<Dump, TableError>;
    /// Writes backends by id (both families in one call).
    fn put_backends(&mut self, entries: &[(u32, BackendEntry)]) -> Result<(), TableError>;
    /// Writes `slots[offset..offset+ids.len()]`, for several ranges.
    fn put_slots(&mut self, ranges: &[(u32, Vec<u32>)]) -> Result<(), TableError>;
    /// Writes sets of source ranges by id. A set is complete before a frontend names it.
    fn put_ranges(&mut self, sets: &[(u32, SourceRanges)]) -> Result<(), TableError>;
    /// Deletes sets that no frontend names; what is missing is no error.
    fn delete_ranges(&mut self, sets: &[(u32, SourceRanges)]) -> Result<(), TableError>;
    /// Writes frontends: the commit point.
    fn put_frontends(&mut self, entries: &[(FrontendKey, Svc)]) -> Result<(), TableError>;
    /// Deletes frontends; a missing one is no error.
    fn delete_frontends(&mut self, keys: &[FrontendKey]) -> Result<(), TableError>;
    /// Marks a complete sync: sets `Config::ready`, generation and time.
    fn commit_sync(&mut self, generation: u32, unix_s: u32) -> Result<(), TableError>;
}
