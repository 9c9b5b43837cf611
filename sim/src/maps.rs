//! The maps in memory, and [`Tables`] over them.

use lb_common::backend::{BACKEND_LIVE, BACKEND_LOCAL, BACKEND_SERVING};
use lb_common::flow::{index_lines, tick_scale};
use lb_common::reason::Hook;
use lb_common::*;
use lb_ebpf::family::{V4, V6, V6Frag};
use lb_ebpf::reject::take_token;
use lb_ebpf::tables::Tables;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One family's maps.
pub struct Maps<A: Addr> {
    /// Frontends.
    pub svc: RefCell<HashMap<SvcKey<A>, Svc>>,
    /// Backends by id.
    pub backends: RefCell<Vec<Backend<A>>>,
    /// First fragments.
    pub fragments: RefCell<HashMap<FragKey<A>, FragPorts>>,
    index: Vec<UnsafeCell<IndexLine>>,
    hops: Vec<UnsafeCell<Hop>>,
    flows: Vec<UnsafeCell<Flow<A>>>,
    hand: Cell<u32>,
}

impl<A: Addr> Maps<A> {
    fn new(flows: usize) -> Self {
        Maps {
            svc: RefCell::default(),
            backends: RefCell::new(vec![Backend::default()]),
            fragments: RefCell::default(),
            index: (0..index_lines(flows as u32)).map(|_| UnsafeCell::default()).collect(),
            hops: (0..1024).map(|_| UnsafeCell::new(Hop::default())).collect(),
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
    /// Every record, used or not.
    pub fn all_flows(&self) -> Vec<Flow<A>> {
        // SAFETY: as in `used_flows`.
        self.flows.iter().map(|f| unsafe { *f.get() }).collect()
    }
    /// The flow index.
    pub fn all_lines(&self) -> Vec<IndexLine> {
        // SAFETY: as in `used_flows`.
        self.index.iter().map(|line| unsafe { *line.get() }).collect()
    }
    /// How many tuples are in the index.
    pub fn index_entries(&self) -> usize {
        self.all_lines().iter().flat_map(|line| line.0).filter(|entry| *entry != 0).count()
    }
    /// Forgets which tuple has which record.
    pub fn clear_index(&self) {
        // SAFETY: as in `used_flows`.
        self.index.iter().for_each(|line| unsafe { *line.get() = IndexLine::default() });
    }
    /// Forgets every flow.
    pub fn clear_flows(&self) {
        self.clear_index();
        // SAFETY: as in `used_flows`.
        self.flows.iter().for_each(|f| unsafe { (*f.get()).state = 0 });
    }
    /// A copy of every used record.
    pub fn used_flows(&self) -> Vec<Flow<A>> {
        // SAFETY: single-threaded; no record is borrowed between packets.
        self.flows.iter().map(|f| unsafe { *f.get() }).filter(|f| f.state & flow::ST_USED != 0).collect()
    }
}

/// All maps, and the clock.
pub struct Sim {
    /// IPv4.
    pub v4: Maps<A4>,
    /// IPv6.
    pub v6: Maps<A6>,
    /// Backend ids by slot.
    pub slots: RefCell<Vec<u32>>,
    /// Managed interfaces.
    pub ifaces: RefCell<HashMap<u32, Iface>>,
    /// Settings.
    pub config: Config,
    /// Source ranges: set, network.
    pub ranges: RefCell<Vec<(u32, ipnet::IpNet)>>,
    /// Affinity.
    pub affinity: RefCell<HashMap<AffinityKey, Affinity>>,
    /// Sockets.
    pub socks: RefCell<HashMap<SockKey, Sock>>,
    /// Bits of what is ours; all of them unless a test says otherwise.
    pub seen: RefCell<Option<Vec<u64>>>,
    /// Tokens for rejections.
    pub limit: Cell<Bucket>,
    /// What was counted last: how the packet ended.
    pub last: Cell<Reason>,
    /// By how many bytes a frame at XDP can grow; at tc, by any number.
    pub tailroom: Cell<usize>,
    /// Now.
    pub tick: Cell<u32>,
    /// What was counted, per hook.
    pub counts: RefCell<BTreeMap<(u8, u8), u64>>,
}

impl Sim {
    /// Empty maps with room for so many flows of each family, and the settings of a node.
    pub fn new(flows: usize) -> Self {
        let config = Config {
            ready: 1,
            seed: 7,
            tick_scale: tick_scale(1_000_000),
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
            seen: RefCell::default(),
            limit: Cell::default(),
            last: Cell::new(Reason::NotIp),
            tailroom: Cell::new(usize::MAX),
            tick: Cell::new(1_000),
            counts: RefCell::default(),
        }
    }
    /// Sets the bits of all that the maps hold, as the agent does; from now on they count. Bits of what is gone stay.
    pub fn see_all(&self) {
        fn bits<A: Addr>(maps: &Maps<A>, set: &mut impl FnMut(u32, (u32, u64))) {
            for k in maps.svc.borrow().keys() {
                set(0, seen::place(&k.addr, k.port_be, k.proto));
            }
            for b in maps.backends.borrow().iter().filter(|b| b.flags & BACKEND_LIVE != 0) {
                set(seen::SEEN_WORDS, seen::place(&b.addr, b.port_be, b.proto));
            }
        }
        let mut held = self.seen.borrow_mut();
        let words = held.get_or_insert_with(|| vec![0; seen::SEEN_LEN as usize]);
        let mut set = |half: u32, (word, bit): (u32, u64)| words[(half + word) as usize] |= bit;
        bits(&self.v4, &mut set);
        bits(&self.v6, &mut set);
    }
    /// How often a reason was counted, all hooks together.
    pub fn counted(&self, r: Reason) -> u64 {
        self.counts.borrow().iter().filter(|((_, reason), _)| *reason == r as u8).map(|(_, n)| n).sum()
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
            fn svc(&self, k: &SvcKey<$a>) -> Option<&Svc> {
                // As in `iface`.
                self.$m.svc.borrow().get(k).map(|svc| &*Box::leak(Box::new(*svc)))
            }
            fn slot(&self, i: u32) -> Option<u32> {
                self.slots.borrow().get(i as usize).copied()
            }
            fn backend(&self, id: u32) -> Option<Backend<$a>> {
                self.$m.backends.borrow().get(id as usize).copied()
            }
            fn line(&self, at: u32) -> Option<*mut IndexLine> {
                self.$m.index.get(at as usize).map(UnsafeCell::get)
            }
            #[expect(
                clippy::not_unsafe_ptr_arg_deref,
                reason = "a cell of a line, which the pipeline got here"
            )]
            fn swap(&self, cell: *mut u64, old: u64, new: u64) -> bool {
                // SAFETY: a word of a line, which nothing borrows.
                let cell = unsafe { &mut *cell };
                let held = *cell == old;
                if held {
                    *cell = new;
                }
                held
            }
            fn flow(&self, slot: u32) -> Option<*mut Flow<$a>> {
                self.$m.flows.get(slot as usize).map(UnsafeCell::get)
            }
            fn hop(&self, backend_id: u32) -> Option<*mut Hop> {
                self.$m.hops.get(backend_id as usize).map(UnsafeCell::get)
            }
            fn seen(&self, word: u32) -> u64 {
                self.seen.borrow().as_ref().map_or(u64::MAX, |words| words[word as usize])
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
            fn count(&self, hook: Hook, r: Reason) {
                self.last.set(r);
                *self.counts.borrow_mut().entry((hook as u8, r as u8)).or_default() += 1;
            }
        }
    };
}
tables!(V4, A4, Ipv4Addr, v4, flows4_len);
tables!(V6, A6, Ipv6Addr, v6, flows6_len);
tables!(V6Frag, A6, Ipv6Addr, v6, flows6_len);
