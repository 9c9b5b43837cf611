//! Running the real `fairway run` on a node.
//!
//! Readiness is a handshake: the agent writes `<state-dir>/ready` once its first sync is in the kernel. The log
//! goes to the node's `agent.log` and is printed when a test fails. Dropping an [`Agent`] ends it with SIGKILL;
//! that leaves the datapath, as in production.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::Node;

/// How long an agent may take until it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// How long an agent may take to end after SIGTERM.
const TERMINATE_DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Where an agent learns of Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of YAML manifests.
    Manifests(PathBuf),
    /// The URL of a Kubernetes API server that wants no credentials.
    Api(String),
    /// A kubeconfig file.
    Kubeconfig(PathBuf),
}

/// How to run an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// Where it learns of Services.
    pub source: Source,
    /// Flags beyond those the lab gives: node name, places, interface and source.
    pub extra_flags: Vec<String>,
    /// Environment variables beyond the inherited ones, such as `RUST_LOG`.
    pub environment: Vec<(String, String)>,
    /// The executable; [`binary`] if not told.
    pub binary: Option<PathBuf>,
    /// The cgroup v2 directory; the machine's if not told.
    pub cgroup: Option<PathBuf>,
    /// In a process group of its own: a Ctrl-C at the terminal does not reach it.
    pub own_group: bool,
}

impl AgentSpec {
    /// An agent that reads manifests from `dir`.
    pub fn manifests(dir: impl Into<PathBuf>) -> Self {
        Self::from(Source::Manifests(dir.into()))
    }

    /// An agent that watches the API server at `url`.
    pub fn api(url: impl Into<String>) -> Self {
        Self::from(Source::Api(url.into()))
    }

    /// An agent that watches the API server that a kubeconfig names.
    pub fn kubeconfig(file: impl Into<PathBuf>) -> Self {
        Self::from(Source::Kubeconfig(file.into()))
    }

    /// Runs in a process group of its own, so that a Ctrl-C at the terminal does not reach it.
    #[must_use]
    pub fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// Runs this executable, such as a newer build.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Takes this directory for the cgroup v2 hierarchy.
    #[must_use]
    pub fn cgroup(mut self, path: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(path.into());
        self
    }

    /// With one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With more flags.
    #[must_use]
    pub fn flags<F: Into<String>>(mut self, flags: impl IntoIterator<Item = F>) -> Self {
        self.extra_flags.extend(flags.into_iter().map(Into::into));
        self
    }
}

impl From<Source> for AgentSpec {
    fn from(source: Source) -> Self {
        Self {
            source,
            extra_flags: Vec::new(),
            environment: Vec::new(),
            binary: None,
            cgroup: None,
            own_group: false,
        }
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    node: Node,
    child: Option<Child>,
}

impl Agent {
    pub(crate) fn launch(node: &Node, spec: &AgentSpec) -> Result<Self> {
        let ready = node.state_dir().join("ready");
        if ready.exists() {
            fs::remove_file(&ready).context("remove the last agent's ready file")?;
        }
        let log = OpenOptions::new().create(true).append(true).open(node.agent_log())?;
        let mut command = node.ns().command(spec.binary.clone().map_or_else(binary, Ok)?);
        command.arg("run").args(["--node-name", node.name(), "--interface", "eth0"]);
        command.args(node.places_with(spec.cgroup.as_deref()));
        match &spec.source {
            Source::Manifests(dir) => command.arg("--manifests").arg(dir),
            Source::Api(url) => command.arg("--api-url").arg(url),
            Source::Kubeconfig(file) => command.arg("--kubeconfig").arg(file),
        };
        command.args(&spec.extra_flags).envs(spec.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if spec.own_group {
            command.process_group(0);
        }
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { node: node.clone(), child: Some(child) })
    }

    /// Waits until the agent is ready; fails with its log when it ends first or takes too long.
    pub fn ready(mut self) -> Result<Self> {
        let (file, started) = (self.node.state_dir().join("ready"), Instant::now());
        loop {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the agent of {} ended with {status}; its log:\n{}", self.node.name(), self.log());
            }
            if file.exists() {
                return Ok(self);
            }
            if started.elapsed() > READY_DEADLINE {
                bail!(
                    "the agent of {} is not ready after {READY_DEADLINE:?}; its log:\n{}",
                    self.node.name(),
                    self.log()
                );
            }
            thread::park_timeout(POLL);
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The node it runs on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What the node's agents have written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.node.agent_log()).unwrap_or_default()
    }

    /// Ends it with SIGKILL and waits for its end.
    pub fn kill(mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the agent has ended")?;
        child.kill()?;
        Ok(child.wait()?)
    }

    /// Ends it with SIGTERM and waits for its end; fails with the log if it does not end.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        let child = self.child.take().context("the agent has ended")?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        wait_or_kill(child, TERMINATE_DEADLINE).with_context(|| {
            format!("the agent of {} ignores SIGTERM; its log:\n{}", self.node.name(), self.log())
        })
    }

    /// Lets it run on after this handle and this process; it ends with its cluster.
    pub fn leave_running(mut self) {
        self.child = None;
    }

    /// Waits for its end, for agents that shall refuse to run; fails if it still runs after `deadline`.
    pub fn ended_within(mut self, deadline: Duration) -> Result<ExitStatus> {
        let child = self.child.take().context("the agent has ended")?;
        wait_or_kill(child, deadline).with_context(|| format!("the agent of {} still runs", self.node.name()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- agent log of {} ---\n{}--- end of log ---", self.node.name(), self.log());
        }
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The binary under test: `$FAIRWAY_BIN`, else `fairway` in the target directory of this executable.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("FAIRWAY_BIN") {
        return Ok(path.into());
    }
    let this = env::current_exe()?;
    let built = this.ancestors().skip(1).take(2).map(|dir| dir.join("fairway")).find(|path| path.is_file());
    built.context("no fairway binary: set FAIRWAY_BIN or build it with `cargo xtask build`")
}

/// Waits for the end of `child`; after `deadline` kills it and returns nothing.
pub(crate) fn wait_or_kill(mut child: Child, deadline: Duration) -> Option<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let (ended, wait) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let status = child.wait().ok();
        // The receiver has given up when the deadline has passed.
        let _ = ended.send(status);
    });
    let status = wait.recv_timeout(deadline).ok().flatten();
    if status.is_none() {
        // Until the waiter has collected the child its id cannot belong to another process.
        let _ = kill(pid, Signal::SIGKILL);
    }
    let _ = waiter.join();
    status
}
