//! Running a program as a container runtime runs the DaemonSet's: uid 0 with a few capabilities, no new privileges, and
//! a seccomp profile in the form that containers use.
//!
//! For one purpose: to show that the manifests' privileges are enough, and that nothing beyond them is used.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability};
use nix::sys::prctl;
use seccompiler::{BpfProgram, TargetArch};
use serde_json::{Value, json};

/// Becomes `program`, with nothing of root's power left but these capabilities. Returns only if that fails.
pub fn run(capabilities: &[Capability], profile: Option<&Path>, program: &[OsString]) -> Result<()> {
    let (executable, arguments) = program.split_first().context("no program to run")?;
    let filter = profile.map(compile).transpose()?;
    let kept: HashSet<Capability> = capabilities.iter().copied().collect();
    for dropped in caps::read(None, CapSet::Bounding)?.difference(&kept) {
        caps::drop(None, CapSet::Bounding, *dropped)?;
    }
    prctl::set_no_new_privs()?;
    // At exec, uid 0 is given what the bounding set allows; nothing may come from elsewhere.
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    if let Some(filter) = filter {
        seccompiler::apply_filter(&filter)?;
    }
    let error = Command::new(executable).args(arguments).exec();
    Err(error).with_context(|| format!("become {}", executable.display()))
}

/// From a container profile to a filter. Only what the project's own profile uses is understood: one default error, and
/// names that are allowed whatever their arguments.
fn compile(profile: &Path) -> Result<BpfProgram> {
    let text = fs::read_to_string(profile).with_context(|| format!("read {}", profile.display()))?;
    let profile: Value = serde_json::from_str(&text)?;
    if profile["defaultAction"] != "SCMP_ACT_ERRNO" {
        bail!("the default action is {}, not an error", profile["defaultAction"]);
    }
    let mut allowed = Vec::new();
    for group in profile["syscalls"].as_array().context("no syscalls")? {
        if group["action"] != "SCMP_ACT_ALLOW" || group.get("args").is_some() {
            bail!("not a plain permission: {group}");
        }
        allowed.extend(group["names"].as_array().context("no names")?.iter().filter_map(Value::as_str));
    }
    // As runtimes do: what this architecture does not have is left out.
    let known: Vec<&str> = allowed.into_iter().filter(|name| filter_of(&[name]).is_ok()).collect();
    filter_of(&known)
}

fn filter_of(names: &[&str]) -> Result<BpfProgram> {
    let rules: Vec<Value> = names.iter().map(|name| json!({"syscall": name})).collect();
    let filters = json!({"all": {
        "mismatch_action": {"errno": 1}, "match_action": "allow", "filter": rules,
    }});
    let arch = TargetArch::try_from(env::consts::ARCH)?;
    let compiled = seccompiler::compile_from_json(io::Cursor::new(filters.to_string()), arch)?;
    compiled.into_iter().collect::<BTreeMap<_, _>>().remove("all").context("no filter")
}
