//! Requests: paths, verbs, answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::kind::Kind;
use crate::selector::Selector;
use crate::server::Shared;
use crate::store::{Page, Scope};
use crate::watch;

/// Any body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

const MAX_REQUEST_BYTES: usize = 4 << 20;

/// Serves one connection to its end.
pub(crate) async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, shared).await) }
    });
    let http = hyper::server::conn::http1::Builder::new();
    let result = match tls {
        None => http.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
            Err(error) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
        },
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// What a path names.
struct Target {
    kind: Kind,
    namespace: Option<String>,
    name: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Option<Target> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", "v1", rest @ ..] => ("api/v1", rest),
            ["apis", "discovery.k8s.io", "v1", rest @ ..] => ("apis/discovery.k8s.io/v1", rest),
            ["apis", "networking.k8s.io", "v1", rest @ ..] => ("apis/networking.k8s.io/v1", rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, name) = match rest {
            [plural] => (plural, None),
            [plural, name] => (plural, Some((*name).to_owned())),
            _ => return None,
        };
        Some(Target { kind: Kind::of_path(group, plural)?, namespace, name })
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    let path = request.uri().path();
    match path {
        "/healthz" | "/livez" | "/readyz" => return text(StatusCode::OK, "text/plain", "ok"),
        "/version" => {
            return as_json(StatusCode::OK, &json!({"major": "1", "minor": "35", "gitVersion": "v1.35.0"}));
        }
        _ => {}
    }
    let Some(target) = Target::parse(path) else {
        return status(StatusCode::NOT_FOUND, "NotFound", "the server does not serve this path");
    };
    let failing = shared.state().faults.failing.get(&target.kind).copied();
    if let Some(code) = failing.and_then(|code| StatusCode::from_u16(code).ok()) {
        return status(code, "Injected", "an injected fault");
    }
    match (request.method().clone(), &target.name) {
        (Method::GET, None) => collection(&request, target, shared).await,
        (Method::GET, Some(name)) => {
            let name = (target.namespace.clone().unwrap_or_default(), name.clone());
            match shared.state().store.get(target.kind, &name) {
                Some(object) => as_json(StatusCode::OK, &object),
                None => status(StatusCode::NOT_FOUND, "NotFound", "no such object"),
            }
        }
        (Method::DELETE, Some(name)) => {
            let name = (target.namespace.clone().unwrap_or_default(), name.clone());
            match shared.change(|state| state.store.delete(target.kind, &name)) {
                Some(object) => as_json(StatusCode::OK, &object),
                None => status(StatusCode::NOT_FOUND, "NotFound", "no such object"),
            }
        }
        (Method::POST, None) | (Method::PUT, Some(_)) => write(request, target, shared).await,
        _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "this verb is not served here"),
    }
}

/// List or watch.
async fn collection(request: &Request<Incoming>, target: Target, shared: Arc<Shared>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let query: HashMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let parameter = |name: &str| query.get(name).map_or("", String::as_str);
    let selector = match Selector::parse(parameter("labelSelector"), parameter("fieldSelector")) {
        Ok(selector) => selector,
        Err(message) => return status(StatusCode::BAD_REQUEST, "BadRequest", &message),
    };
    let scope = Scope { kind: target.kind, namespace: target.namespace, selector };
    if matches!(parameter("watch"), "1" | "true") {
        let Ok(version) =
            parameter("resourceVersion").parse().or_else(|error| match parameter("resourceVersion") {
                "" => Ok(0),
                _ => Err(error),
            })
        else {
            return status(StatusCode::BAD_REQUEST, "BadRequest", "resourceVersion is not a number");
        };
        let bookmarks = parameter("allowWatchBookmarks") == "true";
        let timeout_s = parameter("timeoutSeconds").parse().ok();
        return watch::open(shared, watch::Wanted { scope, version, bookmarks, timeout_s });
    }
    watch::wait_while_held(&shared, scope.kind).await;
    let limit = parameter("limit").parse().unwrap_or(0);
    let page = shared.change(|state| match parameter("continue") {
        "" => {
            state.stats.entry(scope.kind).or_default().lists += 1;
            Ok(state.store.list(&scope, limit))
        }
        token => state.store.list_on(token, limit),
    });
    match page {
        Ok(page) => as_json(StatusCode::OK, &list_json(scope.kind, &page)),
        Err(_) => status(StatusCode::GONE, "Expired", "the continue token is too old"),
    }
}

fn list_json(kind: Kind, page: &Page) -> Value {
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let Some(next) = &page.next {
        metadata["continue"] = next.as_str().into();
        metadata["remainingItemCount"] = page.remaining.into();
    }
    let items: Vec<&Value> = page.items.iter().map(|item| &**item).collect();
    json!({
        "apiVersion": kind.api_version(),
        "kind": format!("{}List", kind.name()),
        "metadata": metadata,
        "items": items,
    })
}

/// Create (POST) or create-or-replace (PUT).
async fn write(request: Request<Incoming>, target: Target, shared: Arc<Shared>) -> Response<Body> {
    let creating = request.method() == Method::POST;
    let body = match Limited::new(request.into_body(), MAX_REQUEST_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return status(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
    };
    let mut object: Value = match serde_json::from_slice(&body) {
        Ok(object) => object,
        Err(error) => return status(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
    };
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        let from_path = [("namespace", target.namespace.clone()), ("name", target.name.clone())];
        for (field, value) in from_path {
            if let Some(value) = value {
                metadata.insert(field.into(), value.into());
            }
        }
    }
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = (target.namespace.clone().unwrap_or_default(), name);
    let applied = shared.change(|state| {
        let exists = state.store.get(target.kind, &name).is_some();
        if creating && exists { Ok(None) } else { state.store.apply(target.kind, object).map(Some) }
    });
    match applied {
        Ok(Some(object)) => as_json(if creating { StatusCode::CREATED } else { StatusCode::OK }, &object),
        Ok(None) => status(StatusCode::CONFLICT, "AlreadyExists", "the object exists"),
        Err(message) => status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", &message),
    }
}

/// The `Status` object of a failure.
pub(crate) fn status_json(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    })
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    as_json(code, &status_json(code.as_u16(), reason, message))
}

fn as_json(code: StatusCode, value: &Value) -> Response<Body> {
    text(code, "application/json", &value.to_string())
}

fn text(code: StatusCode, content_type: &'static str, text: &str) -> Response<Body> {
    with_body(code, content_type, Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed_unsync())
}

/// An answer of any body.
pub(crate) fn with_body(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
    response
}
