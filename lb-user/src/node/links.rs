//! Follows the host's interfaces, addresses, default routes and XDP abilities through netlink.
//!
//! A notification only says *that* something changed; the truth is always a fresh dump, so a lost or reordered
//! notification cannot leave a wrong picture behind. Bursts are coalesced. When the socket fails it is opened
//! anew, and a slow periodic dump catches what no notification told.

use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::facts::{Address, HostFacts, Kind, Link};
use super::xdp_features::{self, Changes};

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];
/// Quiet time after a notification before the dump: a CNI makes several changes per pod.
const SETTLE: Duration = Duration::from_millis(20);
/// Dump even when nothing was notified.
const RESYNC: Duration = Duration::from_secs(60);
/// Pause before the socket is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// The kernel's interfaces could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No netlink socket.
    #[error("netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// A dump was refused.
    #[error("netlink dump: {0}")]
    Dump(#[from] rtnetlink::Error),
}

/// A running watch of the host's interfaces; ends when dropped.
#[derive(Debug)]
pub struct LinkWatch {
    /// The newest facts.
    pub facts: watch::Receiver<HostFacts>,
    task: JoinHandle<()>,
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LinkWatch {
    /// Reads the host once and follows it from then on.
    pub async fn start() -> Result<LinkWatch, LinkError> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
        let connection = AbortOnDrop(tokio::spawn(connection));
        // Before the first look, or what changes in between is never told.
        let abilities = listen();
        let first = dump(&handle, abilities.is_some()).await?;
        let (send, facts) = watch::channel(first);
        let task = tokio::spawn(async move {
            let mut session = Some((connection, handle, messages, abilities));
            loop {
                if let Some((connection, handle, mut messages, mut abilities)) = session.take() {
                    follow(&handle, &mut messages, &mut abilities, &send).await;
                    drop(connection);
                }
                tokio::time::sleep(REOPEN).await;
                match rtnetlink::new_multicast_connection(&GROUPS) {
                    Ok((c, h, m)) => session = Some((AbortOnDrop(tokio::spawn(c)), h, m, listen())),
                    Err(error) => warn!(%error, "netlink socket refused; interfaces are not followed"),
                }
            }
        });
        Ok(LinkWatch { facts, task })
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens for changes of the devices' XDP abilities. Without that nothing is taken for able: what became of an
/// ability would not be noticed.
fn listen() -> Option<Changes> {
    Changes::listen()
        .inspect_err(
            |error| warn!(%error, "XDP abilities are not followed; XDP redirects to no other device"),
        )
        .ok()
}

/// What ended a wait.
enum Told {
    /// A link, address or route has changed; more may follow at once.
    Change,
    /// A device can do something else for XDP, or nothing was told for long: look now. One that no longer takes
    /// redirects loses every frame.
    Look,
    /// A socket has failed.
    End,
}

/// Waits until something is told, at most [`RESYNC`].
async fn wait<M>(messages: &mut (impl StreamExt<Item = M> + Unpin), abilities: &mut Option<Changes>) -> Told {
    let ability = async {
        match abilities {
            Some(changes) => changes.next().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        message = messages.next() => if message.is_some() { Told::Change } else { Told::End },
        changed = ability => match changed {
            Ok(()) => Told::Look,
            Err(error) => {
                warn!(%error, "XDP abilities are no longer followed");
                Told::End
            }
        },
        () = tokio::time::sleep(RESYNC) => Told::Look,
    }
}

/// Publishes a fresh dump after each burst of notifications, until a socket fails.
async fn follow<M>(
    handle: &Handle,
    messages: &mut (impl StreamExt<Item = M> + Unpin),
    abilities: &mut Option<Changes>,
    send: &watch::Sender<HostFacts>,
) {
    loop {
        match dump(handle, abilities.is_some()).await {
            Ok(facts) => {
                send.send_if_modified(|old| {
                    let changed = *old != facts;
                    if changed {
                        *old = facts;
                    }
                    changed
                });
            }
            Err(error) => {
                warn!(%error, "reading the interfaces failed");
                return;
            }
        }
        match wait(messages, abilities).await {
            Told::Look => continue,
            Told::End => return,
            Told::Change => {}
        }
        // Take what follows at once, but for no longer than a few settle times: a stream of changes must not
        // starve the dump.
        for _ in 0..5 {
            match tokio::time::timeout(SETTLE, messages.next()).await {
                Err(_quiet) => break,
                Ok(None) => return,
                Ok(Some(_)) => {}
            }
            while let Some(Some(_)) = futures::FutureExt::now_or_never(messages.next()) {}
        }
    }
}

async fn dump(handle: &Handle, with_abilities: bool) -> Result<HostFacts, LinkError> {
    let mut facts = HostFacts::default();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await? {
        let link = link_of(&message);
        facts.links.insert(link.index, link);
    }
    if with_abilities {
        take_abilities(&mut facts);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        if let Some(address) = address_of(&message) {
            facts.addresses.entry(message.header.index).or_default().push(address);
        }
    }
    let all4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let all6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    for filter in [all4, all6] {
        let mut routes = handle.route().get(filter).execute();
        while let Some(message) = routes.try_next().await? {
            facts.default_route_links.extend(default_route_links(&message));
        }
    }
    Ok(facts)
}

/// Fills in which devices take XDP redirects. What cannot be read is taken for unable.
fn take_abilities(facts: &mut HostFacts) {
    match xdp_features::read() {
        Ok(all) => {
            for (index, link) in &mut facts.links {
                link.takes_xdp_redirects = all.get(index).is_some_and(|f| f.takes_redirects());
            }
        }
        Err(error) => warn!(%error, "XDP abilities cannot be read"),
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let loopback = message.header.flags.contains(LinkFlags::Loopback);
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: if loopback { Kind::Loopback } else { Kind::Other },
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(index) if *index != 0 => link.controller = Some(*index),
            LinkAttribute::Address(bytes) if message.header.link_layer_type == LinkLayerType::Ether => {
                link.mac = bytes.as_slice().try_into().ok();
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind_of(kind);
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn kind_of(kind: &InfoKind) -> Kind {
    match kind {
        InfoKind::Veth => Kind::Veth,
        InfoKind::Netkit => Kind::Netkit,
        InfoKind::Bridge => Kind::Bridge,
        InfoKind::Dummy | InfoKind::Ifb | InfoKind::Nlmon => Kind::Inert,
        InfoKind::Vxlan
        | InfoKind::Geneve
        | InfoKind::IpIp
        | InfoKind::Ip6Tnl
        | InfoKind::SitTun
        | InfoKind::GreTun
        | InfoKind::GreTap
        | InfoKind::GreTun6
        | InfoKind::GreTap6
        | InfoKind::Wireguard => Kind::Tunnel,
        _ => Kind::Other,
    }
}

fn address_of(message: &AddressMessage) -> Option<Address> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(f) => flags = *f,
            _ => {}
        }
    }
    // On point-to-point links `Address` is the peer's; `Local`, when present, is ours.
    let ip: IpAddr = local.or(address)?;
    let unusable = AddressFlags::Deprecated | AddressFlags::Dadfailed;
    let tentative = flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    Some(Address {
        ip,
        global: message.header.scope == AddressScope::Universe,
        unusable: flags.intersects(unusable) || tentative,
        secondary: flags.contains(AddressFlags::Secondary),
        on_link: message.header.prefix_len < if ip.is_ipv4() { 32 } else { 128 },
    })
}

/// Interfaces of a default route of the main table; none for any other route.
fn default_route_links(message: &RouteMessage) -> Vec<u32> {
    let main_table = message.header.table == RouteHeader::RT_TABLE_MAIN;
    if message.header.destination_prefix_length != 0 || !main_table {
        return Vec::new();
    }
    let mut links = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|h| h.interface_index)),
            _ => {}
        }
    }
    links
}
