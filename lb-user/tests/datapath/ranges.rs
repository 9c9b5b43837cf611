//! Sets of source ranges in the kernel's tries, and networks in the configuration.

use crate::lab::Lab;
use ipnet::IpNet;
use lb_common::config::CONFIG_MASQUERADE_ALL;
use lb_common::service::RANGE_ID_BITS;
use lb_common::{A4, RangeKey, maps};
use lb_user::datapath::NodeConfig;
use lb_user::datapath::pins::Pins;
use lb_user::datapath::table::Table;
use lb_user::tables::{LbTables, SourceRanges};
use std::net::Ipv4Addr;

fn set(networks: &[&str]) -> SourceRanges {
    networks.iter().map(|text| text.parse().expect("network")).collect()
}

fn sorted(mut ranges: Vec<(u32, IpNet)>) -> Vec<(u32, IpNet)> {
    ranges.sort();
    ranges
}

/// More networks than one slice of a batched read or write holds.
fn many() -> SourceRanges {
    (0..5_000u32)
        .map(|n| IpNet::new(Ipv4Addr::from(0x0a00_0000 + (n << 8)).into(), 24).expect("network"))
        .collect()
}

#[test]
fn sets_of_source_ranges_are_written_read_back_and_deleted() {
    Lab::run(|lab| {
        let datapath = lab.open().expect("opens");
        let mut tables = datapath.tables();
        assert!(tables.limits().ranges > 5_010, "{:?}", tables.limits());
        let sets = [
            (1, set(&["198.51.100.0/24", "203.0.113.7/32"])),
            (2, set(&["0.0.0.0/1", "2001:db8::/32", "fd00::/8"])),
            (3, many()),
        ];
        tables.put_ranges(&sets).expect("written");
        let all = sets.iter().flat_map(|(id, set)| set.iter().map(|net| (*id, *net))).collect();
        assert_eq!(sorted(tables.dump().expect("readable").ranges), sorted(all));

        // The longest prefix of the set, as the programs look it up.
        let trie: Table<RangeKey<A4>, u32> =
            Table::open(&Pins::new(&lab.bpffs()).maps, maps::RANGES4).expect("opens");
        let admits = |ranges_id, addr: [u8; 4]| {
            let addr = A4::from(Ipv4Addr::from(addr));
            trie.get(&RangeKey { prefix_len: RANGE_ID_BITS + 32, ranges_id, addr })
                .expect("readable")
                .is_some()
        };
        assert!(admits(1, [198, 51, 100, 9]) && admits(1, [203, 0, 113, 7]) && admits(2, [10, 0, 0, 1]));
        assert!(!admits(1, [203, 0, 113, 8]) && !admits(2, [198, 51, 100, 9]) && !admits(4, [10, 0, 0, 1]));

        // What is missing is no error.
        tables
            .delete_ranges(&[sets[2].clone(), (9, set(&["10.0.0.0/8"])), sets[0].clone()])
            .expect("deleted");
        tables.delete_ranges(&sets[..1]).expect("deleted twice");
        let rest = sets[1].1.iter().map(|net| (2, *net)).collect();
        assert_eq!(sorted(tables.dump().expect("readable").ranges), sorted(rest));
    });
}

#[test]
fn what_is_not_known_yet_stays_in_the_configuration() {
    Lab::run(|lab| {
        let nets = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().expect("network")).collect());
        let mut node = NodeConfig {
            node4: None,
            node6: None,
            snat_ports: 61_000..=65_535,
            node_ports: 30_000..=32_767,
            flags: CONFIG_MASQUERADE_ALL,
            service_cidrs: nets(&["10.96.0.0/12", "fd00:10::/108"]),
            local_cidrs: nets(&["10.244.0.0/24"]),
            host_netns: [0; 2],
        };
        let inside = A4::from(Ipv4Addr::new(10, 97, 0, 1));
        let pod = A4::from(Ipv4Addr::new(10, 244, 0, 7));
        let mut datapath = lab.open().expect("opens");
        let config = datapath.set_config(&node).expect("written");
        assert!(config.service_cidrs4[0].contains(&inside) && config.local_cidr4.contains(&pod));
        assert_eq!(config.flags, CONFIG_MASQUERADE_ALL);
        drop(datapath);
        // The next agent, before its first snapshot.
        (node.service_cidrs, node.local_cidrs, node.flags) = (None, None, 0);
        let mut datapath = lab.open().expect("opens again");
        let config = datapath.set_config(&node).expect("written");
        assert!(config.service_cidrs4[0].contains(&inside) && config.local_cidr4.contains(&pod));
        assert_eq!(config.flags, 0);
        node.service_cidrs = Some(Vec::new());
        assert!(!datapath.set_config(&node).expect("written").service_cidrs4[0].contains(&inside));
    });
}
