//! A process of the node that is connected over UDP to a pod that goes: it is told, and finds another one.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use lab::traffic::PodServer;
use lab::{Agent, AgentSpec, Cluster, ClusterSpec, ManifestDir};

use crate::{DEADLINE, NODE_PORT};

/// Sockets until every pod has one: the choice is by a hash.
const TRIES: usize = 64;

struct World {
    cluster: Cluster,
    manifests: ManifestDir,
    _agent: Agent,
    _servers: Vec<PodServer>,
}

impl World {
    fn new() -> Result<World> {
        let cluster = Cluster::build(ClusterSpec { nodes: 2, ..ClusterSpec::default() })?;
        let servers = cluster.pods().iter().map(|p| PodServer::start(p, 80)).collect::<Result<Vec<_>>>()?;
        let manifests = ManifestDir::new(&cluster)?;
        publish(&cluster, &manifests, &[(1, 1), (2, 1)])?;
        let agent = cluster.node(1).start_agent(&AgentSpec::manifests(manifests.path()))?;
        Ok(World { cluster, manifests, _agent: agent, _servers: servers })
    }

    /// A socket of the node, bound to `own`.
    fn socket(&self, own: &str) -> Result<UdpSocket> {
        let socket = self.cluster.node(1).ns().run(|| UdpSocket::bind((own, 0)))??;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(socket)
    }

    /// One socket connected to each pod.
    fn one_for_each(&self, own: &str, frontend: SocketAddr) -> Result<[UdpSocket; 2]> {
        let mut found = [None, None];
        for _ in 0..TRIES {
            let socket = self.socket(own)?;
            socket.connect(frontend)?;
            let at = usize::from(ask(&socket)? == "pod-2-1");
            found[at].get_or_insert(socket);
            if let [Some(_), Some(_)] = found {
                break;
            }
        }
        let [one, two] = found;
        Ok([one.context("none for pod-1-1")?, two.context("none for pod-2-1")?])
    }
}

fn publish(cluster: &Cluster, manifests: &ManifestDir, pods: &[(usize, usize)]) -> Result<()> {
    let web = cluster.service("web").port(8088).target(80).node_port(NODE_PORT);
    manifests.apply(&web.pods(pods.iter().map(|(n, p)| cluster.pod(*n, *p))))
}

/// The name of the pod that answers.
fn ask(socket: &UdpSocket) -> Result<String> {
    socket.send(b"ask")?;
    let mut answer = [0; 128];
    let len = socket.recv(&mut answer)?;
    let answer = std::str::from_utf8(&answer[..len])?;
    let pod = answer.split_whitespace().find_map(|word| word.strip_prefix("pod="));
    Ok(pod.with_context(|| format!("unexpected {answer}"))?.to_owned())
}

#[test]
fn a_udp_socket_of_a_removed_pod_is_aborted_and_connects_to_another() -> Result<()> {
    let w = World::new()?;
    let [v4, v6] = w.cluster.cluster_ip("web").both().map(|ip| SocketAddr::new(ip, 8088));
    let IpAddr::V4(ip4) = v4.ip() else { anyhow::bail!("the first one is IPv4") };
    let mapped = SocketAddr::new(ip4.to_ipv6_mapped().into(), 8088);
    let node_port = SocketAddr::new(w.cluster.node(1).address().both()[0], NODE_PORT);
    let kinds = [("0.0.0.0", v4), ("::", v6), ("::", mapped), ("0.0.0.0", node_port)];
    let sockets = kinds.iter().map(|(own, dst)| w.one_for_each(own, *dst)).collect::<Result<Vec<_>>>()?;
    publish(&w.cluster, &w.manifests, &[(1, 1)])?;
    for ([kept, gone], (_, frontend)) in sockets.iter().zip(kinds) {
        // A process that waits for an answer is woken.
        let error = gone.recv(&mut [0; 8]).err().with_context(|| format!("{frontend}: something came"))?;
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{frontend}: {error}");
        gone.connect(frontend)?;
        assert_eq!(ask(gone)?, "pod-1-1", "{frontend}");
        assert_eq!(ask(kept)?, "pod-1-1", "{frontend}: left alone");
    }
    let status = w.cluster.node(1).fairway(["status"])?;
    ensure!(!status.contains("UDP sockets"), "no error: {status}");
    Ok(())
}
