//! `--keep`: what lived in the demo's process is handed over to processes that stay, and the way in is printed.
//!
//! The objects are then served from files, unchanged copies of `deploy/demo`, that one can edit; the pods of
//! those objects run, and so does the one that was added meanwhile, as a spare. Nothing that stays has an owner,
//! so `cargo xtask lab clean` removes it.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::example::Example;
use super::screen::Screen;
use super::stage::{self, Stage};
use crate::agent;
use crate::cluster::Cluster;
use crate::node::Node;
use crate::ns::Ns;
use crate::objects::ManifestDir;
use crate::traffic::tcp_ask;

/// The port of the API server that stays; the demo's own has another, so neither waits for the other.
const API_PORT: u16 = 6444;
const PATIENCE: Duration = Duration::from_secs(5);

/// How to go on with a kept cluster.
#[derive(Debug, Clone, Serialize)]
pub struct KeepFacts {
    /// The prefix of its namespaces.
    pub name: String,
    /// The namespaces.
    pub places: Vec<Place>,
    /// A shell script per node that runs `fairway` there.
    pub fairway: Vec<PathBuf>,
    /// The directory of the objects; files there can be changed.
    pub objects: PathBuf,
    /// Commands worth trying.
    pub commands: Vec<Command>,
    /// Removes it.
    pub remove: &'static str,
}

/// One namespace.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    /// Who lives there.
    pub who: String,
    /// Its addresses.
    pub addresses: [IpAddr; 2],
    /// Opens a shell there.
    pub enter: String,
}

/// Something to try.
#[derive(Debug, Clone, Serialize)]
pub struct Command {
    /// What it shows.
    pub what: &'static str,
    /// What to type.
    pub command: String,
}

/// Hands everything over to processes that stay, and checks that requests are answered.
pub fn hand_over(mut stage: Stage, objects: &Path, screen: &Screen) -> Result<(KeepFacts, Vec<String>)> {
    let step = screen.step("Handing over to processes that stay");
    let dir = ManifestDir::new(&stage.cluster)?;
    copy_objects(objects, dir.path())?;
    let kubeconfig = start_api(&stage.cluster, dir.path())?;
    stage.example = Example::read(objects, &stage.cluster)?;
    for member in stage.example.members.clone() {
        if !stage.workloads.contains_key(&member.name) {
            stage.start_workload(&member.name, &member.pod)?;
        }
    }
    while let Some((name, agent)) = stage.agents.pop_first() {
        step.now(format!("the agent of {name}"));
        let node = agent.node().clone();
        agent.terminate()?;
        let spec = stage::agent_spec(&kubeconfig).own_group();
        stage.kept_agents.push(node.start_agent(&spec)?);
    }
    let problems = check(&stage);
    let scripts = stage.cluster.nodes().iter().map(script).collect::<Result<Vec<_>>>()?;
    step.done("an API server, the pods, and an agent on every node");

    let facts = facts(&stage, scripts, dir.path());
    let Stage { workloads, kept_agents, cluster, .. } = stage;
    workloads.into_values().for_each(super::workload::Workload::leave_running);
    kept_agents.into_iter().for_each(agent::Agent::leave_running);
    cluster.keep();
    Ok((facts, problems))
}

fn copy_objects(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, to.join(name)).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// Starts the API server; returns the kubeconfig for it.
fn start_api(cluster: &Cluster, objects: &Path) -> Result<PathBuf> {
    let (kubeconfig, log) = (cluster.dir().join("kubeconfig.kept"), cluster.dir().join("apiserver.log"));
    let address = SocketAddr::new(cluster.control_address().both()[0], API_PORT);
    let mut command = cluster.control().command(beside_this("fairway-apiserver")?);
    command.arg("--manifests").arg(objects).args(["--tls", "--listen", &address.to_string()]);
    command.arg("--kubeconfig-out").arg(&kubeconfig).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
    let mut server = command.spawn().context("start fairway-apiserver")?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().context("no standard output")?).read_line(&mut line)?;
    ensure!(line.starts_with("serving"), "fairway-apiserver ended: {}", fs::read_to_string(&log)?);
    Ok(kubeconfig)
}

fn beside_this(program: &str) -> Result<PathBuf> {
    let this = env::current_exe()?;
    let path = this.parent().map(|dir| dir.join(program)).filter(|path| path.is_file());
    path.with_context(|| format!("no {program} beside {}: run `cargo xtask build`", this.display()))
}

/// Every nodePort must be answered; anything else is a problem.
fn check(stage: &Stage) -> Vec<String> {
    let addresses = stage.cluster.nodes().iter().flat_map(|node| stage.node_ports(node));
    let ask =
        |address| tcp_ask(stage.cluster.client(), address, PATIENCE).err().map(|error| (address, error));
    addresses
        .filter_map(ask)
        .map(|(address, error)| format!("the kept cluster: {address}: {error}"))
        .collect()
}

/// A script that runs `fairway` on a node; `/run` may forbid to execute files, so it is given to `sh`.
fn script(node: &Node) -> Result<PathBuf> {
    let path = node.agent_log().with_file_name("fairway");
    let binary = fs::canonicalize(agent::binary()?)?;
    let text = format!(
        "exec ip netns exec {} {} \"$@\" --bpffs {} --cgroup {} --state-dir {}\n",
        node.ns().name(),
        binary.display(),
        node.bpffs().display(),
        node.cgroup().display(),
        node.state_dir().display()
    );
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn facts(stage: &Stage, scripts: Vec<PathBuf>, objects: &Path) -> KeepFacts {
    let cluster = &stage.cluster;
    let place = |who: String, addresses, ns: &Ns| Place { who, addresses, enter: enter(ns, "bash") };
    let outside = place("outside client".to_owned(), cluster.client_address().both(), cluster.client());
    let nodes =
        cluster.nodes().iter().map(|node| place(node.name().to_owned(), node.address().both(), node.ns()));
    let pods = cluster.pods().iter().map(|pod| {
        let name = stage.example.name_of(pod.address.both()[0]).unwrap_or(&pod.name);
        place(format!("{name} on {}", pod.node_name), pod.address.both(), &pod.ns)
    });
    KeepFacts {
        name: cluster.name(),
        places: [outside].into_iter().chain(nodes).chain(pods).collect(),
        commands: commands(stage, &scripts, objects),
        fairway: scripts,
        objects: objects.to_owned(),
        remove: "cargo xtask lab clean",
    }
}

fn commands(stage: &Stage, scripts: &[PathBuf], objects: &Path) -> Vec<Command> {
    let [node_port, _] = stage.node_ports(stage.cluster.node(1));
    let mut commands = vec![Command {
        what: "a request from outside",
        command: enter(stage.cluster.client(), &format!("curl -s http://{node_port}/")),
    }];
    if let (Some(ip), Some(pod)) = (stage.cluster_ips().last(), stage.cluster.pods().last()) {
        commands.push(Command {
            what: "one from a pod",
            command: enter(&pod.ns, &format!("curl -s 'http://{ip}/'")),
        });
    }
    let fairway = |arguments: &str| {
        scripts.first().map(|script| format!("sh {} {arguments}", script.display())).unwrap_or_default()
    };
    let subcommands = [
        ("what node-1's kernel has", "services"),
        ("its connections", "flows | head"),
        ("how its packets ended", "drops"),
        ("its agent, interfaces and maps", "status"),
    ];
    commands.extend(subcommands.map(|(what, arguments)| Command { what, command: fairway(arguments) }));
    let file = objects.join("web-endpoints.yaml");
    let what = "set `ready: false` for a pod, and see `services` follow within a second or two";
    commands.push(Command { what, command: format!("${{EDITOR:-nano}} {}", file.display()) });
    commands
}

fn enter(ns: &Ns, command: &str) -> String {
    format!("ip netns exec {} {command}", ns.name())
}

/// Prints the way in.
pub fn show(screen: &Screen, facts: &KeepFacts) {
    let mut table = screen.list(&["WHO", "ADDRESSES", "ENTER WITH"]);
    for place in &facts.places {
        table.add_row([
            place.who.clone(),
            place.addresses.map(|ip| ip.to_string()).join(" "),
            place.enter.clone(),
        ]);
    }
    screen.show(&table);
    screen.remark("Try:");
    for command in &facts.commands {
        screen.say(format!("  # {}\n  {}", command.what, command.command));
    }
    screen.remark("Remove it all with:");
    screen.say(format!("  {}", facts.remove));
}
