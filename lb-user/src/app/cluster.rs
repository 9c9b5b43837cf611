//! What the programs' settings take from the cluster, and what is wrong with it: pure functions of the
//! configuration and the world.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::config::{
    CONFIG_DETECTS_LOCAL, CONFIG_LOCAL_BY_CIDR, CONFIG_MASQUERADE_ALL, CONFIG_MASQUERADE_EXTERNAL,
    CONFIG_SOCKETS_OF_PODS, MAX_SERVICE_CIDRS,
};

use crate::config::{Config, DetectLocal, SocketLb, Source, first_of_each_family};
use crate::model::{Problem, World};

/// The `CONFIG_*` flags that the configuration asks for.
pub(super) fn flags(config: &Config) -> u32 {
    let choices = [
        (CONFIG_MASQUERADE_ALL, config.masquerade_all),
        (CONFIG_MASQUERADE_EXTERNAL, config.masquerade_external),
        (CONFIG_LOCAL_BY_CIDR, config.detect_local.is_by_cidr()),
        (CONFIG_SOCKETS_OF_PODS, config.socket_lb == SocketLb::All),
        (CONFIG_DETECTS_LOCAL, config.detect_local != DetectLocal::None),
    ];
    choices.into_iter().filter(|(_, chosen)| *chosen).map(|(flag, _)| flag).sum()
}

/// The service networks: as few as say the same, at most [`MAX_SERVICE_CIDRS`] of each family.
pub(super) fn service_cidrs(world: &World) -> Vec<IpNet> {
    let all = IpNet::aggregate(&world.service_cidrs);
    let of = |v4: bool| all.iter().filter(move |net| net.addr().is_ipv4() == v4).take(MAX_SERVICE_CIDRS);
    of(true).chain(of(false)).copied().collect()
}

/// Sources that are local pods; `None` while the Node object that says so is not known.
pub(super) fn local_cidrs(config: &Config, world: Option<&World>) -> Option<Vec<IpNet>> {
    match &config.detect_local {
        DetectLocal::ClusterCidr(networks) => Some(networks.clone()),
        DetectLocal::NodeCidr => {
            let node = world?.node.as_ref()?;
            Some(first_of_each_family(&node.pod_cidrs)).filter(|networks| !networks.is_empty())
        }
        _ => Some(Vec::new()),
    }
}

/// What is wrong between configuration and cluster.
pub(super) fn problems(config: &Config, world: &World) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |object: &str, field: &str, message: String| {
        problems.push(Problem { object: object.into(), field: field.into(), message });
    };
    let all = IpNet::aggregate(&world.service_cidrs);
    for (v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let count = all.iter().filter(|net| net.addr().is_ipv4() == v4).count();
        if count > MAX_SERVICE_CIDRS {
            let message = format!(
                "{count} separate {family} networks, of which the first {MAX_SERVICE_CIDRS} are told apart: unused \
                 addresses of the others are not dropped"
            );
            add("ServiceCIDR objects", "spec.cidrs", message);
        }
    }
    if let Some(service) = own_api_service(config, world) {
        let message = format!(
            "KUBERNETES_SERVICE_HOST is the ClusterIP of Service {service}, which this agent programs: give the API \
             server's own address with --api-server"
        );
        add("agent", "--api-server", message);
    }
    if config.detect_local == DetectLocal::NodeCidr && local_cidrs(config, Some(world)).is_none() {
        let message = "the Node has no podCIDRs yet: no source is known to be a local pod";
        add("agent", "--detect-local-mode", message.into());
    }
    problems
}

/// The Service that the way to the API depends on.
fn own_api_service(config: &Config, world: &World) -> Option<String> {
    let host: IpAddr = config.kubernetes_service_host?;
    if config.source != Source::InCluster || config.api_server.is_some() {
        return None;
    }
    let service = world.services.values().find(|service| service.cluster_ips.contains(&host))?;
    Some(service.key.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunArgs;
    use crate::model::{Key, NodeObject, Service};
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunArgs,
    }

    fn config(flags: &[&str]) -> Config {
        let argv = ["fairway", "--node-name", "n"].iter().chain(flags);
        Cli::try_parse_from(argv).expect("flags").run.into_config("n").expect("config")
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("network")).collect()
    }

    #[test]
    fn flags_follow_the_configuration() {
        assert_eq!(flags(&config(&[])), CONFIG_DETECTS_LOCAL);
        assert_eq!(flags(&config(&["--detect-local-mode", "none"])), 0);
        let by_cidr =
            config(&["--detect-local-mode", "node-cidr", "--masquerade-all", "--masquerade-external"]);
        let all =
            CONFIG_DETECTS_LOCAL | CONFIG_LOCAL_BY_CIDR | CONFIG_MASQUERADE_ALL | CONFIG_MASQUERADE_EXTERNAL;
        assert_eq!(flags(&by_cidr), all);
    }

    #[test]
    fn adjacent_service_networks_are_one_and_too_many_are_named() {
        let mut world = World { service_cidrs: nets(&["10.0.0.0/9", "10.128.0.0/9"]), ..World::default() };
        assert_eq!(service_cidrs(&world), nets(&["10.0.0.0/8"]));
        assert_eq!(problems(&config(&[]), &world), []);
        world.service_cidrs =
            nets(&["10.0.0.0/24", "10.0.2.0/24", "10.0.4.0/24", "10.0.6.0/24", "10.0.8.0/24", "fd00::/108"]);
        assert_eq!(service_cidrs(&world).len(), MAX_SERVICE_CIDRS + 1);
        let found = problems(&config(&[]), &world);
        assert_eq!((found.len(), found[0].object.as_str()), (1, "ServiceCIDR objects"));
        assert!(found[0].message.starts_with("5 separate IPv4 networks"));
    }

    #[test]
    fn the_nodes_networks_are_awaited_and_the_first_of_each_family_counts() {
        let by_node = config(&["--detect-local-mode", "node-cidr"]);
        assert_eq!(local_cidrs(&by_node, None), None);
        let mut world = World { node: Some(NodeObject::default()), ..World::default() };
        assert_eq!(local_cidrs(&by_node, Some(&world)), None);
        assert_eq!(problems(&by_node, &world)[0].field, "--detect-local-mode");
        let pod_cidrs = nets(&["10.1.0.0/24", "10.2.0.0/24", "fd01::/64"]);
        world.node = Some(NodeObject { pod_cidrs, ..NodeObject::default() });
        assert_eq!(local_cidrs(&by_node, Some(&world)), Some(nets(&["10.1.0.0/24", "fd01::/64"])));
        assert_eq!(problems(&by_node, &world), []);
    }

    #[test]
    fn an_api_behind_a_service_of_our_own_is_named() {
        let mut world = World::default();
        world.services.insert(Service {
            key: Key::new("default", "kubernetes"),
            cluster_ips: vec!["10.96.0.1".parse().expect("ip")],
            ..Service::default()
        });
        let host = "--kubernetes-service-host";
        let found = problems(&config(&[host, "10.96.0.1"]), &world);
        assert_eq!((found.len(), found[0].field.as_str()), (1, "--api-server"));
        assert!(found[0].message.contains("default/kubernetes"));
        assert_eq!(problems(&config(&[host, "192.0.2.1"]), &world), []);
        let direct = config(&[host, "10.96.0.1", "--api-server", "https://192.0.2.1:6443"]);
        assert_eq!(problems(&direct, &world), []);
        assert_eq!(problems(&config(&[host, "10.96.0.1", "--api-url", "http://192.0.2.1"]), &world), []);
    }
}
