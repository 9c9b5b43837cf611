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
    /// Always 0; reserved.
    pub reserved: u32,
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
