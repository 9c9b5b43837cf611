//! Script tests: objects in, expected plan, maps and problems out.
//!
//! Every file of `tests/script/` runs once without faults (plans are compared then) and with 10 % and 30 % of all
//! map calls failing, some of them half-way, for several seeds; each sync is retried until it is complete. The
//! fake panics on any moment a packet could have met a broken state. `FAIRWAY_BLESS=1` rewrites expectations.

#[path = "script/format.rs"]
mod format;

use anyhow::{Context, Result, ensure};
use format::Statement;
use lb_common::SetRef;
use lb_common::service::SVC_ADDRESS;
use lb_user::apply::Syncer;
use lb_user::compile::keys::{entry_family, entry_state, frontend_family, frontend_text};
use lb_user::compile::{BackendKey, CompileOptions, compile};
use lb_user::model::{NodeView, Problem, World};
use lb_user::plan::{backend_text, diff, svc_text};
use lb_user::restore::restore;
use lb_user::tables::fake::{FakeTables, Faults};
use lb_user::tables::{Dump, LbTables};
use std::path::{Path, PathBuf};

/// A sync that fails more often than this does not converge.
const TRIES: usize = 300;

struct Run {
    world: World,
    node: NodeView,
    options: CompileOptions,
    tables: FakeTables,
    syncer: Syncer,
    percent: u32,
    seed: u64,
    plan: String,
    problems: Vec<Problem>,
}

impl Run {
    fn new(percent: u32, seed: u64) -> Run {
        let options = CompileOptions::default();
        Run {
            world: World::default(),
            node: NodeView { name: "n1".to_string(), ..NodeView::default() },
            options: options.clone(),
            tables: FakeTables::new(format::LIMITS),
            syncer: Syncer::new(options),
            percent,
            seed,
            plan: String::new(),
            problems: Vec::new(),
        }
    }

    fn sync(&mut self) -> Result<()> {
        let limits = self.tables.limits();
        let actual = self.syncer.actual().cloned().unwrap_or_else(|| restore(&self.tables.peek(), limits));
        let programmed = |key: &_| actual.is_programmed(key);
        let (desired, _) = compile(&self.world, &self.node, &limits, &self.options, &programmed);
        self.plan = diff(&actual, &desired).to_string();
        self.seed += 1;
        let mut numbers = fastrand::Rng::with_seed(self.seed);
        self.tables.set_faults(Faults::Percent(self.percent, Box::new(move || numbers.u32(..))));
        for _ in 0..TRIES {
            let report = self.syncer.sync(&self.world, &self.node, &mut self.tables, 1);
            self.problems = report.problems;
            if report.retry_after.is_none() {
                return Ok(());
            }
        }
        anyhow::bail!("no complete sync in {TRIES} tries: {:?}", self.problems)
    }

    fn execute(&mut self, statement: &Statement) -> Result<Option<String>> {
        match statement {
            Statement::Limits(limits) => self.tables = FakeTables::new(*limits),
            Statement::ExternalIpCidrs(cidrs) => {
                self.options.external_ip_cidrs = cidrs.clone();
                self.syncer = Syncer::new(self.options.clone());
            }
            Statement::Node(node) => self.node = node.clone(),
            Statement::Service(s) => drop(self.world.services.insert(s.clone())),
            Statement::Slice(s) => drop(self.world.slices.insert(s.clone())),
            Statement::DeleteService(key) => {
                drop(self.world.services.remove(key).context("no such service")?)
            }
            Statement::DeleteSlice(key) => drop(self.world.slices.remove(key).context("no such slice")?),
            Statement::Sync => self.sync()?,
            Statement::SyncFailing => {
                self.tables.set_faults(Faults::EveryNth(1));
                let report = self.syncer.sync(&self.world, &self.node, &mut self.tables, 1);
                ensure!(report.error.is_some(), "every call failed, and yet the sync did not");
            }
            Statement::Restart => self.syncer = Syncer::new(self.options.clone()),
            Statement::Expect { what, .. } => {
                return Ok(Some(match what.as_str() {
                    "plan" => self.plan.clone(),
                    "maps" => text_of(&self.tables.peek()),
                    "problems" => self
                        .problems
                        .iter()
                        .map(|p| format!("{} {}: {}\n", p.object, p.field, p.message))
                        .collect(),
                    other => anyhow::bail!("nothing called {other} can be expected"),
                }));
            }
        }
        Ok(None)
    }
}

/// The maps in words. Offsets are left out: where a set lies depends on the faults, what it holds does not.
fn text_of(dump: &Dump) -> String {
    let mut lines = Vec::new();
    for (key, svc) in &dump.frontends {
        if svc.flags & SVC_ADDRESS != 0 {
            lines.push(format!("{} {}\n", frontend_text(key), svc_text(svc)));
            continue;
        }
        let family = frontend_family(key);
        let name = |id: &u32| {
            let mut found = dump.backends.iter().filter(|(i, e)| i == id && entry_family(e) == family);
            let key = found.next().and_then(|(_, e)| BackendKey::of_entry(e));
            key.map_or_else(|| format!("?{id}"), |k| std::net::SocketAddr::new(k.addr, k.port).to_string())
        };
        let members = |s: SetRef| {
            let ids = &dump.slots[s.offset as usize..(s.offset + s.count) as usize];
            ids.iter().map(name).collect::<Vec<_>>().join(" ")
        };
        let head = svc_text(svc);
        let head = head.split(" cluster=").next().unwrap_or_default();
        let (cluster, local) = (members(svc.sets[0]), members(svc.sets[1]));
        let ranges: Vec<String> = dump
            .ranges
            .iter()
            .filter(|(id, _)| *id == svc.ranges_id)
            .map(|(_, network)| network.to_string())
            .collect();
        let from = if svc.ranges_id == 0 { String::new() } else { format!(" from=[{}]", ranges.join(" ")) };
        let head = head.split(" ranges=").next().unwrap_or_default();
        lines.push(format!("{} {head}{from} cluster=[{cluster}] local=[{local}]\n", frontend_text(key)));
    }
    let mut backends: Vec<_> = dump.backends.iter().collect();
    backends.sort_by_key(|(id, e)| (entry_family(e), *id));
    for (id, entry) in backends.into_iter().filter(|(_, e)| entry_state(e).1 != 0) {
        lines.push(format!("backend {id} {}\n", backend_text(entry)));
    }
    lines.concat()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/script")
}

fn run(name: &str) -> Result<()> {
    let path = directory().join(name).with_extension("txt");
    let script = std::fs::read_to_string(&path)?;
    let statements = format::parse(&script).with_context(|| name.to_string())?;
    if std::env::var_os("FAIRWAY_BLESS").is_some() {
        std::fs::write(&path, bless(&script, &statements)?)?;
        return Ok(());
    }
    for (percent, seed) in
        [(0, 0)].into_iter().chain((1..=10).flat_map(|seed| [(10, seed * 1000), (30, seed * 7000)]))
    {
        let mut run = Run::new(percent, seed);
        for statement in &statements {
            let got = run.execute(statement)?;
            let (Some(got), Statement::Expect { what, text, line }) = (got, statement) else { continue };
            if what != "plan" || percent == 0 {
                assert_eq!(&got, text, "{name}.txt:{}: {what}, {percent} % faults, seed {seed}", line + 1);
            }
        }
    }
    Ok(())
}

/// The script with what was seen in place of what was expected.
fn bless(script: &str, statements: &[Statement]) -> Result<String> {
    let mut seen = std::collections::BTreeMap::new();
    let mut run = Run::new(0, 0);
    for statement in statements {
        if let (Some(got), Statement::Expect { line, .. }) = (run.execute(statement)?, statement) {
            seen.insert(*line, got);
        }
    }
    let mut out = String::new();
    for (line, text) in script.lines().enumerate().filter(|(_, text)| !text.starts_with('|')) {
        out.push_str(&format!("{text}\n"));
        seen.get(&line)
            .into_iter()
            .flat_map(|got| got.lines())
            .for_each(|got| out.push_str(&format!("| {got}\n")));
    }
    Ok(out)
}

macro_rules! scripts {
    ($($test:ident = $file:literal;)*) => {
        $(#[test] fn $test() -> Result<()> { run($file) })*

        #[test]
        fn every_script_is_run() -> Result<()> {
            let known = [$($file),*];
            for entry in std::fs::read_dir(directory())? {
                let path = entry?.path();
                if path.extension().is_some_and(|e| e == "txt") {
                    let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default().to_string();
                    ensure!(known.contains(&name.as_str()), "{name} is in no test");
                }
            }
            Ok(())
        }
    };
}

scripts! {
    graceful_termination = "graceful-termination";
    prune_deleted_on_restart = "prune-deleted-on-restart";
    delete_before_success = "delete-before-success";
    scale_to_zero = "scale-to-zero";
    name_collisions = "name-collisions";
    restore_terminating_backend = "restore-terminating-backend";
    multiple_slices = "multiple-slices";
    frontends_swap = "frontends-swap";
    terminating_fallback = "terminating-fallback";
    local_policy = "local-policy";
    topology_hints = "topology-hints";
    capacity_overflow_and_recovery = "capacity-overflow-and-recovery";
    two_protocols_one_port = "two-protocols-one-port";
    full_replacement = "full-replacement";
    source_ranges = "source-ranges";
    source_ranges_capacity = "source-ranges-capacity";
    external_ips = "external-ips";
    addresses_collide = "addresses-collide";
    service_addresses = "service-addresses";
    families = "families";
    type_changes = "type-changes";
    policy_flips = "policy-flips";
    unready_never = "unready-never";
}
