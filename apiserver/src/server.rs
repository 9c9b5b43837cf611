//! The server's handle: life, objects, faults.
//!
//! The server runs on its own runtime, so that the handle works from synchronous and asynchronous code alike. The
//! listening socket is kept over [`ApiServer::stop`], deaf, so that [`ApiServer::resume`] finds the same port in the
//! same network namespace.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::kind::Kind;
use crate::store::Store;
use crate::{http, tls};

/// How to start.
#[derive(Debug)]
pub struct Options {
    /// The socket to serve on; `None`: any free port of 127.0.0.1. It decides the network namespace.
    pub listener: Option<TcpListener>,
    /// Serve TLS with a fresh certificate authority.
    pub tls: bool,
    /// Pause between bookmarks on a quiet watch.
    pub bookmark_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { listener: None, tls: false, bookmark_interval: Duration::from_secs(5) }
    }
}

/// A server that could not be started or asked for something impossible.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket or the runtime failed.
    #[error("API server: {0}")]
    Io(#[from] io::Error),
    /// The certificates could not be made.
    #[error("API server certificates: {0}")]
    Tls(String),
    /// The object has no known kind or no name.
    #[error("object refused: {0}")]
    Object(String),
}

/// Counters of one kind, for tests to wait on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lists (first pages) answered.
    pub lists: u64,
    /// Watches begun.
    pub watches: u64,
    /// Watches open now.
    pub open_watches: u64,
    /// Requests waiting because of [`ApiServer::hold`].
    pub held: u64,
}

/// Faults that are in force.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) stalled: bool,
    pub(crate) held: HashSet<Kind>,
    pub(crate) failing: HashMap<Kind, u16>,
    /// Watches opened before the current number end with 410.
    pub(crate) gone_count: u64,
    /// Watches opened before the current number just end.
    pub(crate) close_count: u64,
}

/// What requests share.
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    pub(crate) bookmark_interval: Duration,
}

/// Everything that changes.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) stats: HashMap<Kind, Stats>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something and wakes every waiting request.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.send_modify(|count| *count += 1);
        result
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// A running API server; dropping it ends it.
pub struct ApiServer {
    shared: Arc<Shared>,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<tls::Identity>,
    accepting: Mutex<Option<AbortHandle>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl ApiServer {
    /// Starts an empty server.
    pub fn start(options: Options) -> Result<ApiServer, Error> {
        let listener = match options.listener {
            Some(listener) => listener,
            None => bind_free_port()?,
        };
        let address = listener.local_addr()?;
        let tls = options.tls.then(|| tls::Identity::new(address.ip())).transpose()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("apiserver")
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            bookmark_interval: options.bookmark_interval,
        });
        let accepting = Mutex::new(None);
        let server = ApiServer { shared, listener, address, tls, accepting, runtime: Some(runtime) };
        server.accept()?;
        Ok(server)
    }

    /// Where it serves: `http://…` or `https://…`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// The certificate authority, if it serves TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.ca_pem.as_str())
    }

    /// A kubeconfig for this server (JSON, which is YAML).
    pub fn kubeconfig(&self) -> String {
        let ca = self.ca_pem().map(|pem| tls::base64(pem.as_bytes()));
        let mut cluster = serde_json::json!({"server": self.url()});
        if let Some(ca) = ca {
            cluster["certificate-authority-data"] = ca.into();
        }
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fairway", "cluster": cluster}],
            "users": [{"name": "fairway", "user": {}}],
            "contexts": [{"name": "fairway", "context": {"cluster": "fairway", "user": "fairway"}}],
            "current-context": "fairway",
        })
        .to_string()
    }

    /// Creates or replaces an object by its `apiVersion`, `kind` and name; an unchanged one makes no event.
    pub fn apply(&self, object: Value) -> Result<(), Error> {
        let kind =
            Kind::of(&object).ok_or_else(|| Error::Object("apiVersion and kind are not served".into()))?;
        self.shared.change(|state| state.store.apply(kind, object)).map_err(Error::Object)?;
        Ok(())
    }

    /// Deletes an object; false if there is none. The namespace of Nodes is empty.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        self.shared.change(|state| state.store.delete(kind, &(namespace.into(), name.into()))).is_some()
    }

    /// One object.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.shared.state().store.get(kind, &(namespace.into(), name.into()))
    }

    /// Counters of a kind.
    pub fn stats(&self, kind: Kind) -> Stats {
        self.shared.state().stats.get(&kind).copied().unwrap_or_default()
    }

    /// Fault: every open watch gets an `ERROR` event 410 and ends, and older versions are forgotten.
    pub fn gone_410(&self) {
        self.shared.change(|state| {
            state.store.compact();
            state.faults.gone_count += 1;
        });
    }

    /// Fault: forgets old versions; open watches go on.
    pub fn compact(&self) {
        self.shared.change(|state| state.store.compact());
    }

    /// Fault: every open watch ends without a word.
    pub fn close_watches(&self) {
        self.shared.change(|state| state.faults.close_count += 1);
    }

    /// Fault: watches stay open but silent, until called with false.
    pub fn stall(&self, stalled: bool) {
        self.shared.change(|state| state.faults.stalled = stalled);
    }

    /// Fault: lists of a kind wait, until [`ApiServer::release`].
    pub fn hold(&self, kind: Kind) {
        self.shared.change(|state| state.faults.held.insert(kind));
    }

    /// Ends [`ApiServer::hold`].
    pub fn release(&self, kind: Kind) {
        self.shared.change(|state| state.faults.held.remove(&kind));
    }

    /// Fault: requests for a kind are answered with this HTTP status (403, 500, 410 …), until [`ApiServer::heal`].
    pub fn fail(&self, kind: Kind, status: u16) {
        self.shared.change(|state| state.faults.failing.insert(kind, status));
    }

    /// Ends [`ApiServer::fail`].
    pub fn heal(&self, kind: Kind) {
        self.shared.change(|state| state.faults.failing.remove(&kind));
    }

    /// Fault: puts any JSON into lists and watches of a kind, whatever the selectors.
    pub fn add_garbage(&self, kind: Kind, garbage: Value) {
        self.shared.change(|state| state.store.add_garbage(kind, garbage));
    }

    /// Removes what [`ApiServer::add_garbage`] put there.
    pub fn clear_garbage(&self, kind: Kind) {
        self.shared.change(|state| state.store.clear_garbage(kind));
    }

    /// Fault: sends an unchanged object to every watch once more; false if there is none.
    pub fn repeat(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        self.shared.change(|state| state.store.repeat(kind, &(namespace.into(), name.into())))
    }

    /// Fault: connections end and new ones are refused; objects can still be changed by the handle.
    pub fn stop(&self) -> Result<(), Error> {
        let mut accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = accepting.take() {
            task.abort();
            socket2::SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both)?;
        }
        Ok(())
    }

    /// Serves again after [`ApiServer::stop`], on the same port.
    pub fn resume(&self) -> Result<(), Error> {
        if self.accepting.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let socket = socket2::SockRef::from(&self.listener);
        if self.listener.local_addr()?.port() == 0 {
            // The kernel takes back a port that it had chosen itself.
            socket.bind(&self.address.into())?;
        }
        socket.listen(1024)?;
        self.accept()
    }

    fn accept(&self) -> Result<(), Error> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let acceptor = self.tls.as_ref().map(|tls| tls.acceptor.clone());
        let task = runtime.spawn(accept_loop(listener, acceptor, self.shared.clone()));
        *self.accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A listener on a free port, bound by number: only such a port stays the socket's own while it is deaf.
fn bind_free_port() -> io::Result<TcpListener> {
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

/// Serves connections; all of them end with this task.
async fn accept_loop(listener: tokio::net::TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(http::serve(stream, tls.clone(), shared.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
