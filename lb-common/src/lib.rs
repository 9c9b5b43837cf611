//! The ABI between the kernel programs (`lb-ebpf`) and the agent (`lb-user`): every map's key and value.
//!
//! Rules: `#[repr(C)]`, no padding, no enums or options inside map types, sizes asserted at compile time.
//! A change of any size *or meaning* here needs a new [`abi::ABI_VERSION`], which is part of the pin path.
#![no_std]

pub mod abi;
pub mod addr;
pub mod backend;
pub mod config;
pub mod flow;
pub mod hash;
pub mod maps;
pub mod reason;
pub mod seen;
pub mod service;
pub mod sock;

pub use addr::{A4, A6, Addr};
pub use backend::Backend;
pub use config::{Cidr, Config, Iface};
pub use flow::{Bucket, Flow, FlowKey, FragKey, FragPorts, Hop, IndexLine};
pub use reason::Reason;
pub use service::{Affinity, AffinityKey, RangeKey, SetRef, Svc, SvcKey};
pub use sock::{Sock, SockKey};
