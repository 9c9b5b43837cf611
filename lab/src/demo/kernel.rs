//! What the kernel has: through `fairway services -o json`, and, to the tenth of a millisecond, by looking at
//! the pinned frontend maps themselves.
//!
//! A frontend's record is the commit point of every change of its backends (ARCHITECTURE.md, invariant 4), and a
//! changed set of backends lies in a fresh range of slots: so a change is in the datapath of a node at the
//! moment when the records of all its frontends have changed. That what they changed *to* is right is then read
//! with `fairway services`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, hash::Hash};

use anyhow::{Context, Result, bail, ensure};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use lb_common::service::SVC_ADDRESS;
use lb_common::{A4, A6, Svc, SvcKey, maps};
use serde::{Deserialize, Serialize};

use super::facts::ms;
use super::interrupt::Interrupt;
use crate::node::Node;

/// How often the records are looked at: a compromise between precision and leaving the processor to the agents.
const LOOK: Duration = Duration::from_micros(100);

/// A frontend, as `fairway services -o json` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// `namespace/name:port`.
    pub service: Option<String>,
    /// `ClusterIP`, `NodePort` and so on.
    pub kind: String,
    /// `TCP` or `UDP`.
    pub proto: String,
    /// Address and port.
    pub address: SocketAddr,
    /// What is behind it.
    pub backends: Vec<Backend>,
}

/// A backend of a frontend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its id, stable over restarts of the agent.
    pub id: u32,
    /// Its generation.
    pub generation: u32,
    /// Address and port of the pod.
    pub address: SocketAddr,
    /// `serving`, `draining` or `missing`.
    pub state: String,
    /// It is on the node that was asked.
    pub local: bool,
}

/// The frontends of `node`.
pub fn frontends(node: &Node) -> Result<Vec<Frontend>> {
    #[derive(Deserialize)]
    struct Services {
        frontends: Vec<Frontend>,
    }
    let text = node.fairway(["services", "-o", "json"])?;
    let services: Services = serde_json::from_str(&text).context("the JSON of `fairway services`")?;
    Ok(services.frontends)
}

/// A program on an interface, as `fairway status -o json` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Program {
    /// Interface index; 0 for a program that is on no interface.
    #[serde(default)]
    pub ifindex: u32,
    /// `xdp`, `tc-ingress` or `tc-egress`.
    pub hook: String,
    /// Its id in the kernel.
    pub prog_id: u32,
    /// The id of the link that holds it there.
    pub link_id: u32,
}

/// The programs that run on `node`.
pub fn programs(node: &Node) -> Result<Vec<Program>> {
    let programs = status(node)?["kernel"]["programs"].take();
    serde_json::from_value(programs).context("the programs in `fairway status`")
}

/// What runs on the uplink of `node`.
pub fn uplink_hooks(node: &Node) -> Result<String> {
    let status = status(node)?;
    let interfaces =
        status["agent"]["interfaces"].as_array().context("`fairway status` names no interfaces")?;
    let uplink = interfaces.iter().find(|interface| interface["name"] == "eth0").context("no uplink eth0")?;
    Ok(uplink["hooks"].as_str().unwrap_or_default().to_owned())
}

fn status(node: &Node) -> Result<serde_json::Value> {
    serde_json::from_str(&node.fairway(["status", "-o", "json"])?).context("the JSON of `fairway status`")
}

/// The frontend maps of all nodes, to see a change at the moment it comes.
pub struct Watcher(Vec<NodeMaps>);

struct NodeMaps {
    node: String,
    v4: HashMap<MapData, SvcKey<A4>, Svc>,
    v6: HashMap<MapData, SvcKey<A6>, Svc>,
}

/// The records of a node at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Records {
    v4: BTreeMap<SvcKey<A4>, Svc>,
    v6: BTreeMap<SvcKey<A6>, Svc>,
}

/// The records of all nodes at some time.
#[derive(Debug)]
pub struct Snapshot(Vec<Records>);

/// When each node had a change.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When the objects were changed.
    pub changed: Instant,
    /// From the change of the objects to the datapath, in milliseconds, by node.
    pub by_node_ms: BTreeMap<String, f64>,
    /// When the last node had it.
    pub everywhere: Instant,
}

impl Watcher {
    /// Opens the pinned maps of `nodes`.
    pub fn open(nodes: &[Node]) -> Result<Self> {
        nodes.iter().map(NodeMaps::open).collect::<Result<_>>().map(Self)
    }

    /// The records as they are.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.0.iter().map(NodeMaps::records).collect::<Result<_>>().map(Snapshot)
    }

    /// Waits until every record of every node differs from `before`; the change was made at `changed`.
    pub fn wait(
        &self,
        before: &Snapshot,
        changed: Instant,
        deadline: Duration,
        interrupt: &Interrupt,
    ) -> Result<Arrival> {
        let mut by_node_ms = BTreeMap::new();
        while by_node_ms.len() < self.0.len() {
            for (maps, before) in self.0.iter().zip(&before.0) {
                if !by_node_ms.contains_key(&maps.node) && maps.records()?.all_differ_from(before) {
                    by_node_ms.insert(maps.node.clone(), ms(changed.elapsed()));
                }
            }
            interrupt.check()?;
            ensure!(changed.elapsed() < deadline, "the change did not reach every node within {deadline:?}");
            thread::park_timeout(LOOK);
        }
        Ok(Arrival { changed, by_node_ms, everywhere: Instant::now() })
    }
}

impl NodeMaps {
    fn open(node: &Node) -> Result<Self> {
        let dir = maps_dir(node)?;
        Ok(Self { node: node.name().to_owned(), v4: open(&dir, maps::SVC4)?, v6: open(&dir, maps::SVC6)? })
    }

    fn records(&self) -> Result<Records> {
        Ok(Records { v4: read(&self.v4)?, v6: read(&self.v6)? })
    }
}

impl Records {
    fn all_differ_from(&self, before: &Self) -> bool {
        all_differ(&self.v4, &before.v4) && all_differ(&self.v6, &before.v6)
    }
}

fn all_differ<K: Ord>(now: &BTreeMap<K, Svc>, before: &BTreeMap<K, Svc>) -> bool {
    before.iter().all(|(key, record)| now.get(key) != Some(record))
}

fn open<K: Pod, V: Pod>(dir: &Path, name: &str) -> Result<HashMap<MapData, K, V>> {
    let path = dir.join(name);
    let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
    HashMap::try_from(Map::HashMap(data)).with_context(|| format!("the type of {}", path.display()))
}

fn read<K: Pod + Ord + Hash + Debug>(map: &HashMap<MapData, K, Svc>) -> Result<BTreeMap<K, Svc>> {
    // An address alone (an active ClusterIP) has no backends, so it does not change with them.
    let has_backends = |(_, svc): &(K, Svc)| svc.flags & SVC_ADDRESS == 0;
    map.iter()
        .map(|entry| entry.context("read a frontend's record"))
        .filter(|entry| entry.as_ref().map_or(true, has_backends))
        .collect()
}

/// `<bpffs>/fairway/v<ABI>/maps`, of the one version that is there.
fn maps_dir(node: &Node) -> Result<PathBuf> {
    let base = node.bpffs().join("fairway");
    let entries = fs::read_dir(&base).with_context(|| format!("list {}", base.display()))?;
    let versions: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    match &versions[..] {
        [version] => Ok(version.join("maps")),
        _ => bail!("{} holds {} versions, not one", base.display(), versions.len()),
    }
}
