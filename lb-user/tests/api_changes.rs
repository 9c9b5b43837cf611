//! What the metrics need to know of the Kubernetes API's changes: how many, and since when.

#[path = "api_support/mod.rs"]
#[allow(dead_code, reason = "shared with the other API tests")]
mod support;

use support::{has_service, key, server_with_node, service, slice, snapshot_where, watch_plain};

const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[tokio::test]
async fn changes_wait_under_the_number_of_the_snapshot_that_carries_them() {
    let server = server_with_node();
    server.apply(service("web", "10.96.0.1")).unwrap();
    server.apply(slice("web-1", "web", &["10.244.1.2"])).unwrap();
    let source = watch_plain(&server).await;
    let first = snapshot_where(&source, |s| has_service(s, "web")).await;
    let listed = source.changes.take_up_to(first.generation);
    assert_eq!((listed.services, listed.slices), (1, 1));
    assert!(listed.triggers_unix_ns.is_empty(), "a list tells no time");

    let mut moved = slice("web-1", "web", &["10.244.1.3"]);
    moved["metadata"]["annotations"] = serde_json::json!({TRIGGER: "2250-01-01T00:00:00.25Z"});
    server.apply(moved.clone()).unwrap();
    let second = snapshot_where(&source, |s| {
        let slice = s.world.slices.get(&key("web-1"));
        slice.is_some_and(|slice| slice.endpoints.iter().any(|e| e.addr.to_string() == "10.244.1.3"))
    })
    .await;
    assert!(second.generation > first.generation);
    assert_eq!(source.changes.pending(), (0, 1));
    let changed = source.changes.take_up_to(second.generation);
    assert_eq!(changed.triggers_unix_ns.len(), 1);
    assert_eq!(changed.triggers_unix_ns[0] % 1_000_000_000, 250_000_000);
    assert_eq!(source.changes.pending(), (0, 0));
}
