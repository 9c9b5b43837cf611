//! What Fairway leaves alone: hostPorts of the portmap plugin (X5) and pods that speak to pods (X9, N1 to N4).

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lab::traffic::{Transport, tcp_ask};
use lab::{ClusterSpec, Cni, InterNode, Ns};

use crate::support::*;

const HOST_PORT: u16 = 54_323;
const NODE_PORT: u16 = 30_130;

/// As portmap writes it with its iptables backend: mappings for local addresses, from outside and from the host; what
/// comes from 127.0.0.1 or from the pod itself gets the node's address.
fn portmap(b: &Bench, mappings: &[(&str, IpAddr, IpAddr)]) -> Result<()> {
    let mut rules = String::from(
        "*nat\n:CNI-HOSTPORT-DNAT - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n",
    );
    for (protocol, host, pod) in mappings {
        rules += &format!(
            "-A CNI-HOSTPORT-DNAT -p {protocol} -d {host} --dport {HOST_PORT} -j DNAT --to-destination {pod}:80\n\
             -A POSTROUTING -s 127.0.0.1 -d {pod} -p {protocol} --dport 80 -j MASQUERADE\n\
             -A POSTROUTING -s {pod} -d {pod} -p {protocol} --dport 80 -j MASQUERADE\n"
        );
    }
    rules += "COMMIT\n";
    let ns = b.node(1).ns();
    ns.feed("iptables-restore", &["--wait", "--noflush"], &rules)?;
    // Without it the kernel does not let 127.0.0.1 out to a pod: the plugin sets it, too.
    ns.sysctl(&[("ipv4/conf/all/route_localnet".to_owned(), "1".to_owned())])
}

fn host_ports(cni: Cni, flags: &[&str]) -> Result<()> {
    let spec = ClusterSpec { nodes: 2, pods_per_node: 3, cni, ..ClusterSpec::default() };
    let b = Bench::new(spec, flags)?;
    let own = IpAddr::from(b.node(1).address().v4);
    let pod = |p| IpAddr::from(b.pod(1, p).address.v4);
    if cni == Cni::Bridge {
        // As the bridge plugin does for pods with hostPorts (`hairpinMode`): what a pod sends to itself has to leave by
        // the port it came in by.
        ip(b.node(1).ns(), &format!("link set dev veth{} type bridge_slave hairpin on\n", b.pod(1, 2).name))?;
    }
    portmap(&b, &[("tcp", "127.0.0.1".parse()?, pod(1)), ("tcp", own, pod(2)), ("udp", own, pod(3))])?;
    // The same pods behind a Service with a nodePort.
    b.apply(&b.service("web", &[(1, 1), (1, 2), (1, 3), (2, 1)]).node_port(NODE_PORT))?;
    let all = ["pod-1-1", "pod-1-2", "pod-1-3", "pod-2-1"];
    let at = |ip| SocketAddr::new(ip, HOST_PORT);
    let check = || -> Result<()> {
        let host = b.node(1).ns();
        assert_pods_over(host, Transport::Tcp, at("127.0.0.1".parse()?), &["pod-1-1"])?;
        for from in [host, b.client(), &b.pod(2, 1).ns, b.node(2).ns(), &b.pod(1, 1).ns] {
            assert_pods_over(from, Transport::Tcp, at(own), &["pod-1-2"])?;
            assert_pods_over(from, Transport::Udp, at(own), &["pod-1-3"])?;
        }
        // A pod's own hostPort: there and back through netfilter.
        assert_pods_over(&b.pod(1, 2).ns, Transport::Tcp, at(own), &["pod-1-2"])?;
        let seen = tcp_ask(b.client(), at(own), PATIENCE)?.src.ip();
        ensure!(
            seen == IpAddr::from(b.cluster.client_address().v4),
            "a hostPort keeps the client, not {seen}"
        );
        Ok(())
    };
    check().context("hostPorts")?;
    for from in [b.client(), &b.pod(1, 1).ns, b.node(1).ns()] {
        assert_pods(from, &node_at(b.node(1), NODE_PORT), &all).context("nodePorts beside them")?;
    }
    check().context("hostPorts afterwards")
}

#[test]
fn host_ports_of_the_portmap_plugin_work_beside_services() -> Result<()> {
    host_ports(Cni::Ptp, &[])
}

#[test]
fn host_ports_work_beside_services_without_socket_hooks_on_a_bridge() -> Result<()> {
    host_ports(Cni::Bridge, &["--socket-lb", "off", "--xdp-mode", "off"])
}

/// Every pod to every pod by its own address, and pods and nodes to each other: nobody's address is changed.
fn direct(spec: ClusterSpec) -> Result<()> {
    let b = Bench::new(spec, &["--masquerade-all", "--masquerade-external"])?;
    // The same pods and ports are backends, so every tuple is one that a flow could have.
    b.apply(&b.service("web", &[(1, 1), (2, 1), (3, 1)]).node_port(NODE_PORT))?;
    assert_pods(&b.pod(3, 2).ns, &b.cluster_ip("web"), &["pod-1-1", "pod-2-1", "pod-3-1"])?;
    let check = |from: &Ns, own: [IpAddr; 2], to: &lab::Pod| -> Result<()> {
        for family in [0, 1] {
            let dst = SocketAddr::new(to.address.both()[family], 80);
            for transport in TRANSPORTS {
                let a = answer(from, transport, dst)?;
                ensure!(a.pod == to.name && a.src.ip() == own[family], "{} to {dst}: {a:?}", from.name());
            }
        }
        Ok(())
    };
    for from in b.cluster.pods() {
        for to in b.cluster.pods() {
            check(&from.ns, from.address.both(), to)?;
        }
    }
    let client = b.cluster.client_address().both();
    for node in b.cluster.nodes() {
        // From outside by a route, as in clusters whose pods are reachable.
        let ranges = format!(
            "route replace 10.244.{n}.0/24 via {v4}\nroute replace fd44:{n}::/64 via {v6}\n",
            n = node.number(),
            v4 = node.address().v4,
            v6 = node.address().v6
        );
        ip(b.client(), &ranges)?;
        check(b.client(), client, b.pod(node.number().into(), 1))?;
    }
    Ok(())
}

#[test]
fn pods_speak_to_pods_without_masquerade_on_routes() -> Result<()> {
    direct(ClusterSpec::default())
}

#[test]
fn pods_speak_to_pods_without_masquerade_on_vxlan() -> Result<()> {
    direct(ClusterSpec { cni: Cni::Bridge, inter_node: InterNode::Vxlan, ..ClusterSpec::default() })
}
