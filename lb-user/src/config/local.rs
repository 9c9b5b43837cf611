//! How the agent tells this node's pods from everybody else (kube-proxy's detectLocalMode, spec Q4, F6, F8).

use ipnet::IpNet;
use serde::Serialize;

use super::{ConfigError, bad};

/// The word of `--detect-local-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DetectLocalMode {
    /// Whoever sends from behind a pod-facing interface.
    #[default]
    Interface,
    /// Sources inside `--cluster-cidr`.
    ClusterCidr,
    /// Sources inside the Node object's podCIDRs.
    NodeCidr,
    /// Whoever sends from behind a port of `--pod-bridge-interface`.
    BridgeInterface,
    /// Whoever sends from behind an interface whose name begins with `--pod-interface-name-prefix`.
    InterfaceNamePrefix,
    /// Nobody is told apart: ClusterIPs are masqueraded for nobody, and there is no short-circuit for pods.
    None,
}

/// The checked mode with what it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DetectLocal {
    /// By pod-facing interface.
    #[default]
    Interface,
    /// By source, in the first network of each family.
    ClusterCidr(Vec<IpNet>),
    /// By source, in the Node object's podCIDRs.
    NodeCidr,
    /// By bridge.
    BridgeInterface(String),
    /// By name.
    InterfaceNamePrefix(String),
    /// Not at all.
    None,
}

/// Flags that belong to one mode each.
pub(super) struct ModeFlags {
    pub cluster_cidr: Vec<IpNet>,
    pub bridge: Option<String>,
    pub prefix: Option<String>,
}

impl DetectLocal {
    /// Joins the mode with its flag; a flag of another mode is refused, for it would do nothing.
    pub(super) fn of(mode: DetectLocalMode, flags: ModeFlags) -> Result<DetectLocal, ConfigError> {
        use DetectLocalMode as Mode;
        let ModeFlags { cluster_cidr, bridge, prefix } = flags;
        let given = [
            ("--cluster-cidr", !cluster_cidr.is_empty(), Mode::ClusterCidr),
            ("--pod-bridge-interface", bridge.is_some(), Mode::BridgeInterface),
            ("--pod-interface-name-prefix", prefix.is_some(), Mode::InterfaceNamePrefix),
        ];
        for (flag, is_given, belongs_to) in given {
            if is_given && belongs_to != mode {
                return Err(bad(flag, "belongs to another --detect-local-mode"));
            }
            if !is_given && belongs_to == mode {
                return Err(bad(flag, "is needed by this --detect-local-mode"));
            }
        }
        let name = |name: Option<String>| name.unwrap_or_default();
        Ok(match mode {
            Mode::Interface => DetectLocal::Interface,
            Mode::ClusterCidr => DetectLocal::ClusterCidr(first_of_each_family(&cluster_cidr)),
            Mode::NodeCidr => DetectLocal::NodeCidr,
            Mode::BridgeInterface => DetectLocal::BridgeInterface(name(bridge)),
            Mode::InterfaceNamePrefix => DetectLocal::InterfaceNamePrefix(name(prefix)),
            Mode::None => DetectLocal::None,
        })
    }

    /// True for the modes that look at the source address.
    pub fn is_by_cidr(&self) -> bool {
        matches!(self, DetectLocal::ClusterCidr(_) | DetectLocal::NodeCidr)
    }
}

/// kube-proxy looks at the first network of each family only.
pub fn first_of_each_family(networks: &[IpNet]) -> Vec<IpNet> {
    let first = |v4: bool| networks.iter().find(|net| net.addr().is_ipv4() == v4).map(IpNet::trunc);
    [first(true), first(false)].into_iter().flatten().collect()
}
