//! The real kernel: [`Datapath`] behind the agent's [`Kernel`] trait.

use lb_common::config::IFACE_LOCAL_PODS;
use lb_common::maps::progs;
use tracing::info;

use super::kernel::{InterfaceReport, Kernel, KernelError, Settings};
use crate::config::{Config, XdpMode};
use crate::datapath::{
    self, AttachState, Datapath, DatapathError, MapSizes, NodeConfig, OpenOptions, WantedInterface,
};
use crate::node::{Managed, Role};
use crate::tables::LbTables;
use crate::tables::aya::AyaTables;
use crate::telemetry::status::InterfaceStatus;

/// The datapath and its tables.
#[derive(Debug)]
pub struct RealKernel {
    datapath: Datapath,
    tables: AyaTables,
    flow_records: u32,
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
        Ok(RealKernel { datapath, tables, flow_records: config.sizes.flows })
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
        // XDP never redirects to another device: tc does, on every device.
        flags: if m.local_pods { IFACE_LOCAL_PODS } else { 0 },
    }
}

/// The state of an interface in words. A tc hook that is missing is worth a retry; XDP that is refused is not,
/// the ladder went on.
fn report(managed: &[Managed], state: &AttachState) -> InterfaceReport {
    let role = managed.iter().find(|m| m.index == state.ifindex).map(|m| match m.role {
        Role::Uplink => "uplink",
        Role::Overlay => "overlay",
        Role::Pod => "pod",
    });
    let attached: Vec<String> = state
        .hooks
        .iter()
        .filter(|h| h.prog_id.is_some())
        .map(|h| format!("{} ({})", h.hook, h.mode))
        .collect();
    let missing = state.hooks.iter().filter(|h| h.prog_id.is_none());
    InterfaceReport {
        status: InterfaceStatus {
            index: state.ifindex,
            name: state.ifname.clone(),
            role: role.unwrap_or_default().to_owned(),
            hooks: attached.join(", "),
            reasons: state.hooks.iter().map(|h| format!("{} {}: {}", h.hook, h.mode, h.reason)).collect(),
        },
        failed: missing.into_iter().any(|h| h.hook.starts_with("tc")),
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
        };
        self.datapath.set_config(&config).map(|_| ()).map_err(failed)
    }

    fn sync_interfaces(&mut self, managed: &[Managed]) -> Result<Vec<InterfaceReport>, KernelError> {
        let wanted: Vec<WantedInterface> = managed.iter().map(wanted).collect();
        let states = self.datapath.sync_interfaces(&wanted).map_err(failed)?;
        Ok(states.iter().map(|s| report(managed, s)).collect())
    }

    fn tables(&mut self) -> &mut dyn LbTables {
        &mut self.tables
    }

    fn sweep(&mut self, share: f64) -> Result<(), KernelError> {
        let records = (f64::from(self.flow_records) * share).ceil() as u32;
        self.datapath.sweep(records).map(|_| ()).map_err(failed)
    }
}
