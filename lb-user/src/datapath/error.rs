//! What can go wrong with the datapath, in words for the person who runs the agent.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use super::pins::Mismatch;
use super::sys::SysError;

/// A datapath operation that failed. Unless the text says otherwise, what was attached before still is.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The build has no kernel object in it.
    #[error("built without the kernel object; use cargo xtask build")]
    NoObject,
    /// The kernel object is not usable.
    #[error("the kernel object is unusable: {0}")]
    Object(String),
    /// Another agent (or a cleanup) is at work.
    #[error("another fairway agent holds {}{who}", path.display())]
    Locked {
        /// What it holds.
        path: PathBuf,
        /// Its process, if known.
        who: String,
    },
    /// No BPF file system.
    #[error("BPF file system {}: {message}", path.display())]
    Bpffs {
        /// Where it was wanted.
        path: PathBuf,
        /// Why there is none.
        message: String,
    },
    /// A directory that others may write or read.
    #[error("refusing to use {}: {message}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Pinned maps have another layout.
    #[error(
        "the pinned maps have another layout and are left untouched: {}; remove them with `fairway cleanup`",
        join(.0)
    )]
    Schema(Vec<Mismatch>),
    /// Pinned maps have another capacity.
    #[error(
        "the pinned maps have other sizes than configured and are left untouched: {}; \
         start with the old sizes, or remove the maps (and every flow) with `fairway cleanup`",
        join(.0)
    )]
    Resize(Vec<Mismatch>),
    /// The kernel refused a program.
    #[error("the kernel refused program {program}: {reason}\n{excerpt}\n(full verifier log: {})", log.display())]
    Verifier {
        /// The program.
        program: String,
        /// The kernel's errno in words.
        reason: String,
        /// The end of the verifier's log.
        excerpt: String,
        /// The file with all of it.
        log: PathBuf,
    },
    /// Nothing is pinned: no agent has run here.
    #[error("no pinned maps in {}: has `fairway run` been started on this node?{other}", path.display())]
    NotPinned {
        /// Where they were looked for.
        path: PathBuf,
        /// A hint about other versions' pins.
        other: String,
    },
    /// A bpf(2) call failed.
    #[error("{what}: {source}")]
    Kernel {
        /// What it was for.
        what: String,
        /// The failure.
        source: SysError,
    },
    /// A file operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
}

impl DatapathError {
    /// A failed bpf(2) call.
    pub fn kernel(what: impl Display, source: SysError) -> Self {
        DatapathError::Kernel { what: what.to_string(), source }
    }

    /// A failed file operation.
    pub fn io(path: &Path, source: io::Error) -> Self {
        DatapathError::Io { path: path.to_owned(), source }
    }
}

fn join(mismatches: &[Mismatch]) -> String {
    mismatches.iter().map(Mismatch::to_string).collect::<Vec<_>>().join("; ")
}
