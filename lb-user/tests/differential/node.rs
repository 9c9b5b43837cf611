//! The node under test: the agent's pipeline on `FakeTables`, the host's datapath on the same maps, and the stack's
//! part of a connection's way there and back.

use crate::oracle::{destination, is_here, is_own, local_networks, service_networks, source};
use crate::world::{Client, Connection, Detect, Options, ip, net};
use crate::{UNKNOWN_POD, number};
use ipnet::IpNet;
use lb_common::config::{
    CONFIG_DETECTS_LOCAL, CONFIG_LOCAL_BY_CIDR, CONFIG_MASQUERADE_ALL, CONFIG_MASQUERADE_EXTERNAL,
    CONFIG_SOCKETS_OF_PODS, Cidr, IFACE_LOCAL_PODS, IFACE_POD, IFACE_UPLINK,
};
use lb_common::flow::{TICK_NS, ticks};
use lb_common::{A4, A6, Backend, Iface, Reason};
use lb_ebpf::family::{V4, V6};
use lb_ebpf::packet::{End, FIB_SUCCESS, Fib, Verdict};
use lb_ebpf::pipeline::Side;
use lb_ebpf::select::Role;
use lb_ebpf::sock::{Request, frontend_of, towards_backend};
use lb_user::apply::Syncer;
use lb_user::compile::CompileOptions;
use lb_user::model::{NodeView, World};
use lb_user::tables::fake::FakeTables;
use lb_user::tables::{BackendEntry, Dump, FrontendKey, Limits};
use sim::fixtures::site::words;
use sim::packet::{Pkt, flag};
use sim::{FakeFib, Sim, route_local, run_at};
use std::net::{IpAddr, SocketAddr};

const LIMITS: Limits = Limits { services: 256, backends: 256, slots: 2048, ranges: 256 };
const FLOWS: usize = 512;
const UPLINK: u32 = 2;
/// Interface of local pod n.
const POD: u32 = 10;
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const HOST_NETNS: [u32; 2] = [77, 0];

/// How a connection's first packet ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    Untouched,
    Refused,
    Dropped,
    Served {
        to: (IpAddr, u16),
        src: SocketAddr,
        masqueraded: bool,
    },
    /// Something that no rule asks for.
    Strange(String),
}

pub struct Node {
    options: Options,
    syncer: Syncer,
    tables: FakeTables,
    sim: Sim,
    fib: FakeFib,
}

fn view(options: Options) -> NodeView {
    let of = |hosts: &[u8]| -> Vec<IpAddr> {
        [false, true].iter().flat_map(|v6| hosts.iter().map(|h| ip(*v6, net::NODE, *h))).collect()
    };
    NodeView {
        name: "n1".to_string(),
        node_port_addresses: of(if options.both_addresses { &[1, 2] } else { &[1] }),
        main_addresses: of(&[1]),
        local_addresses: of(&[1, 2]),
        zone: Some("a".to_string()),
    }
}

impl Node {
    pub fn new(options: Options) -> Node {
        let external_ip_cidrs =
            ["10.51.0.0/30", "fd00:33::/126"].map(|t| t.parse().expect("network")).to_vec();
        Node {
            options,
            syncer: Syncer::new(CompileOptions { external_ip_cidrs }),
            tables: FakeTables::new(LIMITS),
            sim: settings(options),
            fib: routes(),
        }
    }

    /// The agent sees a cluster.
    pub fn sync(&mut self, world: &World) {
        let report = self.syncer.sync(world, &view(self.options), &mut self.tables, 1);
        assert_eq!((report.error, report.retry_after), (None, None));
        load(&self.sim, &self.tables.peek());
        self.sim.see_all();
    }

    /// Seconds to the datapath's clock.
    pub fn set_now(&self, now_s: u32) {
        self.sim.tick.set(ticks(u64::from(now_s) * 1_000) + 1_000_000_000 / TICK_NS as u32);
        // Refusals are not rate limited here: that has a test of its own.
        self.sim.limit.set(lb_common::Bucket::default());
    }

    /// A connection's first packet, at the hook that meets it.
    pub fn send(&self, c: &Connection, sport: u16) -> Sent {
        let src = SocketAddr::new(source(c).expect("it has an address"), sport);
        let front = SocketAddr::new(destination(c), c.port);
        let packet = Pkt::of(number(c.proto), MACS, src, front, flag::SYN);
        let (side, ifindex) = match c.client {
            Client::Outside(_) | Client::RemotePod(_) => (Side::In(Role::Uplink), UPLINK),
            Client::Pod(h) => (Side::In(Role::Pod), POD + u32::from(h)),
            _ => (Side::UplinkOut, UPLINK),
        };
        let xdp = c.xdp && side == Side::In(Role::Uplink);
        let (end, out) = self.run(xdp, side, ifindex, &packet.bytes());
        self.classify(&packet, end, &out)
    }

    /// XDP leaves to tc what it cannot finish, as it came.
    fn run(&self, xdp: bool, side: Side, ifindex: u32, bytes: &[u8]) -> (End, Vec<u8>) {
        let done = run_at(&self.sim, xdp, side, ifindex, &self.fib, bytes);
        if xdp && done.0.reason == Reason::ToTc {
            assert_eq!(done.1, bytes);
            return run_at(&self.sim, false, side, ifindex, &self.fib, bytes);
        }
        done
    }

    fn classify(&self, packet: &Pkt, end: End, out: &[u8]) -> Sent {
        let strange = |why: &str| Sent::Strange(format!("{why}: {end:?}"));
        match end.reason {
            Reason::NotOurs if end.verdict == Verdict::Pass && *out == packet.bytes() => Sent::Untouched,
            Reason::DropNoLocalEndpoint | Reason::DropSourceRange | Reason::DropUnallocated
                if end.verdict == Verdict::Drop =>
            {
                Sent::Dropped
            }
            Reason::ResetNoEndpoint | Reason::RejectUndefinedPort => {
                match out == refusal(packet) && !matches!(end.verdict, Verdict::Drop | Verdict::Pass) {
                    true => Sent::Refused,
                    false => strange("a wrong answer"),
                }
            }
            Reason::FwdLocal
            | Reason::FwdRemote
            | Reason::FwdRouted
            | Reason::FwdHairpin
            | Reason::FwdLate
            | Reason::FwdMasqueraded => match ends(out) {
                Some((src, dst)) if sim::packet::sums_are_right(out) => {
                    let own = src.ip() == ip(src.is_ipv6(), net::NODE, 1);
                    let masqueraded = src.ip() != packet.src.ip();
                    if masqueraded && !own || src.port() != packet.src.port() {
                        return strange("a wrong source");
                    }
                    if !arrives(end, dst.ip(), masqueraded) {
                        return strange("sent to the wrong place");
                    }
                    Sent::Served { to: (dst.ip(), dst.port()), src, masqueraded }
                }
                _ => strange("a broken packet"),
            },
            _ => strange("a wrong end"),
        }
    }

    /// The backend answers: the client must see the frontend, by whatever way the answer goes.
    pub fn answer(&self, c: &Connection, sent: &Sent) -> Result<(), String> {
        let Sent::Served { to, src, masqueraded } = sent else { return Ok(()) };
        let (front, back) = (SocketAddr::new(destination(c), c.port), SocketAddr::new(to.0, to.1));
        let client = match source(c) {
            Some(address) => SocketAddr::new(address, src.port()),
            // Sockets see the frontend by `frontend_of`, which `connect` has asked already.
            None => return Ok(()),
        };
        let reply = Pkt::of(number(c.proto), MACS, back, *src, flag::SYN | flag::ACK);
        let from_pod = is_here(to.0) && !is_own(to.0);
        let comes_in = match from_pod {
            true => (Side::In(Role::Pod), POD + u32::from(last_byte(to.0))),
            false => (Side::In(Role::Uplink), UPLINK),
        };
        let late = matches!(c.client, Client::Node(_) | Client::NewPod(_));
        let (side, ifindex) = match c.client {
            _ if late && is_own(to.0) => return Ok(()),
            _ if late || *masqueraded => comes_in,
            Client::Pod(h) => (Side::PodOut, POD + u32::from(h)),
            _ => (Side::UplinkOut, UPLINK),
        };
        let (end, out) = self.run(false, side, ifindex, &reply.bytes());
        let wanted = match (late, *masqueraded) {
            (true, _) => Reason::ReplyUp,
            (false, true) => Reason::ReplyRedirected,
            (false, false) => Reason::ReplyEgress,
        };
        if end.reason != wanted {
            return Err(format!("ended as {end:?}, not as {wanted:?}"));
        }
        match ends(&out) {
            Some(seen) if seen == (front, client) && sim::packet::sums_are_right(&out) => Ok(()),
            seen => Err(format!("is seen as {seen:?}")),
        }
    }

    /// A process connects.
    pub fn connect(&self, c: &Connection, sport: u16) -> Sent {
        let netns = match c.client {
            Client::PodSocket(h) => [100 + u32::from(h), 0],
            _ => HOST_NETNS,
        };
        let (cookie, proto, front) = ([u32::from(sport), 0], number(c.proto), destination(c));
        macro_rules! ask {
            ($family:ty, $addr:expr) => {{
                let asked = Request { addr: $addr, port_be: c.port.to_be(), proto, cookie, netns };
                match towards_backend::<$family, _>(&self.sim, &asked, c.xdp) {
                    Ok(to) => {
                        let peer = Request { addr: to.addr, port_be: to.port_be, ..asked };
                        let shown = frontend_of::<$family, _>(&self.sim, &peer);
                        if shown.is_ok_and(|f| f.addr == asked.addr && f.port_be == asked.port_be) {
                            served(to.addr.into(), u16::from_be(to.port_be), front)
                        } else {
                            Sent::Strange(format!("the peer is shown as {shown:?}"))
                        }
                    }
                    Err(
                        Reason::SockNotOurs
                        | Reason::SockForeign
                        | Reason::ResetNoEndpoint
                        | Reason::DropNoLocalEndpoint,
                    ) => Sent::Untouched,
                    Err(r) => Sent::Strange(format!("{r:?}")),
                }
            }};
        }
        match front {
            IpAddr::V4(a) => ask!(V4, A4::from(a)),
            IpAddr::V6(a) => ask!(V6, A6::from(a)),
        }
    }
}

fn served(to: Ip, port: u16, front: IpAddr) -> Sent {
    Sent::Served { to: (to.0, port), src: SocketAddr::new(front, 0), masqueraded: false }
}

/// An address out of the maps.
struct Ip(IpAddr);
impl From<A4> for Ip {
    fn from(a: A4) -> Ip {
        Ip(std::net::Ipv4Addr::from(a).into())
    }
}
impl From<A6> for Ip {
    fn from(a: A6) -> Ip {
        Ip(std::net::Ipv6Addr::from(a).into())
    }
}

fn last_byte(a: IpAddr) -> u8 {
    match a {
        IpAddr::V4(a) => a.octets()[3],
        IpAddr::V6(a) => a.octets()[15],
    }
}

/// Both ends of a TCP or UDP frame.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
    match word(12)? {
        0x0800 => Some((SocketAddr::new(v4(26)?, word(34)?), SocketAddr::new(v4(30)?, word(36)?))),
        _ => Some((SocketAddr::new(v6(22)?, word(54)?), SocketAddr::new(v6(38)?, word(56)?))),
    }
}

/// Does the verdict lead to where the backend is?
fn arrives(end: End, backend: IpAddr, masqueraded: bool) -> bool {
    let pod = POD + u32::from(last_byte(backend));
    match end.reason {
        // Up the stack, which routes it. A hand-made slice may not tell that the pod is here.
        Reason::FwdLocal => end.verdict == Verdict::Pass && is_here(backend) && !masqueraded,
        Reason::FwdRouted => end.verdict == Verdict::Pass && !masqueraded,
        Reason::FwdLate if is_own(backend) => end.verdict == Verdict::RedirectIngress,
        _ if is_here(backend) => end.ifindex == pod && !is_own(backend),
        _ => end.ifindex == UPLINK || end.verdict == Verdict::Tx,
    }
}

/// The answer to a packet that is refused, where it came from.
fn refusal(packet: &Pkt) -> Vec<u8> {
    use sim::packet::Body;
    let [dst, src] = packet.macs;
    match packet.body {
        Body::Tcp { seq, .. } => {
            let body = Body::Tcp { flags: flag::RST | flag::ACK, seq: 0, ack: seq + 1, window: 0 };
            let reset = Pkt { body, macs: [src, dst], data: Vec::new(), ..packet.clone() };
            reset.between(packet.dst, packet.src).bytes()
        }
        _ => Pkt::unreachable([src, dst], packet.dst.ip(), packet.src.ip(), packet).bytes(),
    }
}

/// The node's settings and interfaces.
fn settings(options: Options) -> Sim {
    let mut sim = Sim::new(FLOWS);
    let node = |v6| ip(v6, net::NODE, 1);
    let (IpAddr::V4(node4), IpAddr::V6(node6)) = (node(false), node(true)) else { panic!("families") };
    let c = &mut sim.config;
    (c.node4, c.node6, c.host_netns) = (node4.into(), node6.into(), HOST_NETNS);
    let flags = [
        (options.detect != Detect::Nothing, CONFIG_DETECTS_LOCAL),
        (matches!(options.detect, Detect::NodeCidr | Detect::ClusterCidr), CONFIG_LOCAL_BY_CIDR),
        (options.masquerade_all, CONFIG_MASQUERADE_ALL),
        (options.masquerade_external, CONFIG_MASQUERADE_EXTERNAL),
        (options.sockets_of_pods, CONFIG_SOCKETS_OF_PODS),
    ];
    c.flags = flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum();
    for (place, network) in [(0, service_networks()), (1, local_networks(options.detect))] {
        for n in network {
            match n {
                IpNet::V4(n) => {
                    let cidr = Cidr { base: A4::from(n.network()), mask: A4::from(n.netmask()) };
                    *(if place == 0 { &mut c.service_cidrs4[0] } else { &mut c.local_cidr4 }) = cidr;
                }
                IpNet::V6(n) => {
                    let cidr = Cidr { base: A6::from(n.network()), mask: A6::from(n.netmask()) };
                    *(if place == 0 { &mut c.service_cidrs6[0] } else { &mut c.local_cidr6 }) = cidr;
                }
            }
        }
    }
    let mut ifaces = sim.ifaces.borrow_mut();
    let uplink = Iface { role: IFACE_UPLINK, addr4: node4.into(), addr6: node6.into(), ..Iface::default() };
    ifaces.insert(UPLINK, uplink);
    for h in 1..=3u8 {
        let known = options.detect == Detect::Interface && h != UNKNOWN_POD;
        let flags = if known { IFACE_LOCAL_PODS } else { 0 };
        ifaces.insert(POD + u32::from(h), Iface { role: IFACE_POD, flags, ..Iface::default() });
    }
    drop(ifaces);
    sim
}

/// Pods behind their interfaces, this node's addresses here, all else behind the uplink.
fn routes() -> FakeFib {
    let to = |ifindex| Fib { status: FIB_SUCCESS, ifindex, macs: [1, 2, 3], mtu: 1500 };
    let mut fib = FakeFib::from(to(UPLINK));
    for v6 in [false, true] {
        for h in 1..=3 {
            fib.routes.insert(words(ip(v6, net::LOCAL, h)), to(POD + u32::from(h)));
        }
        for h in 1..=2 {
            fib.routes.insert(words(ip(v6, net::NODE, h)), route_local());
        }
    }
    fib
}

/// Copies the agent's maps into the datapath's.
fn load(sim: &Sim, dump: &Dump) {
    sim.v4.svc.borrow_mut().clear();
    sim.v6.svc.borrow_mut().clear();
    for (key, svc) in &dump.frontends {
        match key {
            FrontendKey::V4(k) => drop(sim.v4.svc.borrow_mut().insert(*k, *svc)),
            FrontendKey::V6(k) => drop(sim.v6.svc.borrow_mut().insert(*k, *svc)),
        }
    }
    *sim.v4.backends.borrow_mut() = vec![Backend::default(); LIMITS.backends as usize];
    *sim.v6.backends.borrow_mut() = vec![Backend::default(); LIMITS.backends as usize];
    for (id, entry) in &dump.backends {
        match entry {
            BackendEntry::V4(b) => sim.v4.backends.borrow_mut()[*id as usize] = *b,
            BackendEntry::V6(b) => sim.v6.backends.borrow_mut()[*id as usize] = *b,
        }
    }
    *sim.slots.borrow_mut() = dump.slots.clone();
    *sim.ranges.borrow_mut() = dump.ranges.clone();
}
