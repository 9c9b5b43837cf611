//! The datapath on the host, for tests: maps in memory ([`maps`]), frames in vectors with a FIB of the test's choice
//! ([`frame`]), packets built by a library that knows nothing of the datapath ([`packet`]), and the table of
//! [`fixtures`] that the host and the kernel must treat alike.
//!
//! It runs the very code that is compiled for the kernel; only `Packet` and `Tables` are its own. They follow the
//! kernel's helpers closely, or the comparison with the kernel in `lb-user/tests/datapath` fails.

pub mod fixtures;
pub mod frame;
pub mod maps;
pub mod packet;
pub mod short;

pub use frame::{FakeFib, Frame, hook, hook_of, route_local, route_out, route_unresolved, run_at};
pub use maps::{Maps, Sim};
