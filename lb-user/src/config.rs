//! All configuration in one place: flag names, defaults, parsing, checks, and the printable effective form.
//!
//! `RunArgs` is what the command line gives; [`RunArgs::into_config`] is the only way to a [`Config`], so a
//! `Config` in hand is always valid. Nothing here touches the kernel or the network; the host name is passed in.

mod local;
mod node_ports;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use globset::{Glob, GlobSet, GlobSetBuilder};
use ipnet::IpNet;
use lb_common::maps;
use serde::Serialize;

pub use local::{DetectLocal, DetectLocalMode, first_of_each_family};
pub use node_ports::NodePortAddresses;

/// Where the BPF file system is mounted.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
/// Where the agent keeps its status, its ready file and its lock.
pub const DEFAULT_STATE_DIR: &str = "/run/fairway";
/// The cgroup v2 hierarchy.
pub const DEFAULT_CGROUP: &str = "/sys/fs/cgroup";
/// Masquerade ports: below Linux' default `ip_local_port_range` (32768–60999) and the nodePort range. Only as source
/// ports, towards backends: what listens on them here is not concerned.
pub const DEFAULT_SNAT_PORTS: &str = "1024-29999";
/// Kubernetes' default nodePort range.
pub const DEFAULT_NODEPORT_RANGE: &str = "30000-32767";
/// Where `/healthz` and `/livez` answer: on every address, as load balancers expect of kube-proxy.
pub const DEFAULT_HEALTHZ_ADDRESS: &str = "0.0.0.0:10256";
/// Where `/metrics` answers: on the node itself only.
pub const DEFAULT_METRICS_ADDRESS: &str = "127.0.0.1:10249";
/// kube-proxy's syncPeriod, in seconds; health checks fail after two of them.
pub const DEFAULT_SYNC_PERIOD_S: u32 = 30;
/// Default of `--compare-period`: kube-proxy's iptables mode rewrites all of its rules once an hour.
pub const DEFAULT_COMPARE_PERIOD_S: u32 = 3600;
/// Host ends of pod interfaces, by the names the usual CNIs give them.
pub const DEFAULT_POD_INTERFACES: &[&str] =
    &["veth*", "cali*", "lxc[!_]*", "gke*", "eni*", "azv*", "tap*", "nk*"];
/// Overlay devices between nodes.
pub const DEFAULT_OVERLAY_INTERFACES: &[&str] = &[
    "vxlan*",
    "flannel.*",
    "flannel-*",
    "geneve*",
    "genev_sys*",
    "cilium_vxlan",
    "cilium_geneve",
    "tunl*",
    "wg*",
];

/// A value that cannot be used, with the flag that carries it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {message}")]
pub struct ConfigError {
    /// The flag's name, with dashes.
    pub flag: &'static str,
    /// What is wrong with it.
    pub message: String,
}

fn bad(flag: &'static str, message: impl Into<String>) -> ConfigError {
    ConfigError { flag, message: message.into() }
}

/// Whether and how XDP is used on uplinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the driver can, else tc.
    #[default]
    Auto,
    /// Native, else tc with the refusal shown as a problem.
    Native,
    /// Generic (slow; for trying things out).
    Generic,
    /// tc only.
    Off,
}

/// Whose sockets are given a backend when they connect, before there is a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketLb {
    /// The node's own processes; pods are served at their interfaces.
    #[default]
    Host,
    /// Those of pods, too.
    All,
    /// Nobody's: the node's own packets are translated as they leave.
    Off,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// An inclusive range of ports, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub min: u16,
    /// Last port.
    pub max: u16,
}

impl PortRange {
    /// True when both ranges have a port in common.
    pub fn overlaps(&self, other: &PortRange) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

impl FromStr for PortRange {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (a, b) = s.split_once('-').ok_or_else(|| format!("`{s}` is not MIN-MAX"))?;
        let port = |p: &str| p.trim().parse::<u16>().map_err(|_| format!("`{p}` is not a port"));
        let (min, max) = (port(a)?, port(b)?);
        if min == 0 || min > max {
            return Err(format!("`{s}` is empty or begins with 0"));
        }
        Ok(PortRange { min, max })
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Interface name patterns (globs), and their compiled form.
#[derive(Clone, Debug)]
pub struct Patterns {
    sources: Vec<String>,
    set: GlobSet,
}

impl Patterns {
    /// Compiles globs.
    pub fn new(flag: &'static str, globs: &[String]) -> Result<Patterns, ConfigError> {
        let mut builder = GlobSetBuilder::new();
        for g in globs {
            builder.add(Glob::new(g).map_err(|e| bad(flag, e.to_string()))?);
        }
        let set = builder.build().map_err(|e| bad(flag, e.to_string()))?;
        Ok(Patterns { sources: globs.to_vec(), set })
    }

    /// True when a pattern matches the whole name.
    pub fn matches(&self, name: &str) -> bool {
        self.set.is_match(name)
    }
}

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        self.sources == other.sources
    }
}

impl Serialize for Patterns {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.sources.serialize(s)
    }
}

/// Where Services and EndpointSlices come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The API server, with the pod's service account.
    InCluster,
    /// The API server, as a kubeconfig says.
    Kubeconfig(PathBuf),
    /// An API server at this URL, without credentials.
    ApiUrl(String),
    /// A directory of YAML manifests.
    Manifests(PathBuf),
}

/// Capacities of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Frontends per family.
    pub services: u32,
    /// Backends per family.
    pub backends: u32,
    /// Selection slots, both families.
    pub slots: u32,
    /// Flows per family.
    pub flows: u32,
}

/// Where things lie; shared by all subcommands.
#[derive(Clone, Debug, clap::Args)]
pub struct PathArgs {
    /// Mount point of the BPF file system
    #[arg(long, default_value = DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
    /// Directory of the ready file and status.json
    #[arg(long, default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// Mount point of cgroup v2
    #[arg(long, default_value = DEFAULT_CGROUP)]
    pub cgroup: PathBuf,
}

/// Flags of `fairway run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Name of this node [default: the host name]
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Uplink, by name; repeatable [default: devices with a default route or the node's addresses]
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Pattern of pod-facing interfaces; repeatable [default: the usual CNI names, and every other veth]
    #[arg(long = "pod-interface", value_name = "GLOB")]
    pub pod_interfaces: Vec<String>,
    /// Pattern of overlay devices; repeatable [default: the usual names]
    #[arg(long = "overlay-interface", value_name = "GLOB")]
    pub overlay_interfaces: Vec<String>,
    /// Paths.
    #[command(flatten)]
    pub paths: PathArgs,
    /// Capacity: frontends per address family
    #[arg(long, default_value_t = maps::DEFAULT_SERVICES)]
    pub max_services: u32,
    /// Capacity: backends per address family
    #[arg(long, default_value_t = maps::DEFAULT_BACKENDS)]
    pub max_backends: u32,
    /// Capacity: selection slots
    #[arg(long, default_value_t = maps::DEFAULT_SLOTS)]
    pub max_slots: u32,
    /// Capacity: flows per address family
    #[arg(long, default_value_t = maps::DEFAULT_FLOWS)]
    pub max_flows: u32,
    /// Whether and how uplinks use XDP
    #[arg(long, value_enum, default_value_t)]
    pub xdp_mode: XdpMode,
    /// Whose sockets are translated as they connect
    #[arg(long, value_enum, default_value_t)]
    pub socket_lb: SocketLb,
    /// Form of the log
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Read Services from the API server that this kubeconfig names
    #[arg(long, group = "source", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Read Services from the API server at this URL, without credentials
    #[arg(long, group = "source", value_name = "URL")]
    pub api_url: Option<String>,
    /// Read Services from the YAML files of this directory
    #[arg(long, group = "source", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// URL of the API server, with the pod's service account; so that reaching it does not need a Service
    #[arg(long, value_name = "URL")]
    pub api_server: Option<String>,
    /// Where the cluster says that the API is
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    pub kubernetes_service_host: Option<String>,
    /// How to tell this node's pods, whose source ClusterIPs keep and who are served on the spot by external addresses
    #[arg(long, value_enum, default_value_t)]
    pub detect_local_mode: DetectLocalMode,
    /// The pods' networks, the first of each family counts (for --detect-local-mode cluster-cidr)
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub cluster_cidr: Vec<IpNet>,
    /// The pods' bridge (for --detect-local-mode bridge-interface)
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// How names of pods' interfaces begin (for --detect-local-mode interface-name-prefix)
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Masquerade every connection to a ClusterIP
    #[arg(long)]
    pub masquerade_all: bool,
    /// Masquerade every connection to an external address under externalTrafficPolicy Cluster, also where the
    /// backend is on this node or the client is one of its pods, as kube-proxy does
    #[arg(long)]
    pub masquerade_external: bool,
    /// Addresses that answer on nodePorts: CIDRs, or `primary`, `all`, and `localhost` besides [default: every global
    /// address of the uplinks]
    #[arg(long, value_delimiter = ',', value_name = "CIDR|primary|all|localhost")]
    pub node_port_addresses: Vec<String>,
    /// Serve Services whose label service.kubernetes.io/service-proxy-name has this value [default: unlabelled]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub service_proxy_name: String,
    /// Program spec.externalIPs that lie in these networks [default: none, since whoever may create Services could
    /// catch others' traffic, CVE-2020-8554]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub external_ip_cidrs: Vec<IpNet>,
    /// Ports to masquerade with when the client's own is taken
    #[arg(long, default_value = DEFAULT_SNAT_PORTS, value_name = "MIN-MAX")]
    pub snat_ports: PortRange,
    /// The cluster's nodePort range, never used to masquerade
    #[arg(long, default_value = DEFAULT_NODEPORT_RANGE, value_name = "MIN-MAX")]
    pub nodeport_range: PortRange,
    /// Where /healthz, /livez and /readyz answer; empty = nowhere
    #[arg(long, default_value = DEFAULT_HEALTHZ_ADDRESS, value_name = "ADDRESS:PORT")]
    pub healthz_bind_address: String,
    /// Where /metrics, /proxyMode and /configz answer; empty = nowhere
    #[arg(long, default_value = DEFAULT_METRICS_ADDRESS, value_name = "ADDRESS:PORT")]
    pub metrics_bind_address: String,
    /// Health checks fail when a change waits longer than twice this for the kernel
    #[arg(long = "sync-period", default_value_t = DEFAULT_SYNC_PERIOD_S, value_name = "SECONDS")]
    pub sync_period_s: u32,
    /// How often the kernel's maps are read and compared with the cluster, although nothing changed; 0 = never
    #[arg(long = "compare-period", default_value_t = DEFAULT_COMPARE_PERIOD_S, value_name = "SECONDS")]
    pub compare_period_s: u32,
}

/// The effective, checked configuration of the agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Uplinks by name; empty = found.
    pub interfaces: Vec<String>,
    /// Pod-facing interfaces.
    pub pod_interfaces: Patterns,
    /// True when the patterns above are the defaults, and other veths count as pod-facing too.
    pub pod_interfaces_guessed: bool,
    /// Overlay devices.
    pub overlay_interfaces: Patterns,
    /// BPF file system.
    pub bpffs: PathBuf,
    /// Status, ready file.
    pub state_dir: PathBuf,
    /// cgroup v2.
    pub cgroup: PathBuf,
    /// Map capacities.
    pub sizes: Sizes,
    /// XDP.
    pub xdp_mode: XdpMode,
    /// Socket hooks.
    pub socket_lb: SocketLb,
    /// Log.
    pub log_format: LogFormat,
    /// Source of objects.
    pub source: Source,
    /// The API server's URL, instead of what the cluster says.
    pub api_server: Option<String>,
    /// Address at which the cluster says that the API is, in-cluster.
    pub kubernetes_service_host: Option<IpAddr>,
    /// How local pods are told.
    pub detect_local: DetectLocal,
    /// Masquerade every connection to a ClusterIP.
    pub masquerade_all: bool,
    /// Masquerade as kube-proxy does under externalTrafficPolicy Cluster.
    pub masquerade_external: bool,
    /// NodePort addresses.
    pub node_port_addresses: NodePortAddresses,
    /// Value of the service-proxy-name label; empty = absent.
    pub service_proxy_name: String,
    /// Networks of spec.externalIPs that are programmed.
    pub external_ip_cidrs: Vec<IpNet>,
    /// Masquerade ports.
    pub snat_ports: PortRange,
    /// NodePort range.
    pub nodeport_range: PortRange,
    /// Health endpoints; none = nowhere.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Metrics; none = nowhere.
    pub metrics_bind_address: Option<SocketAddr>,
    /// Half of the time that a change may wait for the kernel.
    pub sync_period_s: u32,
    /// Time between comparisons of the maps with the cluster; 0 = never.
    pub compare_period_s: u32,
}

impl RunArgs {
    /// Checks everything and gives the effective configuration. `host_name` is the fallback node name.
    pub fn into_config(self, host_name: &str) -> Result<Config, ConfigError> {
        let node_name = self.node_name.unwrap_or_else(|| host_name.to_lowercase()).trim().to_owned();
        if node_name.is_empty() {
            return Err(bad("--node-name", "is empty, and the host has no name"));
        }
        for name in &self.interfaces {
            if name.is_empty() || name.len() > 15 || name == "lo" || name.contains('/') {
                return Err(bad("--interface", format!("`{name}` cannot be an uplink")));
            }
        }
        for (flag, n) in [
            ("--max-services", self.max_services),
            ("--max-backends", self.max_backends),
            ("--max-slots", self.max_slots),
            ("--max-flows", self.max_flows),
        ] {
            if !(16..=1 << 24).contains(&n) {
                return Err(bad(flag, format!("{n} is outside 16..=16777216")));
            }
        }
        if self.snat_ports.overlaps(&self.nodeport_range) {
            let message = format!("{} overlaps --nodeport-range {}", self.snat_ports, self.nodeport_range);
            return Err(bad("--snat-ports", message));
        }
        if !(1..=86_400).contains(&self.sync_period_s) {
            return Err(bad("--sync-period", format!("{} is outside 1..=86400", self.sync_period_s)));
        }
        absolute("--bpffs", &self.paths.bpffs)?;
        absolute("--state-dir", &self.paths.state_dir)?;
        let source = match (self.kubeconfig, self.api_url, self.manifests) {
            (None, None, None) => Source::InCluster,
            (Some(file), None, None) => Source::Kubeconfig(file),
            (None, Some(url), None) if is_url(&url) => Source::ApiUrl(url),
            (None, Some(url), None) => {
                return Err(bad("--api-url", format!("`{url}` is not an http(s) URL")));
            }
            (None, None, Some(dir)) => Source::Manifests(dir),
            _ => {
                return Err(bad(
                    "--manifests",
                    "only one of --kubeconfig, --api-url, --manifests may be given",
                ));
            }
        };
        if let Some(url) = &self.api_server {
            if source != Source::InCluster {
                return Err(bad(
                    "--api-server",
                    "is for the pod's service account: no other source may be given",
                ));
            }
            if !is_url(url) {
                return Err(bad("--api-server", format!("`{url}` is not an http(s) URL")));
            }
        }
        let guessed = self.pod_interfaces.is_empty();
        Ok(Config {
            node_name,
            interfaces: self.interfaces,
            pod_interfaces: Patterns::new(
                "--pod-interface",
                &or_default(self.pod_interfaces, DEFAULT_POD_INTERFACES),
            )?,
            pod_interfaces_guessed: guessed,
            overlay_interfaces: Patterns::new(
                "--overlay-interface",
                &or_default(self.overlay_interfaces, DEFAULT_OVERLAY_INTERFACES),
            )?,
            bpffs: self.paths.bpffs,
            state_dir: self.paths.state_dir,
            cgroup: self.paths.cgroup,
            sizes: Sizes {
                services: self.max_services,
                backends: self.max_backends,
                slots: self.max_slots,
                flows: self.max_flows,
            },
            xdp_mode: self.xdp_mode,
            socket_lb: self.socket_lb,
            log_format: self.log_format,
            source,
            api_server: self.api_server,
            kubernetes_service_host: self.kubernetes_service_host.and_then(|host| host.parse().ok()),
            detect_local: DetectLocal::of(
                self.detect_local_mode,
                local::ModeFlags {
                    cluster_cidr: self.cluster_cidr,
                    bridge: self.pod_bridge_interface,
                    prefix: self.pod_interface_name_prefix,
                },
            )?,
            masquerade_all: self.masquerade_all,
            masquerade_external: self.masquerade_external,
            node_port_addresses: NodePortAddresses::parse(&self.node_port_addresses)?,
            service_proxy_name: self.service_proxy_name,
            external_ip_cidrs: self.external_ip_cidrs,
            snat_ports: self.snat_ports,
            nodeport_range: self.nodeport_range,
            healthz_bind_address: bind_address("--healthz-bind-address", &self.healthz_bind_address)?,
            metrics_bind_address: bind_address("--metrics-bind-address", &self.metrics_bind_address)?,
            sync_period_s: self.sync_period_s,
            compare_period_s: self.compare_period_s,
        })
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

fn or_default(given: Vec<String>, default: &[&str]) -> Vec<String> {
    if given.is_empty() { default.iter().map(|s| (*s).to_owned()).collect() } else { given }
}

fn absolute(flag: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() { Ok(()) } else { Err(bad(flag, format!("`{}` is not absolute", path.display()))) }
}

fn bind_address(flag: &'static str, word: &str) -> Result<Option<SocketAddr>, ConfigError> {
    match word.trim() {
        "" => Ok(None),
        word => word
            .parse()
            .map(Some)
            .map_err(|_| bad(flag, format!("`{word}` is not an address and port, such as 0.0.0.0:10256"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunArgs,
    }

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let argv = std::iter::once("fairway").chain(flags.iter().copied());
        Cli::try_parse_from(argv).expect("flags parse").run.into_config("Host-1")
    }

    #[test]
    fn defaults_are_valid_and_printable() {
        let c = config(&["--node-name", "n1"]).expect("valid");
        assert_eq!(c.source, Source::InCluster);
        assert!(c.node_port_addresses.is_default());
        assert_eq!(c.detect_local, DetectLocal::Interface);
        let json = serde_json::to_value(&c).expect("printable");
        assert_eq!(json["snat_ports"], "1024-29999");
        assert_eq!(json["xdp_mode"], "auto");
        assert_eq!(json["sizes"]["services"], maps::DEFAULT_SERVICES);
    }

    #[test]
    fn two_sources_are_refused() {
        assert!(Cli::try_parse_from(["fairway", "--api-url", "http://a", "--manifests", "/m"]).is_err());
    }

    #[test]
    fn masquerade_ports_never_touch_the_node_port_range() {
        let e = config(&["--node-name", "n", "--snat-ports", "32000-40000"]).expect_err("overlap");
        assert_eq!(e.flag, "--snat-ports");
    }

    #[test]
    fn ranges_must_have_two_ordered_ports() {
        for word in ["1", "0-9", "9-1", "a-b", "1-70000"] {
            assert!(word.parse::<PortRange>().is_err(), "{word}");
        }
    }

    #[test]
    fn node_port_addresses_are_words_or_networks() {
        let parse = |w: &str| {
            config(&["--node-name", "n", "--node-port-addresses", w]).map(|c| c.node_port_addresses)
        };
        let default = NodePortAddresses::default;
        assert_eq!(parse("primary").expect("valid"), NodePortAddresses { primary: true, ..default() });
        let both = parse("localhost,primary").expect("valid");
        assert_eq!(both, NodePortAddresses { primary: true, localhost: true, ..default() });
        assert_eq!(parse("all").expect("valid"), NodePortAddresses { all: true, ..default() });
        assert_eq!(parse("10.0.0.0/8,fd00::/8,localhost").expect("valid").within.len(), 2);
        for wrong in ["primary,10.0.0.0/8", "all,10.0.0.0/8", "10.0.0.0/99", "primry"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_way_to_detect_local_pods_needs_its_own_flag_and_refuses_the_others() {
        let detect =
            |flags: &[&str]| config(&[&["--node-name", "n"], flags].concat()).map(|c| c.detect_local);
        let by_cidr = detect(&[
            "--detect-local-mode",
            "cluster-cidr",
            "--cluster-cidr",
            "10.1.2.3/16,10.9.0.0/16,fd01::/48",
        ]);
        let nets = ["10.1.0.0/16", "fd01::/48"].map(|n| n.parse().expect("network")).to_vec();
        assert_eq!(by_cidr.expect("valid"), DetectLocal::ClusterCidr(nets));
        let bridge = detect(&["--detect-local-mode", "bridge-interface", "--pod-bridge-interface", "cni0"]);
        assert_eq!(bridge.expect("valid"), DetectLocal::BridgeInterface("cni0".into()));
        let prefix =
            detect(&["--detect-local-mode", "interface-name-prefix", "--pod-interface-name-prefix", "cali"]);
        assert_eq!(prefix.expect("valid"), DetectLocal::InterfaceNamePrefix("cali".into()));
        assert_eq!(detect(&["--detect-local-mode", "none"]).expect("valid"), DetectLocal::None);
        assert_eq!(detect(&["--detect-local-mode", "node-cidr"]).expect("valid"), DetectLocal::NodeCidr);
        let missing = detect(&["--detect-local-mode", "cluster-cidr"]).expect_err("missing");
        assert_eq!(missing.flag, "--cluster-cidr");
        let useless = detect(&["--cluster-cidr", "10.0.0.0/8"]).expect_err("useless");
        assert_eq!(useless.flag, "--cluster-cidr");
    }

    #[test]
    fn an_api_server_goes_with_the_service_account_only() {
        let flags = |more: &[&'static str]| config(&[&["--node-name", "n", "--api-server"], more].concat());
        let c = flags(&["https://192.0.2.1:6443"]).expect("valid");
        assert_eq!((c.source, c.api_server.as_deref()), (Source::InCluster, Some("https://192.0.2.1:6443")));
        assert_eq!(flags(&["192.0.2.1"]).expect_err("no URL").flag, "--api-server");
        assert!(flags(&["https://192.0.2.1:6443", "--manifests", "/m"]).is_err());
    }

    #[test]
    fn names_that_cannot_be_uplinks_are_refused() {
        for name in ["lo", "a/b", "sixteen-letters-x"] {
            assert!(config(&["--node-name", "n", "--interface", name]).is_err(), "{name}");
        }
    }

    #[test]
    fn patterns_match_whole_names() {
        let c = config(&["--node-name", "n"]).expect("valid");
        assert!(c.pod_interfaces.matches("veth12ab") && c.pod_interfaces.matches("cali123"));
        assert!(!c.pod_interfaces.matches("eth0") && !c.pod_interfaces.matches("xveth1"));
        assert!(c.overlay_interfaces.matches("vxlan.calico") && c.overlay_interfaces.matches("flannel.1"));
    }

    #[test]
    fn bind_addresses_have_kube_proxys_defaults_and_may_be_empty() {
        let c = config(&["--node-name", "n"]).expect("valid");
        assert_eq!(c.healthz_bind_address, Some("0.0.0.0:10256".parse().expect("address")));
        assert_eq!(c.metrics_bind_address, Some("127.0.0.1:10249".parse().expect("address")));
        let c = config(&["--node-name", "n", "--healthz-bind-address", ""]).expect("valid");
        assert_eq!(c.healthz_bind_address, None);
        let wrong = config(&["--node-name", "n", "--metrics-bind-address", "10249"]);
        assert_eq!(wrong.expect_err("no address").flag, "--metrics-bind-address");
        assert!(config(&["--node-name", "n", "--sync-period", "0"]).is_err());
    }

    #[test]
    fn sizes_have_bounds() {
        assert_eq!(config(&["--node-name", "n", "--max-flows", "1"]).expect_err("small").flag, "--max-flows");
    }
}
