//! What the agent as a whole can fail with, and whether trying again can help.

/// An error of the run loop. Everything after the start is retried; these end the process only at start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The datapath.
    #[error(transparent)]
    Datapath(#[from] crate::datapath::DatapathError),
    /// The source cannot be started.
    #[error(transparent)]
    Source(#[from] crate::sources::SourceError),
    /// The host's interfaces cannot be read.
    #[error(transparent)]
    Links(#[from] crate::node::LinkError),
    /// A file of the state directory.
    #[error("state file {path}: {source}")]
    State {
        /// The file.
        path: std::path::PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}
