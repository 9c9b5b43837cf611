//! Properties of compile, diff and apply over random worlds, faults and restarts. The fake's own invariants (no
//! packet can meet a broken state) hold in every one of them, or it panics.

#[path = "property/incremental.rs"]
mod incremental;
#[path = "property/large.rs"]
mod large;
#[path = "property/worlds.rs"]
mod worlds;

use large::node;
use lb_common::service::SVC_ADDRESS;
use lb_user::apply::{Syncer, apply};
use lb_user::compile::keys::frontend_family;
use lb_user::compile::{BackendKey, CompileOptions, Desired, compile};
use lb_user::model::{NodeView, World};
use lb_user::plan::{Op, diff};
use lb_user::restore::{Actual, restore};
use lb_user::tables::fake::{FakeTables, Faults};
use lb_user::tables::{FrontendKey, LbTables, Limits, SourceRanges};
use proptest::prelude::*;
use std::collections::BTreeMap;
use worlds::{Event, events, world_of};

fn options() -> CompileOptions {
    CompileOptions { external_ip_cidrs: vec!["10.9.0.0/30".parse().expect("network")] }
}

const AMPLE: Limits = Limits { services: 256, backends: 256, slots: 2048, ranges: 256 };
/// A sync that fails more often than this does not converge.
const TRIES: usize = 400;

fn desired(world: &World, actual: &Actual) -> Desired {
    compile(world, &node(), &actual.limits, &options(), &|key| actual.is_programmed(key)).0
}

fn faults(percent: u32, seed: u64) -> Faults {
    let mut numbers = fastrand::Rng::with_seed(seed);
    Faults::Percent(percent, Box::new(move || numbers.u32(..)))
}

fn converge(syncer: &mut Syncer, world: &World, node: &NodeView, tables: &mut FakeTables) {
    for _ in 0..TRIES {
        if syncer.sync(world, node, tables, 1).retry_after.is_none() {
            return;
        }
    }
    panic!("no complete sync in {TRIES} tries");
}

/// What a packet to each frontend meets: flags, affinity, the two sets as addresses, and who may come.
type Seen = BTreeMap<FrontendKey, (u32, u32, Vec<Vec<BackendKey>>, Option<SourceRanges>)>;

fn seen(tables: &FakeTables) -> Seen {
    let actual = restore(&tables.peek(), tables.limits());
    let view = |key: &FrontendKey, svc: &lb_common::Svc| {
        let table = actual.backends(frontend_family(key));
        let member =
            |id: &u32| table.get(*id).and_then(BackendKey::of_entry).expect("a backend in every slot");
        let set = |s: &lb_common::SetRef| match s.count {
            0 => Vec::new(),
            count => sorted(actual.ranges[&(s.offset, count)].iter().map(member).collect()),
        };
        let ranges = (svc.ranges_id != 0).then(|| actual.source_ranges[&svc.ranges_id].clone());
        (svc.flags, svc.affinity_s, svc.sets.iter().map(set).collect(), ranges)
    };
    actual.frontends.iter().map(|(key, svc)| (*key, view(key, svc))).collect()
}

fn wanted(desired: &Desired) -> Seen {
    let mut seen = Seen::new();
    for port in desired.ports.values() {
        for frontend in &port.frontends {
            let sets = vec![port.cluster.clone(), port.local.clone()];
            seen.insert(frontend.key, (frontend.flags, port.affinity_s, sets, frontend.ranges.clone()));
        }
    }
    for key in &desired.addresses {
        seen.insert(*key, (SVC_ADDRESS, 0, vec![Vec::new(), Vec::new()], None));
    }
    seen
}

/// The maps hold a set in order of ids, a compiled one is in order of addresses.
fn sorted(mut set: Vec<BackendKey>) -> Vec<BackendKey> {
    set.sort();
    set
}

/// The live backends in the maps are exactly the desired ones, flags included.
fn assert_backends(tables: &FakeTables, desired: &Desired) {
    let actual = restore(&tables.peek(), tables.limits());
    let live = [&actual.backends4, &actual.backends6].into_iter().flat_map(|t| t.live());
    let live: BTreeMap<BackendKey, u8> = live
        .map(|(_, e)| {
            (BackendKey::of_entry(e).expect("known protocol"), lb_user::compile::keys::entry_state(e).0)
        })
        .collect();
    assert_eq!(live, desired.backends);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_the_same_events_compiles_to_the_same(events in events(40), seed in any::<u64>()) {
        let mut shuffled = worlds::last_of_each(&events);
        let straight = world_of(&shuffled);
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let mut mixed = world_of(&shuffled);
        worlds::shuffle_lists(&mut mixed, seed);
        let actual = Actual::empty(AMPLE);
        prop_assert_eq!(desired(&straight, &actual), desired(&mixed, &actual));
    }

    #[test]
    fn a_second_plan_is_empty_and_applying_twice_changes_nothing(events in events(40)) {
        let world = world_of(&events);
        let mut tables = FakeTables::new(AMPLE);
        let mut actual = Actual::empty(AMPLE);
        let desired = desired(&world, &actual);
        let plan = diff(&actual, &desired);
        apply(&plan, &mut tables, &mut actual).expect("no faults");
        let (once, known) = (tables.peek(), actual.clone());
        prop_assert_eq!(diff(&actual, &desired).ops, vec![]);
        let again: Vec<Op> = plan.ops.iter().filter(|op| !matches!(op, Op::PutSlots { .. } | Op::PutRanges { .. })).cloned().collect();
        apply(&lb_user::plan::Plan { ops: again, ..plan }, &mut tables, &mut actual).expect("no faults");
        prop_assert_eq!(tables.peek(), once);
        prop_assert_eq!(actual, known);
    }

    #[test]
    fn what_is_known_is_what_a_restart_would_read(rounds in prop::collection::vec(events(12), 1..6)) {
        let mut tables = FakeTables::new(AMPLE);
        let mut syncer = Syncer::new(options());
        let mut history = Vec::new();
        for events in rounds {
            history.extend(events);
            converge(&mut syncer, &world_of(&history), &node(), &mut tables);
            let known = syncer.actual().expect("synced").clone();
            let read = restore(&tables.peek(), AMPLE);
            prop_assert_eq!(Actual { names: BTreeMap::new(), ..known }, read);
        }
    }

    #[test]
    fn faults_and_restarts_at_any_point_converge(
        rounds in prop::collection::vec((events(12), 0u32..50, any::<bool>(), 0usize..3), 1..8),
        seed in any::<u64>(),
    ) {
        let mut tables = FakeTables::new(AMPLE);
        let mut syncer = Syncer::new(options());
        let mut history: Vec<Event> = Vec::new();
        for (index, (events, percent, restart, hurried)) in rounds.into_iter().enumerate() {
            history.extend(events);
            let world = world_of(&history);
            tables.set_faults(faults(percent, seed.wrapping_add(index as u64)));
            // A few tries that may stay half-way, then perhaps the agent dies.
            for _ in 0..hurried {
                syncer.sync(&world, &node(), &mut tables, 1);
            }
            if restart {
                syncer = Syncer::new(options());
            }
            if index % 2 == 1 {
                continue;
            }
            converge(&mut syncer, &world, &node(), &mut tables);
            let desired = desired(&world, syncer.actual().expect("synced"));
            prop_assert_eq!(seen(&tables), wanted(&desired));
            assert_backends(&tables, &desired);
        }
    }

    #[test]
    fn tables_too_small_are_never_overfilled(
        rounds in prop::collection::vec(events(12), 1..8),
        services in 1u32..24, backends in 2u32..24, slots in 4u32..96, ranges in 0u32..12,
        percent in 0u32..30, seed in any::<u64>(),
    ) {
        let limits = Limits { services, backends, slots, ranges };
        let mut tables = FakeTables::new(limits);
        tables.set_faults(faults(percent, seed));
        let mut syncer = Syncer::new(options());
        let mut history = Vec::new();
        for events in rounds {
            history.extend(events);
            let world = world_of(&history);
            for _ in 0..40 {
                let report = syncer.sync(&world, &node(), &mut tables, 1);
                let full = report.error.is_some_and(|e| matches!(e.source, lb_user::tables::TableError::Full { .. }));
                prop_assert!(!full, "a map was full although it was counted");
            }
        }
    }

    #[test]
    fn a_restart_keeps_the_ids_of_what_did_not_change(before in events(30), between in events(6)) {
        let mut tables = FakeTables::new(AMPLE);
        let mut history = before;
        let mut syncer = Syncer::new(options());
        converge(&mut syncer, &world_of(&history), &node(), &mut tables);
        let old_world = desired(&world_of(&history), syncer.actual().expect("synced"));
        let old = syncer.actual().expect("synced").clone();
        history.extend(between);
        let mut syncer = Syncer::new(options());
        converge(&mut syncer, &world_of(&history), &node(), &mut tables);
        let new_world = desired(&world_of(&history), syncer.actual().expect("synced"));
        let new = syncer.actual().expect("synced");
        for key in old_world.backends.keys() {
            let (then, now) = (old.backends(key.family()).id_of(key), new.backends(key.family()).id_of(key));
            if new_world.backends.contains_key(key) {
                prop_assert_eq!(then, now);
            }
        }
        for (name, port) in &old_world.ports {
            if new_world.ports.get(name) == Some(port) {
                let id = |actual: &Actual| port.frontends.iter().map(|f| actual.frontends[&f.key]).collect::<Vec<_>>();
                prop_assert_eq!(id(&old), id(new), "{} was rewritten", name);
            }
        }
    }
}
