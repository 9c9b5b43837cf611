//! What the agent says of its host: what kube-proxy left there, who sits on a nodePort, which ports the kernel gives away.

use super::*;

fn problems(node: &Node) -> Result<Vec<String>> {
    let status = status(node)?;
    let list = status["agent"]["problems"].as_array().context("a list of problems")?;
    Ok(list.iter().map(|p| format!("{} {}: {}", p["object"], p["field"], p["message"])).collect())
}

fn until_told(node: &Node, what: &str) -> Result<()> {
    eventually(what, || Ok(problems(node)?.iter().any(|p| p.contains(what))))
}

/// The rules of one program, as it saves them.
fn saved(node: &Node, program: &str) -> Result<String> {
    Ok(String::from_utf8(node.ns().command(program).output()?.stdout)?)
}

const CHAINS: &str = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
    :MINE - [0:0]\n\
    -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
    -A PREROUTING -j MINE\n\
    -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-AAAAAAAAAAAAAAAA\n\
    -A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-MARK-MASQ\nCOMMIT\n\
    *filter\n:KUBE-FIREWALL - [0:0]\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n\
    -A OUTPUT -j KUBE-FIREWALL\nCOMMIT\n";

/// Y4: told at the start, removed on demand only, and nothing but kube-proxy's.
#[test]
fn what_kube_proxy_left_is_told_and_removed_on_demand() -> Result<()> {
    let mut bench = Bench::without_agents(1)?;
    let node = bench.cluster.node(1).clone();
    for program in ["iptables-nft-restore", "ip6tables-legacy-restore"] {
        let rules = if program.starts_with("ip6") {
            CHAINS.replace("10.96.0.10/32", "fd96::a/128")
        } else {
            CHAINS.into()
        };
        node.ns().feed(program, &[], &rules)?;
    }
    let table = "add table ip kube-proxy\nadd chain ip kube-proxy services\nadd table ip mine\nadd chain ip mine services\n";
    node.ns().feed("nft", &["-f", "-"], table)?;
    bench.start_agents()?;
    for what in ["nft table ip kube-proxy", "chains of iptables-nft", "chains of ip6tables-legacy"] {
        until_told(&node, what)?;
    }
    assert!(saved(&node, "iptables-nft-save")?.contains("KUBE-SVC-"), "nothing is touched unasked");
    let said = node.fairway(["cleanup", "--kube-proxy"])?;
    assert!(said.contains("removed nft table ip kube-proxy"), "{said}");
    for program in ["iptables-nft-save", "ip6tables-legacy-save"] {
        let left = saved(&node, program)?;
        for gone in ["KUBE-SERVICES", "KUBE-SVC-", "KUBE-MARK-MASQ", "KUBE-FORWARD"] {
            assert!(!left.contains(gone), "{program}: {gone} in\n{left}");
        }
        for kept in ["-A OUTPUT -j KUBE-FIREWALL", "-A PREROUTING -j MINE"] {
            assert!(left.contains(kept), "{program}: {kept} in\n{left}");
        }
    }
    let tables = String::from_utf8(node.ns().command("nft").args(["list", "tables"]).output()?.stdout)?;
    assert!(!tables.contains("kube-proxy") && tables.contains("table ip mine"), "{tables}");
    assert_eq!(node.fairway(["cleanup", "--kube-proxy"])?.trim(), "nothing to remove");
    assert_eq!(bench.outside(1, HEALTH_PORT, "/livez")?.status, 200, "the agent was left alone");
    Ok(())
}

/// T45, and the sysctls of C6.
#[test]
fn a_local_listener_on_a_node_port_and_overlapping_port_ranges_are_told() -> Result<()> {
    let mut bench = Bench::without_agents(1)?;
    let node = bench.cluster.node(1).clone();
    node.ns().sysctl(&[("ipv4/ip_local_port_range".to_owned(), "20000 64000".to_owned())])?;
    let _squatter = node.ns().run(|| std::net::TcpListener::bind(("0.0.0.0", NODE_PORT)))??;
    bench.start_agents()?;
    until_told(&node, "ports 30000-32767 of --nodeport-range")?;
    until_told(&node, "ports 20000-29999 of --snat-ports")?;
    bench.manifests.apply(&web(&bench.cluster).pods(bench.cluster.pods()))?;
    until_told(&node, "listens on 0.0.0.0:30080")?;
    let nodeport = SocketAddr::new(node.address().v4.into(), NODE_PORT);
    let answer = tcp_ask(bench.cluster.client(), nodeport, PATIENCE)?;
    assert_eq!(answer.pod, "pod-1-1", "the Service wins");
    Ok(())
}
