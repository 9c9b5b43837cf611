//! Frontends: what a packet's destination is looked up in.

/// A frontend: exact destination address, port and protocol. NodePorts are one entry per NodePort address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SvcKey<A> {
    /// Destination address.
    pub addr: A,
    /// Destination port, network byte order.
    pub port_be: u16,
    /// IP protocol number (6 TCP, 17 UDP).
    pub proto: u8,
    /// Always 0; reserved.
    pub pad: u8,
}

/// A selection set: a range of the `slots` array, each slot holding a backend id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SetRef {
    /// First slot.
    pub offset: u32,
    /// Number of slots; 0 = the set is empty.
    pub count: u32,
}

/// Index of the cluster-wide set in [`Svc::sets`].
pub const SET_CLUSTER: usize = 0;
/// Index of the node-local set in [`Svc::sets`].
pub const SET_LOCAL: usize = 1;

/// The value of a frontend. Writing it is the commit point: backends and slots are complete before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Svc {
    /// Service-port id: shared by every frontend of one service port; stable across restarts.
    pub id: u32,
    /// `SVC_*` flags.
    pub flags: u32,
    /// ClientIP affinity timeout in seconds; 0 = no affinity.
    pub affinity_s: u32,
    /// The cluster set, then the local set.
    pub sets: [SetRef; 2],
    /// Source ranges that may use this frontend, an id in `src_ranges4`/`6`; 0 = everybody.
    pub ranges_id: u32,
}

/// Frontend kind (two bits): 0 ClusterIP, 1 NodePort, 2 LoadBalancer VIP, 3 external IP.
pub const SVC_KIND_MASK: u32 = 0x3;
/// The frontend is a ClusterIP.
pub const SVC_KIND_CLUSTER_IP: u32 = 0;
/// The frontend is a NodePort.
pub const SVC_KIND_NODE_PORT: u32 = 1;
/// The frontend is a load-balancer VIP.
pub const SVC_KIND_LOAD_BALANCER: u32 = 2;
/// The frontend is an external IP.
pub const SVC_KIND_EXTERNAL_IP: u32 = 3;
/// The traffic policy that governs this frontend is Local.
pub const SVC_POLICY_LOCAL: u32 = 1 << 2;
/// Some endpoint anywhere is usable (spec §1.3.1 step 1): an empty set then means DROP, not REJECT.
pub const SVC_HAS_ANY: u32 = 1 << 3;
/// The entry's key is an address with port 0 and protocol 0: an active ClusterIP, of which ports that are no
/// frontend are rejected (spec R5).
pub const SVC_ADDRESS: u32 = 1 << 4;

/// Key of the source-range tries: the set's id, then an address prefix.
///
/// `prefix_len` counts from the id's first bit, so an IPv4 /8 has 40.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RangeKey<A> {
    /// Significant bits of what follows, host byte order.
    pub prefix_len: u32,
    /// The set, [`Svc::ranges_id`].
    pub ranges_id: u32,
    /// First address of the prefix; bits behind it are 0.
    pub addr: A,
}

/// Bits of [`RangeKey::prefix_len`] that the set's id takes.
pub const RANGE_ID_BITS: u32 = 32;

/// Who has an affinity (spec A1): a client of a service port, whichever frontend it used.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// The client's address as it lies in the packet (IPv4: first word, the rest 0), or a network namespace's
    /// cookie in the first two words.
    pub client: [u32; 4],
    /// Service-port id.
    pub svc_id: u32,
    /// `AFFINITY_*`.
    pub kind: u32,
}

/// [`AffinityKey::client`] is an address.
pub const AFFINITY_ADDRESS: u32 = 0;
/// [`AffinityKey::client`] is a network namespace's cookie: a client at a socket hook has no address yet.
pub const AFFINITY_NETNS: u32 = 1;

/// The backend a client keeps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// Backend id.
    pub backend_id: u32,
    /// The backend's generation when it was chosen.
    pub backend_generation: u32,
    /// When the client last began a connection (spec A2), in ticks.
    pub last_tick: u32,
}
