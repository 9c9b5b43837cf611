//! Services without endpoints say so at once (R1).

use crate::bench::{at, nobodys};
use crate::prelude::*;

/// Every kind of frontend a Service can have.
fn every_frontend(b: &Bench, row: &str, host: u8, node_port: u16) -> Vec<std::net::SocketAddr> {
    let (vip, external) = (at(nobodys(host), 8088), at(nobodys(host + 1), 8088));
    [b.cluster_ip(row), b.node_ports(node_port), vip, external].concat()
}

fn web(b: &Bench, row: &str, host: u8, node_port: u16) -> ServiceBuilder {
    let service = b.service(row).node_port(node_port).external_ips(nobodys(host + 1));
    service.load_balancer(nobodys(host).both())
}

/// S32.
#[test]
fn s32_a_service_without_endpoints_refuses_on_every_frontend() -> Result<()> {
    let b = shared()?;
    let (web, to) = (web(&b, "s32", 32, 30320), every_frontend(&b, "s32", 32, 30320));
    b.apply(&web)?;
    hold(&b, "no endpoint", &expect(&b.everyone(), &to, Refused))?;
    for policy in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        let web = web.clone().spec_field("healthCheckNodePort", 32_320).spec_field(policy, "Local");
        b.apply(&web.unready_pods([b.cluster.pod(1, 1)]))?;
        hold(&b, &format!("{policy} Local"), &expect(&b.everyone(), &to, Refused))?;
    }
    Ok(())
}

/// S33: the pods of a Service are evicted, and it refuses.
#[test]
fn s33_a_service_whose_pods_were_evicted_refuses() -> Result<()> {
    let b = shared()?;
    let (web, to) = (web(&b, "s33", 34, 30330), every_frontend(&b, "s33", 34, 30330));
    let evicted = [b.cluster.pod(1, 1), b.cluster.pod(2, 1)];
    b.apply(&web.clone().pods(evicted))?;
    hold(&b, "with pods", &expect(&b.everyone(), &to, pods(evicted)))?;
    b.apply(&web.clone().unready_pods(evicted))?;
    hold(&b, "their addresses are left", &expect(&b.everyone(), &to, Refused))?;
    b.apply(&web)?;
    hold(&b, "nothing is left", &expect(&b.everyone(), &to, Refused))
}
