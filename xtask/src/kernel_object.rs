//! Compiling the datapath into one BPF object.
//!
//! In: the crate `lb-ebpf` and an eBPF toolchain. Out: `bpf/fairway-bpf.o` under cargo's target directory,
//! rewritten only when its bytes change, so that cargo embeds it anew only then. The compiler works in
//! `bpf-build` beside it: two compilers of different versions must not share a target directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{provision, shell, workspace::Workspace};

const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "bpf";

/// A package with kernel programs and the binary they are linked into.
struct Source {
    package: &'static str,
    program: &'static str,
    title: &'static str,
}

const DATAPATH: Source =
    Source { package: "lb-ebpf", program: "fairway-bpf", title: "Compiling the datapath for the kernel" };
const BENCH: Source = Source {
    package: "bench-ebpf",
    program: "fairway-bench-bpf",
    title: "Compiling the benchmark's kernel programs",
};

/// Debug information must also reach the core library, or its functions have no BTF and the kernel refuses
/// the object; so it is asked for here and not only in the profile. CPU v3 has all atomic operations.
const RUSTFLAGS: &str = "-C debuginfo=2 -C link-arg=--btf -C target-cpu=v3";

/// A compiled datapath.
#[derive(Debug)]
pub struct KernelObject {
    path: PathBuf,
}

impl KernelObject {
    /// Compiles the datapath, first installing the toolchain if need be.
    pub fn build(workspace: &Workspace) -> Result<Self> {
        Self::build_source(workspace, &DATAPATH)
    }

    /// Compiles the benchmark's own kernel programs.
    pub fn build_bench(workspace: &Workspace) -> Result<Self> {
        Self::build_source(workspace, &BENCH)
    }

    fn build_source(workspace: &Workspace, source: &Source) -> Result<Self> {
        let toolchain = provision::toolchain()?;
        let scratch = workspace.target().join("bpf-build");
        let mut cargo = toolchain.cargo("build")?;
        cargo
            .current_dir(workspace.root())
            .args(["--locked", "--package", source.package, "--bin", source.program])
            .args(["--no-default-features", "--features", "kernel"])
            .args(["--target", TARGET, "--profile", PROFILE, "-Z", "build-std=core"])
            .env("CARGO_TARGET_DIR", &scratch)
            .env("RUSTFLAGS", RUSTFLAGS);
        shell::step(source.title, || {
            shell::run_helper(&mut cargo).with_context(|| {
                format!(
                    "{} does not compile with {}. If it is the linker that fails: its LLVM must be at \
                     least {}",
                    source.package,
                    toolchain.compiler,
                    toolchain.compiler.llvm_major()
                )
            })
        })?;
        let path = workspace.target().join("bpf").join(source.program).with_extension("o");
        let built = scratch.join(TARGET).join(PROFILE).join(source.program);
        let changed = publish(&built, &path)?;
        let state = if changed { "new" } else { "unchanged" };
        shell::say(format!("Kernel object ({state}): {}", path.display()));
        Ok(Self { path })
    }

    /// Where the object is; absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Copies the object to its place if it differs from what is there; tells whether it did.
fn publish(built: &Path, place: &Path) -> Result<bool> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        bail!("{} is not an ELF object", built.display());
    }
    if fs::read(place).is_ok_and(|present| present == bytes) {
        return Ok(false);
    }
    let write = || {
        let directory = place.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let unfinished = place.with_extension("o.unfinished");
        fs::write(&unfinished, &bytes)?;
        fs::rename(&unfinished, place)
    };
    write().with_context(|| format!("cannot write {}", place.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let (built, place) = (dir.path().join("built"), dir.path().join("bpf/fairway-bpf.o"));
        fs::write(&built, b"\x7fELF one").unwrap();
        assert!(publish(&built, &place).unwrap());
        let written = fs::metadata(&place).unwrap().modified().unwrap();
        assert!(!publish(&built, &place).unwrap());
        assert_eq!(fs::metadata(&place).unwrap().modified().unwrap(), written);
    }

    #[test]
    fn a_changed_object_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let (built, place) = (dir.path().join("built"), dir.path().join("bpf/fairway-bpf.o"));
        for bytes in [b"\x7fELF one", b"\x7fELF two"] {
            fs::write(&built, bytes).unwrap();
            assert!(publish(&built, &place).unwrap());
            assert_eq!(fs::read(&place).unwrap(), bytes);
        }
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let built = dir.path().join("built");
        fs::write(&built, b"!<arch>").unwrap();
        assert!(publish(&built, &dir.path().join("o")).is_err());
    }
}
