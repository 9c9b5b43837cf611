//! Frontends beyond the ClusterIP: nodePorts, externalIPs, and VIPs that appear in a Service's status.

use std::net::{IpAddr, TcpListener, UdpSocket};

use serde_json::json;

use crate::bench::{at, nobodys};
use crate::check::Sources;
use crate::prelude::*;

/// S11: "CheckServiceReachability" from everywhere.
#[test]
fn s11_a_node_port_answers_on_every_node() -> Result<()> {
    let b = shared()?;
    b.apply(&b.service("s11").node_port(30110).pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]))?;
    let to = [b.cluster_ip("s11"), b.node_ports(30110)].concat();
    let both = pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    hold(&b, "every frontend", &expect(&b.everyone(), &to, both))
}

/// S12, and that the policy counts for externalIPs too (F6, F12).
#[test]
fn s12_an_external_ip_that_no_node_has_is_served_where_the_client_is() -> Result<()> {
    let b = shared()?;
    let to = at(nobodys(12), 8088);
    let web = b.service("s12").external_ips(nobodys(12)).pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    let both = pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    b.apply(&web)?;
    hold(&b, "policy Cluster", &expect(&b.everyone(), &to, both.clone()))?;
    b.apply(&web.spec_field("externalTrafficPolicy", "Local"))?;
    let near = [b.pod(1, 2), b.pod(3, 1), b.host(1), b.host(3)];
    let far = expect(&[b.outside()], &to, Silent);
    hold(&b, "policy Local", &[expect(&near, &to, both.clone()), far].concat())?;
    hold(&b, "pods keep their addresses", &expect(&near[..2], &to, both).keeping_the_source())
}

/// S20: nothing listens on a nodePort, neither while its Service lives nor after.
#[test]
fn s20_a_node_port_is_nobodys_socket() -> Result<()> {
    let b = shared()?;
    let web = b.service("s20").node_port(30200).pods([b.cluster.pod(1, 1)]);
    let free = || {
        b.cluster.nodes().iter().try_for_each(|node| {
            node.ns().run(|| {
                for ip in ["0.0.0.0", "::"].map(|ip| ip.parse::<IpAddr>()) {
                    let address = (ip?, 30200);
                    drop((TcpListener::bind(address)?, UdpSocket::bind(address)?));
                }
                Ok(())
            })?
        })
    };
    b.apply(&web)?;
    hold(&b, "up", &expect(&b.everyone(), &b.node_ports(30200), pods([b.cluster.pod(1, 1)])))?;
    let result: Result<()> = free();
    result.context("while it is served")?;
    b.delete(&web)?;
    hold(&b, "down", &expect(&b.everyone(), &b.node_ports(30200), Refused))?;
    free().context("after its Service")
}

/// S45: whatever a status says, the Service goes on, and so do all others.
#[test]
fn s45_a_status_may_say_anything() -> Result<()> {
    let b = shared()?;
    let web = b.service("s45").node_port(30450).kind("LoadBalancer").pods([b.cluster.pod(1, 1)]);
    let mut service = web.service();
    b.apply_objects(web.slices())?;
    let here = pods([b.cluster.pod(1, 1)]);
    let to = [b.cluster_ip("s45"), b.node_ports(30450)].concat();
    let vips = nobodys(45).both().map(|ip| json!({"ip": ip.to_string()}));
    // As upstream's own test writes it: a zero time becomes null.
    let odd = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "", "lastTransitionTime": null});
    for ingress in [
        json!([]),
        json!([{"ip": "203.0.113.300"}, {"hostname": "lb.example"}, {"ip": ""}, {"ip": "127.0.0.1"}, {"ip": "224.0.0.1"}]),
        json!([vips[0], vips[1], {"ip": "203.0.113.46", "ipMode": "Proxy"}]),
    ] {
        service["status"] = json!({"loadBalancer": {"ingress": ingress}, "conditions": [odd]});
        b.apply_objects([service.clone()])?;
        hold(&b, "what the status does not touch", &expect(&b.everyone(), &to, here.clone()))?;
    }
    hold(&b, "good VIPs", &expect(&b.everyone(), &at(nobodys(45), 8088), here))
}
