//! The road of a packet through the pure pipeline, for both families and both hooks.

#[path = "parts/orphans.rs"]
mod orphans;

use lb_common::service::{SVC_HAS_ANY, SVC_KIND_NODE_PORT};
use lb_common::*;
use lb_ebpf::family::{V4, V6};
use lb_ebpf::packet::Verdict;
use lb_ebpf::parse::flag::{ACK, FIN, RST, SYN};
use lb_ebpf::select::Role;
use sim::short::*;
use sim::{Sim, route_out, route_unresolved};

const UPLINK: u32 = 2;
const POD: u32 = 5;
const CLIENT: u16 = 100;
const NODE: u16 = 1;
const PORT: u16 = 30080;

struct World {
    sim: Sim,
    ids: Vec<u32>,
}

/// A NodePort with backends (last address number, on this node?) for TCP and UDP.
fn world<F: TestFamily>(backends: &[(u16, bool)], flows: usize) -> World {
    let sim = Sim::new(flows);
    let mut ids = vec![];
    for proto in [6u8, 17] {
        let of: Vec<u32> = backends
            .iter()
            .map(|(n, local)| F::maps(&sim).add_backend(F::addr(*n), 80, proto, *local))
            .collect();
        let set = sim.set(&of);
        let key = SvcKey { addr: F::addr(NODE), port_be: PORT.to_be(), proto, pad: 0 };
        let flags = SVC_KIND_NODE_PORT | if of.is_empty() { 0 } else { SVC_HAS_ANY };
        let svc = Svc { id: 1, flags, sets: [set, set], ..Svc::default() };
        F::maps(&sim).svc.borrow_mut().insert(key, svc);
        ids.extend(of);
    }
    World { sim, ids }
}

fn request<F: TestFamily>(proto: u8, sport: u16, flags: u8) -> Vec<u8> {
    frame::<F>(F::addr(CLIENT), sport, F::addr(NODE), PORT, proto, flags, b"hello")
}

fn remote_backend_is_masqueraded_and_the_reply_turned_around<F: TestFamily, const X: bool>(proto: u8) {
    let w = world::<F>(&[(200, false)], 64);
    let (e, out) =
        ingress::<X>(&w.sim, Role::Uplink, UPLINK, route_out(UPLINK), &request::<F>(proto, 4000, SYN));
    assert_eq!(e.reason, Reason::FwdRemote);
    assert_eq!(e.verdict, if X { Verdict::Tx } else { Verdict::Redirect });
    assert_sums::<F>(&out);
    let k = tuple::<F, X>(&out);
    assert_eq!((k.src, k.dst, k.dport_be), (F::addr(NODE), F::addr(200), 80u16.to_be()));
    assert_eq!(k.sport_be, 4000u16.to_be(), "the client's port is kept while it is free");

    let reply = frame::<F>(k.dst, 80, k.src, u16::from_be(k.sport_be), proto, SYN | ACK, b"world!");
    let (e, back) = ingress::<X>(&w.sim, Role::Uplink, UPLINK, route_out(UPLINK), &reply);
    assert_eq!(e.reason, Reason::ReplyRedirected);
    assert_sums::<F>(&back);
    let k = tuple::<F, X>(&back);
    assert_eq!((k.src, k.sport_be), (F::addr(NODE), PORT.to_be()));
    assert_eq!((k.dst, k.dport_be), (F::addr(CLIENT), 4000u16.to_be()));
}

#[test]
fn a_remote_backend_is_masqueraded_on_every_hook_and_family() {
    for proto in [6, 17] {
        remote_backend_is_masqueraded_and_the_reply_turned_around::<V4, true>(proto);
        remote_backend_is_masqueraded_and_the_reply_turned_around::<V4, false>(proto);
        remote_backend_is_masqueraded_and_the_reply_turned_around::<V6, true>(proto);
        remote_backend_is_masqueraded_and_the_reply_turned_around::<V6, false>(proto);
    }
}

fn local_backend_keeps_the_client<F: TestFamily>(proto: u8) {
    let w = world::<F>(&[(200, true)], 64);
    let (e, out) =
        ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<F>(proto, 4000, SYN));
    assert_eq!((e.verdict, e.reason), (Verdict::Pass, Reason::FwdLocal));
    assert_sums::<F>(&out);
    let k = tuple::<F, true>(&out);
    assert_eq!((k.src, k.sport_be, k.dst), (F::addr(CLIENT), 4000u16.to_be(), F::addr(200)));
    let reply = frame::<F>(F::addr(200), 80, F::addr(CLIENT), 4000, proto, SYN | ACK, b"x");
    let (e, same) = ingress::<false>(&w.sim, Role::Pod, POD, route_out(9), &reply);
    assert_eq!((e.verdict, &same), (Verdict::Pass, &reply), "translated only after netfilter has seen it");
    let (e, back) = egress(&w.sim, UPLINK, &reply);
    assert_eq!(e.reason, Reason::ReplyEgress);
    assert_sums::<F>(&back);
    assert_eq!(tuple::<F, true>(&back).src, F::addr(NODE));
}

#[test]
fn a_local_backend_sees_the_client_and_its_reply_is_translated_at_egress() {
    for proto in [6, 17] {
        local_backend_keeps_the_client::<V4>(proto);
        local_backend_keeps_the_client::<V6>(proto);
    }
}

#[test]
fn a_pod_that_reaches_itself_is_masqueraded_and_sent_back_both_ways() {
    let w = world::<V4>(&[(CLIENT, true)], 64);
    let (e, out) = ingress::<false>(&w.sim, Role::Pod, POD, route_out(9), &request::<V4>(6, 4000, SYN));
    assert_eq!((e.verdict, e.ifindex, e.reason), (Verdict::Redirect, POD, Reason::FwdHairpin));
    assert_sums::<V4>(&out);
    let k = tuple::<V4, false>(&out);
    assert_eq!((k.src, k.dst), (V4::addr(NODE), V4::addr(CLIENT)));
    let reply = frame::<V4>(k.dst, 80, k.src, u16::from_be(k.sport_be), 6, SYN | ACK, b"");
    let (e, back) = ingress::<false>(&w.sim, Role::Pod, POD, route_out(9), &reply);
    assert_eq!((e.ifindex, e.reason), (POD, Reason::ReplyRedirected));
    assert_eq!(tuple::<V4, false>(&back).src, V4::addr(NODE));
}

#[test]
fn what_xdp_cannot_finish_reaches_tc_unmodified() {
    let w = world::<V4>(&[(200, false)], 64);
    let syn = request::<V4>(6, 4000, SYN);
    for fib in [route_unresolved(UPLINK), route_out(77)] {
        let (e, out) = ingress::<true>(&w.sim, Role::Uplink, UPLINK, fib, &syn);
        assert_eq!((e.verdict, e.reason, &out), (Verdict::Pass, Reason::ToTc, &syn));
    }
    assert!(w.sim.v4.used_flows().is_empty(), "no state is made for a packet left to tc");
    let (e, _) = ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_unresolved(78), &syn);
    assert_eq!((e.verdict, e.ifindex), (Verdict::Redirect, 77), "tc uses the next hop that XDP looked up");
    let w = world::<V4>(&[(200, false)], 64);
    let (e, _) = ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_unresolved(77), &syn);
    assert_eq!((e.verdict, e.ifindex), (Verdict::RedirectNeigh, 77));
}

#[test]
fn a_removed_backend_resets_tcp_reselects_udp_and_reselects_on_syn() {
    let w = world::<V4>(&[(200, true), (201, true)], 64);
    let go = |proto, flags| {
        let (e, out) =
            ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<V4>(proto, 4000, flags));
        (e, out)
    };
    let (_, out) = go(6, SYN);
    let first = tuple::<V4, false>(&out).dst;
    let (_, out) = go(17, 0);
    let first_udp = tuple::<V4, false>(&out).dst;
    for id in &w.ids {
        let b = w.sim.v4.backends.borrow()[*id as usize];
        if (b.proto == 6 && b.addr == first) || (b.proto == 17 && b.addr == first_udp) {
            w.sim.v4.remove_backend(*id);
        }
    }
    let (e, rst) = go(6, ACK);
    assert_eq!(e.reason, Reason::ResetGone);
    assert_sums::<V4>(&rst);
    let k = tuple::<V4, false>(&rst);
    assert_eq!((k.src, k.sport_be, k.dst), (V4::addr(NODE), PORT.to_be(), V4::addr(CLIENT)));
    assert_eq!(rst[47] & (RST | SYN | ACK), RST);
    assert_eq!(rst[38..42], 2000u32.to_be_bytes(), "SEG.ACK of the segment it answers");
    let (e, out) = go(6, SYN);
    assert_eq!(e.reason, Reason::FwdLocal);
    assert_ne!(tuple::<V4, false>(&out).dst, first);
    let (e, out) = go(17, 0);
    assert_eq!(e.reason, Reason::FwdLocal);
    assert_ne!(tuple::<V4, false>(&out).dst, first_udp);
}

#[test]
fn a_retransmitted_syn_keeps_its_backend_and_a_closed_tuple_chooses_anew() {
    let n: Vec<(u16, bool)> = (200..232).map(|n| (n, true)).collect();
    let w = world::<V4>(&n, 256);
    let dst = |sport, flags| {
        let (_, out) =
            ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<V4>(6, sport, flags));
        tuple::<V4, false>(&out).dst
    };
    let mut moved = 0;
    for sport in 5000..5032 {
        let a = dst(sport, SYN);
        assert_eq!(dst(sport, SYN), a);
        assert_eq!(dst(sport, ACK), a);
        let fin = frame::<V4>(a, 80, V4::addr(CLIENT), sport, 6, FIN | ACK, b"");
        egress(&w.sim, UPLINK, &fin);
        assert_eq!(dst(sport, FIN | ACK), a);
        if dst(sport, SYN) != a {
            moved += 1;
        }
    }
    assert!(moved > 16, "{moved} of 32 chose another backend");
}

#[test]
fn losing_the_whole_table_in_mid_stream_leads_back_to_the_same_backend() {
    let w = world::<V6>(&[(200, false), (201, false), (202, false)], 64);
    let go = |flags| {
        let (_, out) =
            ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(UPLINK), &request::<V6>(6, 4000, flags));
        tuple::<V6, true>(&out)
    };
    let first = go(SYN);
    w.sim.v6.clear_index();
    assert_eq!(go(ACK), first);
}

#[test]
fn a_taken_port_is_replaced_and_never_from_the_nodeport_range() {
    let w = world::<V4>(&[(200, false)], 64);
    let port_of = |client: u16, sport: u16| {
        let f = frame::<V4>(V4::addr(client), sport, V4::addr(NODE), PORT, 17, 0, b"");
        let (e, out) = ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(UPLINK), &f);
        assert_eq!(e.reason, Reason::FwdRemote);
        u16::from_be(tuple::<V4, true>(&out).sport_be)
    };
    assert_eq!(port_of(100, 4000), 4000);
    let second = port_of(101, 4000);
    assert!((61_000..=65_000).contains(&second));
    assert!((61_000..=65_000).contains(&port_of(102, 31_000)));
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_live_ones() {
    let w = world::<V4>(&[(200, true)], 8);
    for sport in 1..=8 {
        let (e, _) =
            ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<V4>(6, sport, SYN));
        assert_eq!(e.reason, Reason::FwdLocal);
        let r = frame::<V4>(V4::addr(200), 80, V4::addr(CLIENT), sport, 6, SYN | ACK, b"");
        assert_eq!(egress(&w.sim, UPLINK, &r).0.reason, Reason::ReplyEgress);
    }
    let (e, _) = ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<V4>(6, 9, SYN));
    assert_eq!(e.reason, Reason::FlowTableFull);
    for sport in 1..=8 {
        let (e, _) =
            ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<V4>(6, sport, ACK));
        assert_eq!(e.reason, Reason::FwdLocal);
    }
    // Once they have closed, their records are reused, and both index entries go with each.
    for sport in 1..=8 {
        ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<V4>(6, sport, RST));
    }
    w.sim.tick.set(w.sim.tick.get() + lb_common::flow::ticks(5_000));
    let (e, _) = ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<V4>(6, 9, SYN));
    assert_eq!(e.reason, Reason::FwdLocal);
    assert_eq!(w.sim.v4.index_entries(), 16);
}

#[test]
fn every_truncation_of_a_valid_frame_passes_unmodified_and_reads_nothing_outside() {
    fn check<F: TestFamily>() {
        for proto in [6, 17] {
            let w = world::<F>(&[(200, true)], 64);
            let whole = request::<F>(proto, 4000, SYN);
            for n in 0..whole.len() {
                let (e, out) = ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(9), &whole[..n]);
                assert_eq!((e.verdict, &out[..]), (Verdict::Pass, &whole[..n]), "{n} bytes");
            }
            assert!(F::maps(&w.sim).used_flows().is_empty());
        }
    }
    check::<V4>();
    check::<V6>();
}

#[test]
fn foreign_and_odd_packets_pass_unmodified_each_with_its_reason() {
    let w = world::<V4>(&[(200, true)], 64);
    let base = request::<V4>(6, 4000, SYN);
    let edit = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut b = base.clone();
        f(&mut b);
        b
    };
    let cases: Vec<(Vec<u8>, Reason)> = vec![
        (edit(&|b| b[13] = 6), Reason::NotIp),
        (edit(&|b| b[14] = 0x46), Reason::IpOptions),
        (edit(&|b| b[14] = 0x44), Reason::Malformed),
        (edit(&|b| b[21] = 1), Reason::FragmentUnknown),
        (edit(&|b| b[23] = 1), Reason::NotL4),
        (edit(&|b| b[46] = 0x40), Reason::Malformed),
        (edit(&|b| b[47] = SYN | FIN), Reason::NotOurs),
        (edit(&|b| b[47] = 0), Reason::NotOurs),
        (edit(&|b| b[37] = 1), Reason::NotOurs),
    ];
    for (bytes, why) in cases {
        let (e, out) = ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(9), &bytes);
        assert_eq!((e.verdict, e.reason), (Verdict::Pass, why));
        assert_eq!(out, bytes);
    }
    let spoofed = edit(&|b| b[26] = 127);
    assert_eq!(
        ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(9), &spoofed).0.reason,
        Reason::BadSource
    );
    assert!(w.sim.v4.used_flows().is_empty());
}

#[test]
fn an_empty_service_resets_tcp_and_answers_udp_with_port_unreachable() {
    let w = world::<V6>(&[], 64);
    let (e, rst) = ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<V6>(6, 4000, SYN));
    assert_eq!((e.verdict, e.reason), (Verdict::Tx, Reason::ResetNoEndpoint));
    assert_sums::<V6>(&rst);
    assert_eq!(rst[67] & (RST | ACK), RST | ACK);
    let asked = request::<V6>(17, 4000, 0);
    let (e, icmp) = ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(9), &asked);
    assert_eq!((e.verdict, e.reason), (Verdict::Tx, Reason::ResetNoEndpoint));
    assert_sums::<V6>(&icmp);
    assert_eq!((icmp.len(), icmp[20], icmp[54], icmp[55]), (14 + 40 + 8 + 48, 58, 1, 4));
    assert_eq!(icmp[62..], asked[14..62], "the packet is quoted as it came");
}

#[test]
fn a_frame_that_xdp_cannot_lengthen_is_refused_by_tc() {
    let w = world::<V6>(&[], 64);
    w.sim.tailroom.set(0);
    let asked = request::<V6>(17, 4000, 0);
    let (e, out) = ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(9), &asked);
    assert_eq!((e.verdict, e.reason), (Verdict::Pass, Reason::ToTc));
    assert_eq!(out, asked, "as it came");
    let (e, icmp) = ingress::<false>(&w.sim, Role::Uplink, UPLINK, route_out(9), &out);
    assert_eq!((e.verdict, e.reason), (Verdict::Redirect, Reason::ResetNoEndpoint));
    assert_sums::<V6>(&icmp);
}

#[test]
fn new_flows_spread_evenly_over_the_backends() {
    let n: Vec<(u16, bool)> = (200..204).map(|n| (n, true)).collect();
    let w = world::<V4>(&n, 16_384);
    let mut hits = std::collections::HashMap::<A4, f64>::new();
    for sport in 10_000..18_000u16 {
        let (_, out) =
            ingress::<true>(&w.sim, Role::Uplink, UPLINK, route_out(9), &request::<V4>(17, sport, 0));
        *hits.entry(tuple::<V4, true>(&out).dst).or_default() += 1.0;
    }
    let chi2: f64 = hits.values().map(|h| (h - 2000.0) * (h - 2000.0) / 2000.0).sum();
    assert!(hits.len() == 4 && chi2 < 16.3, "chi square {chi2} over sequential source ports (p < 0.001)");
}
