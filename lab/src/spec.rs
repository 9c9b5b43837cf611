//! What a cluster shall look like: the input of [`crate::Cluster::build`].
//!
//! Plain data without behaviour beyond defaults; every combination of its fields is a valid cluster.

/// How the pods of a node are wired to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cni {
    /// One veth per pod with host routes and no bridge, as the `ptp` plugin and Calico do.
    Ptp,
    /// One bridge `cni0` per node with a veth port per pod, as the `bridge` plugin and flannel do.
    Bridge,
}

/// How a pod's packet reaches a pod of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InterNode {
    /// A plain route for each node's pod range by that node's address.
    Routed,
    /// A flannel-like VXLAN device `vxlan0` with static neighbours and forwarding entries.
    Vxlan,
}

/// Whether a node masquerades what its pods send outside the cluster, and by which tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Masquerade {
    /// No rule at all.
    Off,
    /// `iptables` and `ip6tables`.
    Iptables,
    /// `nft`.
    Nftables,
}

/// The shape of a cluster. [`ClusterSpec::default`] has three nodes with two pods each, point-to-point pods,
/// routes between nodes, loose everything and checksums complete on the wire (what native XDP on veth needs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Number of nodes, 1 to 99.
    pub nodes: usize,
    /// Number of pods on each node, 0 to 99.
    pub pods_per_node: usize,
    /// How pods are wired to their node.
    pub cni: Cni,
    /// How nodes are joined.
    pub inter_node: InterNode,
    /// `rp_filter` of every interface of every node: 0, 1 (strict) or 2 (loose).
    pub rp_filter: u8,
    /// CNI-like masquerading of pod traffic that leaves the pod ranges.
    pub masquerade: Masquerade,
    /// Keep checksum and segmentation offload on the uplinks. Off (the default) completes checksums before the
    /// wire and puts an XDP program on the far end of each uplink: both are needed for native XDP on veth.
    pub uplink_offload: bool,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            nodes: 3,
            pods_per_node: 2,
            cni: Cni::Ptp,
            inter_node: InterNode::Routed,
            rp_filter: 0,
            masquerade: Masquerade::Off,
            uplink_offload: false,
        }
    }
}
