//! The fixtures on the host: every packet ends as its row says. `lb-user/tests/datapath` compares the kernel.

use sim::fixtures::{self, Act};

#[test]
fn every_packet_of_every_scenario_ends_as_it_must() {
    let mut packets = 0;
    for scenario in fixtures::all() {
        scenario.run_on_host(|_, _| {});
        packets += scenario.acts.iter().filter(|act| matches!(act, Act::Packet(_))).count();
    }
    assert!(packets > 3_000, "only {packets} packets");
}
