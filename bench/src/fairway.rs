//! Fairway as a contestant: the real agent, fed by an API server, on a node of the benchmark's network.
//!
//! The benchmark takes the programs from where the agent attached them, so it measures what would run.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use apiserver::{ApiServer, Options};
use lab::{Agent, AgentSpec, Node};
use lb_common::reason::Reason;
use lb_user::datapath::{Viewer, sys};
use serde_json::Value;

use crate::net::Net;

/// A node with Fairway on it.
pub struct Fairway {
    /// The API server that feeds the agent.
    pub api: ApiServer,
    agent: Option<Agent>,
    node: Node,
}

impl Fairway {
    /// Serves `objects` and starts the agent of `node` with these flags; returns when it is ready.
    pub fn start(net: &Net, node: u8, objects: Vec<Value>, flags: &[&str]) -> Result<Self> {
        let api = serve(net, objects)?;
        let node = net.node(node).clone();
        let agent = node.start_agent(&spec(&api, flags))?;
        Ok(Self { api, agent: Some(agent), node })
    }

    /// Ends the agent. The datapath goes on, and nothing sweeps or syncs behind the benchmark's back.
    pub fn freeze(&mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            agent.kill()?;
        }
        Ok(())
    }

    /// The running agent's process id.
    pub fn pid(&self) -> Option<u32> {
        self.agent.as_ref().and_then(Agent::pid)
    }

    /// A reader of the pinned maps.
    pub fn viewer(&self) -> Result<Viewer> {
        Viewer::open(self.node.bpffs()).context("read the pinned maps")
    }

    /// The program the agent attached to a device: `hook` is `xdp`, `tc-ingress` or `tc-egress`.
    pub fn attached(&self, ifindex: u32, hook: &str) -> Result<OwnedFd> {
        let all = self.viewer()?.attached()?;
        let found = all.iter().find(|a| a.ifindex == ifindex && a.hook == hook && a.live);
        let found = found.with_context(|| format!("nothing at {hook} of device {ifindex}: {all:?}"))?;
        Ok(sys::prog_by_id(found.prog_id)?)
    }
}

/// How often each reason was counted.
pub type Reasons = Vec<(Reason, u64)>;

/// The reasons counted so far, all hooks together.
pub fn reasons(viewer: &Viewer) -> Result<Reasons> {
    let mut sums: Reasons = Reason::ALL.iter().map(|reason| (*reason, 0)).collect();
    for counter in viewer.counters()? {
        sums.iter_mut().filter(|(r, _)| *r == counter.reason).for_each(|(_, n)| *n += counter.count);
    }
    Ok(sums)
}

/// What was counted between two readings, most frequent first.
pub fn difference(before: &Reasons, after: &Reasons) -> Reasons {
    let mut difference: Reasons = after
        .iter()
        .map(|(reason, count)| {
            let old = before.iter().find(|(r, _)| r == reason).map_or(0, |(_, c)| *c);
            (*reason, count.wrapping_sub(old))
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    difference.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    difference
}

/// Starts an API server on the control plane's address.
pub fn serve(net: &Net, objects: Vec<Value>) -> Result<ApiServer> {
    let address = net.cluster.control_address().v4;
    let listener = net.cluster.control().run(|| TcpListener::bind((address, 0)))?.context("listen")?;
    let api = ApiServer::start(Options { listener: Some(listener), ..Options::default() })?;
    let nodes = net.cluster.nodes().iter().map(Node::object);
    nodes.chain(objects).try_for_each(|object| api.apply(object))?;
    Ok(api)
}

/// How an agent of the benchmark is run.
pub fn spec(api: &ApiServer, flags: &[&str]) -> AgentSpec {
    AgentSpec::api(api.url())
        .flags(["--interface", "eth1", "--interface", "eth2"])
        .flags(flags.iter().copied())
        .env("RUST_LOG", "warn")
}
