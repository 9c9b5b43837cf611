//! The state directory: `status.json` and `services.json` for `fairway status|services`, the `ready` file, and
//! `agent.lock`, whose advisory lock tells whether an agent runs.
//!
//! Files are replaced atomically, so a reader never sees half a document, and stay behind when the agent dies:
//! what they say is then old, and the reader knows it from the lock. What the kernel says always wins.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::AppError;
use crate::model::{Family, Problem, Proto, World};

const STATUS: &str = "status.json";
const SERVICES: &str = "services.json";
const READY: &str = "ready";
/// The file whose advisory lock a running agent holds.
pub const LOCK: &str = "agent.lock";

/// How a program sits on an interface, or why it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// ifindex.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `uplink`, `overlay` or `pod`.
    pub role: String,
    /// Hooks in use, for instance `xdp-native, tc-egress`.
    pub hooks: String,
    /// Each step of the attach ladder that was not taken, and errors.
    pub reasons: Vec<String>,
}

/// The last sync.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// Wall-clock seconds when it ended.
    pub unix_s: u64,
    /// How long it took.
    pub duration_us: u64,
    /// Generation of the snapshot.
    pub generation: u64,
    /// Everything of the snapshot is in the kernel.
    pub complete: bool,
    /// Operations applied.
    pub applied: u64,
    /// Operations that wait for a retry.
    pub failed: u64,
}

/// A problem as written to the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProblemStatus {
    /// Which object.
    pub object: String,
    /// Field path, or empty.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl From<&Problem> for ProblemStatus {
    fn from(p: &Problem) -> Self {
        ProblemStatus { object: p.object.clone(), field: p.field.clone(), message: p.message.clone() }
    }
}

/// The agent's own view of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// Version of the agent.
    pub version: String,
    /// When it started.
    pub started_unix_s: u64,
    /// When this was written.
    pub written_unix_s: u64,
    /// Name of the node.
    pub node: String,
    /// The first complete sync is done.
    pub ready: bool,
    /// Effective configuration.
    pub config: serde_json::Value,
    /// Managed interfaces.
    pub interfaces: Vec<InterfaceStatus>,
    /// NodePort addresses.
    pub node_port_addresses: Vec<String>,
    /// Last sync.
    pub last_sync: Option<SyncStatus>,
    /// State of the source, as it describes itself.
    pub source: serde_json::Value,
    /// Problems with objects.
    pub problems: Vec<ProblemStatus>,
    /// The last error of the agent, until the same step succeeds.
    pub last_error: Option<String>,
}

/// Names for frontends: `TCP 10.96.0.10:53` or `TCP :30080` (a nodePort) → `namespace/name:port-name`.
pub type FrontendNames = BTreeMap<String, String>;

/// Key of a frontend with its own address in [`FrontendNames`].
pub fn frontend_name_key(proto: Proto, addr: std::net::IpAddr, port: u16) -> String {
    format!("{proto} {}", std::net::SocketAddr::new(addr, port))
}

/// Key of a nodePort in [`FrontendNames`].
pub fn node_port_name_key(family: Family, proto: Proto, port: u16) -> String {
    let family = if family == Family::V4 { 4 } else { 6 };
    format!("{proto}{family} :{port}")
}

/// Names of everything a world asks for.
pub fn frontend_names(world: &World) -> FrontendNames {
    let mut names = FrontendNames::new();
    for service in world.services.values() {
        let addresses =
            service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
        for port in &service.ports {
            let suffix = if port.name.is_empty() { String::new() } else { format!(":{}", port.name) };
            let name = format!("{}{suffix}", service.key);
            for addr in addresses.clone() {
                names.entry(frontend_name_key(port.proto, *addr, port.port)).or_insert_with(|| name.clone());
            }
            if port.node_port != 0 {
                for family in service.cluster_ips.iter().map(Family::of) {
                    let key = node_port_name_key(family, port.proto, port.node_port);
                    names.entry(key).or_insert_with(|| name.clone());
                }
            }
        }
    }
    names
}

/// The state directory, as the agent writes it. Who writes holds the lock of [`LOCK`]; the datapath takes it.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Makes the directory (0700), and touches nothing in it.
    pub fn create(path: &Path) -> Result<StateDir, AppError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| AppError::State { path: path.to_owned(), source })?;
        Ok(StateDir { path: path.to_owned() })
    }

    fn replace(&self, name: &str, text: &[u8]) -> Result<(), AppError> {
        let (target, temporary) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(text)?;
            std::fs::rename(&temporary, &target)
        };
        write().map_err(|source| AppError::State { path: target.clone(), source })
    }

    /// Writes the status.
    pub fn write_status(&self, status: &Status) -> Result<(), AppError> {
        self.replace(STATUS, &serde_json::to_vec_pretty(status).unwrap_or_default())
    }

    /// Writes the names of frontends.
    pub fn write_names(&self, names: &FrontendNames) -> Result<(), AppError> {
        self.replace(SERVICES, &serde_json::to_vec(names).unwrap_or_default())
    }

    /// Writes the ready file.
    pub fn set_ready(&self) -> Result<(), AppError> {
        self.replace(READY, format!("{}\n", std::process::id()).as_bytes())
    }

    /// Removes the ready file; a missing one is no error.
    pub fn clear_ready(&self) -> Result<(), AppError> {
        let path = self.path.join(READY);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(AppError::State { path, source })
            }
            _ => Ok(()),
        }
    }
}

/// What a reader finds in the state directory.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// An agent holds the lock.
    pub running: bool,
    /// Its last status, or that of the last one that ran.
    pub status: Option<Status>,
    /// Names of frontends.
    pub names: FrontendNames,
}

/// Reads the state directory; whatever is missing or broken is absent.
pub fn read(path: &Path) -> Found {
    let lock = File::open(path.join(LOCK));
    let running = lock.is_ok_and(|f| matches!(f.try_lock_shared(), Err(TryLockError::WouldBlock)));
    let json = |name: &str| std::fs::read(path.join(name)).ok();
    Found {
        running,
        status: json(STATUS).and_then(|b| serde_json::from_slice(&b).ok()),
        names: json(SERVICES).and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default(),
    }
}

/// Removes what an agent leaves in its state directory; gives the removed paths. Refused while one runs,
/// unless forced.
pub fn remove(path: &Path, force: bool) -> Result<Vec<PathBuf>, AppError> {
    if !force && read(path).running {
        let source = std::io::Error::other("an agent runs with this state directory");
        return Err(AppError::State { path: path.to_owned(), source });
    }
    let mut removed = Vec::new();
    for name in [READY, STATUS, SERVICES, LOCK] {
        let file = path.join(name);
        match std::fs::remove_file(&file) {
            Ok(()) => removed.push(file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(AppError::State { path: file, source }),
        }
    }
    if std::fs::remove_dir(path).is_ok() {
        removed.push(path.to_owned());
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Key, Service, ServicePort};

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("fairway-status-{name}-{}", std::process::id()));
        let _absent = std::fs::remove_dir_all(&dir);
        dir
    }

    fn lock(path: &Path) -> File {
        let file = File::create(path.join(LOCK)).expect("lock file");
        file.try_lock().expect("lock");
        file
    }

    #[test]
    fn a_status_survives_the_agent_and_tells_that_it_is_gone() {
        let path = scratch("survives");
        let dir = StateDir::create(&path).expect("create");
        let held = lock(&path);
        dir.write_status(&Status { node: "n1".into(), ..Status::default() }).expect("write");
        dir.set_ready().expect("ready");
        assert!(read(&path).running);
        assert!(remove(&path, false).is_err(), "cleanup is refused while an agent runs");
        drop(held);
        let found = read(&path);
        assert!(!found.running);
        assert_eq!(found.status.expect("status").node, "n1");
        assert_eq!(remove(&path, false).expect("remove").len(), 4);
        assert!(!path.exists());
    }

    #[test]
    fn the_ready_file_goes_and_may_be_absent() {
        let path = scratch("ready");
        let dir = StateDir::create(&path).expect("create");
        dir.set_ready().expect("ready");
        assert!(path.join(READY).exists());
        dir.clear_ready().expect("clear");
        assert!(!path.join(READY).exists());
        dir.clear_ready().expect("clear nothing");
    }

    #[test]
    fn names_cover_cluster_ips_and_node_ports_of_each_family() {
        let mut world = World::default();
        let key = Key::new("default", "web");
        world.services.insert(Service {
            key,
            uid: String::new(),
            created_unix_s: 0,
            cluster_ips: vec!["10.96.0.8".parse().expect("ip"), "fd00::8".parse().expect("ip")],
            external_ips: vec![],
            load_balancer_ips: vec![],
            ports: vec![ServicePort { name: "http".into(), proto: Proto::Tcp, port: 8088, node_port: 30080 }],
            internal_local: false,
            external_local: false,
            affinity_timeout_s: None,
            source_ranges: vec![],
            health_check_node_port: 0,
        });
        let names = frontend_names(&world);
        let keys: Vec<&str> = names.keys().map(String::as_str).collect();
        assert_eq!(keys, ["TCP 10.96.0.8:8088", "TCP [fd00::8]:8088", "TCP4 :30080", "TCP6 :30080"]);
        assert!(names.values().all(|n| n == "default/web:http"));
    }
}
