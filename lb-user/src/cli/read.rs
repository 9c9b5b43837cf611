//! Fetches what the views show: from the pinned maps, and from the state directory for names.

use std::path::PathBuf;

use super::{Output, Show, drops, flows, render, services, status};
use crate::app::unix_s;
use crate::config::PathArgs;
use crate::datapath::{DatapathError, Viewer};
use crate::hostcheck::leftovers;
use crate::telemetry::status as state;
use lb_common::Reason;
use lb_common::reason::COUNTERS_LEN;

/// A reading subcommand that could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The maps.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The output.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Asked for readiness, and there is none.
    #[error("not ready")]
    NotReady,
}

/// What the reading subcommands have in common.
#[derive(Clone, Debug, clap::Args)]
pub struct ReadArgs {
    /// Paths.
    #[command(flatten)]
    pub paths: PathArgs,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

impl ReadArgs {
    fn viewer(&self) -> Result<Viewer, DatapathError> {
        Viewer::open(&self.paths.bpffs)
    }

    fn show(&self, view: &impl Show) -> Result<String, ReadError> {
        Ok(render(view, self.output)?)
    }
}

/// `fairway services [NAME]`.
pub fn services(args: &ReadArgs, name: Option<&str>) -> Result<String, ReadError> {
    let names = state::read(&args.paths.state_dir).names;
    args.show(&services::view(&args.viewer()?.dump()?, &names, name))
}

/// `fairway flows`.
pub fn flows(args: &ReadArgs, filters: &flows::Filters) -> Result<String, ReadError> {
    let viewer = args.viewer()?;
    let (now, mut view) = (viewer.now_tick()?, flows::FlowsView::default());
    viewer.for_each_flow4(|_, flow| view.add([*flow], filters, now))?;
    viewer.for_each_flow6(|_, flow| view.add([*flow], filters, now))?;
    args.show(&view)
}

/// `fairway drops`.
pub fn drops(args: &ReadArgs, all: bool) -> Result<String, ReadError> {
    let mut counters = vec![0; COUNTERS_LEN as usize];
    for c in args.viewer()?.counters()? {
        counters[(c.hook as u32 * Reason::COUNT + c.reason as u32) as usize] = c.count;
    }
    args.show(&drops::view(&counters, all))
}

fn kernel_view(viewer: &Viewer) -> Result<status::KernelView, DatapathError> {
    let config = viewer.config()?;
    let programs = viewer.attached()?;
    Ok(status::KernelView {
        ready: config.ready != 0,
        sync_generation: config.sync_generation,
        sync_unix_s: config.sync_unix_s,
        maps: viewer
            .usage()?
            .into_iter()
            .map(|m| status::MapUse {
                name: m.map.to_owned(),
                used: m.used.into(),
                capacity: m.capacity.into(),
            })
            .collect(),
        programs: programs
            .into_iter()
            .map(|p| status::ProgramUse {
                ifindex: p.ifindex,
                hook: p.hook.to_owned(),
                mode: p.mode.to_owned(),
                prog_id: p.prog_id,
                prog_name: p.prog_name,
                link_id: p.link_id,
                live: p.live,
            })
            .collect(),
    })
}

/// `fairway status`. With `need_ready`, fails unless an agent runs and has completed its first sync.
pub fn status(args: &ReadArgs, need_ready: bool) -> Result<String, ReadError> {
    let found = state::read(&args.paths.state_dir);
    if need_ready && !(found.running && found.status.as_ref().is_some_and(|s| s.ready)) {
        return Err(ReadError::NotReady);
    }
    let kernel = args.viewer().and_then(|v| kernel_view(&v)).map_err(|e| e.to_string());
    args.show(&status::StatusView::new(found, kernel, unix_s()))
}

/// `fairway cleanup`: what was removed, one thing per line.
pub fn cleanup(paths: &PathArgs, force: bool) -> Result<String, CleanupError> {
    let mut removed = crate::datapath::cleanup(&paths.bpffs, &paths.state_dir, force)?;
    let files: Vec<PathBuf> = state::remove(&paths.state_dir, force)?;
    removed.extend(files.iter().map(|f| f.display().to_string()));
    Ok(said(&removed))
}

/// `fairway cleanup --kube-proxy`: likewise.
pub fn cleanup_kube_proxy() -> Result<String, leftovers::RemoveError> {
    leftovers::remove().map(|removed| said(&removed))
}

fn said(removed: &[String]) -> String {
    match removed {
        [] => "nothing to remove".to_owned(),
        list => list.iter().map(|what| format!("removed {what}")).collect::<Vec<_>>().join("\n"),
    }
}

/// `fairway cleanup` that could not finish.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The datapath.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] crate::error::AppError),
}
