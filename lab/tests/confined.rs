//! The agent with exactly what the DaemonSet gives it: three capabilities, no new privileges, the project's seccomp
//! profile. It must load, attach, sync and answer, and be refused without any one of the three.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::traffic::{PodServer, Transport, http_get, tcp_ask};
use lab::{AgentSpec, Cluster, ClusterSpec, ManifestDir};

const PATIENCE: Duration = Duration::from_secs(3);
const NODE_PORT: u16 = 30_080;
const CAPABILITIES: [&str; 3] = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
/// Their bits in `/proc/PID/status`: 12, 38 and 39.
const EFFECTIVE: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// An executable that becomes the agent with these capabilities.
fn confined(dir: &Path, capabilities: &[&str]) -> Result<PathBuf> {
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/seccomp/fairway.json");
    let kept: String = capabilities.iter().map(|c| format!(" --capability {c}")).collect();
    let script = format!(
        "#!/bin/sh\nexec {} confine --seccomp {}{kept} -- {} \"$@\"\n",
        env!("CARGO_BIN_EXE_fairway-lab"),
        profile.display(),
        lab::agent::binary()?.display()
    );
    let path = dir.join(format!("confined-{}", capabilities.join("-").to_lowercase()));
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

fn process_status(pid: u32, field: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("{field} in\n{status}"))?.trim().to_owned())
}

#[test]
fn three_capabilities_and_the_seccomp_profile_are_enough() -> Result<()> {
    let cluster = Cluster::build(ClusterSpec { nodes: 2, pods_per_node: 1, ..ClusterSpec::default() })?;
    let _servers = cluster.pods().iter().map(|p| PodServer::start(p, 80)).collect::<Result<Vec<_>>>()?;
    let manifests = ManifestDir::new(&cluster)?;
    let web = cluster.service("web").port(8088).target(80).node_port(NODE_PORT).pods(cluster.pods());
    manifests.apply(
        &web.spec_field("type", "LoadBalancer")
            .spec_field("externalTrafficPolicy", "Local")
            .spec_field("healthCheckNodePort", 32_100),
    )?;
    let node = cluster.node(1);
    let binary = confined(&cluster.dir(), &CAPABILITIES)?;
    let spec = AgentSpec::manifests(manifests.path()).binary(binary);
    let agent = node.start_agent(&spec)?;
    let pid = agent.pid().context("it runs")?;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&process_status(pid, set)?, 16)?, EFFECTIVE, "{set}");
    }
    assert_eq!(process_status(pid, "NoNewPrivs")?, "1");
    assert_eq!(process_status(pid, "Seccomp")?, "2");

    let attached = node.fairway(["status", "-o", "json"])?;
    assert!(attached.contains("\"native\""), "XDP is attached: {attached}");
    let client = cluster.client();
    for ip in node.address().both() {
        assert_eq!(tcp_ask(client, SocketAddr::new(ip, NODE_PORT), PATIENCE)?.pod, "pod-1-1");
    }
    let cluster_ip = SocketAddr::new(cluster.cluster_ip("web").v4.into(), 8088);
    let tally = lab::traffic::Ask::new(cluster_ip).timeout(PATIENCE).many(
        Transport::Tcp,
        &cluster.pod(1, 1).ns,
        30,
        2,
    )?;
    ensure!(tally.failures.is_empty() && tally.by_pod.len() == 2, "{tally:?}");
    for (port, path) in [(10_256, "/healthz"), (32_100, "/")] {
        let answer = http_get(client, SocketAddr::new(node.address().v4.into(), port), path, PATIENCE)?;
        assert_eq!(answer.status, 200, "{port}{path}: {}", answer.body);
    }
    let metrics = http_get(node.ns(), "127.0.0.1:10249".parse()?, "/metrics", PATIENCE)?;
    assert!(metrics.body.contains("fairway_datapath_readable 1"), "{}", metrics.body);

    // And again, on what the first one pinned.
    agent.terminate()?;
    let _again = node.start_agent(&spec)?;
    assert_eq!(
        tcp_ask(client, SocketAddr::new(node.address().v4.into(), NODE_PORT), PATIENCE)?.pod,
        "pod-1-1"
    );
    Ok(())
}

#[test]
fn each_of_the_three_is_needed() -> Result<()> {
    let cluster = Cluster::build(ClusterSpec { nodes: 1, pods_per_node: 1, ..ClusterSpec::default() })?;
    let manifests = ManifestDir::new(&cluster)?;
    for missing in CAPABILITIES {
        let kept: Vec<&str> = CAPABILITIES.into_iter().filter(|c| *c != missing).collect();
        let spec = AgentSpec::manifests(manifests.path()).binary(confined(&cluster.dir(), &kept)?);
        let refusal = cluster.node(1).start_agent(&spec).err().with_context(|| format!("not {missing}"))?;
        assert!(format!("{refusal:#}").contains("ended with"), "without {missing}: {refusal:#}");
    }
    Ok(())
}
