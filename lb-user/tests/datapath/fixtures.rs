//! The fixtures through the loaded programs: with the same maps, routes and packets the kernel's verdicts, bytes,
//! counters and flows must be those of the host.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::lab::Lab;
use aya_obj::generated::{XDP_FLAGS_DRV_MODE, bpf_attach_type};
use lb_common::maps::{self, progs};
use lb_common::*;
use lb_ebpf::packet::{End, Verdict};
use lb_ebpf::pipeline::Side;
use lb_ebpf::select::Role;
use lb_user::datapath::Viewer;
use lb_user::datapath::load::{EMBEDDED_OBJECT, object_hash};
use lb_user::datapath::pins::Pins;
use lb_user::datapath::sys;
use lb_user::datapath::table::Table;
use lb_user::tables::{LbTables, SourceRanges};
use sim::fixtures::site::{DEVICES, Site, own_mac, peer_mac};
use sim::fixtures::{self, At, Step};
use sim::{Maps, Sim};

fn mac(m: [u8; 6]) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

/// Devices, addresses, routes and neighbours as `Site` says. IPv6 keeps quiet: no link-local addresses, so nothing is
/// sent that the programs would count.
fn build_network(lab: &Lab) {
    for (file, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/forwarding", "1"),
        ("net/ipv6/conf/default/addr_gen_mode", "1"),
        ("net/ipv6/conf/default/accept_dad", "0"),
    ] {
        std::fs::write(format!("/proc/sys/{file}"), value).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    let sites = [Site { v6: false }, Site { v6: true }];
    for d in DEVICES {
        let (name, index, own) = (d.name, d.ifindex, mac(own_mac(d.ifindex)));
        lab.ip(&format!("link add {name} index {index} address {own} type veth peer name {name}p"));
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}p/disable_ipv6"), "1").expect("written");
        for end in [name.to_owned(), format!("{name}p")] {
            lab.ip(&format!("link set {end} up"));
        }
        for site in sites.iter().filter(|_| d.net != 0) {
            let bits = if site.v6 { "64 nodad" } else { "24" };
            lab.ip(&format!("addr add {}/{bits} dev {name}", site.node_on(index)));
        }
    }
    for site in sites {
        let family = if site.v6 { "-6" } else { "-4" };
        for route in site.routes() {
            lab.ip(&format!("{family} route add {route}"));
        }
        for (address, device) in site.neighbours() {
            let name = DEVICES.iter().find(|d| d.ifindex == device).expect("a device").name;
            let to = mac(peer_mac(device));
            lab.ip(&format!("neigh replace {address} lladdr {to} dev {name} nud permanent"));
        }
    }
}

/// One family's maps in the kernel.
struct Family<A: Addr> {
    svc: Table<SvcKey<A>, Svc>,
    backends: Table<u32, Backend<A>>,
    index: Table<u32, IndexLine>,
    flows: Table<u32, Flow<A>>,
    fragments: Table<FragKey<A>, FragPorts>,
}

/// Makes a hash hold exactly these entries.
fn fill<K: aya::Pod + Eq, V: aya::Pod>(table: &Table<K, V>, entries: &[(K, V)]) {
    let mut old = Vec::new();
    table.for_each(|k, _| old.push(k)).expect("readable");
    table.delete_all(&old).expect("deletable");
    table.put_all(entries).expect("room");
}

impl<A: Addr> Family<A>
where
    SvcKey<A>: aya::Pod,
    Backend<A>: aya::Pod,
    Flow<A>: aya::Pod,
    FragKey<A>: aya::Pod,
{
    fn open(dir: &std::path::Path, names: [&'static str; 5]) -> Self {
        let [svc, backends, index, flows, fragments] = names;
        Family {
            svc: Table::open(dir, svc).expect("opens"),
            backends: Table::open(dir, backends).expect("opens"),
            index: Table::open(dir, index).expect("opens"),
            flows: Table::open(dir, flows).expect("opens"),
            fragments: Table::open(dir, fragments).expect("opens"),
        }
    }

    /// The service maps as the host has them.
    fn publish(&self, host: &Maps<A>) {
        let backends = host.backends.borrow();
        let of = |id: u32| backends.get(id as usize).copied().unwrap_or_default();
        self.backends
            .put_all(&(0..self.backends.max_entries).map(|id| (id, of(id))).collect::<Vec<_>>())
            .expect("room");
        fill(&self.svc, &host.svc.borrow().iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
    }

    /// No flows and no fragments.
    fn reset(&self) {
        let empty: Vec<_> = (0..self.index.max_entries).map(|at| (at, IndexLine::default())).collect();
        self.index.put_all(&empty).expect("written");
        fill(&self.fragments, &[]);
        let empty: Vec<_> = (0..self.flows.max_entries).map(|slot| (slot, Flow::default())).collect();
        self.flows.put_all(&empty).expect("written");
    }

    /// The host's flows without what the clock and the route cache put in.
    fn compare(&self, name: &str, host: &Maps<A>) {
        let timeless =
            |f: Flow<A>| Flow { last_tick: 0, born_tick: 0, rev_hop: Hop { at_tick: 0, ..f.rev_hop }, ..f };
        let used = |f: &Flow<A>| f.state & flow::ST_USED != 0;
        let mut kernel = BTreeMap::new();
        let mut see = |slot, f| {
            kernel.insert(slot, f);
        };
        self.flows.for_each(&mut see).expect("readable");
        for (slot, of_host) in (0..).zip(host.all_flows()) {
            let of_kernel = kernel[&slot];
            assert_eq!(used(&of_kernel), used(&of_host), "{name}: flow {slot}");
            if used(&of_host) {
                assert_eq!(timeless(of_kernel), timeless(of_host), "{name}: flow {slot}");
            }
        }
        let mut index = BTreeMap::new();
        let mut see = |at: u32, line| {
            index.insert(at, line);
        };
        self.index.for_each(&mut see).expect("readable");
        assert_eq!(index, (0..).zip(host.all_lines()).collect(), "{name}: index");
    }
}

/// The loaded datapath, its maps and programs.
struct Kernel {
    v4: Family<A4>,
    v6: Family<A6>,
    slots: Table<u32, u32>,
    ifaces: Table<u32, Iface>,
    config: Table<u32, Config>,
    hands: Table<u32, u64>,
    affinity: Table<AffinityKey, Affinity>,
    seen: Table<u32, u64>,
    hops: [Table<u32, Hop>; 2],
    programs: BTreeMap<&'static str, OwnedFd>,
    tables: lb_user::tables::aya::AyaTables,
    viewer: Viewer,
}

impl Kernel {
    fn open(lab: &Lab, datapath: &lb_user::datapath::Datapath) -> Kernel {
        let pins = Pins::new(&lab.bpffs());
        let dir = &pins.maps;
        let programs = pins.progs.join(object_hash(EMBEDDED_OBJECT));
        let program = |name| (name, sys::obj_get(&programs.join(name)).expect("pinned"));
        use maps::*;
        Kernel {
            v4: Family::open(dir, [SVC4, BACKENDS4, FLOW_INDEX4, FLOWS4, FRAGS4]),
            v6: Family::open(dir, [SVC6, BACKENDS6, FLOW_INDEX6, FLOWS6, FRAGS6]),
            slots: Table::open(dir, SLOTS).expect("opens"),
            ifaces: Table::open(dir, IFACES).expect("opens"),
            config: Table::open(dir, CONFIG).expect("opens"),
            hands: Table::open(dir, HANDS).expect("opens"),
            affinity: Table::open(dir, AFFINITY).expect("opens"),
            seen: Table::open(dir, SEEN).expect("opens"),
            hops: [HOPS4, HOPS6].map(|name| Table::open(dir, name).expect("opens")),
            programs: progs::ALL.into_iter().map(program).collect(),
            tables: datapath.tables(),
            viewer: Viewer::open(&lab.bpffs()).expect("opens"),
        }
    }

    /// All maps as the host's; no flows.
    fn reset(&mut self, sim: &Sim) {
        self.v4.reset();
        self.v6.reset();
        self.hands.put_all(&[(0, 0), (1, 0)]).expect("written");
        fill(&self.affinity, &[]);
        for hops in &self.hops {
            let none: Vec<_> = (0..hops.max_entries).map(|id| (id, Hop::default())).collect();
            hops.put_all(&none).expect("written");
        }
        fill(&self.ifaces, &sim.ifaces.borrow().iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
        self.config.put(&0, &sim.config).expect("written");
        let old = self.tables.dump().expect("readable").ranges;
        self.tables.delete_ranges(&sets(&old)).expect("deletable");
        self.tables.put_ranges(&sets(&sim.ranges.borrow())).expect("room");
        self.publish(sim);
    }

    /// The service maps as the host's.
    fn publish(&self, sim: &Sim) {
        let seen = sim.seen.borrow();
        let words = seen.as_ref().expect("the host's bits are set");
        self.seen.put_all(&(0..).zip(words.iter().copied()).collect::<Vec<_>>()).expect("written");
        self.v4.publish(&sim.v4);
        self.v6.publish(&sim.v6);
        self.slots.put_all(&(0..).zip(sim.slots.borrow().iter().copied()).collect::<Vec<_>>()).expect("room");
    }

    fn program(&self, at: At) -> BorrowedFd<'_> {
        let name = match at.side {
            Side::In(Role::Uplink) if at.xdp => progs::XDP_UPLINK,
            Side::In(Role::Uplink) => progs::TC_UPLINK_IN,
            Side::In(_) => progs::TC_POD_IN,
            Side::PodOut => progs::TC_POD_OUT,
            Side::UplinkOut => progs::TC_UPLINK_OUT,
        };
        self.programs[name].as_fd()
    }

    fn counters(&self) -> BTreeMap<(u8, u8), u64> {
        let all = self.viewer.counters().expect("readable");
        all.iter().filter(|c| c.count > 0).map(|c| ((c.hook as u8, c.reason as u8), c.count)).collect()
    }
}

fn sets(ranges: &[(u32, ipnet::IpNet)]) -> Vec<(u32, SourceRanges)> {
    ranges.iter().map(|(id, net)| (*id, [*net].into())).collect()
}

/// `bpf_attr` of `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// Sends a frame through a program as if it came by an interface; return value and the frame afterwards.
fn test_run(program: BorrowedFd<'_>, at: At, frame: &[u8]) -> std::io::Result<(i32, Vec<u8>)> {
    let mut context = if at.xdp { vec![0u32; 6] } else { vec![0; 11] };
    if at.xdp {
        (context[1], context[3]) = (frame.len() as u32, at.ifindex);
    } else {
        context[10] = at.ifindex;
    }
    let mut out = vec![0u8; 4096];
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ctx_size_in: (context.len() * 4) as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    let command = aya_obj::generated::bpf_cmd::BPF_PROG_TEST_RUN as libc::c_long;
    // SAFETY: the attribute is as long as said, and its buffers are as long as the sizes beside them.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<TestRun>()) };
    if ret < 0 {
        return Err(std::io::Error::last_os_error());
    }
    out.truncate(attr.data_size_out as usize);
    Ok((attr.retval as i32, out))
}

/// What the program of a hook returns for a verdict.
fn returned(xdp: bool, verdict: Verdict) -> i32 {
    match (xdp, verdict) {
        (true, Verdict::Pass) => 2,
        (true, Verdict::Drop) => 1,
        (true, Verdict::Tx) => 3,
        (true, _) => 4,
        (false, Verdict::Pass) => -1,
        (false, Verdict::Drop) => 2,
        (false, _) => 7,
    }
}

/// The kernel may refuse to test frames without a whole network header.
const SHORTEST: usize = 14 + 40;

fn send(kernel: &Kernel, name: &str, step: &Step, end: End, out: &[u8]) -> bool {
    let (program, xdp) = (kernel.program(step.at), step.at.xdp);
    let what = format!("{name}: {} at {:?}", step.what, step.at);
    let (value, frame) = match test_run(program, step.at, &step.input) {
        Ok(done) => done,
        Err(e) if step.input.len() < SHORTEST && e.raw_os_error() == Some(libc::EINVAL) => return false,
        Err(e) => panic!("{what}: {e}"),
    };
    assert_eq!(value, returned(xdp, end.verdict), "{what}: host says {end:?}");
    fixtures::assert_bytes(&format!("{what}: kernel against host"), &frame, out);
    true
}

#[test]
fn the_kernel_does_to_every_fixture_what_the_host_does() {
    Lab::run(|lab| {
        build_network(lab);
        let datapath = lab.open().expect("opens");
        let mut kernel = Kernel::open(lab, &datapath);
        // A device takes test frames for XDP only while it carries a program.
        let _links: Vec<OwnedFd> = DEVICES[..3]
            .iter()
            .map(|d| {
                let program = kernel.programs[progs::XDP_UPLINK].as_fd();
                sys::link_create(program, d.ifindex, bpf_attach_type::BPF_XDP, XDP_FLAGS_DRV_MODE)
                    .expect("attached")
            })
            .collect();
        let mut sent = 0;
        for scenario in fixtures::all() {
            scenario.sim.see_all();
            kernel.reset(&scenario.sim);
            let start = kernel.counters();
            let mut skipped: BTreeMap<(u8, u8), u64> = BTreeMap::new();
            scenario.run_on_host(|sim, done| match done {
                None => kernel.publish(sim),
                Some((step, end, out)) => {
                    if send(&kernel, &scenario.name, step, end, out) {
                        sent += 1;
                    } else {
                        let hook = sim::hook_of(step.at.xdp, step.at.side);
                        *skipped.entry((hook as u8, end.reason as u8)).or_default() += 1;
                    }
                }
            });
            let mut delta = kernel.counters();
            for (key, count) in start {
                *delta.entry(key).or_default() -= count;
            }
            for (key, count) in skipped {
                *delta.entry(key).or_default() += count;
            }
            delta.retain(|_, count| *count > 0);
            assert_eq!(delta, *scenario.sim.counts.borrow(), "{}: counters", scenario.name);
            kernel.v4.compare(&scenario.name, &scenario.sim.v4);
            kernel.v6.compare(&scenario.name, &scenario.sim.v6);
        }
        assert!(sent > 3_000, "only {sent} packets");
        println!("{sent} packets, equal on host and kernel");
    });
}
