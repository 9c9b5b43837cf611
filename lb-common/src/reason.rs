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
            pub const COUNT: u32 = 32;
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
    /// No usable endpoint: TCP answered with a reset.
    ResetNoEndpoint = 15, "reject_no_endpoint", true;
    /// No usable endpoint on this node under policy Local.
    DropNoLocalEndpoint = 16, "drop_no_local_endpoint", true;
    /// No usable endpoint: other protocols.
    DropNoEndpoint = 17, "drop_no_endpoint", true;
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
    /// tc egress.
    TcOut = 3,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Hook; 4] = [Hook::Xdp, Hook::TcUplink, Hook::TcPod, Hook::TcOut];
    /// Stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Hook::Xdp => "xdp",
            Hook::TcUplink => "tc-uplink",
            Hook::TcPod => "tc-pod",
            Hook::TcOut => "tc-egress",
        }
    }
}

/// Number of elements of the counters map.
pub const COUNTERS_LEN: u32 = 4 * Reason::COUNT;
