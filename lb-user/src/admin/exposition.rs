//! The text of `/metrics`: what the agent recorded, the agent's view of itself, and what the kernel counts now.
//!
//! The kernel's part is read at every scrape. Counting the entries of whole maps costs some milliseconds, so that
//! part is kept for a moment. A kernel that cannot be read leaves its metrics out and says so in one.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::kernel::{Census, KernelReading};
use super::view::AgentView;
use crate::datapath::{DatapathError, Viewer};
use crate::sources::changes::ChangeLog;
use crate::telemetry::metrics::Metrics;

/// How long the census of the maps is used.
const CENSUS_LIFE: Duration = Duration::from_secs(10);

/// Everything that `/metrics` shows.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
    metrics: Metrics,
    changes: ChangeLog,
    kernel: Arc<Mutex<Kernel>>,
}

/// What was read from the kernel.
#[derive(Debug)]
struct Kernel {
    bpffs: PathBuf,
    reading: Option<KernelReading>,
    census: Option<(Instant, Census)>,
}

impl Exposition {
    /// Shows `registry`, `view`, and the kernel behind the pins below `bpffs`.
    pub fn new(
        mut registry: Registry,
        metrics: Metrics,
        changes: ChangeLog,
        view: watch::Receiver<AgentView>,
        bpffs: PathBuf,
    ) -> Exposition {
        let kernel = Arc::new(Mutex::new(Kernel { bpffs, reading: None, census: None }));
        registry.register_collector(Box::new(Shown { kernel: kernel.clone(), view }));
        Exposition { registry, metrics, changes, kernel }
    }

    /// Reads the kernel and writes everything in the OpenMetrics text format. Blocks for some milliseconds.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let (services, slices) = self.changes.pending();
        self.metrics.service_changes_pending.set(services.cast_signed());
        self.metrics.endpoint_changes_pending.set(slices.cast_signed());
        lock(&self.kernel).read();
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn lock(kernel: &Mutex<Kernel>) -> std::sync::MutexGuard<'_, Kernel> {
    // A reading is replaced as a whole.
    kernel.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel {
    fn read(&mut self) {
        match self.try_read() {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, "the kernel's counters cannot be read");
                (self.reading, self.census) = (None, None);
            }
        }
    }

    fn try_read(&mut self) -> Result<(), DatapathError> {
        let viewer = Viewer::open(&self.bpffs)?;
        self.reading = Some(KernelReading::read(&viewer)?);
        if self.census.as_ref().is_none_or(|(taken, _)| taken.elapsed() >= CENSUS_LIFE) {
            self.census = Some((Instant::now(), Census::take(&viewer)?));
        }
        Ok(())
    }
}

/// Shows the last reading and the view.
#[derive(Debug)]
struct Shown {
    kernel: Arc<Mutex<Kernel>>,
    view: watch::Receiver<AgentView>,
}

/// One sample: its labels and its value.
pub(super) type Sample = (Vec<(&'static str, String)>, u64);

/// Writes a family of counters or gauges.
pub(super) fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    samples: impl IntoIterator<Item = Sample>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        match kind {
            MetricType::Counter => {
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
            _ => ConstGauge::new(value.cast_signed()).encode(family.encode_family(&labels)?)?,
        }
    }
    Ok(())
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.view.borrow().clone();
        let by = |label: &'static str, counts: &std::collections::BTreeMap<String, u64>| -> Vec<Sample> {
            counts.iter().map(|(name, n)| (vec![(label, name.clone())], *n)).collect()
        };
        let encoder = &mut encoder;
        let gauge = MetricType::Gauge;
        let one = |value: bool| vec![(vec![], u64::from(value))];
        family(encoder, "fairway_ready", "The first sync is complete", gauge, one(view.ready))?;
        let help = "Everything that is read can be reached";
        family(encoder, "fairway_source_connected", help, gauge, one(view.source_connected))?;
        let help = "Problems with objects, by kind";
        family(encoder, "fairway_problems", help, gauge, by("kind", &view.problems))?;
        let help = "Interfaces that carry programs, by role";
        family(encoder, "fairway_interfaces", help, gauge, by("role", &view.interfaces))?;
        let kernel = lock(&self.kernel);
        let help = "The kernel's maps can be read";
        family(encoder, "fairway_datapath_readable", help, gauge, one(kernel.reading.is_some()))?;
        if let Some(reading) = &kernel.reading {
            reading.encode(encoder)?;
        }
        if let Some((_, census)) = &kernel.census {
            census.encode(encoder)?;
        }
        Ok(())
    }
}
