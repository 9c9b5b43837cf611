//! Cached next hops of backends.

use crate::lab::Lab;
use lb_common::backend::{BACKEND_LIVE, BACKEND_SERVING};
use lb_common::{A4, Backend, Hop, maps};
use lb_user::datapath::pins::Pins;
use lb_user::datapath::table::Table;
use lb_user::tables::{BackendEntry, LbTables};
use std::net::Ipv4Addr;

#[test]
fn an_id_that_is_taken_again_has_no_next_hop_of_its_former_backend() {
    Lab::run(|lab| {
        let datapath = lab.open().expect("opens");
        let mut tables = datapath.tables();
        let hops: Table<u32, Hop> = Table::open(&Pins::new(&lab.bpffs()).maps, maps::HOPS4).expect("opens");
        let backend = |host: u8, generation: u32, flags: u8| {
            let addr = A4::from(Ipv4Addr::new(10, 0, 0, host));
            BackendEntry::V4(Backend { addr, port_be: 80u16.to_be(), generation, flags, proto: 6 })
        };
        let serving = BACKEND_LIVE | BACKEND_SERVING;
        let cached = Hop { ifindex: 2, at_tick: 7, macs: [1, 2, 3] };
        tables.put_backends(&[(5, backend(1, 1, serving)), (6, backend(2, 1, serving))]).expect("written");
        for id in [5, 6] {
            hops.put(&id, &cached).expect("written");
        }
        // What stays keeps its hop, whatever else is said of it.
        tables.put_backends(&[(6, backend(2, 1, BACKEND_LIVE)), (5, backend(1, 2, 0))]).expect("written");
        assert_eq!(hops.get(&6).expect("readable"), Some(cached));
        tables.put_backends(&[(5, backend(9, 3, serving))]).expect("written");
        assert_eq!(hops.get(&5).expect("readable"), Some(Hop::default()));
        assert_eq!(hops.get(&6).expect("readable"), Some(cached));
    });
}
