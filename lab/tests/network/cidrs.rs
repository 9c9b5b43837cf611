//! ServiceCIDRs that come and go at run time (X12): their Services work like any other, their unallocated addresses are
//! dropped (R6), undefined ports of their clusterIPs are rejected (R5).

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use lab::ClusterSpec;
use lab::address::Dual;
use lab::objects_extra::{
    Endpoint, bare_service, family_of, service_cidr, service_port, slice, with_node_port, with_spec,
};
use lab::traffic::PodServer;

use crate::support::Outcome::{Refused, Silent};
use crate::support::*;

const NODE_PORT: u16 = 30_125;

#[test]
fn a_service_cidr_made_at_run_time_is_one_like_any_other() -> Result<()> {
    let b =
        Bench::with(ClusterSpec::default(), |n| if n == 2 { vec!["--socket-lb", "off"] } else { vec![] })?;
    let cluster_ips: [IpAddr; 2] = ["203.0.113.77".parse()?, "2001:db8:cb00::77".parse()?];
    let free: [IpAddr; 2] = ["203.0.113.78".parse()?, "2001:db8:cb00::78".parse()?];
    let port = |ips: [IpAddr; 2], port| ips.map(|ip| SocketAddr::new(ip, port));
    // Where packets for those networks go as long as they are nobody's: to a host beyond that answers everything, so
    // that "dropped" and "lost on the way" cannot be mistaken for each other.
    let beyond = b.cluster.control();
    let addresses: Vec<String> =
        cluster_ips.iter().chain(&free).map(|ip| format!("addr add {ip} dev br0\n")).collect();
    ip(beyond, &addresses.concat())?;
    for node in b.cluster.nodes() {
        let (n, own) = (node.number(), node.address());
        let back =
            format!("route add 10.244.{n}.0/24 via {}\nroute add fd44:{n}::/64 via {}\n", own.v4, own.v6);
        ip(beyond, &back)?;
    }
    let dual = |ips: [IpAddr; 2]| -> Result<Dual> {
        Ok(Dual { v4: ips[0].to_string().parse()?, v6: ips[1].to_string().parse()? })
    };
    let _beyond = [
        PodServer::start_at(beyond, "beyond", dual(cluster_ips)?, PORT)?,
        PodServer::start_at(beyond, "beyond", dual(cluster_ips)?, PORT + 1)?,
        PodServer::start_at(beyond, "beyond", dual(free)?, PORT)?,
    ];
    let froms = [&b.pod(1, 2).ns, &b.pod(3, 1).ns, b.node(1).ns(), b.node(2).ns()];
    for from in froms {
        assert_pods(from, &port(cluster_ips, PORT), &["beyond"]).context("before")?;
        assert_pods(from, &port(free, PORT), &["beyond"]).context("before")?;
    }

    b.publish("cidr", &[service_cidr("late", &["203.0.113.0/24", "2001:db8:cb00::/64"])])?;
    for from in froms {
        assert_all(from, &port(cluster_ips, PORT), Silent).context("no Service yet")?;
        assert_all(from, &port(free, PORT), Silent).context("no Service yet")?;
    }

    let ports = ["TCP", "UDP"].map(|protocol| service_port(&protocol.to_lowercase(), protocol, PORT));
    let service = with_node_port(bare_service("late", &cluster_ips, &ports), NODE_PORT);
    let mut objects = vec![with_spec(service, "type", "NodePort")];
    for (family, cluster_ip) in cluster_ips.iter().enumerate() {
        let endpoints =
            [b.pod(1, 1), b.pod(2, 1)].map(|pod| Endpoint::at(pod.address.both()[family]).on(&pod.node_name));
        let ports = [("tcp", "TCP", 80), ("udp", "UDP", 80)];
        objects.push(slice(&format!("late-{family}"), "late", family_of(cluster_ip), &ports, endpoints));
    }
    b.publish("late", &objects)?;
    for from in froms {
        assert_pods(from, &port(cluster_ips, PORT), &["pod-1-1", "pod-2-1"])?;
        assert_all(from, &port(cluster_ips, PORT + 1), Refused).context("an undefined port")?;
        assert_all(from, &port(free, PORT), Silent).context("an unallocated address")?;
    }
    assert_pods(b.client(), &node_at(b.node(3), NODE_PORT), &["pod-1-1", "pod-2-1"])?;

    b.withdraw("late")?;
    b.withdraw("cidr")?;
    for from in froms {
        assert_pods(from, &port(cluster_ips, PORT + 1), &["beyond"]).context("after")?;
        assert_pods(from, &port(free, PORT), &["beyond"]).context("after")?;
    }
    Ok(())
}
