//! Which of the node's addresses answer on nodePorts (spec P1, P2, P6).

use ipnet::IpNet;
use serde::Serialize;

use super::{ConfigError, bad};

/// The checked words of `--node-port-addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodePortAddresses {
    /// The addresses of the Node object.
    pub primary: bool,
    /// Every address of the host but loopback.
    pub all: bool,
    /// 127.0.0.1 and ::1, for the node's own processes.
    pub localhost: bool,
    /// Every address of the host but loopback that lies in one of these; of a family that has none here, every one.
    pub within: Vec<IpNet>,
}

impl NodePortAddresses {
    /// From words: `primary`, `all`, `localhost`, or networks.
    pub(super) fn parse(words: &[String]) -> Result<NodePortAddresses, ConfigError> {
        const FLAG: &str = "--node-port-addresses";
        let mut chosen = NodePortAddresses::default();
        for word in words {
            match word.as_str() {
                "primary" => chosen.primary = true,
                "all" => chosen.all = true,
                "localhost" => chosen.localhost = true,
                network => match network.parse() {
                    Ok(network) => chosen.within.push(network),
                    Err(_) => return Err(bad(FLAG, format!("`{word}` is neither a CIDR nor a known word"))),
                },
            }
        }
        if !chosen.within.is_empty() && (chosen.primary || chosen.all) {
            return Err(bad(FLAG, "CIDRs cannot be combined with `primary` or `all`"));
        }
        Ok(chosen)
    }

    /// True when nothing was chosen: every global address of the uplinks.
    pub fn is_default(&self) -> bool {
        *self == NodePortAddresses::default()
    }
}
