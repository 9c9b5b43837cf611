//! The Kubernetes API as a source; the only module that knows Kubernetes' types.
//!
//! [`convert`] is pure: one object in, one model value and its problems out. [`reflect`] watches the API and keeps
//! the converted objects. [`start`] is the door.

mod connect;
pub mod convert;
pub mod events;
mod raw;
mod reflect;
mod store;
mod tally;

pub use connect::KubeSource;
pub use reflect::start;
