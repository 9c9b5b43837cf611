//! What must become of a connection: spec §1.10 read naively, from the objects, without a line of the agent's code.
//!
//! Every question is answered by walking all objects anew. Where Fairway differs on purpose it says so.

use crate::world::{Client, Connection, Detect, Options, To, ip, net};
use ipnet::IpNet;
use lb_user::model::{Endpoint, Proto, Service, ServicePort, World};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A service port: Service, port name, protocol, family.
pub type PortId = (String, String, Proto, bool);
/// An endpoint.
pub type Target = (IpAddr, u16);

/// What must become of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Passed as it came.
    NotOurs,
    /// Answered with a refusal.
    Reject,
    /// Dropped.
    Drop,
    /// Sent to one of these.
    Serve { port: PortId, to: BTreeSet<Target>, affinity_s: u32 },
}

/// Kinds of frontends in the order of §1.10 step 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Cluster,
    Vip,
    External,
    Node,
}

/// What a connection has found.
pub struct Frontend<'a> {
    pub kind: Kind,
    pub service: &'a Service,
    pub port: &'a ServicePort,
}

pub struct Oracle<'a> {
    pub world: &'a World,
    pub options: Options,
    /// (client, service port) → endpoint and the second it was last used in.
    pub affinity: &'a mut BTreeMap<(String, PortId), (Target, u32)>,
}

/// Networks that hold nothing but pods of this node, or of the cluster.
pub fn local_networks(detect: Detect) -> Vec<IpNet> {
    let texts: &[&str] = match detect {
        Detect::NodeCidr => &["10.244.0.0/16", "fd00:f4::/32"],
        // 244 and 245.
        Detect::ClusterCidr => &["10.244.0.0/15", "fd00:f4::/31"],
        _ => &[],
    };
    texts.iter().map(|t| t.parse().expect("network")).collect()
}

/// The ServiceCIDRs.
pub fn service_networks() -> Vec<IpNet> {
    ["10.96.0.0/28", "fd00:60::/124"].iter().map(|t| t.parse().expect("network")).collect()
}

pub fn destination(c: &Connection) -> IpAddr {
    match c.to {
        To::Cluster(h) => ip(c.v6, net::CLUSTER, h),
        To::Vip(h) => ip(c.v6, net::VIP, h),
        To::External(h) => ip(c.v6, net::EXTERNAL, h),
        To::Node(h) => ip(c.v6, net::NODE, h),
        To::Other(h) => ip(c.v6, net::OUTSIDE, 100 + h),
        To::Exactly(address) => address,
    }
}

/// The client's address; none at a socket.
pub fn source(c: &Connection) -> Option<IpAddr> {
    Some(match c.client {
        Client::Outside(h) => ip(c.v6, net::OUTSIDE, h),
        Client::RemotePod(h) => ip(c.v6, net::REMOTE, h),
        Client::Pod(h) | Client::NewPod(h) => ip(c.v6, net::LOCAL, h),
        Client::Node(h) => ip(c.v6, net::NODE, h),
        Client::Socket | Client::PodSocket(_) => return None,
    })
}

impl<'a> Oracle<'a> {
    /// Step 1: who owns this destination. Of equal kinds the older Service, then the first by name, then by port name.
    pub fn frontend(&self, dst: IpAddr, proto: Proto, dport: u16) -> Option<Frontend<'a>> {
        let v6 = dst.is_ipv6();
        let mut found: Vec<(Kind, i64, String, String, Frontend<'a>)> = Vec::new();
        for service in self.world.services.values() {
            // M2: without a ClusterIP in this family the whole service is ignored in it.
            if !service.cluster_ips.iter().any(|a| a.is_ipv6() == v6) {
                continue;
            }
            for port in
                service.ports.iter().filter(|p| p.proto == proto && self.first_of_its_name(service, p))
            {
                let mut offer = |kind| {
                    let frontend = Frontend { kind, service, port };
                    let name = (service.key.to_string(), port.name.to_string());
                    found.push((kind, service.created_unix_s, name.0, name.1, frontend));
                };
                if port.port == dport {
                    if service.cluster_ips.contains(&dst) {
                        offer(Kind::Cluster);
                    }
                    if service.load_balancer_ips.contains(&dst) {
                        offer(Kind::Vip);
                    }
                    if service.external_ips.contains(&dst) && external_is_allowed(dst) {
                        offer(Kind::External);
                    }
                }
                if port.node_port != 0
                    && port.node_port == dport
                    && self.node_port_addresses(v6).contains(&dst)
                {
                    offer(Kind::Node);
                }
            }
        }
        found.sort_by(|a, b| (a.0, a.1, &a.2, &a.3).cmp(&(b.0, b.1, &b.2, &b.3)));
        found.into_iter().next().map(|f| f.4)
    }

    /// Everywhere a service port may be asked for.
    pub fn places(&self, id: &PortId) -> Vec<(IpAddr, u16)> {
        let mut all = Vec::new();
        for service in self.world.services.values().filter(|s| s.key.to_string() == id.0) {
            for port in service.ports.iter().filter(|p| *p.name == *id.1 && p.proto == id.2) {
                let lists = [&service.cluster_ips, &service.load_balancer_ips, &service.external_ips];
                all.extend(lists.iter().flat_map(|list| list.iter().map(|a| (*a, port.port))));
                all.extend(self.node_port_addresses(id.3).into_iter().map(|a| (a, port.node_port)));
            }
        }
        all.retain(|(a, _)| a.is_ipv6() == id.3);
        all
    }

    /// M1: (name, protocol) is a service port's identity; the API allows each once.
    fn first_of_its_name(&self, service: &Service, port: &ServicePort) -> bool {
        let same = |p: &&ServicePort| p.name == port.name && p.proto == port.proto;
        service.ports.iter().find(same).is_some_and(|first| std::ptr::eq(first, port))
    }

    fn node_port_addresses(&self, v6: bool) -> Vec<IpAddr> {
        let mut all = vec![ip(v6, net::NODE, 1)];
        if self.options.both_addresses {
            all.push(ip(v6, net::NODE, 2));
        }
        all
    }

    /// Every endpoint of a service port: later duplicates replace earlier ones only if they are local (E6).
    fn endpoints(&self, f: &Frontend<'_>, v6: bool) -> Vec<(Target, &'a Endpoint)> {
        let mut all: Vec<(Target, &Endpoint)> = Vec::new();
        for slice in self.world.slices.values() {
            let is_ours =
                slice.key.namespace == f.service.key.namespace && slice.service == f.service.key.name;
            for port in &slice.ports {
                // M8: by name and protocol.
                if !is_ours || port.name != f.port.name || port.proto != f.port.proto {
                    continue;
                }
                for e in slice.endpoints.iter().filter(|e| e.addr.is_ipv6() == v6) {
                    let target = (e.addr, port.port);
                    match all.iter_mut().find(|(t, _)| *t == target) {
                        Some(earlier) if is_local(e) => earlier.1 = e,
                        Some(_) => {}
                        None => all.push((target, e)),
                    }
                }
            }
        }
        all
    }

    /// §1.3.1 and §1.3.2: the cluster set, the local set, and whether there is any.
    fn sets(&self, f: &Frontend<'_>, v6: bool) -> (BTreeSet<Target>, BTreeSet<Target>, bool) {
        let all = self.endpoints(f, v6);
        let usable_at_last = |e: &Endpoint| e.serving && e.terminating;
        let any = all.iter().any(|(_, e)| e.ready || usable_at_last(e));
        let ready: Vec<_> = all.iter().filter(|(_, e)| e.ready).collect();
        let by_node = ready.iter().all(|(_, e)| !e.hint_nodes().is_empty())
            && ready.iter().any(|(_, e)| e.hint_nodes().contains(&"n1".to_string()));
        let by_zone = ready.iter().all(|(_, e)| !e.hint_zones().is_empty())
            && ready.iter().any(|(_, e)| e.hint_zones().contains(&"a".to_string()));
        let near = |e: &Endpoint| match (by_node, by_zone) {
            (true, _) => e.hint_nodes().contains(&"n1".to_string()),
            (false, true) => e.hint_zones().contains(&"a".to_string()),
            (false, false) => true,
        };
        let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<Target> {
            all.iter().filter(|(_, e)| wanted(e)).map(|(t, _)| *t).collect()
        };
        let or =
            |first: BTreeSet<Target>, second: BTreeSet<Target>| if first.is_empty() { second } else { first };
        let cluster = or(pick(&|e| e.ready && near(e)), pick(&usable_at_last));
        let local = or(pick(&|e| is_local(e) && e.ready), pick(&|e| is_local(e) && usable_at_last(e)));
        (cluster, local, any)
    }

    /// Is the sender a pod of this node, as far as the detector can tell?
    pub fn is_local_pod(&self, c: &Connection) -> bool {
        let by_network = |a: IpAddr| local_networks(self.options.detect).iter().any(|n| n.contains(&a));
        match (c.client, self.options.detect) {
            // Sockets and late clients are of this node by where they are met.
            (Client::PodSocket(_) | Client::NewPod(_), _) => true,
            (_, Detect::Nothing) => false,
            (Client::Pod(h), Detect::Interface) => h != super::UNKNOWN_POD,
            (_, Detect::Interface) => false,
            _ => source(c).is_some_and(by_network),
        }
    }

    /// M5, R4, §1.4.2.
    fn range_admits(&self, f: &Frontend<'_>, dst: IpAddr, src: IpAddr) -> bool {
        let listed: Vec<&IpNet> =
            f.service.source_ranges.iter().filter(|n| n.addr().is_ipv6() == dst.is_ipv6()).collect();
        let node = ip(dst.is_ipv6(), net::NODE, 1);
        listed.is_empty()
            || listed.iter().any(|n| n.contains(&src))
            || (src == dst && listed.iter().any(|n| n.contains(&node)))
    }

    /// Steps 1 to 5, without the choice.
    pub fn decide(&self, c: &Connection) -> Want {
        let dst = destination(c);
        let Some(f) = self.frontend(dst, c.proto, c.port) else {
            let active = self.world.services.values().any(|s| s.cluster_ips.contains(&dst));
            return match (active, service_networks().iter().any(|n| n.contains(&dst))) {
                (true, _) => Want::Reject,
                (false, true) => Want::Drop,
                (false, false) => Want::NotOurs,
            };
        };
        // A process of the node comes from the node's address; the packet path decides about others.
        let src = source(c).unwrap_or(ip(c.v6, net::NODE, 1));
        if f.kind == Kind::Vip && !self.range_admits(&f, dst, src) {
            return Want::Drop;
        }
        let policy_local =
            if f.kind == Kind::Cluster { f.service.internal_local } else { f.service.external_local };
        let own = matches!(c.client, Client::Node(_) | Client::Socket);
        let short_circuit = f.kind != Kind::Cluster && (self.is_local_pod(c) || own);
        let (cluster, local, any) = self.sets(&f, c.v6);
        let (set, other) = if policy_local && !short_circuit { (local, cluster) } else { (cluster, local) };
        if set.is_empty() {
            return if policy_local && (!other.is_empty() || any) { Want::Drop } else { Want::Reject };
        }
        let port = (f.service.key.to_string(), f.port.name.to_string(), f.port.proto, c.v6);
        Want::Serve { port, to: set, affinity_s: f.service.affinity_timeout_s.unwrap_or(0) }
    }

    /// Step 5: what affinity narrows a set to.
    pub fn narrowed(&self, client: &str, want: &Want, now_s: u32) -> Want {
        let Want::Serve { port, to, affinity_s } = want else { return want.clone() };
        match self.affinity.get(&(client.to_owned(), port.clone())) {
            Some((target, at)) if *affinity_s > 0 && now_s - at < *affinity_s && to.contains(target) => {
                Want::Serve { port: port.clone(), to: [*target].into(), affinity_s: *affinity_s }
            }
            _ => want.clone(),
        }
    }

    /// Step 5: the record is stored, or refreshed.
    pub fn chosen(&mut self, client: &str, want: &Want, target: Target, now_s: u32) {
        if let Want::Serve { port, affinity_s, .. } = want
            && *affinity_s > 0
        {
            self.affinity.insert((client.to_owned(), port.clone()), (target, now_s));
        }
    }

    /// Must the source become the node's (steps 3 and 6)? Fairway's deliberate differences are marked.
    pub fn is_masqueraded(&self, c: &Connection, target: Target) -> bool {
        let o = &self.options;
        let Some(f) = self.frontend(destination(c), c.proto, c.port) else { return false };
        let by_rule = match f.kind {
            Kind::Cluster => o.masquerade_all || (o.detect != Detect::Nothing && !self.is_local_pod(c)),
            // Difference: under eTP=Cluster only by option.
            _ => o.masquerade_external && !f.service.external_local,
        };
        let elsewhere = !is_here(target.0);
        match c.client {
            // The stack takes the frontend's own address as the source, which may be a bound VIP: the main one instead.
            Client::Node(_) => source(c) == Some(destination(c)) && !is_main(destination(c)),
            // It is told apart too late, or has no address yet.
            Client::NewPod(_) | Client::Socket | Client::PodSocket(_) => false,
            // Difference: what leaves the node again must come back here, whatever the policy; and what stays here
            // keeps the client's address, unless an option says otherwise.
            Client::Outside(_) | Client::RemotePod(_) => {
                let by_option = match f.kind {
                    Kind::Cluster => o.masquerade_all,
                    _ => by_rule,
                };
                // The node itself would be a martian to itself.
                elsewhere || (by_option && !is_own(target.0))
            }
            Client::Pod(_) => source(c) == Some(target.0) || (by_rule && !is_own(target.0)),
        }
    }
}

fn is_local(e: &Endpoint) -> bool {
    e.node_name.as_deref() == Some("n1")
}

/// Is it an address of this node?
pub fn is_own(a: IpAddr) -> bool {
    [1, 2].iter().any(|h| a == ip(a.is_ipv6(), net::NODE, *h))
}

/// Is it the node's main address?
fn is_main(a: IpAddr) -> bool {
    a == ip(a.is_ipv6(), net::NODE, 1)
}

/// Is it on this node, in a pod or without?
pub fn is_here(a: IpAddr) -> bool {
    is_own(a) || (1..=3).any(|h| a == ip(a.is_ipv6(), net::LOCAL, h))
}

fn external_is_allowed(a: IpAddr) -> bool {
    (0..4).any(|h| a == ip(a.is_ipv6(), net::EXTERNAL, h))
}
