//! What the API tests share: objects, a source on a server, and waiting with a deadline.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Kind, Options};
use lb_user::kube::{self, KubeSource};
use lb_user::model::Key;
use lb_user::sources::{Snapshot, SourceHandle};
use serde_json::{Value, json};

/// Longer than anything here may take.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const NODE: &str = "node-a";

pub fn server() -> ApiServer {
    ApiServer::start(Options::default()).expect("the server starts")
}

/// A server with the own Node.
pub fn server_with_node() -> ApiServer {
    let server = server();
    server.apply(node(NODE, "192.0.2.1")).unwrap();
    server
}

pub async fn watch_plain(server: &ApiServer) -> SourceHandle {
    let source = KubeSource { api_url: Some(server.url()), node_name: NODE.into(), ..KubeSource::default() };
    kube::start(source).await.expect("the source starts")
}

/// The first snapshot, new or not, that fulfils `wanted`.
pub async fn snapshot_where(source: &SourceHandle, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut snapshots = source.snapshots.clone();
    let found = snapshots.wait_for(|snapshot| snapshot.as_ref().is_some_and(|snapshot| wanted(snapshot)));
    let found = tokio::time::timeout(DEADLINE, found).await;
    match found {
        Ok(found) => found.expect("the source lives").clone().expect("some snapshot"),
        Err(_) => panic!("no such snapshot in time; the last one is {:#?}", source.snapshots.borrow()),
    }
}

/// Waits until a fact of the server is true.
pub async fn until(what: &str, fact: impl Fn() -> bool) {
    let polled = async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, polled).await.unwrap_or_else(|_| panic!("never became true: {what}"));
}

/// Waits until all watches are open.
pub async fn until_watching(server: &ApiServer) {
    until("all watches are open", || Kind::ALL.iter().all(|kind| server.stats(*kind).open_watches == 1))
        .await;
}

pub fn service_cidr(name: &str, cidrs: &[&str]) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
           "metadata": {"name": name}, "spec": {"cidrs": cidrs}})
}

pub fn service(name: &str, cluster_ip: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": cluster_ip, "ports": [{"name": "http", "port": 80}]},
    })
}

pub fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": name,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    })
}

pub fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

pub fn key(name: &str) -> Key {
    Key::new("default", name)
}

pub fn has_service(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.world.services.contains_key(&key(name))
}
