//! Labels that hide a Service come and go while it lives.

use crate::prelude::*;

fn toggle(row: &str, node_port: u16, label: &str) -> Result<()> {
    let b = shared()?;
    let (from, cluster_ip, node_ports) = (b.everyone(), b.cluster_ip(row), b.node_ports(node_port));
    let web = b.service(row).node_port(node_port).pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    let hidden = web.clone().label(label, "someone-else");
    let seen = pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    let up = expect(&from, &[cluster_ip.clone(), node_ports.clone()].concat(), seen);
    let down = [expect(&from, &cluster_ip, Silent), expect(&from, &node_ports, Refused)].concat();
    b.apply(&hidden)?;
    // A Service that is not hidden, made later, tells when the hidden one would have been there.
    let other = format!("{row}-other");
    b.apply(&b.service(&other).pods([b.cluster.pod(1, 1)]))?;
    hold(&b, "the other", &expect(&from, &b.cluster_ip(&other), pods([b.cluster.pod(1, 1)])))?;
    hold(&b, "hidden", &down)?;
    b.apply(&web)?;
    hold(&b, "seen", &up)?;
    b.apply(&hidden)?;
    hold(&b, "hidden again", &down)?;
    // The slice controller copies the label later: the Service's own alone decides as well.
    b.apply_objects([web.service()])?;
    b.apply_objects(web.slices())?;
    hold(&b, "seen again", &up)?;
    b.apply_objects([hidden.service()])?;
    hold(&b, "hidden before its slices are", &down)
}

/// S30.
#[test]
fn s30_another_proxys_service_is_not_served_while_it_is_anothers() -> Result<()> {
    toggle("s30", 30300, "service.kubernetes.io/service-proxy-name")
}

/// S31.
#[test]
fn s31_a_service_labelled_headless_is_not_served_while_it_is() -> Result<()> {
    toggle("s31", 30310, "service.kubernetes.io/headless")
}
