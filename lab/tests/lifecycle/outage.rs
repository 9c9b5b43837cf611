//! The datapath without its agent: half a minute under ten thousand flows.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::traffic::{Disruption, Flows};

use crate::support::*;

const TCP_FLOWS: usize = 10_000;
const UDP_FLOWS: usize = 200;
const WITHOUT_AGENT: Duration = Duration::from_secs(30);
/// Each flow asks this often: 2,000 questions a second in all, which two busy cores can carry.
const EVERY: Duration = Duration::from_secs(5);

#[test]
fn ten_thousand_flows_outlive_half_a_minute_without_an_agent() -> Result<()> {
    let _turn = turn();
    let b = Bench::new(&[(1, 1), (2, 1)])?;
    let (client, node) = (b.cluster.client(), b.cluster.node(1));
    let first = b.agent(node)?;
    let flows = Flows {
        tcp: TCP_FLOWS,
        udp: UDP_FLOWS,
        every: EVERY,
        patience: Duration::from_secs(30),
        ..Flows::to(outside(node))
    };
    let load = Disruption::start(client, flows)?;
    let before = (attached(node)?, services(node)?);
    first.kill()?;

    let alone = Instant::now();
    let mut fresh = 0;
    while alone.elapsed() < WITHOUT_AGENT {
        ensure!(load.wait_for_exchanges(500, DEADLINE), "the flows stand still: {:?}", load.report());
        all_answer(client, outside(node), 10)?;
        all_answer(client, outside6(node), 10)?;
        fresh += 20;
    }
    ensure!(fresh >= 200, "only {fresh} new connections were tried");
    assert_eq!((attached(node)?, services(node)?), before, "the command line works without an agent");
    assert_eq!(load.report().tcp_lost, 0, "{:?}", load.report());

    let _second = b.agent(node)?;
    assert_eq!(attached(node)?, before.0, "the same programs on the same links");
    assert_eq!(services(node)?, before.1, "the same ids of services and backends");
    let round = (TCP_FLOWS + UDP_FLOWS) as u64;
    ensure!(load.wait_for_exchanges(round, Duration::from_secs(40)), "flows go on: {:?}", load.report());
    all_answer(client, outside(node), 50)?;
    let report = load.stop();
    assert_eq!((report.tcp_opened, report.tcp_lost), (TCP_FLOWS, 0), "{report:?}");
    assert_eq!((report.udp_opened, report.udp_moved), (UDP_FLOWS, 0), "{report:?}");
    Ok(())
}
