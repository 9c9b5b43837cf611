//! The manifest directory as a source: what is read, what is kept, what is told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lb_user::model::{Key, Problem};
use lb_user::sources::manifests::{self, ManifestSource};
use lb_user::sources::{Snapshot, SourceHandle};

/// Shorter than would be needed if only the slow poll noticed anything.
const DEADLINE: Duration = Duration::from_secs(4);

async fn start(dir: &Path) -> SourceHandle {
    let source = ManifestSource { dir: dir.into(), node_name: "node-a".into(), service_proxy_name: None };
    manifests::start(source).await.expect("the directory is there")
}

async fn snapshot_where(source: &SourceHandle, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut snapshots = source.snapshots.clone();
    let found = snapshots.wait_for(|snapshot| snapshot.as_ref().is_some_and(|snapshot| wanted(snapshot)));
    match tokio::time::timeout(DEADLINE, found).await {
        Ok(found) => found.unwrap().clone().unwrap(),
        Err(_) => panic!("no such snapshot in time; the last one is {:#?}", source.snapshots.borrow()),
    }
}

/// Replaces a file as one should: in one step.
fn write(dir: &Path, name: &str, text: &str) {
    let draft = dir.join(format!(".{name}.draft"));
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, dir.join(name)).unwrap();
}

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec:\n  clusterIPs: [10.96.0.1, 'fd00::1']\n  ports:\n  - port: {port}\n"
    )
}

fn has(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.world.services.contains_key(&Key::new("default", name))
}

fn port(snapshot: &Snapshot, name: &str) -> u16 {
    snapshot.world.services.get(&Key::new("default", name)).unwrap().ports[0].port
}

#[tokio::test]
async fn all_files_documents_and_lists_are_in_the_first_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", &format!("{}---\n---\n{}", service("one", "80"), service("two", "81")));
    write(
        dir.path(),
        "b.yml",
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems:\n\
         - metadata: {name: one-1, labels: {kubernetes.io/service-name: one}}\n  addressType: IPv4\n\
         \x20 ports: [{port: 8080}]\n  endpoints: [{addresses: [10.0.0.1]}]\n",
    );
    write(
        dir.path(),
        "c.json",
        r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
             "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}},
            {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
             "spec": {"cidrs": ["10.96.0.0/12"]}},
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-b"}}]}"#,
    );
    write(dir.path(), "notes.txt", "not read");
    let source = start(dir.path()).await;
    let first = snapshot_where(&source, |_| true).await;
    assert_eq!(first.problems, []);
    assert!(has(&first, "one") && has(&first, "two"));
    let one = first.world.services.get(&Key::new("default", "one")).unwrap();
    assert_eq!(
        one.cluster_ips,
        ["10.96.0.1".parse::<std::net::IpAddr>().unwrap(), "fd00::1".parse().unwrap()]
    );
    assert_eq!(first.world.slices.get(&Key::new("default", "one-1")).unwrap().ports[0].port, 8080);
    assert_eq!(first.world.node.as_ref().unwrap().name, "node-a");
    assert_eq!(first.world.service_cidrs, ["10.96.0.0/12".parse().unwrap()]);
    assert!(source.status.borrow().connected);
}

#[tokio::test]
async fn added_changed_and_removed_files_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let source = start(dir.path()).await;
    snapshot_where(&source, |now| now.world.services.is_empty()).await;
    write(dir.path(), "a.yaml", &service("web", "80"));
    snapshot_where(&source, |now| has(now, "web")).await;
    write(dir.path(), "a.yaml", &service("web", "81"));
    snapshot_where(&source, |now| has(now, "web") && port(now, "web") == 81).await;
    std::fs::remove_file(dir.path().join("a.yaml")).unwrap();
    snapshot_where(&source, |now| !has(now, "web")).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_state_and_names_file_document_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let good = format!("{}---\n{}", service("one", "80"), service("two", "80"));
    write(dir.path(), "a.yaml", &good);
    let source = start(dir.path()).await;
    snapshot_where(&source, |now| has(now, "two")).await;

    // A value of the wrong type: the field is named. Other files go on.
    write(dir.path(), "a.yaml", &format!("{}---\n{}", service("one", "81"), service("two", "eighty")));
    write(dir.path(), "b.yaml", &service("other", "80"));
    let broken = snapshot_where(&source, |now| has(now, "other") && !now.problems.is_empty()).await;
    assert!(has(&broken, "one") && has(&broken, "two"));
    assert_eq!(port(&broken, "one"), 80, "the file counts as a whole");
    let problem = &broken.problems[0];
    assert_eq!(problem.object, "file a.yaml document 2: Service default/two");
    assert_eq!(problem.field, "spec.ports[0].port");

    // No YAML at all: the line is named.
    write(dir.path(), "a.yaml", &format!("{}---\nkind: Service\n  metadata: [\n", service("one", "82")));
    let broken = snapshot_where(&source, |now| {
        now.problems.iter().any(|problem| problem.object == "file a.yaml document 2")
    })
    .await;
    let Problem { message, .. } = &broken.problems[0];
    assert!(message.contains("line "), "{message}");
    assert_eq!(port(&broken, "one"), 80);

    // An emptied file may be in the middle of a rewrite.
    write(dir.path(), "a.yaml", "");
    snapshot_where(&source, |now| now.problems.iter().any(|problem| problem.message.contains("empty"))).await;

    write(dir.path(), "a.yaml", &service("one", "83"));
    let repaired = snapshot_where(&source, |now| now.problems.is_empty()).await;
    assert!(port(&repaired, "one") == 83 && !has(&repaired, "two"));
}

#[tokio::test]
async fn of_two_objects_of_one_name_the_first_files_counts() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "b.yaml", &service("web", "81"));
    write(dir.path(), "a.yaml", &service("web", "80"));
    let source = start(dir.path()).await;
    let snapshot = snapshot_where(&source, |_| true).await;
    assert_eq!(port(&snapshot, "web"), 80);
    assert_eq!(snapshot.problems[0].object, "file b.yaml document 1");
    std::fs::remove_file(dir.path().join("a.yaml")).unwrap();
    snapshot_where(&source, |now| now.problems.is_empty() && port(now, "web") == 81).await;
}

#[tokio::test]
async fn an_unknown_kind_is_named_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("apiVersion: v1\nkind: Servcie\n---\n{}", service("web", "80"));
    write(dir.path(), "a.yaml", &text);
    let source = start(dir.path()).await;
    let snapshot = snapshot_where(&source, |now| has(now, "web")).await;
    assert_eq!(
        (snapshot.problems[0].object.as_str(), snapshot.problems[0].field.as_str()),
        ("file a.yaml document 1", "kind")
    );
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let source = ManifestSource { dir: "/does/not/exist".into(), ..ManifestSource::default() };
    let error = manifests::start(source).await.unwrap_err().to_string();
    assert!(error.contains("/does/not/exist"), "{error}");
}
