//! Ctrl-C as a flag that the demo looks at between and inside its steps.
//!
//! Only a flag: many threads here have open files of their own, so a handler that writes to a descriptor would
//! write to the wrong one. The step that sees it fails with [`Interrupted`], and what the demo made is removed
//! on the way out. A second signal ends the process at once; `cargo xtask lab clean` then removes the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit status of an interrupted demo, as shells count it.
pub const EXIT_STATUS: u8 = 130;

/// The demo was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Whether the demo was asked to end. Clones share the flag.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Begins to listen for SIGINT, SIGTERM and SIGHUP.
    pub fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag down and raises it, a second one finds it up.
            flag::register_conditional_shutdown(signal, i32::from(EXIT_STATUS), Arc::clone(&asked))
                .and_then(|_| flag::register(signal, Arc::clone(&asked)))
                .context("listen for signals")?;
        }
        Ok(Self(asked))
    }

    /// Whether it was asked.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails with [`Interrupted`] if it was asked.
    pub fn check(&self) -> Result<()> {
        if self.asked() { Err(Interrupted.into()) } else { Ok(()) }
    }
}
