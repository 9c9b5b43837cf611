//! Flows of removed backends do not fill the table.

use lb_common::flow::ticks;
use lb_common::service::{SVC_HAS_ANY, SVC_KIND_NODE_PORT};
use lb_common::{Reason, Svc, SvcKey};
use lb_ebpf::family::V4;
use lb_ebpf::parse::flag::{ACK, SYN};
use lb_ebpf::select::Role;
use sim::short::*;
use sim::{Sim, route_out};

fn answered_flow(s: &Sim, sport: u16) -> Reason {
    let syn = frame::<V4>(V4::addr(100), sport, V4::addr(1), 30080, 6, SYN, b"");
    let (e, out) = ingress::<true>(s, Role::Uplink, 2, route_out(2), &syn);
    if e.reason == Reason::FwdLocal {
        let k = tuple::<V4, true>(&out);
        let reply = frame::<V4>(k.dst, 80, k.src, u16::from_be(k.sport_be), 6, SYN | ACK, b"");
        assert_eq!(egress(s, 2, &reply).0.reason, Reason::ReplyEgress);
    }
    e.reason
}

fn with_backends(flows: usize) -> (Sim, u32) {
    let s = Sim::new(flows);
    let old = s.v4.add_backend(V4::addr(200), 80, 6, true);
    let set = s.set(&[old]);
    let svc = Svc { id: 1, flags: SVC_KIND_NODE_PORT | SVC_HAS_ANY, sets: [set, set], ..Svc::default() };
    let key = SvcKey { addr: V4::addr(1), port_be: 30080u16.to_be(), proto: 6, pad: 0 };
    s.v4.svc.borrow_mut().insert(key, svc);
    (s, old)
}

/// Points the service at a fresh backend and removes the old one.
fn roll(s: &Sim, old: u32) {
    let new = s.v4.add_backend(V4::addr(201), 80, 6, true);
    let set = s.set(&[new]);
    s.v4.svc.borrow_mut().values_mut().for_each(|v| v.sets = [set, set]);
    s.v4.remove_backend(old);
}

#[test]
fn a_table_full_of_a_removed_backends_flows_takes_new_ones() {
    let (s, old) = with_backends(8);
    assert!((1..=8).all(|p| answered_flow(&s, p) == Reason::FwdLocal));
    assert_eq!(answered_flow(&s, 9), Reason::FlowTableFull);
    roll(&s, old);
    s.tick.set(s.tick.get() + ticks(2_000));
    assert_eq!(answered_flow(&s, 10), Reason::FwdLocal);
}

#[test]
fn the_sweep_frees_a_removed_backends_flows_and_leaves_the_others() {
    let (s, old) = with_backends(64);
    assert!((1..=8).all(|p| answered_flow(&s, p) == Reason::FwdLocal));
    roll(&s, old);
    assert!((11..=13).all(|p| answered_flow(&s, p) == Reason::FwdLocal));
    assert_eq!(lb_ebpf::flow::sweep::<V4, _>(&s, 0, 64), 0, "not before packets had time to be answered");
    s.tick.set(s.tick.get() + ticks(60_000));
    assert_eq!(lb_ebpf::flow::sweep::<V4, _>(&s, 0, 64), 8);
    assert_eq!((s.v4.used_flows().len(), s.v4.index_entries()), (3, 6));
}
