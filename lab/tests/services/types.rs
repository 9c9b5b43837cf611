//! A Service's type changes while it lives.

use crate::prelude::*;

fn web(b: &Bench, name: &str) -> ServiceBuilder {
    b.service(name).pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)])
}

fn external_name(b: &Bench, name: &str) -> ServiceBuilder {
    web(b, name).kind("ExternalName").spec_field("externalName", "example.org")
}

fn up(b: &Bench, to: &[std::net::SocketAddr]) -> Vec<Check> {
    expect(&b.everyone(), to, pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]))
}

/// S14 and S16: the ClusterIP of an ExternalName may linger in the object; it is not served.
#[test]
fn s14_s16_between_external_name_and_cluster_ip() -> Result<()> {
    let b = shared()?;
    let to = b.cluster_ip("s14");
    let mut named = external_name(&b, "s14").service();
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        named["spec"][field] = serde_json::Value::Null;
    }
    b.apply_objects([named])?;
    b.apply_objects(web(&b, "s14").slices())?;
    hold(&b, "a name", &expect(&b.everyone(), &to, Silent))?;
    b.apply(&web(&b, "s14"))?;
    hold(&b, "an address", &up(&b, &to))?;
    b.apply(&external_name(&b, "s14"))?;
    hold(&b, "a name again", &expect(&b.everyone(), &to, Silent))
}

/// S15 and S17.
#[test]
fn s15_s17_between_external_name_and_node_port() -> Result<()> {
    let b = shared()?;
    let (cluster_ip, node_ports) = (b.cluster_ip("s15"), b.node_ports(30150));
    let down =
        [expect(&b.everyone(), &cluster_ip, Silent), expect(&b.everyone(), &node_ports, Refused)].concat();
    b.apply(&external_name(&b, "s15"))?;
    hold(&b, "a name", &down)?;
    b.apply(&web(&b, "s15").node_port(30150))?;
    hold(&b, "addresses", &up(&b, &[cluster_ip, node_ports].concat()))?;
    b.apply(&external_name(&b, "s15").node_port(30150))?;
    hold(&b, "a name again", &down)
}

/// S13.
#[test]
fn s13_a_node_port_of_one_number_for_both_protocols() -> Result<()> {
    let b = shared()?;
    let (to, ports) = ([b.cluster_ip("s13"), b.node_ports(30130)].concat(), pair("web", 8088, 80));
    b.apply(&web(&b, "s13").ports(ports.clone()))?;
    hold(&b, "a ClusterIP", &up(&b, &b.cluster_ip("s13")))?;
    b.apply(&web(&b, "s13").ports(ports.map(|port| port.node_port(30130))))?;
    hold(&b, "and a nodePort", &up(&b, &to))
}
