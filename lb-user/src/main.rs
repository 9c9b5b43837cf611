//! The `fairway` binary: the command line, signals and exit codes; everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lb_user::app;
use lb_user::cli::flows::Filters;
use lb_user::cli::read::{self, ReadArgs};
use lb_user::config::{PathArgs, RunArgs};
use lb_user::telemetry::log;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// A Kubernetes Service load balancer in eBPF.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent; it leaves the datapath in place when it ends
    Run(Box<RunArgs>),
    /// Show agent, interfaces, map use and problems
    Status {
        #[command(flatten)]
        read: ReadArgs,
        /// Fail unless an agent runs and is ready
        #[arg(long)]
        ready: bool,
    },
    /// Show frontends and backends as the kernel has them
    Services {
        /// A Service (NAME or NAMESPACE/NAME) or a frontend's address
        name: Option<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Show flows
    Flows {
        #[command(flatten)]
        filters: Filters,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Show how packets ended, by reason and hook
    Drops {
        /// Show reasons that never happened, too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Remove programs, maps and state of every version, and say what was removed
    Cleanup {
        #[command(flatten)]
        paths: PathArgs,
        /// Even while an agent runs
        #[arg(long)]
        force: bool,
        /// Remove what kube-proxy left on this node, and nothing of Fairway's
        #[arg(long, conflicts_with = "force")]
        kube_proxy: bool,
    },
}

fn main() -> ExitCode {
    let text = match Cli::parse().command {
        Command::Run(args) => run(*args).map(|()| String::new()),
        Command::Status { read, ready } => read::status(&read, ready).map_err(Into::into),
        Command::Services { name, read } => read::services(&read, name.as_deref()).map_err(Into::into),
        Command::Flows { filters, read } => read::flows(&read, &filters).map_err(Into::into),
        Command::Drops { all, read } => read::drops(&read, all).map_err(Into::into),
        Command::Cleanup { kube_proxy: true, .. } => read::cleanup_kube_proxy().map_err(Into::into),
        Command::Cleanup { paths, force, .. } => read::cleanup(&paths, force).map_err(Into::into),
    };
    match text {
        Ok(text) if text.is_empty() => ExitCode::SUCCESS,
        // A closed pipe is the reader's choice, not an error.
        Ok(text) => match writeln!(std::io::stdout().lock(), "{text}") {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        },
        Err(error) => {
            eprintln!("fairway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    let host = gethostname::gethostname();
    let config = args.into_config(&host.to_string_lossy())?;
    log::start(config.log_format);
    info!(version = env!("CARGO_PKG_VERSION"), config = %serde_json::to_string(&config)?, "fairway starts");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        app::start(config, shutdown).await.map_err(anyhow::Error::from)
    });
    // Tasks that still wait for the network must not hold the exit up.
    runtime.shutdown_background();
    result
}
