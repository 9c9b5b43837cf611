//! Translation at the socket: what `getpeername` and `recvmsg` need to show the frontend again.

/// A socket and the backend it was connected to, or sent a datagram to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SockKey {
    /// The socket's cookie, low word first.
    pub cookie: [u32; 2],
    /// Backend address as it lies in packets; IPv4: first word, the rest 0.
    pub addr: [u32; 4],
    /// Backend port, network byte order, zero-extended.
    pub port_be: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
}

/// The frontend behind a [`SockKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sock {
    /// Frontend address; IPv4: first word, the rest 0.
    pub addr: [u32; 4],
    /// Frontend port, network byte order, zero-extended.
    pub port_be: u32,
    /// Backend id.
    pub backend_id: u32,
    /// The backend's generation when it was chosen.
    pub backend_generation: u32,
    /// IP protocol number, zero-extended.
    pub proto: u32,
}
