//! What the agent learns and does through netlink, with real traffic: XDP redirects between uplinks, and sockets whose
//! backend is gone.

mod redirect;
mod sockets;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Longer than any change may take to arrive, on a busy machine too.
pub const DEADLINE: Duration = Duration::from_secs(20);
const NODE_PORT: u16 = 30080;

/// Waits until `done`.
pub fn eventually(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while !done()? {
        ensure!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
    }
    Ok(())
}
