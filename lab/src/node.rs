//! A node: a namespace with an uplink, and the places an agent needs.
//!
//! Each node has a bpffs of its own (root only), a state directory and a cgroup, all inside the run's own
//! directories, so agents of several nodes share nothing.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use crate::address::{self, Dual};
use crate::agent::{self, Agent, AgentSpec};
use crate::ns::Ns;
use crate::offload::PinnedPass;
use crate::residue::{self, Run, create_dir};

/// How long `fairway cleanup` may take when the cluster goes.
const CLEANUP_DEADLINE: Duration = Duration::from_secs(10);

/// A node of a cluster. Clones are handles to the same node.
#[derive(Debug, Clone)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    ns: Ns,
    dir: PathBuf,
    bpffs: PathBuf,
    state_dir: PathBuf,
    cgroup: PathBuf,
    agent_ran: AtomicBool,
}

impl Node {
    pub(crate) fn new(name: &str, number: u8, ns: Ns, run: &Run) -> Result<Self> {
        let dir = run.dir().join(name);
        let (bpffs, state_dir) = (dir.join("bpffs"), dir.join("state"));
        let cgroup = run.cgroup().context("no cgroup2 file system is mounted")?.join(name);
        for path in [&bpffs, &state_dir, &cgroup] {
            create_dir(path)?;
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("mount a bpffs at {}", bpffs.display()))?;
        let agent_ran = AtomicBool::new(false);
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            number,
            ns,
            dir,
            bpffs,
            state_dir,
            cgroup,
            agent_ran,
        })))
    }

    /// The Kubernetes name, `node-1` and so on.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its number, counted from 1.
    pub fn number(&self) -> u8 {
        self.0.number
    }

    /// Its namespace; the uplink there is `eth0`.
    pub fn ns(&self) -> &Ns {
        &self.0.ns
    }

    /// Its addresses on the switch.
    pub fn address(&self) -> Dual {
        address::node(self.0.number)
    }

    /// The mount point of its private bpffs.
    pub fn bpffs(&self) -> &Path {
        &self.0.bpffs
    }

    /// The agent's state directory.
    pub fn state_dir(&self) -> &Path {
        &self.0.state_dir
    }

    /// Its cgroup2 directory.
    pub fn cgroup(&self) -> &Path {
        &self.0.cgroup
    }

    /// What all agents of this node have written, oldest first.
    pub fn agent_log(&self) -> PathBuf {
        self.0.dir.join("agent.log")
    }

    /// Puts somebody else's native XDP program on `device`: one that passes every packet.
    pub fn attach_foreign_xdp(&self, device: &str) -> Result<()> {
        let pass = PinnedPass::new(self.bpffs())?;
        let path = pass.path().to_str().context("the pin path is text")?;
        self.0.ns.feed("ip", &["-batch", "-"], &format!("link set dev {device} xdpdrv pinned {path}\n"))
    }

    /// Starts `fairway run` here and waits until it says that it is ready.
    pub fn start_agent(&self, spec: &AgentSpec) -> Result<Agent> {
        self.launch_agent(spec)?.ready()
    }

    /// Starts `fairway run` here without waiting; [`Agent::ready`] waits.
    pub fn launch_agent(&self, spec: &AgentSpec) -> Result<Agent> {
        self.0.agent_ran.store(true, Ordering::Relaxed);
        Agent::launch(self, spec)
    }

    /// Runs `fairway` with this node's `--bpffs`, `--cgroup` and `--state-dir` and returns its standard output;
    /// an error holds what it wrote to standard error.
    pub fn fairway<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let arguments: Vec<String> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let output = self.fairway_command(&arguments)?.output().context("start fairway")?;
        let Output { status, stdout, stderr } = output;
        if !status.success() {
            bail!(
                "fairway {} on {}: {status}: {}",
                arguments.join(" "),
                self.name(),
                String::from_utf8_lossy(&stderr)
            );
        }
        Ok(String::from_utf8(stdout)?)
    }

    /// The command line of [`Node::fairway`], for callers that need more than its output.
    pub fn fairway_command(&self, arguments: &[String]) -> Result<Command> {
        let mut command = self.0.ns.command(agent::binary()?);
        command.args(arguments).args(self.places());
        Ok(command)
    }

    /// The flags that tell `fairway` where this node's things are.
    pub(crate) fn places(&self) -> [OsString; 6] {
        self.places_with(None)
    }

    /// As [`Node::places`], with another cgroup hierarchy.
    pub(crate) fn places_with(&self, cgroup: Option<&Path>) -> [OsString; 6] {
        let path = |path: &Path| path.as_os_str().to_owned();
        [
            "--bpffs".into(),
            path(self.bpffs()),
            "--cgroup".into(),
            // The whole hierarchy: what runs "on" a node here are threads of the test, which are in no cgroup of the
            // node's. Each agent's socket hooks serve the network namespace of its own node alone.
            cgroup
                .map(Path::to_owned)
                .or_else(residue::cgroup_mount)
                .unwrap_or_else(|| self.cgroup().to_owned())
                .into(),
            "--state-dir".into(),
            path(self.state_dir()),
        ]
    }

    /// Best effort: what it leaves is removed with the namespace, the bpffs and the cgroup.
    pub(crate) fn clean_up_agent(&self) {
        if !self.0.agent_ran.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut command) = self.fairway_command(&["cleanup".to_owned()]) else { return };
        let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else { return };
        agent::wait_or_kill(child, CLEANUP_DEADLINE);
    }
}
