//! Finding a compiler for the datapath.
//!
//! Two kinds of machine work. With **rustup**: a nightly toolchain with the `rust-src` component. With
//! **Debian**'s packages: `/usr/bin/rustc` and `/usr/bin/cargo` of one release with the library's source
//! beside them; that is a release compiler, so it needs `RUSTC_BOOTSTRAP=1`. Either needs `bpf-linker`, whose
//! LLVM must be at least as new as the compiler's.
//!
//! Here things are only looked for; [`crate::provision`] installs.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use semver::Version;

use crate::shell;

/// The oldest compiler that takes the datapath's sources.
pub const OLDEST_RUSTC: Version = Version::new(1, 90, 0);
/// The oldest bpf-linker known to make an object that loads.
pub const OLDEST_LINKER: Version = Version::new(0, 13, 0);

/// Where a compiler came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A nightly toolchain of rustup's.
    Rustup,
    /// The packages rustc-web, cargo-web and rust-web-src.
    Debian,
}

/// A compiler with cargo and the library's source, without the linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    kind: Kind,
    bin: PathBuf,
    version: Version,
    llvm_major: u64,
}

/// Everything that compiling the datapath takes.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The program bpf-linker.
    pub linker: PathBuf,
}

impl Compiler {
    /// The first that works: rustup's nightly, then Debian's packages.
    pub fn find() -> Option<Self> {
        Self::of_rustup().or_else(Self::of_debian)
    }

    /// A nightly toolchain with `rust-src`.
    pub fn of_rustup() -> Option<Self> {
        let list = shell::ask(rustup().args(["toolchain", "list"]))?;
        nightlies(&list).find_map(|toolchain| {
            let rustc = shell::ask(rustup().args(["which", "--toolchain", toolchain, "rustc"]))?;
            Self::at(Kind::Rustup, Path::new(rustc.trim()).parent()?)
        })
    }

    /// The compiler of Debian's packages.
    pub fn of_debian() -> Option<Self> {
        Self::at(Kind::Debian, Path::new("/usr/bin"))
    }

    fn at(kind: Kind, bin: &Path) -> Option<Self> {
        let about = shell::ask(isolated(&mut Command::new(bin.join("rustc"))).arg("-vV"))?;
        let version = Version::parse(field(&about, "release")?).ok()?;
        let llvm_major = field(&about, "LLVM version")?.split('.').next()?.parse().ok()?;
        let sysroot =
            shell::ask(isolated(&mut Command::new(bin.join("rustc"))).args(["--print", "sysroot"]))?;
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        let complete = source.is_file() && bin.join("cargo").is_file();
        let recent = (version.major, version.minor) >= (OLDEST_RUSTC.major, OLDEST_RUSTC.minor);
        (complete && recent).then(|| Self { kind, bin: bin.to_owned(), version, llvm_major })
    }

    /// The major version of the LLVM inside.
    pub fn llvm_major(&self) -> u64 {
        self.llvm_major
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Rustup => "rustup's nightly",
            Kind::Debian => "Debian's",
        };
        write!(f, "{kind} rustc {} (LLVM {}) in {}", self.version, self.llvm_major, self.bin.display())
    }
}

impl Toolchain {
    /// This toolchain's cargo, cut off from the toolchain that runs xtask.
    ///
    /// `PATH` starts with the compiler's directory and no variable of the outer cargo, rustc or rustup is
    /// left, or cargo would call back into rustup.
    pub fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut command = Command::new(self.compiler.bin.join("cargo"));
        isolated(&mut command);
        command
            .arg(subcommand)
            .env("PATH", path_starting_with(&self.compiler.bin)?)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        if self.compiler.kind == Kind::Debian {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        Ok(command)
    }
}

/// The newest-enough bpf-linker on the path or in cargo's bin directory.
pub fn find_linker() -> Option<PathBuf> {
    let installed = cargo_home().map(|home| home.join("bin/bpf-linker")).filter(|linker| linker.is_file());
    shell::find_program("bpf-linker").into_iter().chain(installed).find(|linker| {
        let answer = shell::ask(Command::new(linker).arg("--version"));
        answer.and_then(|text| linker_version(&text)).is_some_and(|version| version >= OLDEST_LINKER)
    })
}

fn cargo_home() -> Option<PathBuf> {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}

fn linker_version(answer: &str) -> Option<Version> {
    Version::parse(answer.trim().strip_prefix("bpf-linker ")?.split_whitespace().next()?).ok()
}

/// rustup, told never to install a toolchain by itself.
fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0").env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn nightlies(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| name.starts_with("nightly"))
}

fn field<'a>(about: &'a str, name: &str) -> Option<&'a str> {
    about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

/// Takes away what an outer cargo, rustc or rustup put into the environment.
fn isolated(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_outer_build) {
            command.env_remove(name);
        }
    }
    command
}

fn belongs_to_outer_build(name: &str) -> bool {
    const NAMES: &[&str] = &["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTDOCFLAGS", "LD_LIBRARY_PATH"];
    // CARGO_HOME, CARGO_NET_*, CARGO_HTTP_*, CARGO_REGISTRIES_* and CARGO_TERM_* are the user's settings.
    const PREFIXES: &[&str] = &[
        "CARGO_BIN_",
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_CRATE_",
        "CARGO_ENCODED_",
        "CARGO_FEATURE_",
        "CARGO_INCREMENTAL",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PRIMARY_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
        "RUSTC_",
        "RUSTUP_TOOLCHAIN",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn path_starting_with(first: &Path) -> Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(first.to_owned()).chain(env::split_paths(&rest));
    let path = env::join_paths(dirs).context("PATH cannot be extended")?;
    if path.is_empty() {
        bail!("PATH is empty");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nightly_is_tried_and_no_other_toolchain() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\nnightly-x86_64-unknown-linux-gnu\n\
                    nightly-2026-05-20-x86_64-unknown-linux-gnu\n1.95.0-x86_64-unknown-linux-gnu\n";
        assert_eq!(
            nightlies(list).collect::<Vec<_>>(),
            ["nightly-x86_64-unknown-linux-gnu", "nightly-2026-05-20-x86_64-unknown-linux-gnu"]
        );
        assert_eq!(nightlies("no installed toolchains\n").count(), 0);
    }

    #[test]
    fn rustc_tells_its_release_and_llvm() {
        let about =
            "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(field(about, "release"), Some("1.96.0"));
        assert_eq!(field(about, "LLVM version"), Some("22.1.8"));
        assert_eq!(field(about, "host"), None);
    }

    #[test]
    fn a_linker_tells_its_version() {
        assert_eq!(linker_version("bpf-linker 0.13.0\n"), Some(Version::new(0, 13, 0)));
        assert_eq!(linker_version("something else"), None);
    }

    #[test]
    fn the_outer_build_is_forgotten_and_the_users_settings_are_kept() {
        for name in
            ["CARGO", "RUSTC", "RUSTC_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO_PKG_NAME", "CARGO_TARGET_DIR"]
        {
            assert!(belongs_to_outer_build(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_TERM_COLOR", "RUSTUP_HOME", "HOME"] {
            assert!(!belongs_to_outer_build(name), "{name}");
        }
    }

    #[test]
    fn a_directory_without_a_compiler_is_no_toolchain() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Compiler::at(Kind::Debian, empty.path()), None);
    }
}
