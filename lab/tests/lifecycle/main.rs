//! The life of a datapath with real agents and real sockets: what may come and go without a lost connection.
//!
//! One topic per module. Tests run side by side; those that are loud (ten thousand flows) and those that measure
//! time take turns through [`support::turn`].

mod agent;
mod api;
mod bpffs;
mod churn;
mod healing;
mod interfaces;
mod outage;
mod pins;
mod ports;
mod support;
mod upgrade;
