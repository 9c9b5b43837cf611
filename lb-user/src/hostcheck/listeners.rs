//! Local sockets that sit on a Service's port (spec P7, T45).
//!
//! Fairway wins: packets from outside that match a Service are translated before any socket sees them. The process
//! behind the socket gets no traffic, and somebody will wonder why; so it is a problem with a name.

use std::net::{IpAddr, SocketAddr};

use procfs::net::{TcpState, UdpState};

use super::{Ports, problem};
use crate::model::{Problem, Proto};

/// A port that a Service has on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    /// Protocol.
    pub(super) proto: Proto,
    /// The address of a VIP; none = the node's own, a nodePort.
    pub(super) address: Option<IpAddr>,
    /// Port, host byte order.
    pub(super) port: u16,
}

/// Sockets of this network namespace that wait for whoever comes.
pub(super) fn read() -> Vec<(Proto, SocketAddr)> {
    let tcp = [procfs::net::tcp(), procfs::net::tcp6()].into_iter().flatten().flatten();
    let tcp = tcp.filter(|s| s.state == TcpState::Listen).map(|s| (Proto::Tcp, s.local_address));
    // Close is the state of a UDP socket that is not connected.
    let udp = [procfs::net::udp(), procfs::net::udp6()].into_iter().flatten().flatten();
    let udp = udp.filter(|s| s.state == UdpState::Close).map(|s| (Proto::Udp, s.local_address));
    tcp.chain(udp).collect()
}

/// The claims that a socket is in the way of.
pub(super) fn problems(ports: &Ports, sockets: &[(Proto, SocketAddr)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (proto, socket) in sockets {
        let nobodys = socket.ip().is_unspecified();
        // Loopback traffic never meets a nodePort.
        let node_port = (!socket.ip().is_loopback()).then_some(Claim {
            proto: *proto,
            address: None,
            port: socket.port(),
        });
        let vip =
            (!nobodys).then_some(Claim { proto: *proto, address: Some(socket.ip()), port: socket.port() });
        for claim in [node_port, vip].into_iter().flatten() {
            let Some((object, field)) = ports.get(&claim) else { continue };
            let message = format!(
                "{proto} {}: a process of this node listens on {socket} and gets nothing that comes from outside",
                claim.port
            );
            problems.push(problem(object, *field, message));
        }
    }
    problems.sort();
    problems.dedup();
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        let vip = Some("203.0.113.5".parse().expect("ip"));
        Ports::from([
            (
                Claim { proto: Proto::Tcp, address: None, port: 30_080 },
                ("Service default/web".to_owned(), "spec.ports.nodePort"),
            ),
            (
                Claim { proto: Proto::Udp, address: vip, port: 53 },
                ("Service kube-system/dns".to_owned(), "spec.ports.port"),
            ),
        ])
    }

    fn found(proto: Proto, socket: &str) -> Vec<String> {
        let sockets = [(proto, socket.parse().expect("address"))];
        problems(&ports(), &sockets).into_iter().map(|p| format!("{} {}", p.object, p.field)).collect()
    }

    #[test]
    fn a_listener_on_a_node_port_is_named_with_its_service() {
        let web = ["Service default/web spec.ports.nodePort"];
        assert_eq!(found(Proto::Tcp, "0.0.0.0:30080"), web);
        assert_eq!(found(Proto::Tcp, "[::]:30080"), web);
        assert_eq!(found(Proto::Tcp, "192.0.2.1:30080"), web);
    }

    #[test]
    fn loopback_other_protocols_and_other_ports_are_nobodys_business() {
        for (proto, socket) in [
            (Proto::Tcp, "127.0.0.1:30080"),
            (Proto::Tcp, "[::1]:30080"),
            (Proto::Udp, "0.0.0.0:30080"),
            (Proto::Tcp, "0.0.0.0:30081"),
            (Proto::Udp, "0.0.0.0:53"),
        ] {
            assert!(found(proto, socket).is_empty(), "{proto} {socket}");
        }
    }

    #[test]
    fn a_listener_on_a_vip_counts_only_on_its_very_address() {
        assert_eq!(found(Proto::Udp, "203.0.113.5:53"), ["Service kube-system/dns spec.ports.port"]);
    }

    #[test]
    fn this_processs_own_listeners_are_seen() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
        let udp = std::net::UdpSocket::bind("[::1]:0").expect("binds");
        let sockets = read();
        assert!(sockets.contains(&(Proto::Tcp, tcp.local_addr().expect("address"))));
        assert!(sockets.contains(&(Proto::Udp, udp.local_addr().expect("address"))));
    }
}
