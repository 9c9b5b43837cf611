//! The demo itself: its document, its exit status, and that nothing is left, however it ends.
//!
//! The program is run as a user runs it, from the repository's root; each run has a deadline.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::residue::{self, Run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Many times what it takes: the machine may be busy with other tests.
const DEADLINE: Duration = Duration::from_secs(180);

/// A demo that ended.
struct Ended {
    pid: u32,
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn document(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("not JSON: {}\n{}", self.stdout, self.stderr))
    }

    /// The runs of that process of which anything exists.
    fn left(&self) -> Vec<Run> {
        let prefix = format!("fw{}-", self.pid);
        residue::runs().into_iter().filter(|run| run.name().starts_with(&prefix)).collect()
    }
}

/// A demo that runs; ended when a test fails meanwhile, so that it cleans up.
struct Demo {
    child: Child,
    lines: mpsc::Receiver<String>,
    stdout: mpsc::Receiver<String>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fairway-demo"))
            .current_dir(root())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (send_line, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().context("stderr")?);
        thread::spawn(move || {
            stderr.lines().map_while(|line| line.ok()).try_for_each(|line| send_line.send(line))
        });
        let (send, received) = mpsc::channel();
        let mut stdout = child.stdout.take().context("stdout")?;
        thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| send.send(text))
        });
        Ok(Self { child, lines, stdout: received })
    }

    /// Waits for a line on standard error that contains `text`.
    fn wait_for(&self, text: &str) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).with_context(|| format!("no line with {text:?}"))?;
            if line.contains(text) {
                return Ok(());
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    fn end(mut self) -> Result<Ended> {
        let stdout = self.stdout.recv_timeout(DEADLINE).context("the demo takes too long")?;
        let (pid, status) = (self.child.id(), self.child.wait()?);
        let stderr: Vec<String> = self.lines.iter().collect();
        Ok(Ended { pid, status, stdout, stderr: stderr.join("\n") })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not an array: {value}"))
}

#[test]
fn the_demo_measures_everything_finds_it_right_and_leaves_nothing() -> Result<()> {
    let demo = Demo::start(&["--json"])?.end()?;
    let facts = demo.document()?;
    ensure!(demo.status.success(), "{}\n{}", facts["problems"], demo.stderr);
    assert_eq!((&facts["ok"], array(&facts["problems"])?.len()), (&Value::Bool(true), 0));
    assert_eq!(array(&facts["cluster"]["nodes"])?.len(), 3);
    assert_service(&facts["service"])?;
    assert_requests(&facts["requests"])?;
    assert_changes(&facts)?;
    let removal = &facts["removal"];
    for (what, before) in removal["before"].as_object().context("before")? {
        assert!(before.as_u64() > Some(0), "there were {what}");
        assert_eq!(removal["after"][what], 0, "{what}");
    }
    assert!(facts["kept"].is_null());
    assert!(demo.left().is_empty(), "{:?}", demo.left());
    Ok(())
}

fn assert_service(service: &Value) -> Result<()> {
    assert_eq!(service["name"], "default/web");
    for node in array(&service["nodes"])? {
        let frontends = array(&node["frontends"])?;
        assert_eq!(frontends.len(), 4, "clusterIP and nodePort, IPv4 and IPv6: {node}");
        for frontend in frontends {
            assert_eq!(array(&frontend["backends"])?.len(), 3, "{frontend}");
        }
    }
    Ok(())
}

/// Every node's nodePort and the clusterIPs were asked, in both families, and all pods answered.
fn assert_requests(requests: &Value) -> Result<()> {
    let rows = array(requests)?;
    let addresses: BTreeSet<&str> = rows.iter().filter_map(|row| row["address"].as_str()).collect();
    let expected = [
        "10.96.0.80:8088",
        "172.31.0.11:30080",
        "172.31.0.12:30080",
        "172.31.0.13:30080",
        "[fd31::b]:30080",
        "[fd31::c]:30080",
        "[fd31::d]:30080",
        "[fd96::80]:8088",
    ];
    assert_eq!(addresses, BTreeSet::from(expected));
    for row in rows {
        let answers = array(&row["answers"])?;
        let pods: BTreeSet<&str> = answers.iter().filter_map(|answer| answer["pod"].as_str()).collect();
        assert_eq!(pods, BTreeSet::from(["web-1", "web-2", "web-3"]), "{row}");
        let answered: u64 = answers.iter().filter_map(|answer| answer["times"].as_u64()).sum();
        assert_eq!((Some(answered), &row["failed"]), (row["requests"].as_u64(), &Value::from(0)), "{row}");
    }
    Ok(())
}

fn assert_changes(facts: &Value) -> Result<()> {
    let (churn, restart) = (&facts["churn"], &facts["agent_restart"]);
    assert_eq!((&churn["failed"], &churn["removed"]["answered_after"]), (&Value::from(0), &Value::from(0)));
    for change in [&churn["removed"], &churn["added"]] {
        let by_node = change["by_node_ms"].as_object().context("by_node_ms")?;
        assert_eq!(by_node.len(), 3, "{change}");
        assert!(by_node.values().all(|ms| ms.as_f64() > Some(0.0)), "measured: {change}");
    }
    assert_eq!((&restart["connections"], &restart["lost"]), (&Value::from(1000), &Value::from(0)));
    assert_eq!(restart["new_connections_failed"], 0);
    assert_eq!((&restart["same_programs"], &restart["same_backends"]), (&true.into(), &true.into()));
    Ok(())
}

#[test]
fn a_kept_demo_works_without_its_process_until_lab_clean_removes_all_of_it() -> Result<()> {
    let demo = Demo::start(&["--keep", "--json"])?.end()?;
    let facts = demo.document()?;
    ensure!(demo.status.success(), "{}\n{}", facts["problems"], demo.stderr);
    let runs = demo.left();
    let [run] = &runs[..] else { anyhow::bail!("one run is kept, not {runs:?}") };
    assert_eq!(facts["kept"]["name"].as_str(), Some(run.name().as_str()));
    let script = facts["kept"]["fairway"][0].as_str().context("a script for node 1")?;
    let services = Command::new("sh").args([script, "services"]).output()?;
    assert!(String::from_utf8_lossy(&services.stdout).contains("default/web:http"), "{services:?}");
    let status = Command::new("sh").args([script, "status", "--ready"]).output()?;
    assert!(status.status.success(), "{status:?}");
    let processes = run.processes();
    assert_eq!(processes.len(), 3 + 4 + 1, "agents, pods with the spare one, API server");

    let clean = Command::new(env!("CARGO_BIN_EXE_fairway-lab")).arg("clean").output()?;
    assert!(clean.status.success(), "{clean:?}");
    assert!(demo.left().is_empty(), "{:?}", demo.left());
    assert!(run.namespaces().is_empty() && run.mounts().is_empty() && !run.dir().exists());
    assert!(!run.cgroup().is_some_and(|cgroup| cgroup.exists()));
    for pid in processes {
        wait_for_the_end_of(pid)?;
    }
    Ok(())
}

/// The processes have been killed; their parent, init or a reaper here, collects them in its own time.
fn wait_for_the_end_of(pid: u32) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    // Without a command line it is a zombie.
    while fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {
        ensure!(Instant::now() < end, "process {pid} still runs");
        thread::yield_now();
    }
    Ok(())
}

#[test]
fn an_interrupted_demo_says_so_and_leaves_nothing() -> Result<()> {
    let demo = Demo::start(&["--json"])?;
    demo.wait_for("Asking every frontend")?;
    demo.signal(Signal::SIGINT)?;
    let demo = demo.end()?;
    assert_eq!(demo.status.code(), Some(130), "{}", demo.stderr);
    assert!(demo.stderr.contains("Interrupted"), "{}", demo.stderr);
    assert_eq!(demo.document()?["ok"], false);
    assert!(demo.left().is_empty(), "{:?}", demo.left());
    Ok(())
}

#[test]
fn objects_that_do_not_fit_the_cluster_end_the_demo_with_the_reason() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("fairway-demo-objects-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    for name in ["web.yaml", "web-endpoints.yaml"] {
        let text = fs::read_to_string(root().join("deploy/demo").join(name))?;
        fs::write(dir.join(name), text.replace("10.244.3.2", "10.244.9.9"))?;
    }
    let path = dir.to_str().context("a path in UTF-8")?;
    let demo = Demo::start(&["--json", "--objects", path])?.end();
    fs::remove_dir_all(&dir)?;
    let demo = demo?;
    assert_eq!(demo.status.code(), Some(1), "{}", demo.stderr);
    let problems = demo.document()?["problems"].to_string();
    assert!(problems.contains("web-3 has the address 10.244.9.9, which no pod here has"), "{problems}");
    assert!(demo.left().is_empty(), "{:?}", demo.left());
    Ok(())
}
