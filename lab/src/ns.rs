//! A handle to one named network namespace: run code, threads and programs inside it.
//!
//! Only the network namespace changes: programs see the machine's file systems, so bpffs and cgroup paths are
//! the same inside and outside (`/sys/class/net` therefore shows the machine's interfaces, not the
//! namespace's; `/proc/sys/net` shows the namespace's).

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, io, panic, thread};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, SockRef};

/// Where `ip netns` keeps named namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// How often [`raised`] looks.
const FLAG_PERIOD: Duration = Duration::from_millis(2);

/// A named network namespace. Clones are handles to the same one; dropping handles never removes it.
#[derive(Debug, Clone)]
pub struct Ns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
}

impl Ns {
    /// Opens the namespace `name` of `ip netns list`.
    pub fn open(name: &str) -> Result<Self> {
        let path = PathBuf::from(NETNS_DIR).join(name);
        let file = File::open(&path).with_context(|| format!("open namespace {}", path.display()))?;
        Ok(Self(Arc::new(Inner { name: name.to_owned(), file })))
    }

    /// The name for `ip netns exec NAME`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs `work` on a thread inside the namespace and waits for it. Threads it starts are inside as well.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let joined = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    Ok(work())
                })
                .join()
        });
        joined.unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Starts a thread named `label` inside the namespace; returns once it is inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        label: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Option<T>>> {
        let ns = self.clone();
        start(label, move || ns.enter(), work)
    }

    /// Like [`Ns::spawn`], with a table of open files of the thread's own that starts empty.
    ///
    /// So each such thread can hold as many sockets as the limit allows a process, and a program started by
    /// another thread cannot keep one of them open for a moment. `work` must not own descriptors from outside,
    /// and nothing outside may wake a runtime inside: use [`raised`] there to wait for a flag.
    pub(crate) fn spawn_apart<T: Send + 'static>(
        &self,
        label: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Option<T>>> {
        // The first runtime of a process makes what all share: in the table that later threads start from.
        static SHARED: Once = Once::new();
        SHARED.call_once(|| drop(runtime()));
        let ns = self.clone();
        let enter = move || {
            ns.enter()?;
            // The handle closes, if it is the last one, in the table it was opened in.
            drop(ns);
            leave_open_files().context("give the thread its own open files")
        };
        start(label, enter, work)
    }

    /// Runs the future that `make` returns on a single-threaded tokio runtime inside the namespace.
    pub fn block_on<F: Future>(&self, make: impl FnOnce() -> F + Send) -> Result<F::Output>
    where
        F::Output: Send,
    {
        self.run(|| Ok(runtime()?.block_on(make())))?
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let inner = Arc::clone(&self.0);
        let enter = move || setns(&inner.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        // SAFETY: between fork and exec the closure makes one system call on a descriptor it owns; it neither
        // allocates nor takes locks.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Writes settings under `/proc/sys/net`, keys like `ipv4/ip_forward`.
    pub fn sysctl(&self, settings: &[(String, String)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("write {value} to net/{key} in {}", self.name()))
            })
        })?
    }

    /// Feeds `input` to `program` inside the namespace and fails with its messages if it fails.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<()> {
        feed(self.command(program).args(arguments), input)
            .with_context(|| format!("{program} {} in {}", arguments.join(" "), self.name()))
    }

    fn enter(&self) -> Result<()> {
        setns(&self.0.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter namespace {}", self.name()))
    }
}

fn start<T: Send + 'static>(
    label: &str,
    enter: impl FnOnce() -> Result<()> + Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<Option<T>>> {
    let (entered, wait) = mpsc::channel();
    let thread = thread::Builder::new().name(label.to_owned()).spawn(move || {
        let inside = enter();
        let ok = inside.is_ok();
        // The receiver only goes away when the starter panicked: then there is nobody to work for.
        entered.send(inside).ok()?;
        ok.then(work)
    })?;
    wait.recv().context("the thread ended before it entered its namespace")??;
    Ok(thread)
}

/// Gives the calling thread a table of open files that holds only the standard three and Unix sockets: all
/// tokio runtimes of a process share a pair of those for signals.
fn leave_open_files() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FILES)?;
    let open: Vec<RawFd> = fs::read_dir("/proc/thread-self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in open.into_iter().filter(|number| *number > 2) {
        // SAFETY: the number was open a moment ago in this thread's own table, which nobody else changes; the
        // one that has closed since, the directory's, only yields an error.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        if SockRef::from(&file).domain().is_ok_and(|domain| domain == Domain::UNIX) {
            continue;
        }
        // SAFETY: only this thread's table is changed; the owner of the number has it open in another table,
        // and this thread, which has just started, owns none.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// A runtime whose sockets are all made on the calling thread, hence in its namespace.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Waits until `flag` is set, without help of the thread that sets it.
pub(crate) async fn raised(flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        tokio::time::sleep(FLAG_PERIOD).await;
    }
}

/// Runs `command` with `input` as its standard input.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    // A program that fails early closes its input; its own message below says more than "broken pipe".
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}: {}\ninput was:\n{input}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    written.context("write input")
}
