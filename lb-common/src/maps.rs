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
/// `FlowKey<A4>` → `FlowRef`, hash.
pub const FLOW_INDEX4: &str = "FW_FLOWIDX4";
/// `FlowKey<A6>` → `FlowRef`, hash.
pub const FLOW_INDEX6: &str = "FW_FLOWIDX6";
/// slot → `Flow<A4>`, array.
pub const FLOWS4: &str = "FW_FLOWS4";
/// slot → `Flow<A6>`, array.
pub const FLOWS6: &str = "FW_FLOWS6";
/// [clock hand of flows4, of flows6] (u64), array.
pub const HANDS: &str = "FW_HANDS";
/// reason → packets (u64), per-CPU array, indexed by `hook * Reason::COUNT + reason`.
pub const COUNTERS: &str = "FW_COUNTERS";
/// ifindex → `Iface`, hash.
pub const IFACES: &str = "FW_IFACES";
/// 0 → `Config`, array.
pub const CONFIG: &str = "FW_CONFIG";

/// Every map, in pin order.
pub const ALL: [&str; 13] = [
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
];

/// Default capacity of each service map.
pub const DEFAULT_SERVICES: u32 = 65_536;
/// Default capacity of each backend array.
pub const DEFAULT_BACKENDS: u32 = 131_072;
/// Default capacity of the slots array.
pub const DEFAULT_SLOTS: u32 = 524_288;
/// Default number of flow records per family; the index has twice as many entries.
pub const DEFAULT_FLOWS: u32 = 131_072;
/// Capacity of the interface map.
pub const MAX_IFACES: u32 = 4_096;

/// Program names, as in the object file.
pub mod progs {
    /// XDP on an uplink.
    pub const XDP_UPLINK: &str = "fw_xdp_uplink";
    /// tc ingress on an uplink or overlay.
    pub const TC_UPLINK_IN: &str = "fw_tc_uplink";
    /// tc ingress on a pod-facing interface (packets from the pod).
    pub const TC_POD_IN: &str = "fw_tc_pod";
    /// tc egress on every managed interface: replies towards clients.
    pub const TC_OUT: &str = "fw_tc_out";
    /// Expiry sweep, run by the agent through BPF_PROG_TEST_RUN.
    pub const TC_SWEEP: &str = "fw_tc_sweep";
    /// All of them.
    pub const ALL: [&str; 5] = [XDP_UPLINK, TC_UPLINK_IN, TC_POD_IN, TC_OUT, TC_SWEEP];
}
