//! What a sync says and leaves behind when the maps refuse.

#[path = "property/large.rs"]
mod large;

use large::{large, node};
use lb_user::apply::Syncer;
use lb_user::compile::CompileOptions;
use lb_user::model::World;
use lb_user::plan::Step;
use lb_user::tables::fake::{FakeTables, Faults};
use lb_user::tables::{LbTables, Limits, TableError};

const LIMITS: Limits = Limits { services: 64, backends: 64, slots: 256, ranges: 64 };

fn synced(services: u32) -> (World, FakeTables, Syncer) {
    let world = large(services, 2);
    let (mut tables, mut syncer) = (FakeTables::new(LIMITS), Syncer::new(CompileOptions::default()));
    let report = syncer.sync(&world, &node(), &mut tables, 1);
    assert_eq!((report.error, report.retry_after), (None, None));
    (world, tables, syncer)
}

#[test]
fn a_full_map_is_a_problem_and_what_works_stays() {
    let (_, mut tables, mut syncer) = synced(2);
    let before = tables.peek();
    tables.set_faults(Faults::Full);
    let report = syncer.sync(&large(3, 2), &node(), &mut tables, 2);
    let error = report.error.expect("a full map is an error");
    assert_eq!(error.step, Step::Backends);
    assert!(matches!(error.source, TableError::Full { .. }));
    assert_eq!(report.problems.len(), 2, "one for each backend in doubt: {:?}", report.problems);
    assert!(report.problems.iter().all(|p| p.message == "map FW_BACKENDS4 is full"));
    assert!(report.retry_after.is_some());
    assert_eq!(tables.peek(), before);
    assert_eq!(tables.committed().map(|(generation, _)| generation), Some(1));
}

#[test]
fn a_full_frontend_map_names_its_services_and_still_lets_others_go() {
    let (world, mut tables, mut syncer) = synced(2);
    // The third Service without endpoints: frontends are all it writes. The first Service goes.
    let mut next = large(3, 2);
    let (gone, added) = (world.services.keys().next().cloned(), next.services.keys().nth(2).cloned());
    next.services.remove(&gone.expect("two services"));
    next.slices.remove(&added.expect("three services"));
    tables.set_faults(Faults::Full);
    let report = syncer.sync(&next, &node(), &mut tables, 2);
    assert_eq!(report.error.map(|e| e.step), Some(Step::Frontends));
    assert_eq!(report.ops.deleted, 3, "ClusterIP, its address and NodePort of the Service that goes");
    let named: Vec<&str> = report.problems.iter().map(|p| p.object.as_str()).collect();
    assert_eq!(named, ["Service ns/s00002", "Service ns/s00002", "frontend 10.96.0.2"]);
    tables.set_faults(Faults::None);
    let report = syncer.sync(&next, &node(), &mut tables, 3);
    assert_eq!((report.error, report.problems.len()), (None, 0));
    assert_eq!(tables.peek().frontends.len(), 6);
}

#[test]
fn nothing_is_published_or_freed_after_a_step_failed() {
    // The calls of a change: backends, slots, frontends, deletes, frees, commit. Fail each in turn.
    let order =
        ["put_backends", "put_slots", "put_frontends", "delete_frontends", "put_backends", "commit_sync"];
    for failing in 1..=order.len() {
        let (_, mut tables, mut syncer) = synced(2);
        let mut next = large(3, 2);
        let first = next.services.keys().next().cloned().expect("three services");
        next.services.remove(&first);
        let done = tables.calls().len();
        tables.set_faults(Faults::EveryNth((done + failing) as u32));
        let report = syncer.sync(&next, &node(), &mut tables, 2);
        assert!(report.error.is_some());
        let names: Vec<&str> = tables.calls()[done..].iter().map(|c| c.name).collect();
        assert_eq!(names, order[..failing]);
        tables.set_faults(Faults::None);
        assert_eq!(syncer.sync(&next, &node(), &mut tables, 3).error, None);
        assert_eq!(tables.peek().frontends.len(), 6);
    }
}

#[test]
fn adding_and_deleting_a_service_under_heavy_faults_leaves_nothing() {
    let mut tables = FakeTables::new(LIMITS);
    let mut syncer = Syncer::new(CompileOptions::default());
    let mut numbers = fastrand::Rng::with_seed(20);
    tables.set_faults(Faults::Percent(50, Box::new(move || numbers.u32(..))));
    let worlds = [large(1, 3), World::default()];
    for round in 0..2_000 {
        syncer.sync(&worlds[round % 2], &node(), &mut tables, 1);
    }
    tables.set_faults(Faults::None);
    assert_eq!(syncer.sync(&World::default(), &node(), &mut tables, 1).error, None);
    let left = tables.dump().expect("no faults");
    assert!(left.frontends.is_empty());
    let actual = syncer.actual().expect("synced");
    assert_eq!((actual.backends4.live().count(), actual.ranges.len(), actual.names.len()), (0, 0, 0));
}
