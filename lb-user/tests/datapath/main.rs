//! The datapath on the real kernel; needs root, and for `object` the built kernel object (`cargo xtask test`).

mod fixtures;
mod hops;
mod host;
mod lab;
mod object;
mod plumbing;
mod programs;
mod ranges;
