//! The incremental way and the whole way are one: over random histories, what the compiler holds is what `compile`
//! gives, the plan for a change is the plan of `diff`, and the index that plans keep is the one built anew.

use super::large::{large, node};
use super::worlds::{Event, events};
use super::{AMPLE, options};
use lb_user::apply::{Syncer, apply};
use lb_user::compile::{Compiler, compile};
use lb_user::model::{NodeView, World};
use lb_user::plan::{Index, Names, diff, plan_changes};
use lb_user::restore::Actual;
use lb_user::tables::Limits;
use lb_user::tables::fake::FakeTables;
use proptest::prelude::*;

/// What happens between two updates.
#[derive(Clone, Debug)]
enum Step {
    Events(Vec<Event>),
    /// The same objects in a new list that shares nothing with the old one.
    Relist(Vec<Event>),
    /// The node has another name, zone, or addresses.
    Node(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => events(5).prop_map(Step::Events),
        1 => events(3).prop_map(Step::Relist),
        1 => (0u8..8).prop_map(Step::Node),
    ];
    prop::collection::vec(step, 1..16)
}

fn take(step: &Step, world: &mut World, view: &mut NodeView) {
    match step {
        Step::Events(events) => events.iter().for_each(|event| event.apply(world)),
        Step::Relist(events) => {
            events.iter().for_each(|event| event.apply(world));
            world.services = world.services.values().cloned().collect();
            world.slices = world.slices.values().cloned().collect();
        }
        Step::Node(bits) => {
            *view = node();
            if bits & 1 != 0 {
                view.zone = None;
            }
            if bits & 2 != 0 {
                view.name = "n2".into();
            }
            if bits & 4 != 0 {
                // An address that VIPs and external IPs have, too.
                view.node_port_addresses = vec!["10.9.0.1".parse().expect("address")];
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_compiler_keeps_is_what_compiling_everything_gives(steps in steps()) {
        let (mut world, mut view) = (World::default(), node());
        let mut compiler = Compiler::new(options());
        for step in &steps {
            take(step, &mut world, &mut view);
            compiler.update(&world, &view);
            let (desired, problems) = compile(&world, &view, &AMPLE, &options(), &|_| false);
            prop_assert!(compiler.fits(&AMPLE));
            prop_assert_eq!(compiler.desired(), &desired);
            prop_assert_eq!(compiler.problems(), problems);
        }
    }

    #[test]
    fn the_compiler_knows_whether_everything_fits(
        steps in steps(), services in 1u32..64, backends in 2u32..32, slots in 4u32..128, ranges in 0u32..16,
    ) {
        let limits = Limits { services, backends, slots, ranges };
        let (mut world, mut view) = (World::default(), node());
        let mut compiler = Compiler::new(options());
        for step in &steps {
            take(step, &mut world, &mut view);
            compiler.update(&world, &view);
            let left_out = |limits: &Limits| {
                let (_, problems) = compile(&world, &view, limits, &options(), &|_| false);
                problems.iter().any(|problem| problem.message.contains("do not fit"))
            };
            prop_assert_eq!(compiler.fits(&limits), !left_out(&limits));
        }
    }

    #[test]
    fn the_plan_for_a_change_is_the_plan_for_everything(steps in steps()) {
        let (mut world, mut view) = (World::default(), node());
        let mut compiler = Compiler::new(options());
        let mut tables = FakeTables::new(AMPLE);
        let mut actual = Actual::empty(AMPLE);
        let mut index = Index::of(&actual);
        for step in &steps {
            take(step, &mut world, &mut view);
            let changes = compiler.update(&world, &view);
            let whole = diff(&actual, compiler.desired());
            prop_assert_eq!(&whole.waiting, &vec![]);
            let Some(changes) = changes else {
                apply(&whole, &mut tables, &mut actual).expect("no faults");
                index = Index::of(&actual);
                continue;
            };
            let plan = plan_changes(&actual, &mut index, compiler.desired(), &changes).expect("there is room");
            prop_assert_eq!(plan.to_string(), whole.to_string());
            apply(&plan, &mut tables, &mut actual).expect("no faults");
            prop_assert_eq!(Names::All(actual.names.clone()), whole.names);
            prop_assert_eq!(&index, &Index::of(&actual));
        }
    }

    #[test]
    fn a_plan_that_finds_no_room_gives_way_to_comparing_everything(
        steps in steps(), services in 4u32..32, backends in 4u32..16, slots in 8u32..64, ranges in 0u32..8,
    ) {
        let limits = Limits { services, backends, slots, ranges };
        let (mut world, mut view) = (World::default(), node());
        let (mut tables, mut syncer) = (FakeTables::new(limits), Syncer::new(options()));
        for step in &steps {
            take(step, &mut world, &mut view);
            let report = (0..40).map(|_| syncer.sync(&world, &view, &mut tables, 1)).find(|r| r.retry_after.is_none());
            prop_assert!(report.is_some_and(|report| report.error.is_none()), "it never came to rest");
            let actual = syncer.actual().expect("synced");
            let (desired, _) = compile(&world, &view, &limits, &options(), &|key| actual.is_programmed(key));
            prop_assert_eq!(diff(actual, &desired).ops, vec![]);
        }
    }
}

/// Sizes at which anything that grows faster than the change would be seen at once.
#[test]
fn one_object_among_ten_thousand_costs_operations_in_proportion_to_the_change() {
    let limits = Limits { services: 65_536, backends: 131_072, slots: 524_288, ranges: 65_536 };
    let mut world = large(10_000, 10);
    let (mut tables, mut syncer) = (FakeTables::new(limits), Syncer::new(options()));
    let first = syncer.sync(&world, &node(), &mut tables, 1);
    assert_eq!((first.error, first.ops.total()), (None, 100_000 + 10_000 + 30_000));
    let mut slice = world.slices.values().nth(7_000).expect("10,000 slices").clone();
    let mut change = |slice: &lb_user::model::Slice| {
        world.slices.insert(slice.clone());
        let calls = tables.calls().len();
        let report = syncer.sync(&world, &node(), &mut tables, 2);
        assert_eq!(report.error, None);
        let entries: usize = tables.calls()[calls..].iter().map(|call| call.entries).sum();
        (report.ops.total(), entries)
    };
    // A set, the two frontends that show it, the backend's end, the old range (no write); and the sync's mark.
    let gone = slice.endpoints.pop().expect("ten endpoints");
    assert_eq!(change(&slice), (5, 5));
    // The backend, a set, two frontends, the old range.
    slice.endpoints.push(gone);
    assert_eq!(change(&slice), (5, 5));
    // Not serving any more, but still listed: the backend's flags, the set, two frontends, the old range.
    slice.endpoints[0].ready = false;
    slice.endpoints[0].serving = false;
    assert_eq!(change(&slice), (5, 5));
    // Nothing.
    assert_eq!(change(&slice), (0, 1));
}
