//! Real servers in pods and real clients anywhere, on threads of this process inside their namespaces.
//!
//! Every server speaks one line protocol (see [`server`]); the clients here use it: [`Ask`] for single
//! questions and many of them, [`transfer`] for large checked transfers, [`Disruption`] for long connections
//! across a change, [`Continuous`] for short ones.

pub mod ask;
pub mod continuous;
pub mod disruption;
pub mod http;
pub mod server;
pub mod transfer;

use std::sync::LazyLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use ask::{Answer, Ask, Tally, tcp_ask, udp_ask};
pub use continuous::{Continuous, Sample};
pub use disruption::{Disruption, Flows, Report};
pub use http::{HttpAnswer, http_get};
pub use server::PodServer;
pub use transfer::{Transfer, tcp_download, tcp_half_close, tcp_upload};

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Raises the limit of open files, as far as the machine allows: for tens of thousands of flows.
pub(crate) fn raise_file_limit() {
    static ONCE: LazyLock<()> = LazyLock::new(|| {
        let wanted = 200_000;
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
            && soft < wanted
            && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_err()
        {
            // Without the right to raise the hard limit: what it allows. A shortage shows up as an error later.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
    });
    *ONCE
}
