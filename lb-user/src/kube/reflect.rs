//! Four watches, one store, one stream of snapshots.
//!
//! Services and EndpointSlices are filtered by label on the server (spec O1, O2), the own Node by name (O5);
//! ServiceCIDRs (O6) may be absent from the API, which then counts as an empty list and is asked again rarely. Errors
//! never end a watch: they go to the status, and the watch goes on after a growing pause. "410 Gone" means a new list,
//! which replaces what is known of that kind in one step.

use std::time::{Duration, Instant};

use ::kube::runtime::WatchStreamExt;
use ::kube::runtime::utils::Backoff;
use ::kube::runtime::watcher::{self, Event, watcher};
use ::kube::{Api, Client, Error as ClientError};
use backon::BackoffBuilder;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::connect::{self, KubeSource, WATCH_TIMEOUT_S, chain};
use super::convert::Selection;
use super::raw::{Kind, RawObject};
use super::store::Store;
use super::tally::Tally;
use crate::sources::publish::{Publisher, StatusBoard};
use crate::sources::{SourceError, SourceHandle};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// After so long without an error the pauses begin again with the first.
const PAUSE_RESET: Duration = Duration::from_secs(60);
/// Events between watches and store; a full channel only slows the reading.
const QUEUE: usize = 1024;

/// An API that lacks a kind is not upgraded every minute.
const ABSENT_PAUSE: Duration = Duration::from_secs(300);

/// From a watch to the store: an event, or the code of the answer by which the API said that it lacks the kind.
type Message = (Kind, Result<Event<RawObject>, u16>);

/// Starts watching; returns as soon as the configuration is understood, whether or not the API can be reached.
pub async fn start(source: KubeSource) -> Result<SourceHandle, SourceError> {
    let config = source.config().await?;
    let url = config.cluster_url.to_string();
    let (board, status) = StatusBoard::new(format!("Kubernetes API {url}"), Kind::ALL.len());
    let client = connect::client(config, board.clone())?;
    let selection = Selection { service_proxy_name: source.service_proxy_name.clone() };
    info!(url, node = source.node_name, selector = selection.label_selector(), "watching the Kubernetes API");

    let (publisher, snapshots) = Publisher::new();
    let (sender, receiver) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    for kind in Kind::ALL {
        let config = watcher::Config::default().timeout(WATCH_TIMEOUT_S);
        let config = match kind {
            Kind::Services | Kind::Slices => config.labels(&selection.label_selector()),
            Kind::Nodes => config.fields(&format!("metadata.name={}", source.node_name)),
            Kind::ServiceCidrs => config,
        };
        let follower = Follower {
            kind,
            config,
            board: board.clone(),
            sender: sender.clone(),
            absent_pause: source.absent_pause.unwrap_or(ABSENT_PAUSE),
        };
        tasks.spawn(follower.follow(client.clone()));
    }
    drop(sender);
    let changes = publisher.log();
    tasks.spawn(keep(Store::new(selection), publisher, receiver));
    Ok(SourceHandle::new(snapshots, status, tasks).with_changes(changes))
}

/// Watches one kind.
struct Follower {
    kind: Kind,
    config: watcher::Config,
    board: StatusBoard,
    sender: mpsc::Sender<Message>,
    absent_pause: Duration,
}

/// Why a watcher has to begin anew.
enum Ended {
    /// The version it asks for is gone for good.
    Lost,
    /// The API does not have the kind: the code of its answer.
    Absent(u16),
    /// Nobody listens any more.
    Unheard,
}

impl Follower {
    /// Watches until nobody listens.
    async fn follow(self, client: Client) {
        let mut pauses = Pauses::default();
        let mut told = None;
        loop {
            let pause = match self.watch(&client).await {
                Ended::Unheard => return,
                // The server answers, only the version is lost: begin again with a list, and not after a pause that an
                // outage has made long. (The watcher would even ask for a version lost at the start for ever.)
                Ended::Lost => pauses.next().unwrap_or(LONGEST_PAUSE),
                Ended::Absent(code) => {
                    if told.replace(code) != Some(code) {
                        info!(kind = self.kind.plural(), code, "not offered by the API; going on without");
                    }
                    if self.sender.send((self.kind, Err(code))).await.is_err() {
                        return;
                    }
                    self.absent_pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One watcher, for as long as it can go on.
    async fn watch(&self, client: &Client) -> Ended {
        let api: Api<RawObject> = Api::all_with(client.clone(), &self.kind);
        let mut events = watcher(api, self.config.clone()).backoff(Pauses::default()).boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // `Init` says only that a list will be tried.
                    if !matches!(event, Event::Init) {
                        self.board.ok(self.kind.index());
                    }
                    if self.sender.send((self.kind, Ok(event))).await.is_err() {
                        return Ended::Unheard;
                    }
                }
                Err(error) => {
                    if let Some(code) = http_code(&error).filter(|code| self.kind.does_without(*code)) {
                        return Ended::Absent(code);
                    }
                    self.report(&error);
                    if is_gone(&error) {
                        return Ended::Lost;
                    }
                }
            }
        }
        Ended::Lost
    }

    fn report(&self, error: &watcher::Error) {
        let text = format!("{}: {}", self.kind.plural(), chain(error));
        warn!(kind = self.kind.plural(), error = text, "the watch was interrupted");
        self.board.failed(self.kind.index(), text);
    }
}

/// The code of an answer to a list or to the start of a watch.
fn http_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(ClientError::Api(status))
        | watcher::Error::WatchStartFailed(ClientError::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// "410 Gone", at the start of a watch or in its stream.
fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(ClientError::Api(status)) | watcher::Error::WatchError(status) => {
            status.code == 410
        }
        _ => false,
    }
}

/// Keeps the store and publishes.
async fn keep(mut store: Store, mut publisher: Publisher, mut receiver: mpsc::Receiver<Message>) {
    let mut ready = false;
    let mut tally = Tally::begin();
    loop {
        let due = publisher.due().filter(|_| ready);
        tokio::select! {
            message = receiver.recv() => {
                let changed = match message {
                    Some((kind, Ok(event))) => {
                        let seen = tally.look(kind, &event);
                        let changed = store.take(kind, event);
                        if changed {
                            tally.add(kind, seen, publisher.changes());
                        }
                        changed
                    }
                    Some((kind, Err(code))) => store.absent(kind, code),
                    None => return,
                };
                if changed {
                    publisher.mark_dirty();
                }
                ready = ready || store.is_complete();
            }
            () = until(due) => {
                if let Some((world, problems)) = store.world() {
                    publisher.publish(world, problems);
                }
            }
        }
    }
}

/// Waits until `due`; for ever if there is nothing due.
async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Growing pauses with jitter that begin anew only after a quiet time, not with the first success: a list that
/// fails half-way again and again is no success.
struct Pauses {
    pauses: backon::ExponentialBackoff,
    last: Option<Instant>,
}

impl Pauses {
    fn fresh() -> backon::ExponentialBackoff {
        backon::ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times()
            .build()
    }
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses { pauses: Pauses::fresh(), last: None }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > PAUSE_RESET) {
            self.pauses = Pauses::fresh();
        }
        self.last = Some(Instant::now());
        self.pauses.next()
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {}
}
