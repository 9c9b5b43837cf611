//! The upstream end-to-end rows of load balancers, conntrack, granular checks and the rest (spec/upstream-tests.md 2.2
//! to 2.5) with real agents and real sockets. docs/conformance.md says which test is which row's.
//!
//! One topic per module; the rows of a test share its cluster. Every change is followed by [`support::Bench::settle`],
//! so that what is asserted afterwards holds from the first packet on, not "eventually".

mod affinity;
mod bound_vip;
mod cidrs;
mod conntrack;
mod dead_agent;
mod external_policy;
mod fragments;
mod granular;
mod host_endpoints;
mod hostport;
mod loadbalancer;
mod localhost;
mod path_mtu;
mod port_reuse;
mod raw;
mod rolling;
mod slices;
mod source_ranges;
mod support;
mod topology;
mod udp_flows;
