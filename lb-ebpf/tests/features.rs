//! Features of the datapath one by one, where the fixtures cannot go: clocks, limits, sockets, random sets.

#[path = "features/affinity.rs"]
mod affinity;
#[path = "features/choice.rs"]
mod choice;
#[path = "features/limits.rs"]
mod limits;
#[path = "features/sockets.rs"]
mod sockets;
