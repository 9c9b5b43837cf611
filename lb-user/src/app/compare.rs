//! When the maps are to be compared with the cluster although nothing changed.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// A clock that may be switched off.
#[derive(Debug)]
pub(super) struct Compare(Option<Interval>);

impl Compare {
    /// Due for the first time after `seconds`; 0 = never.
    pub(super) fn every(seconds: u32) -> Compare {
        let period = Duration::from_secs(seconds.into());
        Compare((seconds != 0).then(|| {
            let mut interval = interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits until it is.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                let _at = interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
