//! Notices become Events of the Kubernetes API, seen by a server that writes down what it is asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use lb_user::kube::{KubeSource, events};
use lb_user::model::Key;
use lb_user::telemetry::notice::{Notice, Notices};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const DEADLINE: Duration = Duration::from_secs(10);

/// A request: method, path, body.
type Asked = (Method, String, Value);

#[derive(Clone)]
struct Api {
    asked: mpsc::UnboundedSender<Asked>,
    /// Answers to give before everything else is accepted.
    refusals: Arc<Mutex<Vec<StatusCode>>>,
}

async fn answer(State(api): State<Api>, method: Method, uri: Uri, Json(body): Json<Value>) -> Response {
    let path = uri.path().to_owned();
    api.asked.send((method, path, body.clone())).expect("the test listens");
    match api.refusals.lock().expect("no panic while locked").pop() {
        Some(refusal) => refusal.into_response(),
        None => Json(body).into_response(),
    }
}

struct Server {
    notices: Notices,
    asked: mpsc::UnboundedReceiver<Asked>,
}

async fn server(refusals: Vec<StatusCode>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let (sender, asked) = mpsc::unbounded_channel();
    let api = Api { asked: sender, refusals: Arc::new(Mutex::new(refusals)) };
    let router = Router::new().fallback(answer).with_state(api);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (notices, queue) = Notices::channel();
    let source = KubeSource { api_url: Some(url), node_name: "n1".into(), ..KubeSource::default() };
    tokio::spawn(events::deliver(source, queue));
    Server { notices, asked }
}

impl Server {
    async fn next(&mut self) -> Asked {
        let asked = tokio::time::timeout(DEADLINE, self.asked.recv()).await;
        asked.expect("in time").expect("the server lives")
    }
}

fn failed() -> Notice {
    Notice::ServiceHealthFailed {
        service: Key::new("shop", "web"),
        uid: "u-1".to_owned(),
        message: "cannot listen".to_owned(),
    }
}

#[tokio::test]
async fn the_start_is_written_to_the_node_in_namespace_default() {
    let mut server = server(vec![]).await;
    server.notices.tell(Notice::Starting);
    let (method, path, body) = server.next().await;
    assert_eq!((method, path.as_str()), (Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events"));
    assert_eq!((&body["reason"], &body["type"]), (&"Starting".into(), &"Normal".into()));
    assert_eq!(body["reportingController"], "fairway");
    assert_eq!(body["reportingInstance"], "n1");
    let regarding = serde_json::json!({"kind": "Node", "name": "n1", "uid": "n1"});
    assert_eq!(body["regarding"], regarding);
}

#[tokio::test]
async fn a_repeated_warning_is_counted_in_the_first() {
    let mut server = server(vec![]).await;
    server.notices.tell(failed());
    let (method, path, first) = server.next().await;
    assert_eq!((method, path.as_str()), (Method::POST, "/apis/events.k8s.io/v1/namespaces/shop/events"));
    assert_eq!(first["reason"], "FailedToStartServiceHealthcheck");
    assert_eq!(first["regarding"]["uid"], "u-1");
    server.notices.tell(failed());
    let (method, _, again) = server.next().await;
    assert_eq!((method, &again["series"]["count"]), (Method::PATCH, &2.into()));
}

#[tokio::test]
async fn a_refused_event_is_lost_and_the_next_is_written() {
    let mut server = server(vec![StatusCode::FORBIDDEN]).await;
    server.notices.tell(Notice::Starting);
    server.next().await;
    server.notices.tell(failed());
    assert_eq!(server.next().await.2["reason"], "FailedToStartServiceHealthcheck");
}
