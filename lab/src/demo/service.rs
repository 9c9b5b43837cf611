//! The Service as every node's kernel has it, and whether that is what the objects say.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use serde::Serialize;

use super::kernel::{self, Frontend};
use super::screen::Screen;
use super::stage::Stage;
use crate::node::Node;

/// The Service in the kernels.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceFacts {
    /// `namespace/name`.
    pub name: String,
    /// Its frontends, by node.
    pub nodes: Vec<NodeFrontends>,
}

/// What one node has.
#[derive(Debug, Clone, Serialize)]
pub struct NodeFrontends {
    /// The node.
    pub node: String,
    /// Its frontends.
    pub frontends: Vec<Frontend>,
}

/// Reads the Service from every node's kernel.
pub fn read(stage: &Stage) -> Result<ServiceFacts> {
    let read =
        |node: &Node| Ok(NodeFrontends { node: node.name().to_owned(), frontends: kernel::frontends(node)? });
    let nodes = stage.cluster.nodes().iter().map(read).collect::<Result<_>>()?;
    Ok(ServiceFacts { name: stage.example.name.clone(), nodes })
}

/// What differs between the kernels and the objects, in words.
pub fn problems(stage: &Stage, facts: &ServiceFacts) -> Vec<String> {
    let nodes = stage.cluster.nodes().iter().zip(&facts.nodes);
    nodes.flat_map(|(node, found)| problems_of(stage, node, &found.frontends)).collect()
}

fn problems_of(stage: &Stage, node: &Node, found: &[Frontend]) -> Vec<String> {
    let mut problems = Vec::new();
    let expected: BTreeSet<SocketAddr> =
        stage.cluster_ips().into_iter().chain(stage.node_ports(node)).collect();
    let there: BTreeSet<SocketAddr> = found.iter().map(|f| f.address).collect();
    if there != expected {
        problems.push(format!("{} has the frontends {there:?}, and should have {expected:?}", node.name()));
    }
    for frontend in found {
        let v4 = frontend.address.is_ipv4();
        let members = stage.example.members.iter().map(|member| {
            let ips = member.pod.address.both();
            let address = SocketAddr::new(if v4 { ips[0] } else { ips[1] }, stage.example.target_port);
            (address, member.pod.node_name == node.name())
        });
        let expected: BTreeSet<(SocketAddr, bool)> = members.collect();
        let there: BTreeSet<_> = frontend.backends.iter().map(|b| (b.address, b.local)).collect();
        let all_serve = frontend.backends.iter().all(|backend| backend.state == "serving");
        if there != expected || !all_serve {
            problems.push(format!(
                "{} on {} has the backends {:?}, and should have {expected:?}, all serving",
                frontend.address,
                node.name(),
                frontend.backends
            ));
        }
    }
    problems
}

/// Shows one line per frontend; a frontend that is the same on every node once.
pub fn show(stage: &Stage, screen: &Screen, facts: &ServiceFacts) {
    let mut table = screen.list(&["KIND", "FRONTEND", "ON", "BACKENDS (* on that node)"]);
    let mut rows: Vec<(Frontend, Vec<&str>)> = Vec::new();
    for node in &facts.nodes {
        for frontend in &node.frontends {
            match rows.iter_mut().find(|(known, _)| known.address == frontend.address) {
                Some((_, nodes)) => nodes.push(&node.node),
                None => rows.push((frontend.clone(), vec![&node.node])),
            }
        }
    }
    for (frontend, nodes) in rows {
        let everywhere = nodes.len() == facts.nodes.len() && nodes.len() > 1;
        let place = if everywhere { "all nodes".to_owned() } else { nodes.join(", ") };
        let backends = frontend.backends.iter().map(|backend| {
            let mark = if backend.local && !everywhere { "*" } else { "" };
            format!("{}{mark}", stage.whose(backend.address.ip()))
        });
        table.add_row([
            frontend.kind,
            frontend.address.to_string(),
            place,
            backends.collect::<Vec<_>>().join(" "),
        ]);
    }
    screen.show(&table);
}
