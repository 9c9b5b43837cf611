//! The cases of the suite: which program gets which packets, and what it is expected to count.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use anyhow::Result;
use lab::address::{self, Dual};
use lb_common::reason::Reason;

use super::NODE;
use super::flows::{Clients, Established, Way, establish};
use crate::fairway::Fairway;
use crate::frames::{FlowSet, Kind, Macs};
use crate::net::{self, Net, Side};
use crate::suites::Setup;
use crate::testrun::Entry;
use crate::world::{EMPTY_NODE_PORT, NODE_PORT, PORT, World};

/// More flows than this only for established flows of uplinks.
const POD_FLOWS: u32 = 65_536;

/// Rejections in a sample that stay below the rate limit, of both families together.
const WITHIN_LIMIT: u32 = 200;

/// Which packets a case sends.
pub enum Flows {
    /// The same ones again and again.
    Known(FlowSet),
    /// Others in every sample.
    Fresh {
        /// Whose.
        clients: Clients,
        /// The number of the next one.
        next: u32,
        /// TCP or UDP.
        kind: Kind,
        /// Their MAC addresses.
        macs: Macs,
    },
}

/// One case.
pub struct Case {
    /// What it is.
    pub name: String,
    /// Device and hook.
    pub entry: Entry,
    /// The program under test.
    pub program: Rc<OwnedFd>,
    /// Its packets.
    pub flows: Flows,
    /// How often a sample runs it; none = as often as the suite runs all others.
    pub repeat: Option<u32>,
    /// Any of these is right.
    pub expected: &'static [Reason],
    /// Why it cannot be measured.
    pub wrong: Option<String>,
}

impl Case {
    /// New flows for the next sample, if the case wants some.
    pub fn next_flows(&mut self, count: u32) -> Result<Option<FlowSet>> {
        let Flows::Fresh { clients, next, kind, macs } = &mut self.flows else { return Ok(None) };
        let tuples = clients.tuples(*next, count);
        *next += count;
        FlowSet::new(*macs, *kind, tuples).map(Some)
    }

    /// The flows it always uses.
    pub fn known(&self) -> Option<&FlowSet> {
        match &self.flows {
            Flows::Known(set) => Some(set),
            Flows::Fresh { .. } => None,
        }
    }
}

/// A place where packets come in.
#[derive(Clone)]
struct Place {
    entry: Entry,
    program: Rc<OwnedFd>,
    macs: Macs,
}

impl Place {
    fn way(&self) -> Way<'_> {
        Way { program: self.program.as_fd(), entry: self.entry, macs: self.macs }
    }
}

/// The node's hooks.
struct Places {
    xdp_far: Place,
    xdp_client: Place,
    tc_far: Place,
    pod_in: Place,
    pod_out: Place,
}

impl Places {
    fn find(net: &Net, fairway: &Fairway) -> Result<Self> {
        let ns = net.node(NODE).ns();
        let (far, _) = net::device(ns, Side::Far.device())?;
        let (client, _) = net::device(ns, Side::Client.device())?;
        let pod = net.cluster.pod(NODE.into(), 1);
        let (veth, veth_mac) = net::device(ns, &pod.host_veth)?;
        let (_, pod_mac) = net::device(&pod.ns, "eth0")?;
        let place = |entry, label, macs| {
            let (Entry::Xdp(ifindex) | Entry::Tc(ifindex)) = entry;
            Ok::<_, anyhow::Error>(Place { entry, program: Rc::new(fairway.attached(ifindex, label)?), macs })
        };
        let macs = |side| net::macs_in(NODE, side);
        Ok(Self {
            xdp_far: place(Entry::Xdp(far), "xdp", macs(Side::Far))?,
            xdp_client: place(Entry::Xdp(client), "xdp", macs(Side::Client))?,
            tc_far: place(Entry::Tc(far), "tc-ingress", macs(Side::Far))?,
            pod_in: place(Entry::Tc(veth), "tc-ingress", Macs { dst: veth_mac, src: pod_mac })?,
            pod_out: place(Entry::Tc(veth), "tc-egress", Macs { dst: pod_mac, src: veth_mac })?,
        })
    }
}

/// Everything that builds cases.
struct Builder<'a> {
    setup: &'a Setup,
    places: Places,
    flows: u32,
    cases: Vec<Case>,
}

/// Every case the user wants, with its flows established.
pub fn all(setup: &Setup, net: &Net, fairway: &Fairway, flows: u32) -> Result<Vec<Case>> {
    let places = Places::find(net, fairway)?;
    let mut builder = Builder { setup, places, flows, cases: Vec::new() };
    for v6 in [false, true] {
        builder.not_ours(v6)?;
        builder.established(v6)?;
        builder.pods(v6)?;
        builder.new_flows(v6);
        builder.rejected(v6)?;
    }
    Ok(builder.cases)
}

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn of(v6: bool, address: Dual) -> IpAddr {
    if v6 { address.v6.into() } else { address.v4.into() }
}

fn pod_client(i: u32) -> Dual {
    // Only frames have these addresses: hosts 2 to 254 of the node's pod range.
    address::pod_range(NODE, 2 + (i % 253) as u8)
}

fn one_armed(i: u32) -> Dual {
    net::imagined_client(Side::Far, i)
}

fn two_armed(i: u32) -> Dual {
    net::imagined_client(Side::Client, i)
}

impl Builder<'_> {
    fn add(&mut self, name: String, place: &Place, flows: Flows, expected: &'static [Reason]) {
        if self.setup.wants(&name) {
            let (entry, program) = (place.entry, Rc::clone(&place.program));
            self.cases.push(Case { name, entry, program, flows, repeat: None, expected, wrong: None });
        }
    }

    /// A case that cannot be: it is in the report, with the reason.
    fn add_impossible(&mut self, name: String, place: &Place, set: FlowSet, wrong: String) {
        self.add(name.clone(), place, Flows::Known(set), &[]);
        if let Some(case) = self.cases.iter_mut().find(|c| c.name == name) {
            case.wrong = Some(wrong);
        }
    }

    fn not_ours(&mut self, v6: bool) -> Result<()> {
        const SSH: u16 = 22;
        let server = of(v6, net::node_address(NODE, Side::Far));
        let clients = Clients { address: one_armed, server, port: SSH };
        let tuples = clients.tuples(0, self.flows.min(POD_FLOWS));
        for (what, place) in [("XDP", self.places.xdp_far.clone()), ("tc uplink", self.places.tc_far.clone())]
        {
            let set = place.way().set(Kind::Ack, &tuples)?;
            self.add(
                format!("not ours, {} TCP, {what}", family(v6)),
                &place,
                Flows::Known(set),
                &[Reason::NotOurs],
            );
        }
        let backend = of(v6, net::backend(NODE, 1));
        let direct =
            Clients { address: pod_client, server: backend, port: PORT }.tuples(0, self.flows.min(POD_FLOWS));
        let turned: Vec<_> = direct.iter().map(|t| t.turned()).collect();
        for (what, place, tuples) in [
            ("tc pod", self.places.pod_in.clone(), direct),
            ("tc egress", self.places.pod_out.clone(), turned),
        ] {
            let set = place.way().set(Kind::Ack, &tuples)?;
            self.add(
                format!("not ours, {} TCP, {what}", family(v6)),
                &place,
                Flows::Known(set),
                &[Reason::NotOurs],
            );
        }
        Ok(())
    }

    fn established(&mut self, v6: bool) -> Result<()> {
        let far = self.places.xdp_far.clone();
        for (arm, udp) in [(Side::Far, false), (Side::Far, true), (Side::Client, false)] {
            let (protocol, kind) = if udp { ("UDP", Kind::Udp) } else { ("TCP", Kind::Ack) };
            let (address, there, what): (fn(u32) -> Dual, _, _) = match arm {
                Side::Far => (one_armed, far.clone(), "XDP TX"),
                Side::Client => (two_armed, self.places.xdp_client.clone(), "XDP redirect"),
            };
            let name = |way: &str| format!("established {way}, {} {protocol}, {what}", family(v6));
            let tc_name = |way: &str| format!("established {way}, {} {protocol}, tc uplink", family(v6));
            let mut names = vec![name("forward"), name("reply")];
            if arm == Side::Far && !udp {
                names.extend([tc_name("forward"), tc_name("reply")]);
            }
            if !names.iter().any(|n| self.setup.wants(n)) {
                continue;
            }
            let server = of(v6, net::node_address(NODE, arm));
            let clients = Clients { address, server, port: NODE_PORT };
            match establish(&self.setup.object, &clients, udp, self.flows, there.way(), far.way()) {
                Ok(flows) => {
                    self.both_ways(&name, kind, &flows, &there, &far)?;
                    if arm == Side::Far && !udp {
                        let tc = self.places.tc_far.clone();
                        self.both_ways(&tc_name, kind, &flows, &tc, &tc)?;
                    }
                }
                Err(error) => {
                    let set = there.way().set(kind, &clients.tuples(0, 1))?;
                    self.add_impossible(name("forward"), &there, set, format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    fn both_ways(
        &mut self,
        name: &dyn Fn(&str) -> String,
        kind: Kind,
        flows: &Established,
        there: &Place,
        back: &Place,
    ) -> Result<()> {
        let forward = there.way().set(kind, &flows.forward)?;
        self.add(name("forward"), there, Flows::Known(forward), &[Reason::FwdRemote, Reason::FwdRouted]);
        let reply = back.way().set(kind, &flows.reply)?;
        self.add(name("reply"), back, Flows::Known(reply), &[Reason::ReplyRedirected, Reason::ReplyEgress]);
        Ok(())
    }

    fn pods(&mut self, v6: bool) -> Result<()> {
        let name = |way: &str| format!("established {way}, {} TCP, tc pod", family(v6));
        if !["forward", "reply"].iter().any(|way| self.setup.wants(&name(way))) {
            return Ok(());
        }
        let clients = Clients { address: pod_client, server: of(v6, World::cluster_ip()), port: PORT };
        let (pod_in, pod_out) = (self.places.pod_in.clone(), self.places.pod_out.clone());
        let count = self.flows.min(POD_FLOWS);
        match establish(&self.setup.object, &clients, false, count, pod_in.way(), pod_out.way()) {
            Ok(flows) => self.both_ways(&name, Kind::Ack, &flows, &pod_in, &pod_out),
            Err(error) => {
                let set = pod_in.way().set(Kind::Ack, &clients.tuples(0, 1))?;
                self.add_impossible(name("forward"), &pod_in, set, format!("{error:#}"));
                Ok(())
            }
        }
    }

    fn new_flows(&mut self, v6: bool) {
        let far = self.places.xdp_far.clone();
        let server = of(v6, net::node_address(NODE, Side::Far));
        let clients = Clients { address: one_armed, server, port: NODE_PORT };
        for (protocol, kind) in [("TCP", Kind::Syn), ("UDP", Kind::Udp)] {
            let flows = Flows::Fresh { clients, next: self.flows, kind, macs: far.macs };
            self.add(
                format!("new flow, {} {protocol}, XDP TX", family(v6)),
                &far,
                flows,
                &[Reason::FwdRemote],
            );
        }
        let pod = self.places.pod_in.clone();
        let clients = Clients { address: pod_client, server: of(v6, World::cluster_ip()), port: PORT };
        let flows = Flows::Fresh { clients, next: self.flows, kind: Kind::Syn, macs: pod.macs };
        self.add(format!("new flow, {} TCP, tc pod", family(v6)), &pod, flows, &[Reason::FwdRouted]);
    }

    /// Rejections are rate limited: a few that are answered, and a flood that is not.
    fn rejected(&mut self, v6: bool) -> Result<()> {
        let far = self.places.xdp_far.clone();
        let server = of(v6, net::node_address(NODE, Side::Far));
        let clients = Clients { address: one_armed, server, port: EMPTY_NODE_PORT };
        let tuples = clients.tuples(0, self.flows.min(POD_FLOWS));
        let name = format!("rejected, {} TCP, XDP TX", family(v6));
        let set = far.way().set(Kind::Syn, &tuples)?;
        self.add(name.clone(), &far, Flows::Known(set), &[Reason::ResetNoEndpoint]);
        if let Some(case) = self.cases.iter_mut().find(|c| c.name == name) {
            case.repeat = Some(WITHIN_LIMIT);
        }
        let name = format!("rejected in a flood, {} TCP, XDP", family(v6));
        let set = far.way().set(Kind::Syn, &tuples)?;
        self.add(name, &far, Flows::Known(set), &[Reason::RejectLimited]);
        Ok(())
    }
}
