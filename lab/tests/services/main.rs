//! Upstream's `service.go` (rows S2 to S52 of the list in `docs/conformance.md`) with real sockets: the tests of
//! Kubernetes' own end-to-end suite that concern a datapath, over TCP and UDP, IPv4 and IPv6, from pods, from the
//! nodes themselves and from outside. A test's name begins with its row.
//!
//! All rows but [`restart`]'s share one cluster (see [`bench`]): each has Services and nodePorts of its own, and says what must hold
//! as [`check`]s.

mod affinity;
mod basic;
mod bench;
mod check;
mod frontends;
mod labels;
mod policies;
mod protocols;
mod reject;
mod restart;
mod terminating;
mod types;

/// What every row uses.
mod prelude {
    pub use anyhow::{Context, Result, ensure};
    pub use lab::traffic::Transport::{Tcp, Udp};
    pub use lab::{Conditions, Endpoint, ServiceBuilder, ServicePort};

    pub use crate::bench::{Bench, pair, shared};
    pub use crate::check::Expect::{Refused, Silent};
    pub use crate::check::{Check, Vantage, all, expect, expect_over, hold, pods};
}
