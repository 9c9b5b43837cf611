//! Outcomes: every packet that a program looks at ends in exactly one of these, counted per hook.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $num:literal, $label:literal, $drop:literal;)*) => {
        /// Why a program ended as it did. One list for the kernel, `fairway drops`, metrics and the docs.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name = $num),* }
        impl Reason {
            /// All reasons, by number.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];
            /// Number of reasons, as a map dimension.
            pub const COUNT: u32 = 64;
            /// Stable label for tables and metrics.
            pub const fn label(self) -> &'static str { match self { $(Reason::$name => $label),* } }
            /// True when the packet was not delivered.
            pub const fn is_drop(self) -> bool { match self { $(Reason::$name => $drop),* } }
        }
    };
}

reasons! {
    /// Not IP: ARP, NDP's carrier, LLDP, VLAN-tagged …
    NotIp = 0, "pass_not_ip", false;
    /// IP, but not TCP or UDP.
    NotL4 = 1, "pass_not_l4", false;
    /// Matches no flow and no frontend.
    NotOurs = 2, "pass_not_ours", false;
    /// A fragment: left to the stack.
    Fragment = 3, "pass_fragment", false;
    /// Too short, or header fields that contradict the length: left to the stack.
    Malformed = 4, "pass_malformed", false;
    /// The agent has not finished its first sync.
    NotReady = 5, "pass_not_ready", false;
    /// Hop limit used up: the stack answers.
    TtlExceeded = 6, "pass_ttl_exceeded", false;
    /// XDP leaves it to tc on the same interface (device cannot be redirected to, neighbour unknown).
    ToTc = 7, "pass_to_tc", false;
    /// Client → backend on this node, delivered through the stack.
    FwdLocal = 8, "fwd_local", false;
    /// Client → backend elsewhere, redirected.
    FwdRemote = 9, "fwd_remote", false;
    /// Client pod → backend elsewhere, source kept, routed by the stack.
    FwdRouted = 10, "fwd_routed", false;
    /// Client pod → itself.
    FwdHairpin = 11, "fwd_hairpin", false;
    /// Reply of a masqueraded flow, redirected to the client.
    ReplyRedirected = 12, "reply_redirected", false;
    /// Reply translated at the egress towards the client.
    ReplyEgress = 13, "reply_egress", false;
    /// TCP to a removed backend: answered with a reset.
    ResetGone = 14, "reject_backend_gone", true;
    /// No usable endpoint: answered with a reset or ICMP "port unreachable".
    ResetNoEndpoint = 15, "reject_no_endpoint", true;
    /// No usable endpoint on this node under policy Local.
    DropNoLocalEndpoint = 16, "drop_no_local_endpoint", true;
    /// No free masquerade port towards that backend.
    NoSnatPort = 18, "reject_no_snat_port", true;
    /// The flow table is full of live flows.
    FlowTableFull = 19, "reject_flow_table_full", true;
    /// No route, or no address to masquerade with, towards the backend.
    NoRoute = 20, "drop_no_route", true;
    /// A helper refused to change the packet.
    RewriteFailed = 21, "drop_rewrite_failed", true;
    /// A map's entry contradicts another (slot without backend).
    Inconsistent = 22, "drop_inconsistent", true;
    /// Forbidden source (own address, multicast, unspecified, loopback).
    BadSource = 23, "drop_bad_source", true;
    /// Swept: an expired flow record was freed (not a packet).
    Swept = 24, "flow_expired", false;
    /// A flow record was reused by the clock hand (not a packet).
    Reclaimed = 25, "flow_reclaimed", false;
    /// A new flow was made (not a packet's end).
    FlowCreated = 26, "flow_created", false;
    /// IPv4 options or IPv6 extension headers: left to the stack.
    IpOptions = 27, "pass_ip_options", false;
    /// An active ClusterIP's port that is no frontend (R5).
    RejectUndefinedPort = 28, "reject_undefined_port", true;
    /// An address of a ServiceCIDR that no Service has (R6).
    DropUnallocated = 29, "drop_unallocated_cluster_ip", true;
    /// Not in the Service's loadBalancerSourceRanges (R4).
    DropSourceRange = 30, "drop_source_range", true;
    /// A rejection that the rate limit kept from being sent.
    RejectLimited = 31, "drop_reject_rate_limited", true;
    /// An ICMP error about one of our flows, translated and sent on.
    IcmpError = 32, "icmp_error_translated", false;
    /// A later fragment whose first one was not seen: left to the stack.
    FragmentUnknown = 33, "pass_fragment_unknown", false;
    /// Client of this node → backend, translated at an uplink's egress.
    FwdLate = 34, "fwd_late", false;
    /// Reply to a client of this node, translated where it came in.
    ReplyUp = 35, "reply_up", false;
    /// A socket was connected, or sent, to a backend instead of a frontend.
    SockTranslated = 36, "sock_translated", false;
    /// A socket's destination is no frontend.
    SockNotOurs = 37, "sock_not_ours", false;
    /// A socket's peer was shown as the frontend.
    SockReverse = 38, "sock_reverse", false;
    /// A socket was refused: no usable endpoint.
    SockRefused = 39, "sock_refused", true;
    /// A socket is outside the host's network namespace, whose sockets alone are translated.
    SockForeign = 40, "sock_foreign_netns", false;
    /// Masqueraded client → backend on this node, sent to its interface.
    FwdMasqueraded = 41, "fwd_local_masqueraded", false;
    /// The client's affinity chose the backend (not a packet's end).
    AffinityHit = 42, "affinity_hit", false;
}

/// The hook dimension of the counters map.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// XDP on an uplink.
    Xdp = 0,
    /// tc ingress on an uplink.
    TcUplink = 1,
    /// tc ingress on a pod-facing interface.
    TcPod = 2,
    /// tc egress of a pod-facing interface.
    TcOut = 3,
    /// tc egress of an uplink.
    TcUplinkOut = 4,
    /// Socket hooks.
    Sock = 5,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Hook; 6] =
        [Hook::Xdp, Hook::TcUplink, Hook::TcPod, Hook::TcOut, Hook::TcUplinkOut, Hook::Sock];
    /// Stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Hook::Xdp => "xdp",
            Hook::TcUplink => "tc-uplink",
            Hook::TcPod => "tc-pod",
            Hook::TcOut => "tc-egress",
            Hook::TcUplinkOut => "tc-uplink-egress",
            Hook::Sock => "socket",
        }
    }
}

/// Number of elements of the counters map.
pub const COUNTERS_LEN: u32 = 6 * Reason::COUNT;
