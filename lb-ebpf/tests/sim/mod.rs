//! The host's stand-ins for a frame, the maps, the FIB and the clock.

use lb_common::backend::{BACKEND_LIVE, BACKEND_LOCAL, BACKEND_SERVING};
use lb_common::reason::Hook;
use lb_common::*;
use lb_ebpf::csum;
use lb_ebpf::family::{Family, V4, V6, V6Frag};
use lb_ebpf::packet::Verdict;
use lb_ebpf::packet::{End, FIB_NO_NEIGH, FIB_SUCCESS, Fib, FibQuery, Packet};
use lb_ebpf::pipeline::{Side, run, run_slow};
use lb_ebpf::reject::take_token;
use lb_ebpf::tables::Tables;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame in a vector, seen as XDP or tc.
pub struct Frame<const XDP: bool> {
    pub bytes: Vec<u8>,
    pub ifindex: u32,
    pub fib: Fib,
    /// By how many bytes it can grow.
    pub tailroom: usize,
}

impl<const XDP: bool> Packet for Frame<XDP> {
    const IS_XDP: bool = XDP;
    fn hook(&self) -> Hook {
        if XDP { Hook::Xdp } else { Hook::TcUplink }
    }
    fn at(&self, off: usize, len: usize) -> Option<*mut u8> {
        (off + len <= self.bytes.len()).then(|| self.bytes[off..].as_ptr().cast_mut())
    }
    fn len(&self) -> usize {
        self.bytes.len()
    }
    fn pull(&mut self, _len: usize) {}
    fn ifindex(&self) -> u32 {
        self.ifindex
    }
    fn fix_l4(&mut self, off: usize, addr_diff: u32, port_diff: u32, udp: bool) -> bool {
        let c = u16::from_ne_bytes([self.bytes[off], self.bytes[off + 1]]);
        let d = csum::add(addr_diff, port_diff);
        let c = if udp { csum::apply_udp(c, d) } else { csum::apply(c, d) };
        self.bytes[off..off + 2].copy_from_slice(&c.to_ne_bytes());
        true
    }
    fn header_changed(&mut self, _diff: u32) {}
    fn fib(&mut self, _q: &FibQuery) -> Fib {
        self.fib
    }
    fn resize(&mut self, len: usize) -> bool {
        let fits = len.saturating_sub(self.bytes.len()) <= self.tailroom;
        if fits {
            self.bytes.resize(len, 0);
        }
        fits
    }
}

/// A FIB answer with a resolved neighbour.
pub fn route_out(ifindex: u32) -> Fib {
    Fib { status: FIB_SUCCESS, ifindex, macs: [0x0202_0202, 0x0303_0202, 0x0303_0303], mtu: 1500 }
}

/// A FIB answer without a neighbour.
pub fn route_unresolved(ifindex: u32) -> Fib {
    Fib { status: FIB_NO_NEIGH, ifindex, macs: [0; 3], mtu: 1500 }
}

/// One family's maps.
pub struct Maps<A: Addr> {
    pub svc: RefCell<HashMap<SvcKey<A>, Svc>>,
    pub backends: RefCell<Vec<Backend<A>>>,
    pub index: RefCell<HashMap<FlowKey<A>, FlowRef>>,
    pub fragments: RefCell<HashMap<FragKey<A>, FragPorts>>,
    flows: Vec<UnsafeCell<Flow<A>>>,
    hand: Cell<u32>,
}

impl<A: Addr> Maps<A> {
    fn new(flows: usize) -> Self {
        Maps {
            svc: RefCell::default(),
            backends: RefCell::new(vec![Backend::default()]),
            index: RefCell::default(),
            fragments: RefCell::default(),
            flows: (0..flows).map(|_| UnsafeCell::new(Flow::default())).collect(),
            hand: Cell::new(0),
        }
    }
    /// Adds a backend and returns its id.
    pub fn add_backend(&self, addr: A, port: u16, proto: u8, local: bool) -> u32 {
        let mut b = self.backends.borrow_mut();
        let flags = BACKEND_LIVE | BACKEND_SERVING | if local { BACKEND_LOCAL } else { 0 };
        b.push(Backend { addr, port_be: port.to_be(), proto, flags, generation: 1 });
        b.len() as u32 - 1
    }
    /// Frees a backend as the agent does.
    pub fn remove_backend(&self, id: u32) {
        let mut b = self.backends.borrow_mut();
        let generation = b[id as usize].generation + 1;
        b[id as usize] = Backend { generation, ..Backend::default() };
    }
    /// A copy of every used record.
    pub fn used_flows(&self) -> Vec<Flow<A>> {
        // SAFETY: single-threaded; no record is borrowed between packets.
        self.flows.iter().map(|f| unsafe { *f.get() }).filter(|f| f.state & flow::ST_USED != 0).collect()
    }
}

/// All maps.
pub struct Sim {
    pub v4: Maps<A4>,
    pub v6: Maps<A6>,
    pub slots: RefCell<Vec<u32>>,
    pub ifaces: RefCell<HashMap<u32, Iface>>,
    pub config: Config,
    pub ranges: RefCell<Vec<(u32, ipnet::IpNet)>>,
    pub affinity: RefCell<HashMap<AffinityKey, Affinity>>,
    pub socks: RefCell<HashMap<SockKey, Sock>>,
    pub limit: Cell<Bucket>,
    /// What was counted last: how the packet ended.
    pub last: Cell<Reason>,
    pub tick: Cell<u32>,
    /// By how many bytes a frame at XDP can grow; at tc, by any number.
    pub tailroom: Cell<usize>,
    pub counts: RefCell<HashMap<Reason, u64>>,
}

impl Sim {
    pub fn new(flows: usize) -> Self {
        let config = Config {
            ready: 1,
            seed: 7,
            node4: A4::from(std::net::Ipv4Addr::new(172, 31, 0, 1)),
            node6: A6::from("fd31::1".parse::<std::net::Ipv6Addr>().unwrap()),
            snat_port_min: 61_000,
            snat_port_max: 65_000,
            nodeport_min: 30_000,
            nodeport_max: 32_767,
            flows4_len: flows as u32,
            flows6_len: flows as u32,
            ..Config::default()
        };
        Sim {
            v4: Maps::new(flows),
            v6: Maps::new(flows),
            slots: RefCell::default(),
            ifaces: RefCell::default(),
            config,
            ranges: RefCell::default(),
            affinity: RefCell::default(),
            socks: RefCell::default(),
            limit: Cell::default(),
            last: Cell::new(Reason::NotIp),
            tick: Cell::new(1_000),
            tailroom: Cell::new(usize::MAX),
            counts: RefCell::default(),
        }
    }
    /// Appends a set of backend ids and returns its reference.
    pub fn set(&self, ids: &[u32]) -> SetRef {
        let mut s = self.slots.borrow_mut();
        let offset = s.len() as u32;
        s.extend_from_slice(ids);
        SetRef { offset, count: ids.len() as u32 }
    }
}

macro_rules! tables {
    ($family:ty, $a:ty, $ip:ty, $m:ident, $len:ident) => {
        impl Tables<$family> for Sim {
            fn svc(&self, k: &SvcKey<$a>) -> Option<Svc> {
                self.$m.svc.borrow().get(k).copied()
            }
            fn slot(&self, i: u32) -> Option<u32> {
                self.slots.borrow().get(i as usize).copied()
            }
            fn backend(&self, id: u32) -> Option<Backend<$a>> {
                self.$m.backends.borrow().get(id as usize).copied()
            }
            fn index_get(&self, k: &FlowKey<$a>) -> Option<FlowRef> {
                self.$m.index.borrow().get(k).copied()
            }
            fn index_insert(&self, k: &FlowKey<$a>, r: FlowRef) -> bool {
                let mut m = self.$m.index.borrow_mut();
                if m.contains_key(k) {
                    return false;
                }
                m.insert(*k, r);
                true
            }
            fn index_delete(&self, k: &FlowKey<$a>) {
                self.$m.index.borrow_mut().remove(k);
            }
            fn flow(&self, slot: u32) -> Option<*mut Flow<$a>> {
                self.$m.flows.get(slot as usize).map(UnsafeCell::get)
            }
            fn hand(&self) -> u32 {
                self.$m.hand.replace(self.$m.hand.get().wrapping_add(1))
            }
            fn flows_len(&self, c: &Config) -> u32 {
                c.$len
            }
            fn iface(&self, i: u32) -> Option<&Iface> {
                // A test's few lookups may leak: the kernel's elements live as long as the program runs, too.
                self.ifaces.borrow().get(&i).map(|i| &*Box::leak(Box::new(*i)))
            }
            fn config(&self) -> Option<&Config> {
                Some(&self.config)
            }
            fn in_ranges(&self, id: u32, a: &$a) -> bool {
                let a: IpAddr = <$ip>::from(*a).into();
                self.ranges.borrow().iter().any(|(set, net)| *set == id && net.contains(&a))
            }
            fn affinity(&self, k: &AffinityKey) -> Option<Affinity> {
                self.affinity.borrow().get(k).copied()
            }
            fn keep_affinity(&self, k: &AffinityKey, v: &Affinity) {
                self.affinity.borrow_mut().insert(*k, *v);
            }
            fn fragment(&self, k: &FragKey<$a>) -> Option<FragPorts> {
                self.$m.fragments.borrow().get(k).copied()
            }
            fn keep_fragment(&self, k: &FragKey<$a>, v: &FragPorts) {
                self.$m.fragments.borrow_mut().insert(*k, *v);
            }
            fn sock(&self, k: &SockKey) -> Option<Sock> {
                self.socks.borrow().get(k).copied()
            }
            fn keep_sock(&self, k: &SockKey, v: &Sock) {
                self.socks.borrow_mut().insert(*k, *v);
            }
            fn may_reply(&self, now: u32) -> bool {
                let mut b = self.limit.get();
                let may = take_token(&mut b, now);
                self.limit.set(b);
                may
            }
            fn now_tick(&self) -> u32 {
                self.tick.get()
            }
            fn count(&self, _hook: Hook, r: Reason) {
                self.last.set(r);
                *self.counts.borrow_mut().entry(r).or_default() += 1;
            }
        }
    };
}
tables!(V4, A4, Ipv4Addr, v4, flows4_len);
tables!(V6, A6, Ipv6Addr, v6, flows6_len);
tables!(V6Frag, A6, Ipv6Addr, v6, flows6_len);

/// A family in tests: real addresses, a map, and a frame builder.
pub trait TestFamily: Family {
    fn addr(n: u16) -> Self::A;
    fn maps(s: &Sim) -> &Maps<Self::A>;
}
impl TestFamily for V4 {
    fn addr(n: u16) -> A4 {
        A4::from(std::net::Ipv4Addr::new(172, 31, (n >> 8) as u8, n as u8))
    }
    fn maps(s: &Sim) -> &Maps<A4> {
        &s.v4
    }
}
impl TestFamily for V6 {
    fn addr(n: u16) -> A6 {
        A6::from(std::net::Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, n))
    }
    fn maps(s: &Sim) -> &Maps<A6> {
        &s.v6
    }
}

/// Builds a TCP (with `flags`) or UDP frame with right checksums.
pub fn frame<F: Family>(
    src: F::A,
    sport: u16,
    dst: F::A,
    dport: u16,
    proto: u8,
    flags: u8,
    body: &[u8],
) -> Vec<u8> {
    let l4 = if proto == 6 { 20 } else { 8 };
    let mut b = vec![0u8; F::L4 + l4];
    b[0..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    b[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    b[12..14].copy_from_slice(&F::ETHERTYPE_BE.to_ne_bytes());
    let len = (l4 + body.len()) as u16;
    // SAFETY: the vector holds the whole header.
    unsafe { F::fresh_header(b.as_mut_ptr(), &src, &dst, proto, len) };
    b[F::L4..F::L4 + 2].copy_from_slice(&sport.to_be_bytes());
    b[F::L4 + 2..F::L4 + 4].copy_from_slice(&dport.to_be_bytes());
    if proto == 6 {
        b[F::L4 + 4..F::L4 + 8].copy_from_slice(&1000u32.to_be_bytes());
        b[F::L4 + 8..F::L4 + 12].copy_from_slice(&2000u32.to_be_bytes());
        b[F::L4 + 12] = 0x50;
        b[F::L4 + 13] = flags;
    } else {
        b[F::L4 + 4..F::L4 + 6].copy_from_slice(&len.to_be_bytes());
    }
    b.extend_from_slice(body);
    let at = F::L4 + if proto == 6 { 16 } else { 6 };
    let c = l4_sum::<F>(&b);
    b[at..at + 2].copy_from_slice(&c.to_ne_bytes());
    b
}

/// What the L4 checksum field must be (computed with the field as it is: 0 when it is right).
pub fn l4_sum<F: Family>(b: &[u8]) -> u16 {
    let addr_len = if F::AF == 2 { 4 } else { 16 };
    let addrs = if F::AF == 2 { 26 } else { 22 };
    let proto = if F::AF == 2 { b[23] } else { b[20] };
    let mut s = F::pseudo(proto, (b.len() - F::L4) as u16);
    let mut words = b[addrs..addrs + 2 * addr_len].to_vec();
    words.extend_from_slice(&b[F::L4..]);
    if words.len() % 2 == 1 {
        words.push(0);
    }
    for w in words.chunks(2) {
        s = csum::add(s, u16::from_ne_bytes([w[0], w[1]]) as u32);
    }
    !csum::fold(s)
}

/// Asserts that the frame's checksums are right.
pub fn assert_sums<F: Family>(b: &[u8]) {
    assert_eq!(l4_sum::<F>(b), 0, "L4 checksum");
    if F::AF == 2 {
        let s = b[14..34].chunks(2).fold(0, |s, w| csum::add(s, u16::from_ne_bytes([w[0], w[1]]) as u32));
        assert_eq!(!csum::fold(s), 0, "IPv4 header checksum");
    }
}

/// The tuple a frame carries.
pub fn tuple<F: Family, const X: bool>(bytes: &[u8]) -> FlowKey<F::A> {
    let f = Frame::<X> { bytes: bytes.to_vec(), ifindex: 0, fib: Fib::default(), tailroom: 0 };
    lb_ebpf::parse::parse::<_, F>(&f).expect("a whole packet").key
}

/// Runs one hook over a frame as the kernel does: the fast program, then the slow one if it asks for it.
pub fn hook<const X: bool>(s: &Sim, side: Side, ifindex: u32, fib: Fib, bytes: &[u8]) -> (End, Vec<u8>) {
    let tailroom = if X { s.tailroom.get() } else { usize::MAX };
    let mut f = Frame::<X> { bytes: bytes.to_vec(), ifindex, fib, tailroom };
    let mut end = run(&mut f, s, side);
    if end.verdict == Verdict::Slow {
        end = run_slow(&mut f, s, side);
        end.reason = s.last.get();
    }
    (end, f.bytes)
}

/// Runs ingress over a frame.
pub fn ingress<const X: bool>(
    s: &Sim,
    role: lb_ebpf::select::Role,
    ifindex: u32,
    fib: Fib,
    bytes: &[u8],
) -> (End, Vec<u8>) {
    hook::<X>(s, Side::In(role), ifindex, fib, bytes)
}

/// Runs a pod-facing interface's egress over a frame.
pub fn egress(s: &Sim, ifindex: u32, bytes: &[u8]) -> (End, Vec<u8>) {
    hook::<false>(s, Side::PodOut, ifindex, Fib::default(), bytes)
}
