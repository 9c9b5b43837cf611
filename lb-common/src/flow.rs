//! Flows: one record holds both directions; two index entries (one per direction) point at it. An entry does not hold
//! its tuple: that is the record's to prove.
//!
//! There is no half of a NAT pair to lose: the record is one array element, and whoever frees it (the
//! datapath's clock hand or the sweep) deletes both index entries. See docs/design/flow-table.md.

use crate::Addr;

/// A packet's tuple as seen on the wire, the key of the flow index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, network byte order.
    pub sport_be: u16,
    /// Destination port, network byte order.
    pub dport_be: u16,
    /// IP protocol number, zero-extended.
    pub proto: u32,
}

/// A line of the flow index: one cache line of entries, each 0 (free) or what [`entry`] makes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IndexLine(pub [u64; LINE_ENTRIES]);

/// Entries of a line.
pub const LINE_ENTRIES: usize = 8;

/// Bit of an entry's lower half: its tuple is the reply direction's. The other bits are the record's slot.
pub const REF_REVERSE: u32 = 1 << 31;

/// An entry: the tuple's tag, which is never 0, over the slot of its record and [`REF_REVERSE`].
#[inline(always)]
pub fn entry(tag: u32, who: u32) -> u64 {
    ((tag as u64) << 32) | who as u64
}

/// The tag of a tuple with this hash: the half that does not choose the line.
#[inline(always)]
pub fn tag_of(hash: u64) -> u32 {
    hash as u32 | 1
}

/// Lines of an index of that many flows: four times the entries that they need, in pairs.
#[inline(always)]
pub const fn index_lines(flows: u32) -> u32 {
    flows.saturating_add(flows & 1)
}

/// The line where a tuple's entry belongs; its neighbour (`^ 1`) takes it when this one is full.
#[inline(always)]
pub fn first_line(hash: u64, lines: u32) -> u32 {
    crate::hash::reduce((hash >> 32) as u32, lines)
}

/// A cached next hop, filled from a FIB lookup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Interface to leave by; 0 = nothing cached.
    pub ifindex: u32,
    /// When it was looked up, in ticks of [`TICK_NS`].
    pub at_tick: u32,
    /// Destination MAC then source MAC, as they lie in the frame.
    pub macs: [u32; 3],
}

/// One flow, both directions. A record fills whole cache lines, and what a packet towards the backend needs lies in the
/// first of them (IPv4).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flow<A: Addr> {
    /// Raised each time the record is reused.
    pub seq: u32,
    /// `ST_*` bits; 0 = free.
    pub state: u32,
    /// `FLOW_*` flags.
    pub flags: u32,
    /// When the last packet of either direction passed, in ticks.
    pub last_tick: u32,
    /// Backend id and the generation it had when this flow was made.
    pub backend_id: u32,
    /// Generation of the backend at that time.
    pub backend_generation: u32,
    /// Packets towards the backend (wraps).
    pub fwd_packets: u32,
    /// Packets towards the client (wraps).
    pub rev_packets: u32,
    /// The tuple the backend answers with: backend → client, or → this node when masqueraded.
    pub reply: FlowKey<A>,
    /// The tuple the client sends: client → frontend.
    pub orig: FlowKey<A>,
    /// Next hop towards the client. The one towards the backend is the backend's, see `maps::HOPS4`.
    pub rev_hop: Hop,
    /// Service-port id, for display.
    pub svc_id: u32,
    /// When the flow began, in ticks.
    pub born_tick: u32,
    /// Interface the client's first packet came in by.
    pub client_ifindex: u32,
    /// Always 0; reserved.
    pub reserved: A::Pad,
}

/// The record is in use.
pub const ST_USED: u32 = 1;
/// A reply was seen.
pub const ST_REPLIED: u32 = 2;
/// TCP: FIN seen from the client.
pub const ST_FIN_FWD: u32 = 4;
/// TCP: FIN seen from the backend.
pub const ST_FIN_REV: u32 = 8;
/// TCP: RST seen.
pub const ST_RST: u32 = 16;
/// TCP: a non-SYN packet came from the client after a reply: established.
pub const ST_ESTABLISHED: u32 = 32;
/// TCP: a non-SYN packet came from the backend: its handshake is over, it sends no SYN of this connection again.
pub const ST_SERVING: u32 = 64;

/// The source address was rewritten to this node's; replies are translated where they come in and redirected.
pub const FLOW_SNAT: u32 = 1;
/// The backend is delivered to through this node's stack.
pub const FLOW_LOCAL: u32 = 2;
/// The client is behind a pod interface.
pub const FLOW_FROM_POD: u32 = 4;
/// Client and backend are the same pod.
pub const FLOW_HAIRPIN: u32 = 8;
/// Begun at an uplink's egress: a client of this node whose own interface carries no program (the node itself, or a
/// pod newer than the agent's death). Replies are translated where they come in and go up the stack.
pub const FLOW_LATE: u32 = 16;

/// A datagram in fragments, from its first fragment on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification, as it lies in the packet (IPv4: 16 bits, zero-extended).
    pub id: u32,
    /// IP protocol number, zero-extended.
    pub proto: u32,
}

/// The ports that only a datagram's first fragment carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragPorts {
    /// Source port, network byte order.
    pub sport_be: u16,
    /// Destination port, network byte order.
    pub dport_be: u16,
    /// When the first fragment passed, in ticks.
    pub at_tick: u32,
}

/// A token bucket (one per CPU) for packets the datapath itself makes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// When tokens were last added, in ticks.
    pub at_tick: u32,
    /// Tokens left.
    pub tokens: u32,
}

/// Length of a tick: 2^20 ns (1.05 ms). Ticks are counted by the kernel's jiffies, which a program reads for nothing;
/// how long one of those is, only user space knows.
pub const TICK_NS: u64 = 1 << TICK_SHIFT;
/// `ticks = ns >> TICK_SHIFT`.
pub const TICK_SHIFT: u32 = 20;

const SCALE_SHIFT: u32 = 16;

/// The scale for jiffies of so many nanoseconds.
pub const fn tick_scale(jiffy_ns: u32) -> u32 {
    (((jiffy_ns as u64) << SCALE_SHIFT) >> TICK_SHIFT) as u32
}

/// Now in ticks; wraps, like ticks do.
#[inline(always)]
pub fn tick_of_jiffies(jiffies: u64, scale: u32) -> u32 {
    (jiffies.wrapping_mul(scale as u64) >> SCALE_SHIFT) as u32
}

/// Milliseconds to ticks, for constants.
pub const fn ticks(ms: u64) -> u32 {
    (ms * 1_000_000 / TICK_NS) as u32
}

/// TCP: SYN seen, no reply.
pub const TIMEOUT_SYN: u32 = ticks(60_000);
/// TCP: established (RFC 5382 asks for at least 2 h 4 min; kube-proxy sets 24 h).
pub const TIMEOUT_ESTABLISHED: u32 = ticks(24 * 3_600_000);
/// TCP: one or both FINs seen, or RST.
pub const TIMEOUT_CLOSING: u32 = ticks(120_000);
/// UDP without a reply (netfilter: 30 s).
pub const TIMEOUT_UDP: u32 = ticks(30_000);
/// UDP with replies (netfilter's stream timeout: 120 s; 180 s by RFC 4787's recommendation of five minutes halved).
pub const TIMEOUT_UDP_STREAM: u32 = ticks(180_000);
/// How long fragments are led by their first one (netfilter and IP reassembly: 30 s).
pub const TIMEOUT_FRAG: u32 = ticks(30_000);
/// How long a cached next hop may be used before the FIB is asked again.
pub const HOP_FRESH: u32 = ticks(500);

/// Records that one run of the sweep program looks at, at most: bounds the time of one BPF_PROG_TEST_RUN.
pub const SWEEP_MAX: u32 = 64;

const TCP: u32 = 6;

impl<A: Addr> Flow<A> {
    /// TCP flow that has ended: both FINs, or a RST.
    #[inline(always)]
    pub fn is_closed(&self) -> bool {
        (self.state & ST_RST) != 0 || (self.state & (ST_FIN_FWD | ST_FIN_REV)) == (ST_FIN_FWD | ST_FIN_REV)
    }

    /// The idle time in ticks after which this flow has expired.
    #[inline(always)]
    pub fn timeout(&self) -> u32 {
        let replied = self.state & ST_REPLIED != 0;
        if self.orig.proto == TCP {
            if self.state & (ST_RST | ST_FIN_FWD | ST_FIN_REV) != 0 {
                // A half-closed connection may go on for long; only a full close is quick.
                if self.is_closed() { TIMEOUT_CLOSING } else { TIMEOUT_ESTABLISHED }
            } else if replied {
                TIMEOUT_ESTABLISHED
            } else {
                TIMEOUT_SYN
            }
        } else if replied {
            TIMEOUT_UDP_STREAM
        } else {
            TIMEOUT_UDP
        }
    }

    /// True when the flow has been idle longer than its timeout at `now_tick`.
    #[inline(always)]
    pub fn is_expired(&self, now_tick: u32) -> bool {
        now_tick.wrapping_sub(self.last_tick) as i32 > self.timeout() as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_jiffies_is_an_hour_of_ticks_whatever_the_kernels_hz() {
        // 0xffff_xxxx is where jiffies start (INITIAL_JIFFIES, include/linux/jiffies.h); the others wrap the product.
        for start in [0xffff_fed4_u64, 1 << 38, u64::MAX - 10] {
            for hz in [100, 250, 300, 1000] {
                let scale = tick_scale((1_000_000_000 + hz / 2) / hz);
                let passed = tick_of_jiffies(start.wrapping_add(3_600 * u64::from(hz)), scale)
                    .wrapping_sub(tick_of_jiffies(start, scale));
                assert!(passed.abs_diff(ticks(3_600_000)) < 20, "HZ={hz}: {passed}");
            }
        }
    }
}
