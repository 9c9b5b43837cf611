//! healthCheckNodePort: who answers 200, when it moves, opens and closes, and that it says 503 before traffic ends.

use super::*;

const CHECK_PORT: u16 = 32_100;

fn balanced(bench: &Bench, policy: &str) -> ServiceBuilder {
    let service =
        web(&bench.cluster).spec_field("type", "LoadBalancer").spec_field("externalTrafficPolicy", policy);
    if policy == "Local" { service.spec_field("healthCheckNodePort", CHECK_PORT) } else { service }
}

/// The status that each node's check gives a load balancer; none where nobody listens.
fn checks(bench: &Bench) -> Vec<Option<u16>> {
    let nodes = 1..=bench.cluster.nodes().len();
    nodes.map(|n| bench.outside(n, CHECK_PORT, "/healthz").ok().map(|answer| answer.status)).collect()
}

fn until_checks(bench: &Bench, wanted: &[Option<u16>]) -> Result<()> {
    eventually(&format!("checks {wanted:?}"), || Ok(checks(bench) == wanted))
}

/// L15 and L18.
#[test]
fn checks_are_good_on_nodes_with_endpoints_and_follow_them() -> Result<()> {
    let bench = Bench::new(3)?;
    let pod = |node| bench.cluster.pod(node, 1);
    bench.manifests.apply(&balanced(&bench, "Local").pods([pod(1)]))?;
    until_checks(&bench, &[Some(200), Some(503), Some(503)])?;
    bench.manifests.apply(&balanced(&bench, "Local").pods([pod(2)]))?;
    until_checks(&bench, &[Some(503), Some(200), Some(503)])?;
    bench.manifests.apply(&balanced(&bench, "Local").pods(bench.cluster.pods()))?;
    until_checks(&bench, &[Some(200); 3])?;
    for ip in bench.cluster.node(3).address().both() {
        let answer = bench.get(bench.cluster.client(), ip, CHECK_PORT, "/")?;
        assert_eq!(answer.header("x-load-balancing-endpoint-weight"), Some("1"), "{ip}");
        let body: serde_json::Value = serde_json::from_str(&answer.body)?;
        assert_eq!(body["service"], serde_json::json!({"namespace": "default", "name": "web"}));
        assert_eq!((&body["localEndpoints"], &body["serviceProxyHealthy"]), (&1.into(), &true.into()));
    }
    bench.manifests.remove("web")?;
    until_checks(&bench, &[None; 3])
}

/// S50: the port is there under Local and gone under Cluster, where every node answers on the nodePort.
#[test]
fn the_check_comes_and_goes_with_the_policy() -> Result<()> {
    let bench = Bench::new(3)?;
    let (client, pod) = (bench.cluster.client(), bench.cluster.pod(2, 1));
    let nodeport = |n: usize| SocketAddr::new(bench.cluster.node(n).address().v4.into(), NODE_PORT);
    for round in 1..=2 {
        bench.manifests.apply(&balanced(&bench, "Local").pods([pod]))?;
        until_checks(&bench, &[Some(503), Some(200), Some(503)])?;
        let answer = tcp_ask(client, nodeport(2), PATIENCE)?;
        assert_eq!(answer.src.ip(), IpAddr::from(bench.cluster.client_address().v4), "round {round}");
        assert!(tcp_ask(client, nodeport(3), Duration::from_millis(300)).is_err(), "no endpoint there");
        bench.manifests.apply(&balanced(&bench, "Cluster").pods([pod]))?;
        until_checks(&bench, &[None; 3])?;
        for n in 1..=3 {
            assert_eq!(tcp_ask(client, nodeport(n), PATIENCE)?.pod, pod.name, "round {round}, node {n}");
        }
    }
    Ok(())
}

/// S38: the load balancer looks away while the terminating pod still serves what comes.
#[test]
fn terminating_endpoints_fail_the_check_and_still_serve() -> Result<()> {
    let bench = Bench::new(2)?;
    let (client, pod) = (bench.cluster.client(), bench.cluster.pod(1, 1));
    bench.manifests.apply(&balanced(&bench, "Local").pods([pod]))?;
    until_checks(&bench, &[Some(200), Some(503)])?;
    bench.manifests.apply(&balanced(&bench, "Local").terminating_pods([pod]))?;
    until_checks(&bench, &[Some(503), Some(503)])?;
    let nodeport = SocketAddr::new(bench.cluster.node(1).address().v4.into(), NODE_PORT);
    let answer = tcp_ask(client, nodeport, PATIENCE)?;
    assert_eq!((answer.pod, answer.src.ip()), (pod.name.clone(), bench.cluster.client_address().v4.into()));
    let text = bench.metrics(bench.cluster.node(2))?;
    let no_local = "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"}";
    // TCP and UDP in two families. The count of the maps is some seconds old.
    eventually("node 2 counts service ports without local endpoints", || {
        Ok(sample(&bench.metrics(bench.cluster.node(2))?, no_local) == Some(4.0))
    })?;
    ensure!(text.contains("fairway_health_check_node_ports 2"), "IPv4 and IPv6:\n{text}");
    Ok(())
}

/// H6: a taken port is told, and taken over as soon as it is free.
#[test]
fn a_check_whose_port_is_taken_is_a_problem_until_it_is_free() -> Result<()> {
    let bench = Bench::new(1)?;
    let node = bench.cluster.node(1);
    let squatter = node.ns().run(|| std::net::TcpListener::bind(("0.0.0.0", CHECK_PORT)))??;
    bench.manifests.apply(&balanced(&bench, "Local").pods(bench.cluster.pods()))?;
    let told = || Ok(status(node)?.to_string().contains("spec.healthCheckNodePort"));
    eventually("a problem", told)?;
    drop(squatter);
    until_checks(&bench, &[Some(200)])?;
    eventually("no problem any more", || Ok(!told()?))
}
