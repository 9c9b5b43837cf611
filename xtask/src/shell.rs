//! Saying what happens, and running other programs.
//!
//! Every message and the standard output of helper programs go to standard error. Helpers get no standard
//! input: nothing here may wait for an answer.

use std::{
    ffi::OsStr,
    io::{self, IsTerminal},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// Directories that hold system tools but are missing from some users' `PATH`.
const SYSTEM_TOOL_DIRS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Prints one line about what happens next.
pub fn say(message: impl AsRef<str>) {
    let message = message.as_ref();
    if io::stderr().is_terminal() {
        eprintln!("\x1b[1;36m==>\x1b[0m {message}");
    } else {
        eprintln!("==> {message}");
    }
}

/// Announces a slow step, does it, and says how long it took.
pub fn step<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(title);
    let started = Instant::now();
    let done = work()?;
    say(format!("{title}: done in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(done)
}

/// The command as a person would type it, without its environment.
pub fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$&|;<>()*?".contains(c)) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        word.into_owned()
    }
}

/// Runs a helper to its end; its output is shown on standard error.
pub fn run_helper(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::from(io::stderr()));
    finish(command)
}

/// Runs a program whose standard output is the result the user asked for.
pub fn run_visible(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null());
    finish(command)
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", spelled(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", spelled(command));
    }
    Ok(())
}

/// Runs a helper and returns what it printed; `None` if it cannot be started or fails.
pub fn ask(command: &mut Command) -> Option<String> {
    let Output { status, stdout, .. } = command.stdin(Stdio::null()).output().ok()?;
    status.success().then(|| String::from_utf8_lossy(&stdout).into_owned())
}

/// Becomes the given program; returns only if that fails.
pub fn become_program(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", spelled(command)))
}

/// Where a program is, looking also into the system tool directories.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut paths = paths.into_string().unwrap_or_default();
    paths.push(':');
    paths.push_str(SYSTEM_TOOL_DIRS);
    which::which_in(name, Some(paths), Path::new("/")).ok()
}

/// Fails, with the reason, unless this process is root.
pub fn require_root(command: &str, reason: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {command}` needs root: {reason}.\n\
         Nothing was run. Try it from a root shell, or: sudo -E env \"PATH=$PATH\" cargo xtask {command}"
    )
}

/// Whether this process may install packages and load programs.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_spelled_so_that_a_shell_reads_it_back() {
        let mut command = Command::new("cargo");
        command.args(["build", "two words", "it's", ""]);
        assert_eq!(spelled(&command), r"cargo build 'two words' 'it'\''s' ''");
    }

    #[test]
    fn a_failing_helper_is_named_with_its_exit_status() {
        let error = run_helper(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c 'exit 3'") && error.contains('3'), "{error}");
    }

    #[test]
    fn asking_a_program_that_is_not_there_gives_no_answer() {
        assert_eq!(ask(&mut Command::new("fairway-has-no-such-program")), None);
    }

    #[test]
    fn a_program_on_the_path_is_found() {
        assert!(find_program("sh").is_some());
        assert!(find_program("fairway-has-no-such-program").is_none());
    }
}
