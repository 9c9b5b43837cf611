//! The smallest HTTP client: one GET from any namespace, for health checks and metrics.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::ns::Ns;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status.
    pub status: u16,
    /// Header lines with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

impl HttpAnswer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn parse(text: &str) -> io::Result<Self> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {text:?}"));
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|s| s.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(':'));
        Ok(Self {
            status: status.ok_or_else(broken)?,
            headers: headers.map(|(n, v)| (n.to_lowercase(), v.trim().to_owned())).collect(),
            body: body.to_owned(),
        })
    }
}

/// Gets `path` from `server`; `timeout` is for each of connecting and reading.
pub fn http_get(ns: &Ns, server: SocketAddr, path: &str, timeout: Duration) -> io::Result<HttpAnswer> {
    let exchange = || -> io::Result<HttpAnswer> {
        let mut stream = TcpStream::connect_timeout(&server, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        HttpAnswer::parse(&text)
    };
    ns.run(exchange).map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_status_headers_and_body() {
        let answer = HttpAnswer::parse("HTTP/1.1 503 X\r\nX-Weight: 0\r\n\r\n{}").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "{}"));
        assert_eq!(answer.header("x-weight"), Some("0"));
        assert!(HttpAnswer::parse("nonsense").is_err());
    }
}
