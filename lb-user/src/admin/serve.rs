//! Listening and serving HTTP to people and machines that are not trusted to behave.
//!
//! Bounds: connections per listener, time for a request's head, life of a connection. Whoever drops (or aborts) the
//! future of [`serve`] closes the listener and every connection of it, as a health check that goes away must.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::debug;

/// Connections of one listener; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;
const BACKLOG: i32 = 128;
/// Time to send a request's head, and for a kept connection to send the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long a connection ends with its current answer.
const CONNECTION_LIFE: Duration = Duration::from_secs(120);
/// And then, whatever it does.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// After an error of accept (no descriptors, usually).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens on `address`. The IPv4 wildcard means both families, as in Go and therefore in kube-proxy, where the
/// host has both.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip() == Ipv4Addr::UNSPECIFIED {
        let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
        match bind(both, false) {
            // No IPv6 in this kernel, or none on this host.
            Err(e) if no_ipv6(&e) => {}
            other => return other,
        }
    }
    bind(address, address.ip() != Ipv6Addr::UNSPECIFIED)
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // So that connections of the agent before, in TIME_WAIT, do not keep this one from starting.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, router.clone()));
                }
                Err(error) => {
                    debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    // Errors are the client's affair.
    if tokio::time::timeout(CONNECTION_LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _late = tokio::time::timeout(LAST_ANSWER, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn exchange(address: SocketAddr, request: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    fn router() -> Router {
        Router::new().route("/", get(|| async { "here" }))
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn the_ipv4_wildcard_answers_in_both_families() {
        let listener = listen("0.0.0.0:0".parse().expect("address")).expect("listens");
        let port = listener.local_addr().expect("address").port();
        let server = tokio::spawn(serve(listener, router()));
        for host in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            let answer = exchange(host.parse().expect("address"), REQUEST).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{host}: {answer}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn ending_the_server_closes_the_port_and_its_connections() {
        let listener = listen("127.0.0.1:0".parse().expect("address")).expect("listens");
        let address = listener.local_addr().expect("address");
        let server = tokio::spawn(serve(listener, router()));
        let mut kept = TcpStream::connect(address).await.expect("connects");
        kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("asks");
        let mut head = [0; 12];
        kept.read_exact(&mut head).await.expect("an answer");
        server.abort();
        assert!(server.await.expect_err("aborted").is_cancelled());
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(5), kept.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the kept connection ends");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_that_says_so() {
        let address = "127.0.0.1:0".parse().expect("address");
        let first = listen(address).expect("listens");
        let again = listen(first.local_addr().expect("address"));
        assert_eq!(again.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }
}
