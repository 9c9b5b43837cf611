//! loadBalancerSourceRanges (L3, spec 1.4.2): who may use a load balancer's address, from outside, pods and nodes.

use anyhow::{Context, Result};
use lab::ClusterSpec;
use lab::objects_extra::{load_balanced, with_spec};

use crate::support::Outcome::{Answered, Silent};
use crate::support::*;

/// Ranges, and who of client, pod-2-1 and node-2 may pass, over IPv4 and over IPv6.
type Case = (&'static [&'static str], [[bool; 2]; 3]);

const YES: [bool; 2] = [true, true];
const NO: [bool; 2] = [false, false];
const ONLY_4: [bool; 2] = [true, false];
const ONLY_6: [bool; 2] = [false, true];

/// The client is 172.31.0.200 and fd31::c8, pod-2-1 is 10.244.2.2 and fd44:2::2, node-2 is 172.31.0.12 and fd31::c.
const CASES: &[Case] = &[
    (&["172.31.0.200/32", "fd31::c8/128"], [YES, NO, NO]),
    (&["10.244.2.2/32", "fd44:2::2/128"], [NO, YES, NO]),
    (&["172.31.0.12/32", "fd31::c/128"], [NO, NO, YES]),
    (&["10.244.0.0/16", " fd44::/16 "], [NO, YES, NO]),
    // A list of one family leaves the other open.
    (&["172.31.0.200/32"], [YES, ONLY_6, ONLY_6]),
    (&["fd44:2::2/128"], [ONLY_4, YES, ONLY_4]),
    // The last address of one prefix, the first of the next: 200 = 0xc8 begins a /29 and a /125.
    (&["172.31.0.200/29", "fd31::c8/125"], [YES, NO, NO]),
    (&["172.31.0.192/29", "fd31::c0/125"], [NO, NO, NO]),
    (&["172.31.0.192/28", "fd31::c0/124"], [YES, NO, NO]),
    // Everybody in two halves; 172 is in the upper one, 10 in the lower, all of fd.. in the upper.
    (&["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"], [YES, YES, YES]),
    (&["128.0.0.0/1", "::/1"], [ONLY_4, NO, ONLY_4]),
    (&["0.0.0.0/0", "::/0"], [YES, YES, YES]),
    // Nobody.
    (&["255.255.255.255/32", "ffff::/128"], [NO, NO, NO]),
    (&[], [YES, YES, YES]),
];

#[test]
fn only_source_ranges_reach_a_load_balancers_address() -> Result<()> {
    const NODE_PORT: u16 = 30_090;
    let b = Bench::new(ClusterSpec { nodes: 2, ..ClusterSpec::default() }, &[])?;
    // The nodes' own packets, too, once by the socket and once by the packet.
    let service = b.service("web", &[(1, 1)]).node_port(NODE_PORT);
    let balanced = load_balanced(service.service(), &vip(1).both());
    route_vips(b.client(), b.node(1))?;
    let who = [b.client(), &b.pod(2, 1).ns, b.node(2).ns()];
    for (ranges, expected) in CASES {
        let restricted = with_spec(balanced.clone(), "loadBalancerSourceRanges", *ranges);
        b.publish("web", &[vec![restricted], service.slices()].concat())?;
        let vips = at(vip(1), PORT);
        let asks = who.iter().zip(expected).flat_map(|(from, allowed)| {
            [0, 1].map(|family| (*from, vips[family], if allowed[family] { Answered } else { Silent }))
        });
        assert_outcomes(&asks.collect::<Vec<_>>()).with_context(|| format!("{ranges:?}"))?;
        // Whatever the list says: nodePorts and clusterIPs are not its business.
        assert_all(b.client(), &node_at(b.node(1), NODE_PORT), Answered)
            .with_context(|| format!("nodePort, {ranges:?}"))?;
        assert_all(&b.pod(2, 2).ns, &b.cluster_ip("web"), Answered)
            .with_context(|| format!("clusterIP, {ranges:?}"))?;
    }
    Ok(())
}
