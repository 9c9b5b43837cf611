//! The built kernel object on the real kernel: load, reuse, attach, replace, view, sweep, clean up.

use std::fs;
use std::os::fd::AsFd;

use crate::lab::{Lab, SIZES, wanted};
use lb_common::flow::{Flow, ST_USED, TICK_NS, TIMEOUT_SYN};
use lb_common::service::SetRef;
use lb_common::{A4, A6, Backend, Svc, SvcKey, maps};
use lb_user::datapath::load::EMBEDDED_OBJECT;
use lb_user::datapath::pins::Pins;
use lb_user::datapath::table::Table;
use lb_user::datapath::{
    AttachState, Datapath, DatapathError, MapSizes, NodeConfig, Role, Viewer, XdpMode, bpffs, sys,
};
use lb_user::tables::{BackendEntry, FrontendKey, LbTables};

fn map_ids(lab: &Lab) -> Vec<u32> {
    let dir = Pins::new(&lab.bpffs()).maps;
    maps::ALL
        .iter()
        .map(|name| {
            let fd = sys::obj_get(&dir.join(name)).expect("pinned");
            sys::map_info(fd.as_fd()).expect("a map").id
        })
        .collect()
}

fn links(lab: &Lab) -> Vec<String> {
    let names = lb_user::datapath::pins::list(&Pins::new(&lab.bpffs()).links).expect("readable");
    names.iter().filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect()
}

fn hook<'a>(state: &'a AttachState, hook: &str) -> &'a lb_user::datapath::HookState {
    state.hooks.iter().find(|h| h.hook == hook).unwrap_or_else(|| panic!("no {hook} in {state:?}"))
}

fn node_config() -> NodeConfig {
    NodeConfig {
        node4: Some([10, 0, 0, 1].into()),
        node6: None,
        snat_ports: 61_000..=65_535,
        node_ports: 30_000..=32_767,
        flags: 0,
        service_cidrs: None,
        local_cidrs: None,
        host_netns: [0; 2],
    }
}

/// The same programs in other bytes: what follows an ELF file's parts is no part of it.
fn rebuilt_object() -> Vec<u8> {
    [EMBEDDED_OBJECT, b"another build..."].concat()
}

#[test]
fn reopening_keeps_program_and_map_ids() {
    Lab::run(|lab| {
        let first = lab.open().expect("opens");
        assert!(first.programs_are_fresh());
        let (programs, maps) = (first.program_ids().expect("loaded"), map_ids(lab));
        drop(first);
        let second = lab.open().expect("opens again");
        assert!(!second.programs_are_fresh());
        assert_eq!(second.program_ids().expect("loaded"), programs);
        assert_eq!(map_ids(lab), maps);
    });
}

#[test]
fn a_second_agent_is_refused_while_the_first_lives() {
    Lab::run(|lab| {
        let _first = lab.open().expect("opens");
        let error = lab.open().expect_err("held");
        assert!(matches!(error, DatapathError::Locked { .. }), "{error}");
    });
}

#[test]
fn every_role_gets_its_programs_and_syncing_again_changes_nothing() {
    Lab::run(|lab| {
        let mut datapath = lab.open().expect("opens");
        let all = [
            wanted(lab.veth("up0"), "up0", Role::Uplink),
            wanted(lab.veth("ov0"), "ov0", Role::Overlay),
            wanted(lab.veth("pod0"), "pod0", Role::Pod),
        ];
        let states = datapath.sync_interfaces(&all).expect("syncs");
        let ids = datapath.program_ids().expect("loaded");
        assert_eq!(hook(&states[0], "xdp").mode, "native");
        let programs = |s: &AttachState| s.hooks.iter().filter_map(|h| h.prog_id).collect::<Vec<_>>();
        let id = |name| ids[name];
        use maps::progs::{TC_POD_IN, TC_POD_OUT, TC_UPLINK_IN, TC_UPLINK_OUT, XDP_UPLINK};
        assert_eq!(programs(&states[0]), [XDP_UPLINK, TC_UPLINK_IN, TC_UPLINK_OUT].map(id));
        assert_eq!(programs(&states[1]), [TC_UPLINK_IN, TC_UPLINK_OUT].map(id));
        assert_eq!(programs(&states[2]), [TC_POD_IN, TC_POD_OUT].map(id));
        let link_ids = |states: &[AttachState]| -> Vec<Option<u32>> {
            states.iter().flat_map(|s| s.hooks.iter().map(|h| h.link_id)).collect()
        };
        let before = link_ids(&states);
        assert_eq!(link_ids(&datapath.sync_interfaces(&all).expect("syncs")), before);
        drop(datapath);
        let mut datapath = lab.open().expect("opens again");
        assert_eq!(link_ids(&datapath.sync_interfaces(&all).expect("syncs")), before);
        let viewer = Viewer::open(&lab.bpffs()).expect("opens");
        assert_eq!(viewer.attached().expect("readable").iter().filter(|a| a.live).count(), 7);
        assert_eq!(viewer.ifaces().expect("readable").len(), 3);
    });
}

#[test]
fn another_build_takes_over_the_links_in_place_and_the_old_programs_go() {
    Lab::run(|lab| {
        let up = [wanted(lab.veth("up0"), "up0", Role::Uplink)];
        let mut old = lab.open().expect("opens");
        let before = old.sync_interfaces(&up).expect("syncs");
        let (old_ids, maps) = (old.program_ids().expect("loaded"), map_ids(lab));
        drop(old);
        let object = rebuilt_object();
        let mut new = Datapath::open_object(&lab.options(), &object).expect("opens");
        let after = new.sync_interfaces(&up).expect("syncs");
        assert_eq!(map_ids(lab), maps);
        for (b, a) in before[0].hooks.iter().zip(&after[0].hooks) {
            assert_eq!(a.link_id, b.link_id);
            assert_ne!(a.prog_id, b.prog_id);
            assert!(a.reason.contains("replaced in place"), "{a:?}");
        }
        let dirs = lb_user::datapath::pins::list(&Pins::new(&lab.bpffs()).progs).expect("readable");
        assert_eq!(dirs.len(), 1, "{dirs:?}");
        assert!(
            old_ids.values().all(|old| !new.program_ids().expect("loaded").values().any(|new| new == old))
        );
    });
}

#[test]
fn a_foreign_xdp_program_is_kept_and_tc_does_the_work() {
    Lab::run(|lab| {
        let foreign_lab = lab.veth("far0");
        let ifindex = lab.veth("up0");
        let mut datapath = lab.open().expect("opens");
        // Somebody else's link: our own program's descriptor, attached outside of our pins.
        datapath.sync_interfaces(&[wanted(foreign_lab, "far0", Role::Uplink)]).expect("syncs");
        let program = Viewer::open(&lab.bpffs()).expect("opens").attached().expect("readable");
        let program = program.iter().find(|a| a.hook == "xdp").expect("attached").prog_id;
        let program = sys::prog_by_id(program).expect("open");
        let attach_type = aya_obj::generated::bpf_attach_type::BPF_XDP;
        let foreign = sys::link_create(program.as_fd(), ifindex, attach_type, 0).expect("attached");
        let id = sys::link_info(foreign.as_fd()).expect("a link").prog_id;
        let states = datapath.sync_interfaces(&[wanted(ifindex, "up0", Role::Uplink)]).expect("syncs");
        let xdp = hook(&states[0], "xdp");
        assert_eq!(xdp.prog_id, None);
        assert!(xdp.reason.contains("another XDP program"), "{xdp:?}");
        assert!(hook(&states[0], "tc-ingress").prog_id.is_some());
        let kept = sys::link_info(foreign.as_fd()).expect("still a link");
        assert_eq!((kept.prog_id, kept.ifindex), (id, ifindex));
        drop(foreign);
        let states = datapath.sync_interfaces(&[wanted(ifindex, "up0", Role::Uplink)]).expect("syncs");
        assert!(hook(&states[0], "xdp").prog_id.is_some(), "taken once it is free: {states:?}");
    });
}

#[test]
fn a_device_without_native_xdp_falls_to_tc_with_the_reason() {
    Lab::run(|lab| {
        lab.ip("link add br0 type bridge");
        let mut datapath = lab.open().expect("opens");
        let states =
            datapath.sync_interfaces(&[wanted(lab.ifindex("br0"), "br0", Role::Uplink)]).expect("syncs");
        let xdp = hook(&states[0], "xdp");
        assert_eq!(xdp.prog_id, None);
        assert!(xdp.reason.contains("no native XDP"), "{xdp:?}");
        assert!(hook(&states[0], "tc-ingress").prog_id.is_some());
    });
}

#[test]
fn changing_the_xdp_mode_moves_the_attachment() {
    Lab::run(|lab| {
        let up = [wanted(lab.veth("up0"), "up0", Role::Uplink)];
        for (mode, label) in
            [(XdpMode::Native, "native"), (XdpMode::Generic, "generic"), (XdpMode::Off, "off")]
        {
            let mut options = lab.options();
            options.xdp_mode = mode;
            let mut datapath = Datapath::open(&options).expect("opens");
            let states = datapath.sync_interfaces(&up).expect("syncs");
            let xdp = hook(&states[0], "xdp");
            assert_eq!(xdp.mode, label);
            assert_eq!(xdp.prog_id.is_some(), mode != XdpMode::Off, "{xdp:?}");
        }
    });
}

#[test]
fn a_deleted_interface_loses_its_pins_and_its_entry() {
    Lab::run(|lab| {
        let mut datapath = lab.open().expect("opens");
        let up = wanted(lab.veth("up0"), "up0", Role::Uplink);
        let pod = wanted(lab.veth("pod0"), "pod0", Role::Pod);
        datapath.sync_interfaces(&[up.clone(), pod.clone()]).expect("syncs");
        assert_eq!(links(lab).len(), 5);
        lab.ip("link del pod0");
        datapath.sync_interfaces(std::slice::from_ref(&up)).expect("syncs");
        assert_eq!(links(lab).len(), 3);
        let viewer = Viewer::open(&lab.bpffs()).expect("opens");
        let indexes: Vec<u32> = viewer.ifaces().expect("readable").iter().map(|(i, _)| *i).collect();
        assert_eq!(indexes, [up.ifindex]);
        datapath.detach_interface(up.ifindex).expect("detaches");
        assert!(links(lab).is_empty() && viewer.ifaces().expect("readable").is_empty());
    });
}

#[test]
fn what_is_written_is_read_back_by_a_viewer_while_the_agent_is_dead() {
    Lab::run(|lab| {
        let mut datapath = lab.open().expect("opens");
        let config = datapath.set_config(&node_config()).expect("written");
        assert_ne!(config.seed, 0);
        let mut tables = datapath.tables();
        let v4 = |port_be| {
            FrontendKey::V4(SvcKey {
                addr: A4::from(std::net::Ipv4Addr::new(10, 96, 0, 1)),
                port_be,
                proto: 6,
                pad: 0,
            })
        };
        let v6 = FrontendKey::V6(SvcKey { addr: A6([1, 2, 3, 4]), port_be: 80, proto: 17, pad: 0 });
        let svc = Svc { id: 7, sets: [SetRef { offset: 4, count: 2 }, SetRef::default()], ..Svc::default() };
        let b4 = Backend { addr: A4(9), port_be: 1, proto: 6, flags: 1, generation: 3 };
        let b6 = Backend { addr: A6([9; 4]), port_be: 1, proto: 17, flags: 1, generation: 5 };
        tables.put_backends(&[(1, BackendEntry::V4(b4)), (2, BackendEntry::V6(b6))]).expect("written");
        tables.put_slots(&[(4, vec![1, 2])]).expect("written");
        tables.put_frontends(&[(v4(80), svc), (v4(81), svc), (v6, svc)]).expect("written");
        tables.delete_frontends(&[v4(81), v4(82)]).expect("a missing one is no error");
        tables.commit_sync(41, 1_700_000_000).expect("committed");
        drop((datapath, tables));
        let viewer = Viewer::open(&lab.bpffs()).expect("opens");
        let dump = viewer.dump().expect("readable");
        assert_eq!(dump.frontends, [(v4(80), svc), (v6, svc)]);
        assert_eq!(dump.backends, [(1, BackendEntry::V4(b4)), (2, BackendEntry::V6(b6))]);
        assert_eq!(dump.slots.len(), SIZES.slots as usize);
        assert_eq!(dump.slots[4..6], [1, 2]);
        let after = viewer.config().expect("readable");
        assert_eq!((after.ready, after.sync_generation, after.seed), (1, 41, config.seed));
        assert_eq!(after.flows4_len, SIZES.flows);
        let used = |map: &str| {
            viewer.usage().expect("readable").into_iter().find(|u| u.map == map).map(|u| (u.used, u.capacity))
        };
        assert_eq!(used(maps::SVC4), Some((1, 64)));
        assert_eq!(used(maps::BACKENDS6), Some((1, 128)));
        assert_eq!(used(maps::SLOTS), Some((2, 256)));
        assert_eq!(viewer.counters().expect("readable").iter().map(|c| c.count).sum::<u64>(), 0);
        let mut again = lab.open().expect("opens again");
        let kept = again.set_config(&node_config()).expect("written");
        assert_eq!((kept.seed, kept.ready, kept.sync_generation), (config.seed, 1, 41));
    });
}

#[test]
fn a_service_map_without_room_says_which() {
    Lab::run(|lab| {
        let datapath = lab.open().expect("opens");
        let key = |port_be| FrontendKey::V4(SvcKey { addr: A4(1), port_be, proto: 6, pad: 0 });
        let many: Vec<_> = (0..65).map(|p| (key(p), Svc::default())).collect();
        let error = datapath.tables().put_frontends(&many).expect_err("64 fit");
        assert_eq!(error, lb_user::tables::TableError::Full { map: maps::SVC4 });
    });
}

#[test]
fn a_sweep_frees_what_has_expired_and_nothing_else() {
    Lab::run(|lab| {
        let mut datapath = lab.open().expect("opens");
        datapath.set_config(&node_config()).expect("written");
        let dir = Pins::new(&lab.bpffs()).maps;
        let flows: Table<u32, Flow<A4>> = Table::open(&dir, maps::FLOWS4).expect("opens");
        let now = Viewer::open(&lab.bpffs()).expect("opens").now_tick().expect("answers");
        let fresh = Flow { seq: 2, state: ST_USED, last_tick: now, ..Flow::default() };
        let mut fresh = fresh;
        fresh.orig.proto = 6;
        let stale = Flow { last_tick: now.wrapping_sub(TIMEOUT_SYN + 10_000), ..fresh };
        flows.put_all(&[(3, fresh), (200, stale), (511, stale)]).expect("written");
        let report = datapath.sweep(256).expect("sweeps");
        assert_eq!((report.freed4, report.freed6, report.examined, report.wrapped), (1, 0, 512, false));
        let report = datapath.sweep(256).expect("sweeps");
        assert_eq!((report.freed4, report.wrapped), (1, true));
        let mut left = Vec::new();
        let viewer = Viewer::open(&lab.bpffs()).expect("opens");
        viewer.for_each_flow4(|slot, _| left.push(slot)).expect("readable");
        assert_eq!(left, [3]);
    });
}

#[test]
fn the_datapaths_clock_runs_like_the_kernels() {
    Lab::run(|lab| {
        let mut datapath = lab.open().expect("opens");
        datapath.set_config(&node_config()).expect("written");
        let viewer = Viewer::open(&lab.bpffs()).expect("opens");
        let (began, first) = (std::time::Instant::now(), viewer.now_tick().expect("answers"));
        let passed = loop {
            let passed = viewer.now_tick().expect("answers").wrapping_sub(first);
            if passed >= 200 {
                break f64::from(passed);
            }
        };
        let ratio = began.elapsed().as_nanos() as f64 / (passed * TICK_NS as f64);
        assert!((0.8..1.25).contains(&ratio), "{ratio}");
    });
}

#[test]
fn other_sizes_are_refused_and_the_old_maps_stay() {
    Lab::run(|lab| {
        drop(lab.open().expect("opens"));
        let before = map_ids(lab);
        let mut options = lab.options();
        options.sizes = MapSizes { flows: 1_024, ..SIZES };
        let error = Datapath::open(&options).expect_err("other sizes");
        assert!(error.to_string().contains("map FW_FLOWIDX4: max_entries is 512, wanted 1024"), "{error}");
        assert_eq!(map_ids(lab), before);
        lab.open().expect("the old sizes still work");
    });
}

#[test]
fn lost_map_pins_give_new_maps_and_programs_that_use_them() {
    Lab::run(|lab| {
        let old = lab.open().expect("opens").program_ids().expect("loaded");
        fs::remove_file(Pins::new(&lab.bpffs()).maps.join(maps::SVC4)).expect("unpinned");
        let datapath = lab.open().expect("opens");
        assert!(datapath.programs_are_fresh());
        assert_ne!(datapath.program_ids().expect("loaded"), old);
    });
}

#[test]
fn cleanup_leaves_nothing_and_says_what_it_removed() {
    Lab::run(|lab| {
        let mut datapath = lab.open().expect("opens");
        datapath.sync_interfaces(&[wanted(lab.veth("up0"), "up0", Role::Uplink)]).expect("syncs");
        let other_version = lab.bpffs().join("fairway/v0/maps");
        fs::create_dir_all(&other_version).expect("made");
        assert!(lab.cleanup().is_err(), "an agent holds the lock");
        let program = datapath.program_ids().expect("loaded")[maps::progs::XDP_UPLINK];
        drop(datapath);
        let removed = lab.cleanup().expect("cleaned");
        for part in ["link of xdp on interface", maps::FLOWS6, maps::progs::TC_POD_OUT, "v0", "agent.lock"] {
            assert!(removed.iter().any(|line| line.contains(part)), "{part} in {removed:#?}");
        }
        assert!(!lab.bpffs().join("fairway").exists() && !bpffs::is_bpffs(&lab.bpffs()));
        assert!(!lab.state_dir().exists());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while sys::prog_by_id(program).is_ok() {
            assert!(std::time::Instant::now() < deadline, "the kernel still has program {program}");
            std::thread::yield_now();
        }
        assert!(lab.cleanup().expect("again").is_empty());
    });
}
