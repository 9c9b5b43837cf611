//! The differential test: random clusters and connections through `compile`, `diff`, `apply` and the host build of the
//! datapath, against a naive reading of spec §1.10 (`oracle`).
//!
//! Each case is two clusters, one after the other on the same maps (policies flip, endpoints come and go, affinity
//! stays), with connections to both. A connection is followed there and back: the reply must leave as the frontend's.
//! Failures are shrunk, and their seeds kept in `regressions.txt`, which is replayed first.
//!
//! Selection is by hash: any member of the right set is right. How even it is, `lb-ebpf/tests/road.rs` tests.

mod node;
mod oracle;
mod world;

use lb_user::model::{Proto, World};
use node::{Node, Sent};
use oracle::{Oracle, PortId, Want};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use std::cell::Cell;
use std::collections::BTreeMap;
use world::{Client, Connection, Options, To};

/// This pod's interface is one of which nobody says that it has local pods behind it.
const UNKNOWN_POD: u8 = 3;
/// Clusters of which each has about forty connections.
const CASES: u32 = 1_350;
/// Connections at least.
const CONNECTIONS: u64 = 100_000;

#[derive(Clone, Debug)]
struct Case {
    options: Options,
    phases: Vec<(World, Vec<Connection>)>,
}

fn case() -> impl Strategy<Value = Case> {
    let connections = || prop::collection::vec(world::connection(), 1..80);
    (world::options(), world::worlds(), connections(), connections())
        .prop_map(|(options, (a, b), c, d)| Case { options, phases: vec![(a, c), (b, d)] })
}

fn check(case: &Case, seen: &Cell<u64>) -> Result<(), TestCaseError> {
    let mut node = Node::new(case.options);
    let mut affinity = BTreeMap::new();
    let (mut now_s, mut sport) = (10, 1_000);
    let mut last: Option<(Connection, PortId)> = None;
    for (world, connections) in &case.phases {
        node.sync(world);
        for c in connections {
            now_s += c.after_s;
            sport += 1;
            node.set_now(now_s);
            let mut oracle = Oracle { world, options: case.options, affinity: &mut affinity };
            let c = repeated(&oracle, last.as_ref(), c);
            if let Want::Serve { port, .. } = connect(&mut node, &mut oracle, &c, sport, now_s)? {
                last = Some((c, port));
            }
            seen.set(seen.get() + 1);
        }
    }
    Ok(())
}

/// What becomes of a connection that is to repeat the last one by another frontend.
fn repeated(oracle: &Oracle<'_>, last: Option<&(Connection, PortId)>, c: &Connection) -> Connection {
    let (Some(n), Some((last, port))) = (c.again, last) else { return *c };
    let places = oracle.places(port);
    match places.get(usize::from(n) % places.len().max(1)) {
        Some((address, port)) => {
            Connection { to: To::Exactly(*address), port: *port, after_s: c.after_s, ..*last }
        }
        None => *c,
    }
}

/// Whose affinity it is: an address, or a network namespace.
fn client_name(c: &Connection) -> String {
    match (oracle::source(c), c.client) {
        (Some(address), _) => address.to_string(),
        (None, client) => format!("{client:?} of IPv{}", if c.v6 { 6 } else { 4 }),
    }
}

fn connect(
    node: &mut Node,
    oracle: &mut Oracle<'_>,
    c: &Connection,
    sport: u16,
    now_s: u32,
) -> Result<Want, TestCaseError> {
    let name = client_name(c);
    let want = oracle.narrowed(&name, &oracle.decide(c), now_s);
    let at_socket = matches!(c.client, Client::Socket | Client::PodSocket(_));
    let sent = if at_socket { node.connect(c, sport) } else { node.send(c, sport) };
    let context = || format!("{c:?}\nwanted {want:?}\nbut {sent:?}");
    match (&want, &sent) {
        (_, Sent::Untouched) if at_socket && !translates_at_socket(oracle, c, &want) => {}
        (Want::NotOurs, Sent::Untouched) | (Want::Reject, Sent::Refused) | (Want::Drop, Sent::Dropped) => {}
        (Want::Serve { to, .. }, Sent::Served { to: target, masqueraded, .. }) => {
            prop_assert!(to.contains(target), "a wrong endpoint: {}", context());
            prop_assert_eq!(*masqueraded, oracle.is_masqueraded(c, *target), "masquerade: {}", context());
            oracle.chosen(&name, &want, *target, now_s);
            if let Err(why) = node.answer(c, &sent) {
                prop_assert!(false, "the reply {}: {}", why, context());
            }
        }
        _ => prop_assert!(false, "{}", context()),
    }
    Ok(want)
}

/// What a socket hook leaves alone: whatever the packet path would refuse, what is no frontend, pods' sockets unless
/// asked for, and pods where source ranges need an address.
fn translates_at_socket(oracle: &Oracle<'_>, c: &Connection, want: &Want) -> bool {
    let of_pod = matches!(c.client, Client::PodSocket(_));
    let filtered = oracle
        .frontend(oracle::destination(c), c.proto, c.port)
        .is_some_and(|f| f.kind == oracle::Kind::Vip && has_ranges(f.service, c.v6));
    matches!(want, Want::Serve { .. }) && !(of_pod && (!oracle.options.sockets_of_pods || filtered))
}

fn has_ranges(service: &lb_user::model::Service, v6: bool) -> bool {
    let own: Vec<_> = service.source_ranges.iter().filter(|n| n.addr().is_ipv6() == v6).collect();
    !own.is_empty() && own.iter().all(|n| n.prefix_len() > 0)
}

#[test]
fn a_hundred_thousand_connections_end_as_the_contract_says() {
    let kept = FileFailurePersistence::Direct("tests/differential/regressions.txt");
    let config = Config {
        cases: CASES,
        failure_persistence: Some(Box::new(kept)),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let seen = Cell::new(0);
    if let Err(failure) = TestRunner::new(config).run(&case(), |case| check(&case, &seen)) {
        panic!("{failure}");
    }
    println!("{} connections", seen.get());
    assert!(seen.get() >= CONNECTIONS, "only {} connections", seen.get());
}

/// The wire number, for frames.
fn number(proto: Proto) -> u8 {
    proto.number()
}
