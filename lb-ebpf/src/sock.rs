//! Translation at the socket: a process of this node that connects or sends to a frontend is given a backend before
//! there is a packet, so nothing is paid per packet afterwards.
//!
//! Only a destination with a usable backend is translated. What would be rejected or dropped (R1–R6, source ranges)
//! is left as it is, and the packet path decides: so a process meets the same answer as everybody else.

use crate::affinity;
use crate::family::Family;
use crate::select::{self, usable};
use crate::tables::Tables;
use lb_common::config::CONFIG_SOCKETS_OF_PODS;
use lb_common::service::AFFINITY_NETNS;
use lb_common::{AffinityKey, Backend, Config, Reason, Sock, SockKey, Svc, SvcKey, hash};

/// Bit of [`SockKey::family`]: the key's address is the frontend's, and the value's the backend's.
pub const TOWARDS_BACKEND: u32 = 1 << 8;

/// What a socket hook was called with.
#[derive(Clone, Copy, Debug)]
pub struct Request<A> {
    /// Destination or peer address.
    pub addr: A,
    /// Its port, network byte order.
    pub port_be: u16,
    /// IP protocol number.
    pub proto: u8,
    /// The socket's cookie, low word first.
    pub cookie: [u32; 2],
    /// The network namespace's cookie, low word first.
    pub netns: [u32; 2],
}

/// Another address for the socket to use, or to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instead<A> {
    /// Address.
    pub addr: A,
    /// Port, network byte order.
    pub port_be: u16,
}

/// A backend for a socket that connects (`sticky` false: the process asks anew each time) or sends a datagram
/// (`sticky` true: the socket keeps its backend while that serves).
#[inline(always)]
pub fn towards_backend<F: Family, T: Tables<F>>(
    t: &T,
    r: &Request<F::A>,
    sticky: bool,
) -> Result<Instead<F::A>, Reason> {
    let Some(c) = t.config() else { return Err(Reason::NotReady) };
    if c.ready == 0 {
        return Err(Reason::NotReady);
    }
    let host = r.netns[0] == c.host_netns[0] && r.netns[1] == c.host_netns[1];
    if !host && c.flags & CONFIG_SOCKETS_OF_PODS == 0 {
        return Err(Reason::SockForeign);
    }
    let Some(svc) = t.svc(&SvcKey { addr: r.addr, port_be: r.port_be, proto: r.proto, pad: 0 }) else {
        return Err(Reason::SockNotOurs);
    };
    // A process of the node comes from the node's address; one of a pod has none yet, so the packet path decides.
    if svc.ranges_id != 0 && !(host && t.in_ranges(svc.ranges_id, &F::node_addr(c))) {
        return Err(Reason::SockNotOurs);
    }
    let now = t.now_tick();
    let kept = if sticky { keeps::<F, T>(t, r) } else { None };
    let (id, b) = match kept {
        Some(found) => found,
        None => choose::<F, T>(t, c, r, svc, now)?,
    };
    remember::<F, T>(t, r, id, &b, sticky);
    Ok(Instead { addr: b.addr, port_be: b.port_be })
}

#[inline(always)]
fn choose<F: Family, T: Tables<F>>(
    t: &T,
    c: &Config,
    r: &Request<F::A>,
    svc: &Svc,
    now: u32,
) -> Result<(u32, Backend<F::A>), Reason> {
    let set = select::set_of(svc, true)?;
    let proto = r.proto as u32;
    let key = AffinityKey { client: [r.netns[0], r.netns[1], 0, 0], svc_id: svc.id, kind: AFFINITY_NETNS };
    let h = if svc.affinity_s == 0 {
        hash::words(c.seed, [r.cookie[0], r.cookie[1], r.port_be as u32, svc.id])
    } else {
        match affinity::recall::<F, T>(t, svc, set, &key, proto, now) {
            Ok((id, b)) => {
                affinity::remember::<F, T>(t, &key, id, &b, now);
                return Ok((id, b));
            }
            Err(ended) => affinity::hash_of(c.seed, &key, ended),
        }
    };
    let (id, b) = select::backend::<F, T>(t, set, h, proto)?;
    if svc.affinity_s != 0 {
        affinity::remember::<F, T>(t, &key, id, &b, now);
    }
    Ok((id, b))
}

#[inline(always)]
fn key_of<F: Family>(r: &Request<F::A>, direction: u32) -> SockKey {
    SockKey {
        cookie: r.cookie,
        addr: F::words(&r.addr),
        port_be: r.port_be as u32,
        family: F::AF as u32 | direction,
    }
}

/// The backend this socket sent to before, if it still serves.
#[inline(always)]
fn keeps<F: Family, T: Tables<F>>(t: &T, r: &Request<F::A>) -> Option<(u32, Backend<F::A>)> {
    let s = t.sock(&key_of::<F>(r, TOWARDS_BACKEND))?;
    let b = t.backend(s.backend_id)?;
    (b.generation == s.backend_generation && usable(&b, r.proto as u32)).then_some((s.backend_id, b))
}

/// Notes what the peer stands for, and for datagrams which backend the socket keeps; only what is not noted yet.
#[inline(always)]
fn remember<F: Family, T: Tables<F>>(t: &T, r: &Request<F::A>, id: u32, b: &Backend<F::A>, sticky: bool) {
    let note = |addr: &F::A, port_be: u16| Sock {
        addr: F::words(addr),
        port_be: port_be as u32,
        backend_id: id,
        backend_generation: b.generation,
        proto: r.proto as u32,
    };
    let peer = Request { addr: b.addr, port_be: b.port_be, ..*r };
    put::<F, T>(t, &key_of::<F>(&peer, 0), &note(&r.addr, r.port_be));
    if sticky {
        put::<F, T>(t, &key_of::<F>(r, TOWARDS_BACKEND), &note(&b.addr, b.port_be));
    }
}

/// Writes an entry unless it is there already: a lookup costs a tenth of an update.
#[inline(always)]
fn put<F: Family, T: Tables<F>>(t: &T, k: &SockKey, v: &Sock) {
    if let Some(old) = t.sock(k)
        && old.backend_id == v.backend_id
        && old.backend_generation == v.backend_generation
        && old.port_be == v.port_be
        && F::from_words(&old.addr) == F::from_words(&v.addr)
    {
        return;
    }
    t.keep_sock(k, v);
}

/// The frontend that a socket's peer stands for.
#[inline(always)]
pub fn frontend_of<F: Family, T: Tables<F>>(t: &T, r: &Request<F::A>) -> Result<Instead<F::A>, Reason> {
    match t.sock(&key_of::<F>(r, 0)) {
        Some(s) => Ok(Instead { addr: F::from_words(&s.addr), port_be: s.port_be as u16 }),
        None => Err(Reason::SockNotOurs),
    }
}
