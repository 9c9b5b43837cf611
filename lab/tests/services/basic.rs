//! ClusterIPs of Services whose endpoints, ports and selves come and go.

use crate::check::Sources;
use crate::prelude::*;

/// S2.
#[test]
fn s2_a_cluster_ip_follows_its_endpoints() -> Result<()> {
    let b = shared()?;
    let (web, to, from) = (b.service("s2"), b.cluster_ip("s2"), b.everyone());
    let (one, two) = (b.cluster.pod(1, 1), b.cluster.pod(2, 1));
    b.apply(&web)?;
    hold(&b, "no endpoint yet", &expect(&from, &to, Refused))?;
    for endpoints in [vec![one], vec![one, two], vec![two], vec![b.cluster.pod(2, 2)]] {
        b.apply(&web.clone().pods(endpoints.iter().copied()))?;
        hold(&b, "the endpoints there are", &expect(&from, &to, pods(endpoints)))?;
    }
    b.apply(&web)?;
    hold(&b, "no endpoint left", &expect(&from, &to, Refused))
}

/// S3; S51 is the same for whoever does not know what the pods' containers are.
#[test]
fn s3_ports_of_one_service_have_endpoints_of_their_own() -> Result<()> {
    let b = shared()?;
    let (from, to) = (b.everyone(), [b.cluster_ip_at("s3", 80), b.cluster_ip_at("s3", 81)]);
    let (first, second) = (pair("first", 80, 80), pair("second", 81, 8081));
    let service = b.service("s3").ports([first.clone(), second.clone()].concat());
    let slices = |ports: &[ServicePort], name: &str, pods: &[(usize, usize)]| {
        let pods = pods.iter().map(|(n, p)| b.cluster.pod(*n, *p));
        b.service("s3").ports(ports.to_vec()).slice_name(name).pods(pods).slices()
    };
    b.apply_objects([service.service()])?;
    let nothing = [expect(&from, &to[0], Refused), expect(&from, &to[1], Refused)];
    hold(&b, "ports without endpoints", &nothing.concat())?;

    b.apply_objects(slices(&first, "s3-first", &[(1, 1)]))?;
    let one = expect(&from, &to[0], pods([b.cluster.pod(1, 1)]));
    hold(&b, "one port has an endpoint", &[one.clone(), expect(&from, &to[1], Refused)].concat())?;

    b.apply_objects(slices(&second, "s3-second", &[(2, 1)]))?;
    hold(&b, "each has its own", &[one, expect(&from, &to[1], all(["pod-2-1:8081"]))].concat())?;

    b.apply_objects(slices(&first, "s3-first", &[]))?;
    let other = expect(&from, &to[1], all(["pod-2-1:8081"]));
    hold(&b, "the other port's is left", &[expect(&from, &to[0], Refused), other].concat())
}

/// S4.
#[test]
fn s4_ports_are_added_to_a_live_service_and_taken_away() -> Result<()> {
    let b = shared()?;
    let from = b.everyone();
    let (first, second) = (b.cluster_ip_at("s4", 80), b.cluster_ip_at("s4", 81));
    let web = |ports: Vec<ServicePort>| b.service("s4").ports(ports).pods([b.cluster.pod(1, 1)]);
    let (one, two) = (pair("one", 80, 80), pair("two", 81, 8081));
    let (on_one, on_two) =
        (expect(&from, &first, pods([b.cluster.pod(1, 1)])), expect(&from, &second, all(["pod-1-1:8081"])));
    b.apply(&web(one.to_vec()))?;
    hold(&b, "one port", &[on_one.clone(), expect(&from, &second, Refused)].concat())?;
    b.apply(&web([one, two.clone()].concat()))?;
    hold(&b, "two ports", &[on_one, on_two.clone()].concat())?;
    b.apply(&web(two.to_vec()))?;
    hold(&b, "the second alone", &[expect(&from, &first, Refused), on_two].concat())
}

/// S5.
#[test]
fn s5_a_pod_on_any_node_is_seen_by_its_own_address() -> Result<()> {
    let b = shared()?;
    let web = b.service("s5").pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    b.apply(&web)?;
    let from = [b.pod(1, 2), b.pod(2, 2), b.pod(3, 1)];
    let both = pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]);
    hold(&b, "own sources", &expect(&from, &b.cluster_ip("s5"), both).keeping_the_source())
}

/// S6.
#[test]
fn s6_a_pod_reaches_itself_through_its_service() -> Result<()> {
    let b = shared()?;
    b.apply(&b.service("s6").node_port(30060).pods([b.cluster.pod(1, 1)]))?;
    let to = [b.cluster_ip("s6"), b.node_port(1, 30060)].concat();
    let itself = pods([b.cluster.pod(1, 1)]);
    hold(&b, "hairpin", &expect(&[b.pod(1, 1)], &to, itself.clone()).masquerading())?;
    // Through another node the pod is a client like any other, and its own node brings it what comes back.
    hold(&b, "by way of another node", &expect(&[b.pod(1, 1)], &b.node_port(3, 30060), itself).masquerading())
}

/// S7.
#[test]
fn s7_services_come_and_go_without_regard_to_others() -> Result<()> {
    let b = shared()?;
    let from = b.everyone();
    let web = |name: &str, port: u16| b.service(name).node_port(port);
    let (one, two, three) = (
        web("s7-one", 30071).pods([b.cluster.pod(1, 1)]),
        web("s7-two", 30072).pods([b.cluster.pod(2, 1)]),
        web("s7-three", 30073).pods([b.cluster.pod(1, 1), b.cluster.pod(2, 1)]),
    );
    let up = |name: &str, port: u16, nodes: &[usize]| {
        let to = [b.cluster_ip(name), b.node_ports(port)].concat();
        expect(&from, &to, pods(nodes.iter().map(|n| b.cluster.pod(*n, 1))))
    };
    let down = |name: &str, port: u16| {
        let cluster_ip = expect(&from, &b.cluster_ip(name), Silent);
        [cluster_ip, expect(&from, &b.node_ports(port), Refused)].concat()
    };
    b.apply(&one)?;
    b.apply(&two)?;
    hold(&b, "two up", &[up("s7-one", 30071, &[1]), up("s7-two", 30072, &[2])].concat())?;
    b.delete(&one)?;
    hold(&b, "one down", &[down("s7-one", 30071), up("s7-two", 30072, &[2])].concat())?;
    b.apply(&three)?;
    let state = [down("s7-one", 30071), up("s7-two", 30072, &[2]), up("s7-three", 30073, &[1, 2])].concat();
    hold(&b, "a third up", &state)?;
    b.delete(&two)?;
    b.delete(&three)?;
    hold(&b, "all down", &[down("s7-two", 30072), down("s7-three", 30073)].concat())
}

/// S8.
#[test]
fn s8_a_service_of_the_same_name_is_another_service() -> Result<()> {
    let b = shared()?;
    let (from, web) = (b.everyone(), b.service("s8").pods([b.cluster.pod(1, 1)]));
    let up = pods([b.cluster.pod(1, 1)]);
    b.apply(&web)?;
    hold(&b, "the first", &expect(&from, &b.cluster_ip("s8"), up.clone()))?;
    b.delete(&web)?;
    hold(&b, "deleted", &expect(&from, &b.cluster_ip("s8"), Silent))?;
    b.apply(&web.cluster_ips(b.cluster.cluster_ip("s8-again")))?;
    let old = expect(&from, &b.cluster_ip("s8"), Silent);
    hold(&b, "the second", &[expect(&from, &b.cluster_ip("s8-again"), up), old].concat())
}

/// S52: one name, other numbers.
#[test]
fn s52_a_named_port_has_the_number_that_each_slice_says() -> Result<()> {
    let b = shared()?;
    let port = |target| pair("web", 8088, target).map(|port| port.named_target("web")).to_vec();
    let of = |name: &str, target, node| {
        b.service("s52").ports(port(target)).slice_name(name).pods([b.cluster.pod(node, 1)])
    };
    b.apply(&of("s52-old", 80, 1))?;
    b.apply_objects(of("s52-new", 8081, 2).slices())?;
    let both = all(["pod-1-1", "pod-2-1:8081"]);
    hold(&b, "both numbers", &expect(&b.everyone(), &b.cluster_ip("s52"), both))
}
