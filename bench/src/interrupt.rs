//! Ctrl-C and SIGTERM: what the benchmark has made is removed before it ends.

use std::process::{exit, id};
use std::thread;

use anyhow::{Context, Result};
use lab::residue;
use tokio::signal::unix::{SignalKind, signal};

/// The exit status of a program that a signal ended.
const INTERRUPTED: i32 = 130;

/// Watches for signals from now on.
pub fn watch() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("watch signals")?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let waited = runtime.block_on(async {
            let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            std::io::Result::Ok(())
        });
        if waited.is_ok() {
            eprintln!("\ninterrupted: removing what was made");
            let own = format!("fw{}-", id());
            for run in residue::runs().iter().filter(|run| run.name().starts_with(&own)) {
                run.remove().iter().for_each(|failure| eprintln!("{failure}"));
            }
            exit(INTERRUPTED);
        }
    })?;
    Ok(())
}
