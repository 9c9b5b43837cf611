//! What is bounded: rejections by a token bucket, first fragments by time.

use lb_common::flow::{TIMEOUT_FRAG, ticks};
use lb_common::service::{SVC_HAS_ANY, SVC_KIND_NODE_PORT};
use lb_common::{Reason, Svc, SvcKey};
use lb_ebpf::family::V4;
use lb_ebpf::packet::Verdict;
use lb_ebpf::parse::flag::{ACK, SYN};
use lb_ebpf::reject::BURST;
use lb_ebpf::select::Role;
use sim::packet::Pkt;
use sim::short::*;
use sim::{Sim, route_out};
use std::net::SocketAddr;

fn world(local: &[u16]) -> (Sim, Vec<u32>) {
    let sim = Sim::new(1_024);
    let mut ids = Vec::new();
    for proto in [6, 17] {
        let of: Vec<u32> = local.iter().map(|n| sim.v4.add_backend(V4::addr(*n), 80, proto, true)).collect();
        let set = sim.set(&of);
        let flags = SVC_KIND_NODE_PORT | if of.is_empty() { 0 } else { SVC_HAS_ANY };
        let key = SvcKey { addr: V4::addr(1), port_be: 30080u16.to_be(), proto, pad: 0 };
        sim.v4.svc.borrow_mut().insert(key, Svc { id: 1, flags, sets: [set, set], ..Svc::default() });
        ids.extend(of);
    }
    (sim, ids)
}

fn send(sim: &Sim, proto: u8, sport: u16, flags: u8) -> (Verdict, Reason) {
    let packet = frame::<V4>(V4::addr(100), sport, V4::addr(1), 30080, proto, flags, b"");
    let (e, _) = ingress::<true>(sim, Role::Uplink, 2, route_out(9), &packet);
    (e.verdict, e.reason)
}

#[test]
fn rejections_beyond_the_burst_are_dropped_and_one_comes_back_each_tick() {
    let (sim, _) = world(&[]);
    for n in 0..BURST {
        let proto = if n % 2 == 0 { 6 } else { 17 };
        assert_eq!(send(&sim, proto, 1_000 + n as u16, SYN), (Verdict::Tx, Reason::ResetNoEndpoint));
    }
    assert_eq!(send(&sim, 6, 1, SYN), (Verdict::Drop, Reason::RejectLimited));
    sim.tick.set(sim.tick.get() + 1);
    assert_eq!(send(&sim, 17, 2, SYN), (Verdict::Tx, Reason::ResetNoEndpoint));
    assert_eq!(send(&sim, 17, 3, SYN), (Verdict::Drop, Reason::RejectLimited));
    sim.tick.set(sim.tick.get() + 10 * BURST);
    let sent = (0..2 * BURST).filter(|n| send(&sim, 6, *n as u16, SYN).0 == Verdict::Tx).count();
    assert_eq!(sent as u32, BURST, "a long silence is worth one burst, not more");
}

#[test]
fn the_end_of_a_carried_connection_is_always_told() {
    let (sim, ids) = world(&[200]);
    let count = BURST as u16 + 50;
    for sport in 0..count {
        assert_eq!(send(&sim, 6, 1_000 + sport, SYN).1, Reason::FwdLocal);
    }
    ids.iter().for_each(|id| sim.v4.remove_backend(*id));
    for sport in 0..count {
        assert_eq!(send(&sim, 6, 1_000 + sport, ACK), (Verdict::Tx, Reason::ResetGone));
    }
}

#[test]
fn a_first_fragment_is_remembered_for_a_while_and_for_its_datagram_alone() {
    let (sim, _) = world(&[200]);
    let client: SocketAddr = "172.31.0.100:4000".parse().expect("an address");
    let front: SocketAddr = "172.31.0.1:30080".parse().expect("an address");
    let parts = |id| {
        let whole = Pkt::udp([[2; 6], [4; 6]], client, front).data(vec![1; 100]);
        Pkt { id, ..whole }.fragments(48)
    };
    let go = |bytes: &[u8]| ingress::<false>(&sim, Role::Uplink, 2, route_out(9), bytes).0.reason;
    let (one, two) = (parts(1), parts(2));
    assert_eq!(go(&one[0]), Reason::FwdLocal);
    assert_eq!((go(&one[1]), go(&two[1])), (Reason::FwdLocal, Reason::FragmentUnknown));
    sim.tick.set(sim.tick.get() + TIMEOUT_FRAG);
    assert_eq!(go(&one[2]), Reason::FwdLocal);
    sim.tick.set(sim.tick.get() + ticks(2));
    assert_eq!(go(&one[2]), Reason::FragmentUnknown);
}
