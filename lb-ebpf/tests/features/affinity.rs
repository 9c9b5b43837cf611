//! Session affinity (spec A1–A7) as clients see it.

use lb_common::flow::ticks;
use lb_common::service::{SVC_HAS_ANY, SVC_KIND_CLUSTER_IP, SVC_KIND_NODE_PORT};
use lb_common::{Reason, SetRef, Svc, SvcKey};
use lb_ebpf::family::{V4, V6};
use lb_ebpf::parse::flag::SYN;
use lb_ebpf::select::Role;
use sim::short::*;
use sim::{Sim, route_out};

const TIMEOUT_S: u32 = 10;
const BACKENDS: u16 = 16;

struct World {
    sim: Sim,
    ids: Vec<u32>,
}

/// One service port with a ClusterIP and a NodePort, another one with a NodePort; the same backends.
fn world<F: TestFamily>() -> World {
    let sim = Sim::new(1_024);
    let ids: Vec<u32> =
        (0..BACKENDS).map(|n| F::maps(&sim).add_backend(F::addr(200 + n), 80, 6, true)).collect();
    let set = sim.set(&ids);
    let w = World { sim, ids };
    publish::<F>(&w, set);
    w
}

fn publish<F: TestFamily>(w: &World, set: SetRef) {
    for (id, addr, port, kind) in [
        (1, 9, 80, SVC_KIND_CLUSTER_IP),
        (1, 1, 30080, SVC_KIND_NODE_PORT),
        (2, 1, 30081, SVC_KIND_NODE_PORT),
    ] {
        let key = SvcKey { addr: F::addr(addr), port_be: u16::to_be(port), proto: 6, pad: 0 };
        let svc =
            Svc { id, flags: kind | SVC_HAS_ANY, affinity_s: TIMEOUT_S, sets: [set, set], ..Svc::default() };
        F::maps(&w.sim).svc.borrow_mut().insert(key, svc);
    }
}

/// A new connection's backend.
fn backend_of<F: TestFamily>(w: &World, client: u16, sport: u16, to: (u16, u16)) -> F::A {
    let syn = frame::<F>(F::addr(client), sport, F::addr(to.0), to.1, 6, SYN, b"");
    let (e, out) = ingress::<true>(&w.sim, Role::Uplink, 2, route_out(9), &syn);
    assert_eq!(e.reason, Reason::FwdLocal);
    tuple::<F, true>(&out).dst
}

const CLUSTER_IP: (u16, u16) = (9, 80);
const NODE_PORT: (u16, u16) = (1, 30080);
const OTHER_PORT: (u16, u16) = (1, 30081);

fn wait(w: &World, s: u32) {
    w.sim.tick.set(w.sim.tick.get() + ticks(u64::from(s) * 1_000));
}

fn a_client_keeps_its_backend_by_every_frontend_of_a_port<F: TestFamily>() {
    let w = world::<F>();
    let first = backend_of::<F>(&w, 100, 1, NODE_PORT);
    for sport in 2..40 {
        assert_eq!(
            backend_of::<F>(&w, 100, sport, if sport % 2 == 0 { CLUSTER_IP } else { NODE_PORT }),
            first
        );
    }
    assert_eq!(w.sim.counted(Reason::AffinityHit), 38);
    let clients = (0..32).map(|c| backend_of::<F>(&w, 300 + c, 1, NODE_PORT)).filter(|b| *b == first).count();
    assert!(clients < 16, "other clients choose for themselves");
    assert_eq!(w.sim.affinity.borrow().len(), 33);
    backend_of::<F>(&w, 100, 1, OTHER_PORT);
    assert_eq!(w.sim.affinity.borrow().len(), 34, "another port of the Service has an affinity of its own");
}

#[test]
fn a_client_keeps_its_backend() {
    a_client_keeps_its_backend_by_every_frontend_of_a_port::<V4>();
    a_client_keeps_its_backend_by_every_frontend_of_a_port::<V6>();
}

#[test]
fn the_timeout_slides_with_new_connections_and_ends() {
    let w = world::<V4>();
    let first = backend_of::<V4>(&w, 100, 1, NODE_PORT);
    for sport in 2..12 {
        wait(&w, TIMEOUT_S - 1);
        assert_eq!(backend_of::<V4>(&w, 100, sport, NODE_PORT), first);
    }
    let hits = w.sim.counted(Reason::AffinityHit);
    wait(&w, TIMEOUT_S + 1);
    backend_of::<V4>(&w, 100, 50, NODE_PORT);
    assert_eq!(w.sim.counted(Reason::AffinityHit), hits);
    // Packets of a connection are no new connections: they keep nothing alive (A2).
    let kept = *w.sim.affinity.borrow().values().next().expect("one");
    wait(&w, 5);
    backend_of::<V4>(&w, 100, 50, NODE_PORT);
    assert_eq!(*w.sim.affinity.borrow().values().next().expect("one"), kept);
}

#[test]
fn a_backend_that_left_the_set_or_died_is_not_kept() {
    let w = world::<V4>();
    let first = backend_of::<V4>(&w, 100, 1, NODE_PORT);
    let id_of = |addr| w.sim.v4.backends.borrow().iter().position(|b| b.addr == addr).expect("there") as u32;
    let old = id_of(first);
    let without: Vec<u32> = w.ids.iter().copied().filter(|id| *id != old).collect();
    let set = w.sim.set(&without);
    publish::<V4>(&w, set);
    let second = backend_of::<V4>(&w, 100, 2, NODE_PORT);
    assert_ne!(second, first, "it lives, but the policy chose another set (A7)");
    assert_eq!(backend_of::<V4>(&w, 100, 3, NODE_PORT), second, "the new one is kept");
    // Removed, and its id given to another address at once: the generation tells.
    let id = id_of(second) as usize;
    w.sim.v4.remove_backend(id as u32);
    let heir = V4::addr(900);
    {
        let mut backends = w.sim.v4.backends.borrow_mut();
        let generation = backends[id].generation;
        backends[id] = lb_common::Backend { addr: heir, generation, ..backends[without[0] as usize] };
    }
    let hits = w.sim.counted(Reason::AffinityHit);
    backend_of::<V4>(&w, 100, 4, NODE_PORT);
    assert_eq!(w.sim.counted(Reason::AffinityHit), hits);
}

#[test]
fn switching_it_off_and_on_needs_no_new_service() {
    let w = world::<V4>();
    let first = backend_of::<V4>(&w, 100, 1, NODE_PORT);
    w.sim.v4.svc.borrow_mut().values_mut().for_each(|s| s.affinity_s = 0);
    let others = (2..40).filter(|sport| backend_of::<V4>(&w, 100, *sport, NODE_PORT) != first).count();
    assert!(others > 19, "{others} of 38 chose freely");
    w.sim.v4.svc.borrow_mut().values_mut().for_each(|s| s.affinity_s = TIMEOUT_S);
    let kept = backend_of::<V4>(&w, 100, 50, NODE_PORT);
    assert_eq!(backend_of::<V4>(&w, 100, 51, NODE_PORT), kept);
}
