//! What the agent asks of the kernel, as a trait: the datapath implements it, tests have a fake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::cluster;
use crate::config::{Config, PortRange};
use crate::model::World;
use crate::node::Managed;
use crate::tables::LbTables;
use crate::telemetry::status::InterfaceStatus;

/// A step the kernel refused; the text is for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KernelError(pub String);

/// The programs' run-time settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Fallback masquerade source.
    pub node4: Option<Ipv4Addr>,
    /// The IPv6 one.
    pub node6: Option<Ipv6Addr>,
    /// Masquerade ports.
    pub snat_ports: PortRange,
    /// NodePort range.
    pub nodeport_range: PortRange,
    /// `CONFIG_*` flags.
    pub flags: u32,
    /// Service networks; `None` while the cluster is not known: what the programs know stays.
    pub service_cidrs: Option<Vec<IpNet>>,
    /// Sources that are local pods, at most one network of each family; `None` as above.
    pub local_cidrs: Option<Vec<IpNet>>,
}

impl Settings {
    /// From the configuration, the node's main addresses and, once it is known, the world.
    pub fn new(
        config: &Config,
        node4: Option<IpAddr>,
        node6: Option<IpAddr>,
        world: Option<&World>,
    ) -> Settings {
        Settings {
            node4: node4.and_then(|ip| match ip {
                IpAddr::V4(a) => Some(a),
                IpAddr::V6(_) => None,
            }),
            node6: node6.and_then(|ip| match ip {
                IpAddr::V6(a) => Some(a),
                IpAddr::V4(_) => None,
            }),
            snat_ports: config.snat_ports,
            nodeport_range: config.nodeport_range,
            flags: cluster::flags(config),
            service_cidrs: world.map(cluster::service_cidrs),
            local_cidrs: cluster::local_cidrs(config, world),
        }
    }
}

/// How one interface went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceReport {
    /// For the status.
    pub status: InterfaceStatus,
    /// A step failed that should be tried again.
    pub failed: bool,
}

/// The kernel side of the agent.
pub trait Kernel {
    /// Writes the settings, keeping what must survive a restart (seed, ready).
    fn configure(&mut self, settings: &Settings) -> Result<(), KernelError>;
    /// Attaches, updates and detaches until exactly the wanted interfaces carry programs.
    fn sync_interfaces(&mut self, wanted: &[Managed]) -> Result<Vec<InterfaceReport>, KernelError>;
    /// The tables.
    fn tables(&mut self) -> &mut dyn LbTables;
    /// Aborts the node's own connected UDP sockets whose backend is gone or serves no more, so that their processes
    /// connect again; gives their number.
    fn abort_stale_sockets(&mut self) -> Result<usize, KernelError>;
    /// Sweeps the next slice: this share (0..1) of the flow records.
    fn sweep(&mut self, share: f64) -> Result<(), KernelError>;
}
