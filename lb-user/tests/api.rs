//! The Kubernetes source against the small API server: start, changes, faults, recovery.

mod api_support;

use api_support::*;
use apiserver::{ApiServer, Kind, Options};
use lb_user::kube::{self, KubeSource};
use lb_user::sources::Snapshot;
use serde_json::json;

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

#[tokio::test]
async fn nothing_is_published_before_every_first_list_is_complete() {
    for held in Kind::ALL {
        let server = server_with_node();
        server.apply(service("web", "10.96.0.1")).unwrap();
        server.hold(held);
        let source = watch_plain(&server).await;
        until("one list is held and the other watches are open", || {
            let others = Kind::ALL.into_iter().filter(|kind| *kind != held);
            server.stats(held).held == 1
                && others.into_iter().all(|kind| server.stats(kind).open_watches == 1)
        })
        .await;
        assert!(source.snapshots.borrow().is_none(), "published without the list of {held:?}");
        server.release(held);
        let first = snapshot_where(&source, |_| true).await;
        assert_eq!(first.generation, 1);
        assert!(has_service(&first, "web"));
        assert_eq!(first.world.node.as_ref().map(|node| node.name.as_str()), Some(NODE));
    }
}

#[tokio::test]
async fn only_the_own_node_is_read() {
    let server = server_with_node();
    server.apply(node("node-b", "192.0.2.2")).unwrap();
    let source = watch_plain(&server).await;
    let snapshot = snapshot_where(&source, |_| true).await;
    let node = snapshot.world.node.clone().unwrap();
    assert_eq!((node.name.as_str(), node.addresses), (NODE, vec!["192.0.2.1".parse().unwrap()]));
}

#[tokio::test]
async fn changes_and_deletions_arrive() {
    let server = server_with_node();
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    server.apply(service("web", "10.96.0.1")).unwrap();
    server.apply(slice("web-1", "web", &["10.0.0.1"])).unwrap();
    snapshot_where(&source, |now| has_service(now, "web") && now.world.slices.len() == 1).await;
    server.apply(slice("web-1", "web", &["10.0.0.1", "10.0.0.2"])).unwrap();
    snapshot_where(&source, |now| now.world.slices.values().any(|slice| slice.endpoints.len() == 2)).await;
    assert!(server.delete(Kind::Service, "default", "web"));
    snapshot_where(&source, |now| !has_service(now, "web")).await;
}

#[tokio::test]
async fn more_objects_than_a_page_holds_arrive_in_one_snapshot() {
    let server = server_with_node();
    for number in 0..1203 {
        let address = format!("10.96.{}.{}", number / 250, number % 250 + 1);
        server.apply(service(&format!("web-{number}"), &address)).unwrap();
    }
    let source = watch_plain(&server).await;
    let first = snapshot_where(&source, |_| true).await;
    assert_eq!((first.generation, first.world.services.len()), (1, 1203));
}

#[tokio::test]
async fn a_410_in_mid_stream_leads_to_a_new_list_that_is_swapped_in_whole() {
    let server = server_with_node();
    for number in 1..=20 {
        server.apply(service(&format!("old-{number}"), &format!("10.96.0.{number}"))).unwrap();
    }
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    let before = snapshot_where(&source, |now| now.world.services.len() == 20).await;

    // While the new list is held, the old state stays.
    server.hold(Kind::Service);
    server.gone_410();
    until("the new list is asked for", || server.stats(Kind::Service).held == 1).await;
    for number in 1..=20 {
        server.delete(Kind::Service, "default", &format!("old-{number}"));
        server.apply(service(&format!("new-{number}"), &format!("10.96.1.{number}"))).unwrap();
    }
    assert_eq!(source.snapshots.borrow().as_ref().unwrap().world.services, before.world.services);

    let mut snapshots = source.snapshots.clone();
    server.release(Kind::Service);
    let wait = tokio::time::timeout(DEADLINE, async {
        loop {
            snapshots.changed().await.unwrap();
            let now = snapshots.borrow_and_update().clone().unwrap();
            let new = now.world.services.keys().filter(|key| key.name.starts_with("new")).count();
            assert!(matches!((new, now.world.services.len()), (0 | 20, 20)), "a half-swapped world: {new}");
            if new == 20 {
                return;
            }
        }
    });
    wait.await.expect("the new list arrives");
    until("connected again", || source.status.borrow().connected).await;
    assert!(source.status.borrow().last_error.as_deref().unwrap().contains("too old resource version"));
}

#[tokio::test]
async fn changes_behind_a_dead_server_arrive_when_it_is_back() {
    let server = server_with_node();
    server.apply(service("kept", "10.96.0.1")).unwrap();
    server.apply(service("removed", "10.96.0.2")).unwrap();
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    let before = snapshot_where(&source, |now| has_service(now, "removed")).await;
    until("connected", || source.status.borrow().connected).await;

    server.stop().unwrap();
    until("the loss is noticed", || !source.status.borrow().connected).await;
    assert!(std::net::TcpStream::connect(server.url().trim_start_matches("http://")).is_err(), "refused");
    assert_eq!(source.snapshots.borrow().as_ref().unwrap().world, before.world);
    server.delete(Kind::Service, "default", "removed");
    server.apply(service("added", "10.96.0.3")).unwrap();
    server.compact();

    server.resume().unwrap();
    let after = snapshot_where(&source, |now| has_service(now, "added")).await;
    assert!(has_service(&after, "kept") && !has_service(&after, "removed"));
    until("connected again", || source.status.borrow().connected).await;
}

#[tokio::test]
async fn a_source_started_before_its_server_gets_everything_later() {
    let server = server_with_node();
    server.apply(service("web", "10.96.0.1")).unwrap();
    server.stop().unwrap();
    let source = watch_plain(&server).await;
    until("the error is told", || source.status.borrow().last_error.is_some()).await;
    assert!(source.snapshots.borrow().is_none());
    server.resume().unwrap();
    snapshot_where(&source, |now| has_service(now, "web")).await;
}

#[tokio::test]
async fn a_refused_kind_is_told_and_does_not_stop_the_others() {
    let server = server_with_node();
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    server.fail(Kind::EndpointSlice, 403);
    server.close_watches();
    until("the refusal is told", || {
        let status = source.status.borrow();
        !status.connected && status.last_error.as_deref().is_some_and(|error| error.contains("403"))
    })
    .await;
    server.apply(service("web", "10.96.0.1")).unwrap();
    snapshot_where(&source, |now| has_service(now, "web")).await;
    server.heal(Kind::EndpointSlice);
    server.apply(slice("web-1", "web", &["10.0.0.1"])).unwrap();
    snapshot_where(&source, |now| now.world.slices.len() == 1).await;
}

#[tokio::test]
async fn a_410_at_the_start_of_a_watch_leads_to_a_new_list() {
    let server = server_with_node();
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    let lists = server.stats(Kind::Service).lists;
    server.fail(Kind::Service, 410);
    server.close_watches();
    until("the 410 is told", || {
        source.status.borrow().last_error.as_deref().is_some_and(|e| e.contains("410"))
    })
    .await;
    server.heal(Kind::Service);
    until("a new list", || server.stats(Kind::Service).lists > lists).await;
    server.apply(service("web", "10.96.0.1")).unwrap();
    snapshot_where(&source, |now| has_service(now, "web")).await;
}

#[tokio::test]
async fn slices_in_any_order_give_the_same_world() {
    let slices = [
        slice("web-1", "web", &["10.0.0.1"]),
        slice("web-2", "web", &["10.0.0.2", "10.0.0.1"]),
        slice("web-3", "web", &[]),
    ];
    let mut worlds = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let server = server_with_node();
        let source = watch_plain(&server).await;
        until_watching(&server).await;
        for index in order {
            server.apply(slices[index].clone()).unwrap();
        }
        let snapshot = snapshot_where(&source, |now| now.world.slices.len() == 3).await;
        worlds.push(snapshot.world.clone());
    }
    assert!(worlds.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn duplicate_events_publish_nothing() {
    let server = server_with_node();
    server.apply(service("web", "10.96.0.1")).unwrap();
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    let before = snapshot_where(&source, |now| has_service(now, "web")).await;
    for _ in 0..10 {
        assert!(server.repeat(Kind::Service, "default", "web"));
    }
    server.apply(service("last", "10.96.0.2")).unwrap();
    let after = snapshot_where(&source, |now| has_service(now, "last")).await;
    assert_eq!(after.generation, before.generation + 1);
}

#[tokio::test]
async fn garbage_is_named_while_everything_else_arrives_by_list_and_by_watch() {
    let garbage = [
        json!({"metadata": {"namespace": "default", "name": "bad-port"},
               "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": "eighty"}]}}),
        json!({"metadata": {"namespace": "default", "name": "bad-spec"}, "spec": 7}),
        json!({"metadata": {"namespace": 1, "name": []}}),
    ];
    let named = |problems: &[lb_user::model::Problem], object: &str, field: &str| {
        problems.iter().any(|problem| problem.object == object && problem.field == field)
    };
    for by_watch in [false, true] {
        let server = server_with_node();
        server.apply(service("web", "10.96.0.1")).unwrap();
        let add = || garbage.iter().for_each(|each| server.add_garbage(Kind::Service, each.clone()));
        if !by_watch {
            add();
            server.add_garbage(Kind::Service, json!("not even an object"));
        }
        let source = watch_plain(&server).await;
        until_watching(&server).await;
        if by_watch {
            add();
        }
        server.apply(service("later", "10.96.0.2")).unwrap();
        let snapshot = snapshot_where(&source, |now| has_service(now, "later")).await;
        assert!(has_service(&snapshot, "web"));
        assert_eq!(snapshot.world.services.len(), 2);
        let problems = &snapshot.problems;
        assert!(named(problems, "Service default/bad-port", "spec.ports[0].port"), "{problems:#?}");
        assert!(named(problems, "Service default/bad-spec", "spec"), "{problems:#?}");
        assert!(problems.iter().any(|problem| problem.object == "Service without a name"), "{problems:#?}");
        server.clear_garbage(Kind::Service);
        snapshot_where(&source, |now| now.problems.is_empty()).await;
    }
}

#[tokio::test]
async fn garbage_without_a_version_in_a_watch_is_named_too() {
    let server = server_with_node();
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    server.add_garbage(Kind::EndpointSlice, json!([1, 2, 3]));
    server.apply(slice("web-1", "web", &["10.0.0.1"])).unwrap();
    let snapshot =
        snapshot_where(&source, |now| now.world.slices.len() == 1 && !now.problems.is_empty()).await;
    assert_eq!(snapshot.problems[0].object, "EndpointSlice without a name");
}

#[tokio::test]
async fn a_service_proxy_name_label_withdraws_a_service_and_its_removal_brings_it_back() {
    let server = server_with_node();
    server.apply(service("web", "10.96.0.1")).unwrap();
    server.apply(slice("web-1", "web", &["10.0.0.1"])).unwrap();
    let source = watch_plain(&server).await;
    let named = KubeSource {
        api_url: Some(server.url()),
        node_name: NODE.into(),
        service_proxy_name: Some("other".into()),
        ..KubeSource::default()
    };
    let other = kube::start(named).await.unwrap();
    snapshot_where(&source, |now| has_service(now, "web") && now.world.slices.len() == 1).await;
    snapshot_where(&other, |now| now.world.services.is_empty() && now.world.slices.is_empty()).await;

    let labelled = |mut object: serde_json::Value| {
        object["metadata"]["labels"][PROXY_NAME] = "other".into();
        object
    };
    server.apply(labelled(service("web", "10.96.0.1"))).unwrap();
    server.apply(labelled(slice("web-1", "web", &["10.0.0.1"]))).unwrap();
    snapshot_where(&source, |now| now.world.services.is_empty() && now.world.slices.is_empty()).await;
    snapshot_where(&other, |now| has_service(now, "web") && now.world.slices.len() == 1).await;

    server.apply(service("web", "10.96.0.1")).unwrap();
    server.apply(slice("web-1", "web", &["10.0.0.1"])).unwrap();
    snapshot_where(&source, |now| has_service(now, "web") && now.world.slices.len() == 1).await;
    snapshot_where(&other, |now| now.world.services.is_empty()).await;
}

#[tokio::test]
async fn tls_with_a_kubeconfig_works() {
    let server = ApiServer::start(Options { tls: true, ..Options::default() }).unwrap();
    server.apply(service("web", "10.96.0.1")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let source = KubeSource { kubeconfig: Some(kubeconfig), node_name: NODE.into(), ..KubeSource::default() };
    let source = kube::start(source).await.unwrap();
    snapshot_where(&source, |now| has_service(now, "web")).await;
}

#[tokio::test]
async fn a_missing_kubeconfig_is_named() {
    let source = KubeSource { kubeconfig: Some("/does/not/exist".into()), ..KubeSource::default() };
    let error = kube::start(source).await.unwrap_err().to_string();
    assert!(error.contains("/does/not/exist"), "{error}");
}

#[tokio::test]
async fn a_dropped_source_lets_go_of_its_watches() {
    let server = server_with_node();
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    drop(source);
    until("no watch is open", || Kind::ALL.iter().all(|kind| server.stats(*kind).open_watches == 0)).await;
}

#[tokio::test]
async fn a_stalled_server_changes_nothing_and_everything_arrives_afterwards() {
    let server = server_with_node();
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    server.stall(true);
    for number in 1..=50 {
        server.apply(service(&format!("web-{number}"), &format!("10.96.0.{number}"))).unwrap();
    }
    assert!(source.snapshots.borrow().as_ref().unwrap().world.services.is_empty());
    server.stall(false);
    snapshot_where(&source, |now| now.world.services.len() == 50).await;
}

#[tokio::test]
async fn objects_written_over_http_arrive() {
    use ::kube::api::{Api, DeleteParams, PostParams};
    use k8s_openapi::api::core::v1::Service;

    let server = server_with_node();
    let source = watch_plain(&server).await;
    let client = ::kube::Client::try_from(::kube::Config::new(server.url().parse().unwrap())).unwrap();
    let services: Api<Service> = Api::namespaced(client, "default");
    let mut web: Service = serde_json::from_value(service("web", "10.96.0.1")).unwrap();
    services.create(&PostParams::default(), &web).await.unwrap();
    assert!(services.create(&PostParams::default(), &web).await.is_err(), "created twice");
    snapshot_where(&source, |now| has_service(now, "web")).await;
    web.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].port = 81;
    services.replace("web", &PostParams::default(), &web).await.unwrap();
    snapshot_where(&source, |now| {
        now.world.services.get(&key("web")).is_some_and(|web| web.ports[0].port == 81)
    })
    .await;
    services.delete("web", &DeleteParams::default()).await.unwrap();
    snapshot_where(&source, |now| !has_service(now, "web")).await;
}

#[tokio::test]
async fn service_networks_come_and_go_at_run_time() {
    let server = server_with_node();
    server.apply(service_cidr("kubernetes", &["10.96.0.0/12", "fd00:10::/108"])).unwrap();
    let source = watch_plain(&server).await;
    let cidrs = |now: &Snapshot| now.world.service_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>();
    snapshot_where(&source, |now| cidrs(now) == ["10.96.0.0/12", "fd00:10::/108"]).await;
    server.apply(service_cidr("more", &["10.200.0.0/16", "10.96.0.0/12"])).unwrap();
    snapshot_where(&source, |now| cidrs(now) == ["10.96.0.0/12", "10.200.0.0/16", "fd00:10::/108"]).await;
    assert!(server.delete(Kind::ServiceCidr, "", "kubernetes"));
    snapshot_where(&source, |now| cidrs(now) == ["10.96.0.0/12", "10.200.0.0/16"]).await;
}

#[tokio::test]
async fn an_api_without_service_cidrs_is_lived_with_and_asked_again() {
    for (code, told) in [(404, 0), (403, 1)] {
        let server = server_with_node();
        server.apply(service("web", "10.96.0.1")).unwrap();
        server.apply(service_cidr("kubernetes", &["10.96.0.0/12"])).unwrap();
        server.fail(Kind::ServiceCidr, code);
        let source = KubeSource {
            api_url: Some(server.url()),
            node_name: NODE.into(),
            absent_pause: Some(std::time::Duration::from_millis(50)),
            ..KubeSource::default()
        };
        let source = kube::start(source).await.unwrap();
        let first = snapshot_where(&source, |_| true).await;
        assert!(has_service(&first, "web") && first.world.service_cidrs.is_empty());
        assert_eq!(first.problems.iter().filter(|p| p.object == "ServiceCIDR objects").count(), told);
        until("connected", || source.status.borrow().connected).await;
        server.heal(Kind::ServiceCidr);
        snapshot_where(&source, |now| now.world.service_cidrs.len() == 1 && now.problems.is_empty()).await;
        // What was known once stays when the API refuses later.
        server.fail(Kind::ServiceCidr, code);
        server.close_watches();
        server.apply(service("later", "10.96.0.2")).unwrap();
        let later = snapshot_where(&source, |now| has_service(now, "later")).await;
        assert_eq!(later.world.service_cidrs.len(), 1);
    }
}

#[tokio::test]
async fn the_headless_label_and_the_type_external_name_withdraw_a_service_and_back() {
    let server = server_with_node();
    let source = watch_plain(&server).await;
    until_watching(&server).await;
    let plain = service("web", "10.96.0.1");
    let mut headless = plain.clone();
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    let mut named = plain.clone();
    named["spec"]["type"] = "ExternalName".into();
    let mut without = plain.clone();
    without["spec"]["clusterIP"] = "None".into();
    for other in [headless, named, without] {
        server.apply(plain.clone()).unwrap();
        snapshot_where(&source, |now| has_service(now, "web")).await;
        server.apply(other).unwrap();
        snapshot_where(&source, |now| !has_service(now, "web")).await;
    }
}
