//! Names and default sizes of the maps. Names are at most 15 bytes (BPF_OBJ_NAME_LEN).

/// `SvcKey<A4>` → `Svc`, hash.
pub const SVC4: &str = "FW_SVC4";
/// `SvcKey<A6>` → `Svc`, hash.
pub const SVC6: &str = "FW_SVC6";
/// backend id → `Backend<A4>`, array.
pub const BACKENDS4: &str = "FW_BACKENDS4";
/// backend id → `Backend<A6>`, array.
pub const BACKENDS6: &str = "FW_BACKENDS6";
/// slot → backend id (u32), array; both families share it.
pub const SLOTS: &str = "FW_SLOTS";
/// Line → `IndexLine` of IPv4, array.
pub const FLOW_INDEX4: &str = "FW_FLOWIDX4";
/// Line → `IndexLine` of IPv6, array.
pub const FLOW_INDEX6: &str = "FW_FLOWIDX6";
/// slot → `Flow<A4>`, array.
pub const FLOWS4: &str = "FW_FLOWS4";
/// slot → `Flow<A6>`, array.
pub const FLOWS6: &str = "FW_FLOWS6";
/// backend id → `Hop` towards it, array; refreshed by the packets themselves.
pub const HOPS4: &str = "FW_HOPS4";
/// The IPv6 ones.
pub const HOPS6: &str = "FW_HOPS6";
/// Bits of what is ours (u64), array; see `crate::seen`.
pub const SEEN: &str = "FW_SEEN";
/// [clock hand of flows4, of flows6] (u64), array.
pub const HANDS: &str = "FW_HANDS";
/// reason → packets (u64), per-CPU array, indexed by `hook * Reason::COUNT + reason`.
pub const COUNTERS: &str = "FW_COUNTERS";
/// ifindex → `Iface`, hash.
pub const IFACES: &str = "FW_IFACES";
/// 0 → `Config`, array.
pub const CONFIG: &str = "FW_CONFIG";
/// `RangeKey<A4>` → 1 (u32), LPM trie.
pub const RANGES4: &str = "FW_RANGES4";
/// `RangeKey<A6>` → 1 (u32), LPM trie.
pub const RANGES6: &str = "FW_RANGES6";
/// `AffinityKey` → `Affinity`, LRU hash.
pub const AFFINITY: &str = "FW_AFFINITY";
/// `FragKey<A4>` → `FragPorts`, LRU hash.
pub const FRAGS4: &str = "FW_FRAGS4";
/// `FragKey<A6>` → `FragPorts`, LRU hash.
pub const FRAGS6: &str = "FW_FRAGS6";
/// `SockKey` → `Sock`, LRU hash.
pub const SOCKS: &str = "FW_SOCKS";
/// 0 → `Bucket`, per-CPU array.
pub const LIMIT: &str = "FW_LIMIT";

/// Every map, in pin order.
pub const ALL: [&str; 23] = [
    SVC4,
    SVC6,
    BACKENDS4,
    BACKENDS6,
    SLOTS,
    FLOW_INDEX4,
    FLOW_INDEX6,
    FLOWS4,
    FLOWS6,
    HANDS,
    COUNTERS,
    IFACES,
    CONFIG,
    RANGES4,
    RANGES6,
    AFFINITY,
    FRAGS4,
    FRAGS6,
    SOCKS,
    LIMIT,
    HOPS4,
    HOPS6,
    SEEN,
];

/// Default capacity of each service map.
pub const DEFAULT_SERVICES: u32 = 65_536;
/// Default capacity of each backend array.
pub const DEFAULT_BACKENDS: u32 = 131_072;
/// Default capacity of the slots array.
pub const DEFAULT_SLOTS: u32 = 524_288;
/// Default number of flow records per family; the index has twice as many entries.
pub const DEFAULT_FLOWS: u32 = 131_072;
/// Default capacity of each source-range trie.
pub const DEFAULT_RANGES: u32 = 65_536;
/// Default capacity of the affinity map.
pub const DEFAULT_AFFINITY: u32 = 65_536;
/// Capacity of each fragment map: datagrams on their way at one time.
pub const MAX_FRAGS: u32 = 8_192;
/// Default capacity of the socket map.
pub const DEFAULT_SOCKS: u32 = 65_536;
/// Capacity of the interface map.
pub const MAX_IFACES: u32 = 4_096;

/// Slow programs of tc by hook, see [`progs::TC_SLOW`]; pinned beside the programs.
pub const TAILS_TC_NAME: &str = "FW_TAILS_TC";
/// The slow program of XDP.
pub const TAILS_XDP_NAME: &str = "FW_TAILS_XDP";
/// Elements of `FW_TAILS_TC`.
pub const TAILS_TC: u32 = 4;
/// Elements of `FW_TAILS_XDP`.
pub const TAILS_XDP: u32 = 1;

/// Program names, as in the object file.
pub mod progs {
    /// XDP on an uplink.
    pub const XDP_UPLINK: &str = "fw_xdp_uplink";
    /// tc ingress on an uplink or overlay.
    pub const TC_UPLINK_IN: &str = "fw_tc_uplink";
    /// tc ingress on a pod-facing interface (packets from the pod).
    pub const TC_POD_IN: &str = "fw_tc_pod";
    /// tc egress on a pod-facing interface: replies towards pods.
    pub const TC_POD_OUT: &str = "fw_tc_pod_out";
    /// tc egress on an uplink or overlay: replies towards clients, and clients of this node that no other program saw.
    pub const TC_UPLINK_OUT: &str = "fw_tc_uplink_out";
    /// Slow programs (fragments, ICMP errors) of tc by index in `FW_TAILS_TC`: uplink in, pod in, pod out, uplink out.
    pub const TC_SLOW: [&str; 4] =
        ["fw_tc_uplink_slow", "fw_tc_pod_slow", "fw_tc_pod_out_slow", "fw_tc_up_out_slow"];
    /// The slow program of XDP.
    pub const XDP_SLOW: &str = "fw_xdp_slow";
    /// Expiry sweep, run by the agent through BPF_PROG_TEST_RUN.
    pub const TC_SWEEP: &str = "fw_tc_sweep";
    /// Socket hooks, IPv4: connect, sendmsg, recvmsg, getpeername.
    pub const SOCK4: [&str; 4] = ["fw_connect4", "fw_sendmsg4", "fw_recvmsg4", "fw_peername4"];
    /// Socket hooks, IPv6.
    pub const SOCK6: [&str; 4] = ["fw_connect6", "fw_sendmsg6", "fw_recvmsg6", "fw_peername6"];
    /// All of them.
    pub const ALL: [&str; 19] = [
        XDP_UPLINK,
        TC_UPLINK_IN,
        TC_POD_IN,
        TC_POD_OUT,
        TC_UPLINK_OUT,
        TC_SWEEP,
        XDP_SLOW,
        TC_SLOW[0],
        TC_SLOW[1],
        TC_SLOW[2],
        TC_SLOW[3],
        SOCK4[0],
        SOCK4[1],
        SOCK4[2],
        SOCK4[3],
        SOCK6[0],
        SOCK6[1],
        SOCK6[2],
        SOCK6[3],
    ];
}
