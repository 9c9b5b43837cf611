//! What the agent asks the kernel about devices and sockets, in a network namespace of the test's own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use lb_common::backend::{BACKEND_LIVE, BACKEND_SERVING};
use lb_common::config::IFACE_CAN_XDP_REDIRECT;
use lb_common::{A4, A6, Backend, Iface, Sock, SockKey, maps};
use lb_user::datapath::pins::Pins;
use lb_user::datapath::table::Table;
use lb_user::datapath::{Role, WantedInterface};
use lb_user::model::Family;
use lb_user::node::sockets::{SocketTables, stale};
use lb_user::node::xdp_features::{self, Changes};
use lb_user::tables::BackendEntry;

use crate::lab::{Lab, wanted};

const DEADLINE: Duration = Duration::from_secs(10);

fn takes_redirects(index: u32) -> bool {
    xdp_features::read().expect("readable").get(&index).expect("a device").takes_redirects()
}

#[test]
fn a_veth_takes_redirects_only_while_its_peer_can_receive_them_and_every_change_is_told() {
    Lab::run(|lab| {
        let index = lab.veth("wan");
        assert!(!takes_redirects(index), "its peer has neither XDP nor GRO");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut changes = Changes::listen().expect("a socket");
            for gro in ["on", "off", "on"] {
                let done =
                    Command::new("ethtool").args(["-K", "wanp", "gro", gro]).status().expect("ethtool");
                assert!(done.success());
                tokio::time::timeout(DEADLINE, changes.next()).await.expect("told").expect("a change");
                assert_eq!(takes_redirects(index), gro == "on", "GRO {gro}");
            }
        });
    });
}

#[test]
fn redirects_to_a_device_are_allowed_only_while_our_program_is_there_natively() {
    Lab::run(|lab| {
        let able = |name: &str| WantedInterface {
            flags: IFACE_CAN_XDP_REDIRECT,
            ..wanted(lab.ifindex(name), name, Role::Uplink)
        };
        lab.veth("wan");
        lab.ip("link add plain type bridge");
        let mut datapath = lab.open().expect("opens");
        let ifaces: Table<u32, Iface> =
            Table::open(&Pins::new(&lab.bpffs()).maps, maps::IFACES).expect("pinned");
        let allowed = |w: &WantedInterface| {
            let entry = ifaces.get(&w.ifindex).expect("readable").expect("an entry");
            entry.flags & IFACE_CAN_XDP_REDIRECT != 0
        };
        let (wan, plain) = (able("wan"), able("plain"));
        let states = datapath.sync_interfaces(&[wan.clone(), plain.clone()]).expect("synced");
        assert!(allowed(&wan) && states[0].takes_redirects, "{states:?}");
        assert!(!allowed(&plain) && !states[1].takes_redirects, "no native XDP: {states:?}");

        let losing = WantedInterface { flags: 0, loses_xdp_frames: true, ..wan.clone() };
        let states = datapath.sync_interfaces(std::slice::from_ref(&losing)).expect("synced");
        let xdp = &states[0].hooks[0];
        assert!(xdp.hook == "xdp" && xdp.prog_id.is_none() && xdp.reason.contains("would lose"), "{xdp:?}");
        assert!(!allowed(&losing));

        let states = datapath.sync_interfaces(std::slice::from_ref(&wan)).expect("synced");
        assert!(allowed(&wan) && states[0].hooks[0].prog_id.is_some(), "and back: {states:?}");
    });
}

/// A UDP socket connected to `peer`, both on the loopback device.
fn connected(bind: &str, peer: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(bind).expect("bound");
    socket.connect(peer).expect("connected");
    socket.set_read_timeout(Some(DEADLINE)).expect("set");
    socket
}

fn cookie(socket: &UdpSocket) -> [u32; 2] {
    let mut cookie: u64 = 0;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` has room for the eight bytes that `len` announces.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "SO_COOKIE");
    [cookie as u32, (cookie >> 32) as u32]
}

/// What a hook notes for a socket that it has connected to `peer`.
fn note(socket: &UdpSocket, peer: SocketAddr, backend_id: u32) -> (SockKey, Sock) {
    let (family, addr) = match peer {
        SocketAddr::V4(a) => (libc::AF_INET, [A4::from(*a.ip()).0, 0, 0, 0]),
        SocketAddr::V6(a) => (libc::AF_INET6, A6::from(*a.ip()).0),
    };
    let port_be = u32::from(peer.port().to_be());
    let key = SockKey { cookie: cookie(socket), addr, port_be, family: family.unsigned_abs() };
    (key, Sock { backend_id, backend_generation: 1, proto: 17, ..Sock::default() })
}

/// Backend 1 of each family serves, all others have been freed.
fn backend(family: Family, id: u32) -> Result<Option<BackendEntry>, Infallible> {
    let flags = if id == 1 { BACKEND_LIVE | BACKEND_SERVING } else { 0 };
    Ok(Some(match family {
        Family::V4 => BackendEntry::V4(Backend { flags, generation: 1, ..Backend::default() }),
        Family::V6 => BackendEntry::V6(Backend { flags, generation: 1, ..Backend::default() }),
    }))
}

#[test]
fn sockets_of_a_backend_that_is_gone_are_aborted_and_no_others() {
    Lab::run(|lab| {
        lab.ip("link set lo up");
        let servers = ["127.0.0.1:0", "[::1]:0"].map(|a| UdpSocket::bind(a).expect("bound"));
        let [v4, v6] = servers.each_ref().map(|s| s.local_addr().expect("bound"));
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().expect("ip"), v4.port());
        let (gone, serving) = (2, 1);
        let of = |bind, peer, noted_peer, id| {
            let socket = connected(bind, peer);
            let noted = note(&socket, noted_peer, id);
            (socket, noted)
        };
        let aborted =
            [of("127.0.0.1:0", v4, v4, gone), of("[::1]:0", v6, v6, gone), of("[::]:0", mapped, v4, gone)];
        let kept = [of("127.0.0.1:0", v4, v4, serving), of("[::1]:0", v6, v6, serving)];
        let unknown = connected("127.0.0.1:0", v4);
        let noted: HashMap<SockKey, Sock> = aborted.iter().chain(&kept).map(|(_, noted)| *noted).collect();

        let mut tables = SocketTables::open().expect("a socket");
        let all = tables.connected_udp().expect("dumped");
        assert_eq!(all.len(), 6);
        let Ok(found) = stale(all, |key| Ok(noted.get(key).copied()), backend);
        assert_eq!(found.len(), 3, "{found:?}");
        for socket in &found {
            assert!(tables.abort(socket).expect("allowed"), "{socket:?}");
            assert!(!tables.abort(socket).expect("allowed"), "once only");
        }
        for (socket, _) in &aborted {
            let error = socket.recv(&mut [0; 8]).expect_err("aborted");
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        }
        for (socket, server) in
            [(&kept[0].0, &servers[0]), (&kept[1].0, &servers[1]), (&unknown, &servers[0])]
        {
            socket.send(b"ask").expect("still connected");
            let (_, from) = server.recv_from(&mut [0; 8]).expect("arrived");
            server.send_to(b"answer", from).expect("sent");
            assert_eq!(socket.recv(&mut [0; 8]).expect("answered"), 6);
        }
        aborted[0].0.connect(v4).expect("may connect again");
        assert_eq!(aborted[0].0.send(b"ask").expect("sent"), 3);
    });
}
