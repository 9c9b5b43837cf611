//! Connected UDP sockets of this node's own processes whose backend is gone.
//!
//! The socket hooks choose a backend when a process connects. For UDP no packet ever comes back to end such a
//! connection when that backend goes: the process would talk to nobody, for ever. So the socket is aborted
//! (`SOCK_DESTROY` of sock_diag): the process gets ECONNABORTED from its next call, connects again and is given a
//! backend that serves. Only sockets of the calling thread's network namespace are seen, and only those whose peer the
//! hooks have chosen, as their map notes. Which sockets is decided by [`stale`], a pure function.

use std::io;
use std::net::IpAddr;

use lb_common::backend::{BACKEND_LIVE, BACKEND_SERVING};
use lb_common::{A4, A6, Sock, SockKey};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_UDP, SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::{Answer, Channel, NetlinkError};
use crate::compile::keys::entry_state;
use crate::model::Family;
use crate::tables::BackendEntry;

/// A connected UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Family of the socket itself; an IPv6 one may have an IPv4 peer.
    family: u8,
    id: SocketId,
}

impl Connected {
    /// Address and port of its peer, and its family.
    fn peer(&self) -> (IpAddr, Family) {
        let ip = self.id.destination_address.to_canonical();
        (ip, Family::of(&ip))
    }

    /// Under what the hooks note its peer.
    fn key(&self) -> SockKey {
        let c = self.id.cookie;
        let (peer, _) = self.peer();
        let (family, addr) = match peer {
            IpAddr::V4(ip) => (AF_INET, [A4::from(ip).0, 0, 0, 0]),
            IpAddr::V6(ip) => (AF_INET6, A6::from(ip).0),
        };
        SockKey {
            // Two words, the low one first, each in the machine's byte order.
            cookie: [
                u32::from_ne_bytes([c[0], c[1], c[2], c[3]]),
                u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
            ],
            addr,
            port_be: u32::from(self.id.destination_port.to_be()),
            family: u32::from(family),
        }
    }
}

/// Those of the sockets that hooks have connected to a backend which is gone or serves no more. `noted` looks up what
/// the hooks have noted, `backend` what the backends' array of a family has.
pub fn stale<E>(
    sockets: Vec<Connected>,
    noted: impl Fn(&SockKey) -> Result<Option<Sock>, E>,
    backend: impl Fn(Family, u32) -> Result<Option<BackendEntry>, E>,
) -> Result<Vec<Connected>, E> {
    let mut found = Vec::new();
    for socket in sockets {
        let Some(sock) = noted(&socket.key())? else { continue };
        let (_, family) = socket.peer();
        let serves = backend(family, sock.backend_id)?.is_some_and(|entry| {
            let (flags, generation) = entry_state(&entry);
            let serving = BACKEND_LIVE | BACKEND_SERVING;
            flags & serving == serving && generation == sock.backend_generation
        });
        if !serves && sock.proto == u32::from(IPPROTO_UDP) {
            found.push(socket);
        }
    }
    Ok(found)
}

/// The kernel's socket tables.
#[derive(Debug)]
pub struct SocketTables(Channel);

impl SocketTables {
    /// Opens those of the calling thread's network namespace.
    pub fn open() -> io::Result<SocketTables> {
        Channel::open(NETLINK_SOCK_DIAG).map(SocketTables)
    }

    /// All connected UDP sockets, both families.
    pub fn connected_udp(&mut self) -> Result<Vec<Connected>, NetlinkError> {
        let mut found = Vec::new();
        for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let answers: Vec<SockDiagMessage> = self.0.ask(request(family, any), Answer::All)?;
            found.extend(answers.into_iter().filter_map(|answer| match answer {
                SockDiagMessage::InetResponse(r) => {
                    Some(Connected { family: r.header.family, id: r.header.socket_id })
                }
                _ => None,
            }));
        }
        Ok(found)
    }

    /// Aborts a socket; false when it is gone already, or is another one by now.
    pub fn abort(&mut self, socket: &Connected) -> Result<bool, NetlinkError> {
        let question = SockDiagDestroy::new(request(socket.family, socket.id.clone()));
        match self.0.ask::<_, SockDiagMessage>(question, Answer::One) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// A request about connected UDP sockets.
fn request(family: u8, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use lb_common::Backend;

    use super::*;

    const V4: [&str; 2] = ["10.244.1.3:53", "10.244.2.3:53"];
    const V6: &str = "[fd44::3]:53";

    fn socket(cookie: u64, family: u8, peer: &str) -> Connected {
        let peer: SocketAddr = peer.parse().expect("address");
        let ip = match peer.ip() {
            IpAddr::V4(ip) if family == AF_INET6 => ip.to_ipv6_mapped().into(),
            ip => ip,
        };
        let id = SocketId {
            cookie: cookie.to_ne_bytes(),
            destination_address: ip,
            destination_port: peer.port(),
            ..SocketId::new_v4()
        };
        Connected { family, id }
    }

    fn sock(backend_id: u32, generation: u32) -> Sock {
        Sock { backend_id, backend_generation: generation, proto: IPPROTO_UDP.into(), ..Sock::default() }
    }

    /// Backends 1 (live, serving), 2 (live only), 3 (freed), all of generation 7, and no others.
    fn backend(family: Family, id: u32) -> Result<Option<BackendEntry>, Infallible> {
        let flags = match id {
            1 => BACKEND_LIVE | BACKEND_SERVING,
            2 => BACKEND_LIVE,
            3 => 0,
            _ => return Ok(None),
        };
        Ok(Some(match family {
            Family::V4 => BackendEntry::V4(Backend { flags, generation: 7, ..Backend::default() }),
            Family::V6 => BackendEntry::V6(Backend { flags, generation: 7, ..Backend::default() }),
        }))
    }

    fn chosen(sockets: &[Connected], noted: &[(&Connected, Sock)]) -> Vec<Connected> {
        let noted: HashMap<SockKey, Sock> = noted.iter().map(|(s, v)| (s.key(), *v)).collect();
        let Ok(found) = stale(sockets.to_vec(), |k| Ok(noted.get(k).copied()), backend);
        found
    }

    #[test]
    fn a_socket_is_stale_when_its_backend_is_gone_serves_no_more_or_is_another_one() {
        for (id, generation, is_stale) in
            [(1, 7, false), (1, 6, true), (2, 7, true), (3, 7, true), (9, 7, true)]
        {
            for s in [socket(5, AF_INET, V4[0]), socket(6, AF_INET6, V6), socket(7, AF_INET6, V4[0])] {
                let found = chosen(std::slice::from_ref(&s), &[(&s, sock(id, generation))]);
                assert_eq!(found.len(), usize::from(is_stale), "backend {id} generation {generation}: {s:?}");
            }
        }
    }

    #[test]
    fn what_the_hooks_have_not_noted_is_left_alone() {
        let noted = socket(5, AF_INET, V4[0]);
        let others = [
            socket(6, AF_INET, V4[0]),
            socket(5, AF_INET, V4[1]),
            socket(5, AF_INET, "10.244.1.3:54"),
            socket(5 << 32, AF_INET, V4[0]),
        ];
        assert_eq!(chosen(&others, &[(&noted, sock(3, 7))]), []);
        let tcp = Sock { proto: 6, ..sock(3, 7) };
        assert_eq!(chosen(std::slice::from_ref(&noted), &[(&noted, tcp)]), []);
    }

    #[test]
    fn an_ipv4_peer_of_an_ipv6_socket_is_noted_as_ipv4() {
        let mapped = socket(0x0000_0002_0000_0001, AF_INET6, V4[0]).key();
        assert_eq!(mapped, socket(0x0000_0002_0000_0001, AF_INET, V4[0]).key());
        assert_eq!(mapped.cookie, [1, 2]);
        assert_eq!(mapped.family, 2);
        assert_eq!(mapped.port_be, u32::from(53u16.to_be()));
        assert_eq!(mapped.addr[0].to_ne_bytes(), [10, 244, 1, 3]);
    }
}
