//! The real kernel: [`Datapath`] behind the agent's [`Kernel`] trait.

use std::path::PathBuf;

use lb_common::config::{IFACE_CAN_XDP_REDIRECT, IFACE_LOCAL_PODS};
use lb_common::maps::progs;
use tracing::{debug, info};

use super::kernel::{InterfaceReport, Kernel, KernelError, Settings};
use crate::config::{Config, SocketLb, XdpMode};
use crate::datapath::sockets::find_cgroup2;
use crate::datapath::{
    self, AttachState, Datapath, DatapathError, MapSizes, NodeConfig, OpenOptions, WantedInterface,
};
use crate::node::sockets::{SocketTables, stale};
use crate::node::{Managed, NetlinkError, Role};
use crate::tables::LbTables;
use crate::tables::aya::AyaTables;
use crate::telemetry::status::InterfaceStatus;

/// The datapath and its tables.
#[derive(Debug)]
pub struct RealKernel {
    datapath: Datapath,
    tables: AyaTables,
    flow_records: u32,
    socket_lb: SocketLb,
    cgroup: PathBuf,
    host_netns: [u32; 2],
}

impl RealKernel {
    /// Takes the lock, then makes or adopts maps and programs.
    pub fn open(config: &Config) -> Result<RealKernel, DatapathError> {
        let datapath = Datapath::open(&OpenOptions {
            bpffs: config.bpffs.clone(),
            state_dir: config.state_dir.clone(),
            sizes: MapSizes {
                services: config.sizes.services,
                backends: config.sizes.backends,
                slots: config.sizes.slots,
                flows: config.sizes.flows,
            },
            xdp_mode: match config.xdp_mode {
                XdpMode::Auto => datapath::XdpMode::Auto,
                XdpMode::Native => datapath::XdpMode::Native,
                XdpMode::Generic => datapath::XdpMode::Generic,
                XdpMode::Off => datapath::XdpMode::Off,
            },
        })?;
        let programs = datapath.program_ids()?;
        let id = |name| programs.get(name).copied().unwrap_or_default();
        info!(
            adopted = !datapath.programs_are_fresh(),
            xdp_uplink = id(progs::XDP_UPLINK),
            tc_uplink = id(progs::TC_UPLINK_IN),
            tc_pod = id(progs::TC_POD_IN),
            tc_pod_out = id(progs::TC_POD_OUT),
            tc_uplink_out = id(progs::TC_UPLINK_OUT),
            "programs are loaded"
        );
        let tables = datapath.tables();
        Ok(RealKernel {
            datapath,
            tables,
            flow_records: config.sizes.flows,
            socket_lb: config.socket_lb,
            cgroup: config.cgroup.clone(),
            host_netns: datapath::sockets::netns_cookie()?,
        })
    }
}

fn failed(error: DatapathError) -> KernelError {
    KernelError(error.to_string())
}

fn wanted(m: &Managed) -> WantedInterface {
    WantedInterface {
        ifindex: m.index,
        name: m.name.clone(),
        role: match m.role {
            Role::Uplink => datapath::Role::Uplink,
            Role::Overlay => datapath::Role::Overlay,
            Role::Pod => datapath::Role::Pod,
        },
        addr4: m.addr4,
        addr6: m.addr6,
        mac: m.mac,
        flags: if m.local_pods { IFACE_LOCAL_PODS } else { 0 }
            | if m.takes_xdp_redirects { IFACE_CAN_XDP_REDIRECT } else { 0 },
        loses_xdp_frames: m.loses_xdp_frames,
    }
}

/// The state of an interface in words. A tc hook that is missing is worth a retry; XDP that is refused is not,
/// the ladder went on.
fn report(state: &AttachState) -> InterfaceReport {
    let attached: Vec<String> = state
        .hooks
        .iter()
        .filter(|h| h.prog_id.is_some())
        .map(|h| format!("{} ({})", h.hook, h.mode))
        .collect();
    let mut reasons: Vec<String> =
        state.hooks.iter().map(|h| format!("{} {}: {}", h.hook, h.mode, h.reason)).collect();
    reasons.extend(redirects(state).map(str::to_owned));
    let missing = state.hooks.iter().filter(|h| h.prog_id.is_none());
    InterfaceReport {
        status: InterfaceStatus {
            index: state.ifindex,
            name: state.ifname.clone(),
            role: state.role.to_string(),
            hooks: attached.join(", "),
            reasons,
        },
        failed: missing.into_iter().any(|h| h.hook.starts_with("tc")),
    }
}

/// Whether other uplinks' XDP sends out of this one itself, in words.
fn redirects(state: &AttachState) -> Option<&'static str> {
    let xdp = state.hooks.iter().any(|h| h.hook == "xdp" && h.prog_id.is_some());
    match (state.role, state.takes_redirects) {
        (datapath::Role::Uplink, true) => Some("xdp redirect: takes frames of other uplinks"),
        (datapath::Role::Uplink, false) if xdp => {
            Some("xdp redirect: the device takes none; tc sends frames of other uplinks out of it")
        }
        _ => None,
    }
}

/// The loopback device, by which the node's own packets to its own addresses leave. Its index is 1 in every namespace.
fn loopback() -> WantedInterface {
    WantedInterface {
        ifindex: 1,
        name: "lo".to_owned(),
        role: datapath::Role::Loopback,
        addr4: None,
        addr6: None,
        mac: [0; 6],
        flags: 0,
        loses_xdp_frames: false,
    }
}

/// Without socket hooks a reply that shows one of the node's own addresses comes up `lo`, where IPv4 takes it for a
/// martian unless told otherwise. Only the node itself can send on `lo`.
fn accept_local() -> InterfaceReport {
    const SYSCTL: &str = "/proc/sys/net/ipv4/conf/lo/accept_local";
    let result = std::fs::write(SYSCTL, "1");
    InterfaceReport {
        status: InterfaceStatus {
            index: 1,
            name: "lo".to_owned(),
            role: "sysctl".to_owned(),
            hooks: String::new(),
            reasons: vec![match &result {
                Ok(()) => {
                    "net.ipv4.conf.lo.accept_local = 1, for own connections to own nodePorts".to_owned()
                }
                Err(e) => format!("{SYSCTL}: {e}: the node cannot use its own nodePorts over IPv4"),
            }],
        },
        failed: false,
    }
}

impl RealKernel {
    /// Attaches the socket hooks where they are wanted and possible.
    fn sync_sockets(&mut self) -> Result<InterfaceReport, KernelError> {
        let off = self.socket_lb == SocketLb::Off;
        let found =
            if off { Err("switched off by --socket-lb".to_owned()) } else { find_cgroup2(&self.cgroup) };
        let hooks = self.datapath.sync_sockets(found.as_deref().ok()).map_err(failed)?;
        let attached = hooks.iter().filter(|h| h.prog_id.is_some()).count();
        let mut reasons: Vec<String> = hooks
            .iter()
            .filter(|h| h.reason != "attached")
            .map(|h| format!("{} {}: {}", h.hook, h.mode, h.reason))
            .collect();
        reasons.extend(found.as_ref().err().cloned());
        let name = found.as_ref().map_or_else(|_| "sockets".to_owned(), |p| p.display().to_string());
        Ok(InterfaceReport {
            status: InterfaceStatus {
                index: 0,
                name,
                role: "sockets".to_owned(),
                hooks: if attached == 0 {
                    String::new()
                } else {
                    format!("{attached} socket hooks (cgroup)")
                },
                reasons,
            },
            failed: !off && attached != hooks.len().max(1),
        })
    }
}

impl Kernel for RealKernel {
    fn configure(&mut self, settings: &Settings) -> Result<(), KernelError> {
        let config = NodeConfig {
            node4: settings.node4,
            node6: settings.node6,
            snat_ports: settings.snat_ports.min..=settings.snat_ports.max,
            node_ports: settings.nodeport_range.min..=settings.nodeport_range.max,
            flags: settings.flags,
            service_cidrs: settings.service_cidrs.clone(),
            local_cidrs: settings.local_cidrs.clone(),
            host_netns: self.host_netns,
        };
        self.datapath.set_config(&config).map(|_| ()).map_err(failed)
    }

    fn sync_interfaces(&mut self, managed: &[Managed]) -> Result<Vec<InterfaceReport>, KernelError> {
        let sockets = self.sync_sockets()?;
        let mut wanted: Vec<WantedInterface> = managed.iter().map(wanted).collect();
        // The node's own processes need one of the two.
        if sockets.failed || self.socket_lb == SocketLb::Off {
            wanted.push(loopback());
        }
        let states = self.datapath.sync_interfaces(&wanted).map_err(failed)?;
        let mut reports: Vec<InterfaceReport> = states.iter().map(report).collect();
        if wanted.iter().any(|w| w.role == datapath::Role::Loopback) {
            reports.push(accept_local());
        }
        reports.push(sockets);
        Ok(reports)
    }

    fn tables(&mut self) -> &mut dyn LbTables {
        &mut self.tables
    }

    fn abort_stale_sockets(&mut self) -> Result<usize, KernelError> {
        let refused = |e: NetlinkError| KernelError(format!("UDP sockets of removed backends: {e}"));
        let mut tables = SocketTables::open().map_err(|e| refused(e.into()))?;
        let connected = tables.connected_udp().map_err(refused)?;
        let looked = connected.len();
        let maps = &self.tables;
        let gone = stale(connected, |key| maps.sock(key), |family, id| maps.backend(family, id))
            .map_err(|e| KernelError(e.to_string()))?;
        let mut aborted = 0;
        for socket in &gone {
            aborted += usize::from(tables.abort(socket).map_err(refused)?);
        }
        debug!(looked, stale = gone.len(), aborted, "looked at connected UDP sockets");
        Ok(aborted)
    }

    fn sweep(&mut self, share: f64) -> Result<(), KernelError> {
        let records = (f64::from(self.flow_records) * share).ceil() as u32;
        self.datapath.sweep(records).map(|_| ()).map_err(failed)
    }
}
