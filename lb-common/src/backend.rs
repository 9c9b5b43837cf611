//! Backends: where flows go. The id is the index in the `backends4`/`backends6` array.

/// A backend. A removed backend keeps its slot with `flags == 0` and a raised generation, so that every
/// flow that names (id, old generation) is invalid at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Backend<A> {
    /// Address.
    pub addr: A,
    /// Port, network byte order.
    pub port_be: u16,
    /// IP protocol number.
    pub proto: u8,
    /// `BACKEND_*` flags; 0 = free.
    pub flags: u8,
    /// Generation; raised each time the id is freed. Never 0 for a live backend.
    pub generation: u32,
}

/// The entry is in use.
pub const BACKEND_LIVE: u8 = 1;
/// The endpoint serves (ready, or terminating and still serving). UDP flows leave a backend without it.
pub const BACKEND_SERVING: u8 = 2;
/// The endpoint is on this node: deliver through the stack.
pub const BACKEND_LOCAL: u8 = 4;
