//! One port number, several protocols.

use std::collections::BTreeSet;
use std::fs;

use crate::bench::{at, nobodys};
use crate::prelude::*;

/// S47.
#[test]
fn s47_of_two_protocols_on_one_port_each_lives_alone() -> Result<()> {
    let b = shared()?;
    let [tcp, udp] = pair("web", 8088, 80).map(|port| port.node_port(30470));
    let web = |ports: &[&ServicePort]| {
        b.service("s47").ports(ports.iter().copied().cloned()).pods([b.cluster.pod(1, 1)])
    };
    let (from, here) = (b.everyone(), pods([b.cluster.pod(1, 1)]));
    let to = [b.cluster_ip("s47"), b.node_ports(30470)].concat();
    b.apply(&web(&[&tcp, &udp]))?;
    hold(&b, "both", &expect(&from, &to, here.clone()))?;
    for (left, gone, port) in [(Tcp, Udp, &tcp), (Udp, Tcp, &udp)] {
        b.apply(&web(&[port]))?;
        let one = expect_over(&[left], &from, &to, here.clone());
        hold(&b, "one alone", &[one, expect_over(&[gone], &from, &to, Refused)].concat())?;
    }
    Ok(())
}

/// S48.
#[test]
fn s48_both_protocols_of_a_load_balancers_port_inside_the_cluster() -> Result<()> {
    let b = shared()?;
    let web = b.service("s48").ports(pair("web", 8088, 80).map(|port| port.node_port(30480)));
    b.apply(&web.load_balancer(nobodys(48).both()).pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]))?;
    let to = [b.cluster_ip("s48"), at(nobodys(48), 8088), b.node_ports(30480)].concat();
    let both = pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    hold(&b, "every frontend", &expect(&b.everyone(), &to, both))
}

/// S49: an SCTP port is not served (docs/limitations.md), harms no other port, and loads no module.
#[test]
fn s49_an_sctp_port_loads_no_module_and_harms_no_other_port() -> Result<()> {
    let modules = || -> Result<BTreeSet<String>> {
        let text = fs::read_to_string("/proc/modules").unwrap_or_default();
        let names = text.lines().filter_map(|line| line.split(' ').next());
        Ok(names.filter(|name| name.contains("sctp")).map(str::to_owned).collect())
    };
    let b = shared()?;
    let before = modules()?;
    let [tcp, udp] = pair("web", 8088, 80);
    let web = b.service("s49").ports([ServicePort::sctp("sctp", 8088).target(80), tcp, udp]);
    b.apply(&web.pods([b.cluster.pod(1, 1)]))?;
    hold(&b, "TCP and UDP", &expect(&b.everyone(), &b.cluster_ip("s49"), pods([b.cluster.pod(1, 1)])))?;
    assert_eq!(modules()?, before);
    Ok(())
}
