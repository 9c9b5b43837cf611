//! `fairway status`: the kernel's state joined with what the agent says of itself.

use serde::Serialize;

use super::{Show, duration, lines, table};
use crate::telemetry::status::{Found, Status};

/// Use of one map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapUse {
    /// Name.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Capacity.
    pub capacity: u64,
}

/// What the kernel says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelView {
    /// Programs translate (the first sync was completed once).
    pub ready: bool,
    /// Generation of the last complete sync.
    pub sync_generation: u32,
    /// When that was.
    pub sync_unix_s: u32,
    /// Maps.
    pub maps: Vec<MapUse>,
    /// Programs on interfaces, from the pinned links.
    pub programs: Vec<ProgramUse>,
}

/// A program on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramUse {
    /// ifindex.
    pub ifindex: u32,
    /// `xdp`, `tc-ingress` or `tc-egress`.
    pub hook: String,
    /// `native`, `generic` or `tcx`.
    pub mode: String,
    /// Program id.
    pub prog_id: u32,
    /// Program name.
    pub prog_name: String,
    /// Link id.
    pub link_id: u32,
    /// False when the interface is gone.
    pub live: bool,
}

/// Everything `fairway status` shows.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    /// An agent runs.
    pub agent_running: bool,
    /// The agent's status; of the last one when none runs.
    pub agent: Option<Status>,
    /// The kernel's state, or nothing when no datapath is installed.
    pub kernel: Option<KernelView>,
    /// Why the kernel's state could not be read.
    pub kernel_error: Option<String>,
    /// Wall clock of this view.
    pub now_unix_s: u64,
}

impl StatusView {
    /// Joins both sides.
    pub fn new(found: Found, kernel: Result<KernelView, String>, now_unix_s: u64) -> StatusView {
        let (kernel, kernel_error) = match kernel {
            Ok(k) => (Some(k), None),
            Err(e) => (None, Some(e)),
        };
        StatusView { agent_running: found.running, agent: found.status, kernel, kernel_error, now_unix_s }
    }

    fn ago(&self, unix_s: u64) -> String {
        format!("{} ago", duration(self.now_unix_s.saturating_sub(unix_s)))
    }

    fn agent_lines(&self, out: &mut Vec<String>) {
        let Some(agent) = &self.agent else {
            out.push(format!("agent: {}", if self.agent_running { "starting" } else { "not running" }));
            return;
        };
        out.push(if self.agent_running {
            let up = duration(self.now_unix_s.saturating_sub(agent.started_unix_s));
            let ready = if agent.ready { "ready" } else { "not ready" };
            format!("agent: running (pid {}, {ready}, up {up}), version {}", agent.pid, agent.version)
        } else {
            format!(
                "agent: not running (last seen {}); the datapath goes on without it",
                self.ago(agent.written_unix_s)
            )
        });
        out.push(format!("node: {}", agent.node));
        out.push(format!("nodePort addresses: {}", or_none(&agent.node_port_addresses.join(", "))));
        if let Some(what) = agent.source.get("description").and_then(|v| v.as_str()) {
            let connected = agent.source.get("connected").and_then(|v| v.as_bool()).unwrap_or(false);
            let state = if !self.agent_running {
                "unknown"
            } else if connected {
                "connected"
            } else {
                "not connected"
            };
            let error = agent.source.get("last_error").and_then(|v| v.as_str());
            let error = error.map(|e| format!("; last error: {e}")).unwrap_or_default();
            out.push(format!("source: {what} ({state}{error})"));
        }
        if let Some(sync) = &agent.last_sync {
            let how = if sync.complete { "complete" } else { "incomplete, will be retried" };
            out.push(format!(
                "last sync: {}, {how}, {} applied, {} failed, took {:.1} ms, snapshot {}",
                self.ago(sync.unix_s),
                sync.applied,
                sync.failed,
                sync.duration_us as f64 / 1000.0,
                sync.generation
            ));
        }
        if let Some(error) = &agent.last_error {
            out.push(format!("last error: {error}"));
        }
    }

    fn kernel_lines(&self, out: &mut Vec<String>) {
        match (&self.kernel, &self.kernel_error) {
            (Some(k), _) => {
                let state = if k.ready { "ready" } else { "not ready: all packets pass untouched" };
                let sync = if k.sync_unix_s == 0 {
                    "no complete sync yet".to_owned()
                } else {
                    format!("complete sync {} ({})", k.sync_generation, self.ago(u64::from(k.sync_unix_s)))
                };
                out.push(format!("datapath: {state}, {sync}"));
            }
            (None, error) => out.push(format!("datapath: {}", error.as_deref().unwrap_or("not installed"))),
        }
    }
}

fn or_none(s: &str) -> &str {
    if s.is_empty() { "none" } else { s }
}

impl Show for StatusView {
    fn text(&self) -> String {
        let mut out = Vec::new();
        self.agent_lines(&mut out);
        self.kernel_lines(&mut out);
        if let Some(agent) = self.agent.as_ref().filter(|a| !a.interfaces.is_empty()) {
            let mut t = table(&["INTERFACE", "INDEX", "ROLE", "HOOKS", "WHY"]);
            for i in &agent.interfaces {
                t.add_row([
                    i.name.clone(),
                    i.index.to_string(),
                    i.role.clone(),
                    or_none(&i.hooks).to_owned(),
                    i.reasons.join("\n"),
                ]);
            }
            out.push(String::new());
            out.push(lines(&t));
        }
        if let Some(kernel) = self.kernel.as_ref().filter(|k| !k.maps.is_empty()) {
            let mut programs = table(&["PROGRAM", "ID", "INTERFACE", "HOOK", "MODE", "LINK"]);
            for p in &kernel.programs {
                let name = self.agent.iter().flat_map(|a| &a.interfaces).find(|i| i.index == p.ifindex);
                let name = name.map_or_else(|| p.ifindex.to_string(), |i| i.name.clone());
                let name = if p.live { name } else { format!("{name} (gone)") };
                programs.add_row([
                    p.prog_name.clone(),
                    p.prog_id.to_string(),
                    name,
                    p.hook.clone(),
                    p.mode.clone(),
                    p.link_id.to_string(),
                ]);
            }
            out.push(String::new());
            out.push(lines(&programs));
            let mut t = table(&["MAP", "USED", "CAPACITY", "%"]);
            for m in &kernel.maps {
                let percent = if m.capacity == 0 { 0.0 } else { m.used as f64 * 100.0 / m.capacity as f64 };
                t.add_row([
                    m.name.clone(),
                    m.used.to_string(),
                    m.capacity.to_string(),
                    format!("{percent:.1}"),
                ]);
            }
            out.push(String::new());
            out.push(lines(&t));
        }
        if let Some(agent) = self.agent.as_ref().filter(|a| !a.problems.is_empty()) {
            out.push(String::new());
            out.push(format!("problems: {}", agent.problems.len()));
            for p in &agent.problems {
                let field = if p.field.is_empty() { String::new() } else { format!(" {}", p.field) };
                out.push(format!("  {}{field}: {}", p.object, p.message));
            }
        }
        out.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::{InterfaceStatus, ProblemStatus, SyncStatus};

    fn found(running: bool) -> Found {
        let status = Status {
            pid: 42,
            version: "0.1.0".into(),
            started_unix_s: 1_000,
            written_unix_s: 1_090,
            node: "n1".into(),
            ready: true,
            node_port_addresses: vec!["192.0.2.1".into()],
            interfaces: vec![InterfaceStatus {
                index: 2,
                name: "eth0".into(),
                role: "uplink".into(),
                hooks: "tc".into(),
                reasons: vec!["native XDP: a foreign program is attached".into()],
            }],
            last_sync: Some(SyncStatus {
                unix_s: 1_090,
                duration_us: 1_500,
                complete: true,
                ..Default::default()
            }),
            problems: vec![ProblemStatus {
                object: "Service default/bad".into(),
                field: "spec.ports[0].port".into(),
                message: "is 0".into(),
            }],
            ..Status::default()
        };
        Found { running, status: Some(status), ..Found::default() }
    }

    fn kernel() -> KernelView {
        let maps = vec![MapUse { name: "FW_SVC4".into(), used: 5, capacity: 10 }];
        KernelView { ready: true, sync_unix_s: 1_090, maps, ..KernelView::default() }
    }

    #[test]
    fn a_running_agent_shows_pid_interfaces_maps_and_problems() {
        let text = StatusView::new(found(true), Ok(kernel()), 1_100).text();
        for part in [
            "agent: running (pid 42, ready, up 1m 40s)",
            "last sync: 10s ago, complete",
            "native XDP: a foreign program is attached",
            "50.0",
            "Service default/bad spec.ports[0].port: is 0",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_dead_agent_is_called_dead_and_the_kernel_still_shows() {
        let text = StatusView::new(found(false), Ok(kernel()), 1_100).text();
        assert!(text.contains("agent: not running (last seen 10s ago)"), "{text}");
        assert!(text.contains("datapath: ready"), "{text}");
    }

    #[test]
    fn without_a_datapath_the_reason_shows() {
        let text = StatusView::new(Found::default(), Err("no pins in /x".into()), 0).text();
        assert_eq!(text, "agent: not running\ndatapath: no pins in /x");
    }
}
