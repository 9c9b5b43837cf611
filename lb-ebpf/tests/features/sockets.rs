//! Translation at the socket: who is served, what is remembered, what is shown.

use lb_common::config::CONFIG_SOCKETS_OF_PODS;
use lb_common::service::{SVC_HAS_ANY, SVC_KIND_CLUSTER_IP, SVC_KIND_LOAD_BALANCER, SVC_POLICY_LOCAL};
use lb_common::{Reason, Svc, SvcKey};
use lb_ebpf::family::{V4, V6};
use lb_ebpf::sock::{Instead, Request, frontend_of, towards_backend};
use lb_ebpf::tables::Tables;
use sim::Sim;
use sim::short::TestFamily;

const HOST: [u32; 2] = [1, 7];
const POD: [u32; 2] = [2, 7];
const FRONT: u16 = 9;
const BACKENDS: u16 = 8;

/// A ClusterIP with eight backends, for both protocols.
fn world<F: TestFamily>(affinity_s: u32) -> Sim {
    let mut sim = Sim::new(8);
    sim.config.host_netns = HOST;
    for proto in [6, 17] {
        let ids: Vec<u32> =
            (0..BACKENDS).map(|n| F::maps(&sim).add_backend(F::addr(200 + n), 8080, proto, n == 0)).collect();
        let (all, local) = (sim.set(&ids), sim.set(&ids[..1]));
        let flags = SVC_KIND_CLUSTER_IP | SVC_HAS_ANY;
        publish::<F>(&sim, proto, Svc { id: 1, flags, affinity_s, sets: [all, local], ..Svc::default() });
    }
    sim
}

fn publish<F: TestFamily>(sim: &Sim, proto: u8, svc: Svc) {
    let key = SvcKey { addr: F::addr(FRONT), port_be: 80u16.to_be(), proto, pad: 0 };
    F::maps(sim).svc.borrow_mut().insert(key, svc);
}

fn change(sim: &Sim, change: impl Fn(&mut Svc)) {
    sim.v4.svc.borrow_mut().values_mut().for_each(change);
}

fn request<F: TestFamily>(proto: u8, cookie: u32, netns: [u32; 2]) -> Request<F::A> {
    Request { addr: F::addr(FRONT), port_be: 80u16.to_be(), proto, cookie: [cookie, 1], netns }
}

fn the_node_is_served_and_sees_the_frontend<F: TestFamily>(proto: u8)
where
    Sim: Tables<F>,
{
    let sim = world::<F>(0);
    let mut seen = std::collections::BTreeSet::new();
    for cookie in 0..64 {
        let r = request::<F>(proto, cookie, HOST);
        let to = towards_backend::<F, _>(&sim, &r, false).expect("served");
        assert_eq!(to.port_be, 8080u16.to_be());
        seen.insert(to.addr);
        let peer = Request { addr: to.addr, port_be: to.port_be, ..r };
        let shown = frontend_of::<F, _>(&sim, &peer);
        assert_eq!(shown, Ok(Instead { addr: F::addr(FRONT), port_be: 80u16.to_be() }));
        let stranger = Request { cookie: [cookie, 2], ..peer };
        assert_eq!(frontend_of::<F, _>(&sim, &stranger), Err(Reason::SockNotOurs));
    }
    assert_eq!(seen.len(), usize::from(BACKENDS), "all backends are used");
    let elsewhere = Request { port_be: 81u16.to_be(), ..request::<F>(proto, 1, HOST) };
    assert_eq!(towards_backend::<F, _>(&sim, &elsewhere, false), Err(Reason::SockNotOurs));
}

#[test]
fn the_nodes_processes_are_served() {
    for proto in [6, 17] {
        the_node_is_served_and_sees_the_frontend::<V4>(proto);
        the_node_is_served_and_sees_the_frontend::<V6>(proto);
    }
}

#[test]
fn pods_are_served_by_option_and_nobody_before_the_first_sync() {
    let mut sim = world::<V4>(0);
    let r = request::<V4>(6, 1, POD);
    assert_eq!(towards_backend::<V4, _>(&sim, &r, false), Err(Reason::SockForeign));
    sim.config.flags = CONFIG_SOCKETS_OF_PODS;
    assert!(towards_backend::<V4, _>(&sim, &r, false).is_ok());
    sim.config.ready = 0;
    assert_eq!(towards_backend::<V4, _>(&sim, &r, false), Err(Reason::NotReady));
}

#[test]
fn a_datagram_socket_keeps_its_backend_while_that_serves() {
    let sim = world::<V4>(0);
    let go = || towards_backend::<V4, _>(&sim, &request::<V4>(17, 5, HOST), true).expect("served").addr;
    let first = go();
    assert!((0..10).all(|_| go() == first));
    assert_eq!(sim.socks.borrow().len(), 2, "one entry each way, written once");
    let id = sim.v4.backends.borrow().iter().position(|b| b.addr == first && b.proto == 17).expect("there");
    // Ready no more, but live: UDP leaves it (C1).
    sim.v4.backends.borrow_mut()[id].flags &= !lb_common::backend::BACKEND_SERVING;
    let second = go();
    assert_ne!(second, first);
    assert!((0..10).all(|_| go() == second));
}

#[test]
fn what_the_packet_path_would_refuse_is_left_to_it() {
    let mut sim = world::<V4>(0);
    let go = |sim: &Sim, netns| towards_backend::<V4, _>(sim, &request::<V4>(6, 1, netns), false);
    change(&sim, |s| s.sets = Default::default());
    assert_eq!(go(&sim, HOST), Err(Reason::ResetNoEndpoint));
    change(&sim, |s| s.flags |= SVC_POLICY_LOCAL);
    assert_eq!(go(&sim, HOST), Err(Reason::DropNoLocalEndpoint));
    // Source ranges: the node by its address; a pod has none yet.
    let sets = world::<V4>(0).v4.svc.borrow().values().next().expect("one").sets;
    change(&sim, |s| {
        (s.flags, s.sets, s.ranges_id) = (SVC_KIND_LOAD_BALANCER | SVC_HAS_ANY, sets, 3);
    });
    sim.config.flags = CONFIG_SOCKETS_OF_PODS;
    assert_eq!(go(&sim, HOST), Err(Reason::SockNotOurs));
    sim.ranges.borrow_mut().push((3, "172.31.0.1/32".parse().expect("a network")));
    assert!(go(&sim, HOST).is_ok());
    assert_eq!(go(&sim, POD), Err(Reason::SockNotOurs));
}

#[test]
fn policy_local_serves_the_node_from_all_by_external_frontends_and_from_its_own_by_cluster_ip() {
    let sim = world::<V4>(0);
    let used = |sim: &Sim| -> std::collections::BTreeSet<_> {
        let go = |cookie| towards_backend::<V4, _>(sim, &request::<V4>(6, cookie, HOST), false);
        (0..64).map(|cookie| go(cookie).expect("served").addr).collect()
    };
    change(&sim, |s| s.flags |= SVC_POLICY_LOCAL);
    assert_eq!(used(&sim), [V4::addr(200)].into());
    change(&sim, |s| s.flags = SVC_KIND_LOAD_BALANCER | SVC_POLICY_LOCAL | SVC_HAS_ANY);
    assert_eq!(used(&sim).len(), usize::from(BACKENDS));
}

#[test]
fn affinity_at_the_socket_is_that_of_the_network_namespace() {
    let mut sim = world::<V4>(100);
    sim.config.flags = CONFIG_SOCKETS_OF_PODS;
    let go = |cookie, netns| {
        towards_backend::<V4, _>(&sim, &request::<V4>(6, cookie, netns), false).expect("served").addr
    };
    let first = go(1, HOST);
    assert!((2..30).all(|cookie| go(cookie, HOST) == first));
    let others = (0..30).filter(|n| go(100 + n, [50 + n, 7]) != first).count();
    assert!(others > 15, "other namespaces choose for themselves");
    assert_eq!(sim.affinity.borrow().len(), 31);
}
