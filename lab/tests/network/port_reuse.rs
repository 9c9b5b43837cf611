//! One client port, again and again, by several frontends to the same pods: what each connection leaves behind must not
//! stand in the way of the next one. The client's stack sees different connections, the backend's may see one; and what one
//! node translates another one may have translated before.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::ClusterSpec;
use lab::traffic::{Ask, Transport};

use crate::support::*;

/// Less than the first retransmission of a SYN.
const AT_ONCE: Duration = Duration::from_millis(800);
const NODE_PORT: u16 = 30_140;
const ROUNDS: u16 = 40;

#[test]
fn a_client_port_is_used_again_by_other_frontends() -> Result<()> {
    let b = Bench::new(ClusterSpec { nodes: 2, ..ClusterSpec::default() }, &[])?;
    b.apply(&b.service("one", &[(1, 1), (2, 1)]).node_port(NODE_PORT))?;
    b.apply(&b.service("two", &[(1, 1), (2, 1)]).node_port(NODE_PORT + 1))?;
    let (mut slow, mut held) = (Vec::new(), 0);
    for family in [0, 1] {
        let node_ports =
            |n| [node_at(b.node(n), NODE_PORT)[family], node_at(b.node(n), NODE_PORT + 1)[family]];
        let cluster_ips = [b.cluster_ip("one")[family], b.cluster_ip("two")[family]];
        let inside = [&cluster_ips[..], &node_ports(1), &node_ports(2)].concat();
        let clients = [
            (&b.pod(1, 2).ns, inside.clone()),
            (&b.pod(1, 1).ns, inside.clone()),
            (b.client(), [node_ports(1), node_ports(2)].concat()),
            (b.node(1).ns(), inside),
        ];
        for (from, frontends) in &clients {
            for round in 0..ROUNDS {
                for dst in frontends {
                    let began = Instant::now();
                    let ask =
                        Ask::new(*dst).timeout(PATIENCE).source_port(20_000 + round % 20).until_closed();
                    let result = ask.over(Transport::Tcp, from);
                    let took = began.elapsed();
                    // To a process whose sockets are translated these are one destination, which its own TIME_WAIT may
                    // hold.
                    if matches!(&result, Err(e) if e.kind() == ErrorKind::AddrNotAvailable) {
                        held += 1;
                        continue;
                    }
                    if took > AT_ONCE || result.is_err() {
                        slow.push(format!("round {round}: {} to {dst}: {took:?} {result:?}", from.name()));
                    }
                }
            }
        }
    }
    ensure!(held < usize::from(ROUNDS) * 6, "{held} ports were held by the client's own stack");
    ensure!(slow.is_empty(), "{} were slow:\n{}", slow.len(), slow.join("\n"));
    Ok(())
}
