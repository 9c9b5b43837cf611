//! A pod's program: a process of its own in the pod's namespace, which answers with the pod's name.
//!
//! It is this same executable, started again with the hidden subcommand `pod`. A process and not a thread, so
//! that a kept cluster goes on when the demo has ended, and so that stopping a pod really ends something.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cluster::Pod;
use crate::ns::Ns;
use crate::traffic::PodServer;

/// What the process writes to its standard output once it listens.
const LISTENS: &str = "listens";

/// What the subcommand `pod` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct PodArgs {
    /// The pod's network namespace
    #[arg(long)]
    namespace: String,
    /// What it calls itself
    #[arg(long)]
    name: String,
    /// The port it listens on, TCP and UDP
    #[arg(long)]
    port: u16,
}

/// Serves until killed: the whole life of the process.
pub fn serve(args: &PodArgs) -> Result<()> {
    let _server = PodServer::start_in(&Ns::open(&args.namespace)?, &args.name, args.port)?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{LISTENS}")?;
    stdout.flush()?;
    loop {
        std::thread::park();
    }
}

/// A running pod; ends when dropped.
#[derive(Debug)]
pub struct Workload {
    name: String,
    child: Option<Child>,
}

impl Workload {
    /// Starts the program of `pod` under the name `name`; it listens on `port` when this returns.
    pub fn start(pod: &Pod, name: &str, port: u16, log: File) -> Result<Self> {
        let mut command = pod.ns.command(env::current_exe().context("find this executable")?);
        command.args(["pod", "--namespace", pod.ns.name(), "--name", name, "--port", &port.to_string()]);
        // In a group of its own: a Ctrl-C shall end the demo, which then ends the pods.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let child = command.spawn().with_context(|| format!("start the program of {name}"))?;
        let mut workload = Self { name: name.to_owned(), child: Some(child) };
        workload.wait_until_it_listens()?;
        Ok(workload)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let stdout = self.child.as_mut().and_then(|child| child.stdout.take());
        let mut line = String::new();
        BufReader::new(stdout.context("no standard output")?).read_line(&mut line)?;
        ensure!(line.trim_end() == LISTENS, "the program of {} ended before it listened", self.name);
        Ok(())
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets it run on after this handle and this process; it ends with its cluster.
    pub fn leave_running(mut self) {
        self.child = None;
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
