//! From configuration to a client, with a layer that tells the status board how each request went.

use std::path::PathBuf;
use std::time::Duration;

use ::kube::client::{Body, ClientBuilder};
use ::kube::config::{KubeConfigOptions, Kubeconfig};
use ::kube::{Client, Config};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use tower::{BoxError, Service};

use super::raw::Kind;
use crate::sources::SourceError;
use crate::sources::publish::StatusBoard;

/// How long one watch request lasts; the server ends it then, and a dead connection is noticed soon after.
pub(super) const WATCH_TIMEOUT_S: u32 = 120;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any watch is silent.
const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_TIMEOUT_S as u64 + 30);

/// Where the Kubernetes API is, and what to take from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeSource {
    /// A kubeconfig file; its current context is used.
    pub kubeconfig: Option<PathBuf>,
    /// A plain URL (`http://…`, or `https://…` with a publicly trusted certificate), instead of a kubeconfig.
    pub api_url: Option<String>,
    /// Where the API server is, with the pod's own credentials.
    pub api_server: Option<String>,
    /// Name of the own Node object.
    pub node_name: String,
    /// See `convert::Selection`.
    pub service_proxy_name: Option<String>,
    /// How long to wait before asking again for a kind that the API does not have [default: five minutes].
    pub absent_pause: Option<Duration>,
}

impl KubeSource {
    /// The client's configuration: the URL, else the kubeconfig, else the pod's own credentials, which a given
    /// server goes with.
    pub(super) async fn config(&self) -> Result<Config, SourceError> {
        let wrong = |error: String| SourceError::Config(error);
        let parse =
            |url: &str| url.parse::<Uri>().map_err(|error| wrong(format!("`{url}` is not a URL: {error}")));
        let mut config = if let Some(url) = &self.api_url {
            Config::new(parse(url)?)
        } else if let Some(path) = &self.kubeconfig {
            let file =
                Kubeconfig::read_from(path).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| wrong(format!("{}: {error}", path.display())))?
        } else if let Some(server) = &self.api_server {
            // Token and authority of the service account; the address of the cluster's own Service is not used.
            let mut config = Config::incluster_dns()
                .map_err(|error| wrong(format!("the pod's service account cannot be used: {error}")))?;
            config.cluster_url = parse(server)?;
            config
        } else {
            Config::incluster_env()
                .map_err(|error| wrong(format!("neither a URL nor a kubeconfig is given, and {error}")))?
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        // The watchers have their own backoff.
        config.default_retry = false;
        Ok(config)
    }
}

/// A client whose requests report into `board`.
pub(super) fn client(config: Config, board: StatusBoard) -> Result<Client, SourceError> {
    let builder = ClientBuilder::try_from(config).map_err(|error| SourceError::Client(error.to_string()))?;
    let layer = tower::layer::layer_fn(|inner| Reporting { inner, board: board.clone() });
    Ok(builder.with_layer(&layer).build())
}

/// Reports the outcome of every request to the part of the board that the path names.
#[derive(Clone)]
struct Reporting<S> {
    inner: S,
    board: StatusBoard,
}

impl<S, B> Service<Request<Body>> for Reporting<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let kind = Kind::ALL.into_iter().find(|kind| path.ends_with(kind.plural()));
        let board = self.board.clone();
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            if let Some(kind) = kind {
                match &answer {
                    Ok(response)
                        if response.status().is_success()
                            || kind.does_without(response.status().as_u16()) =>
                    {
                        board.ok(kind.index());
                    }
                    Ok(response) => board.failed(kind.index(), format!("{path}: {}", response.status())),
                    Err(error) => board.failed(kind.index(), format!("{path}: {}", chain(error.as_ref()))),
                }
            }
            answer
        }
        .boxed()
    }
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
