//! A private mount and network namespace with an own BPF file system, for tests of the datapath.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use lb_user::datapath::load::EMBEDDED_OBJECT;
use lb_user::datapath::{
    Datapath, DatapathError, MapSizes, OpenOptions, Role, WantedInterface, XdpMode, cleanup,
};
use tempfile::TempDir;

/// Small maps: tests are many, memory is not.
pub const SIZES: MapSizes = MapSizes { services: 64, backends: 128, slots: 256, flows: 512 };

/// Held while a program is started. Until it runs it has a copy of every file this process has open, the lock of
/// another test's datapath among them, which that test then finds taken when it opens the datapath anew, or its pin
/// directory, which then cannot be unmounted.
static STARTING: Mutex<()> = Mutex::new(());

/// What a test works in.
pub struct Lab {
    dir: TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Fails where nothing is mounted; otherwise it lets the directory be removed, after a failed test too.
        let _ = rustix::mount::unmount(self.bpffs(), rustix::mount::UnmountFlags::DETACH);
    }
}

impl Lab {
    /// Runs `test` on a thread of its own, in new mount and network namespaces; both vanish with the thread.
    pub fn run(test: impl FnOnce(&Lab) + Send + 'static) {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let done = std::thread::spawn(|| {
            // SAFETY: changes the namespaces of this thread only.
            let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET) };
            assert_eq!(unshared, 0, "unshare: {}", std::io::Error::last_os_error());
            use rustix::mount::{MountPropagationFlags as Flags, mount_change};
            mount_change("/", Flags::PRIVATE | Flags::REC).expect("private mounts");
            let lab = Lab { dir: TempDir::new().expect("temporary directory") };
            test(&lab);
        })
        .join();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    }

    /// Where the BPF file system goes.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Waits until no program is being started: what this test has closed is closed then.
    pub fn settle(&self) {
        drop(STARTING.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Options with small maps, for use at once: they settle before.
    pub fn options(&self) -> OpenOptions {
        self.settle();
        OpenOptions {
            bpffs: self.bpffs(),
            state_dir: self.state_dir(),
            sizes: SIZES,
            xdp_mode: XdpMode::Auto,
        }
    }

    /// Opens the datapath with the built object.
    pub fn open(&self) -> Result<Datapath, DatapathError> {
        assert!(
            !EMBEDDED_OBJECT.is_empty(),
            "{}; or run the tests by cargo xtask test",
            DatapathError::NoObject
        );
        Datapath::open(&self.options())
    }

    /// Runs `cleanup`, and starts no program meanwhile.
    pub fn cleanup(&self) -> Result<Vec<String>, DatapathError> {
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        cleanup(&self.bpffs(), &self.state_dir(), false)
    }

    /// Runs `ip` in this lab's network namespace.
    pub fn ip(&self, args: &str) {
        let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let out = Command::new("ip").args(args.split_whitespace()).output().expect("ip is installed");
        drop(starting);
        assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Makes a veth pair and returns the index of its first end.
    pub fn veth(&self, name: &str) -> u32 {
        self.ip(&format!("link add {name} type veth peer name {name}p"));
        self.ip(&format!("link set {name} up"));
        self.ip(&format!("link set {name}p up"));
        self.ifindex(name)
    }

    /// Index of an interface in this lab.
    pub fn ifindex(&self, name: &str) -> u32 {
        let c = std::ffi::CString::new(name).expect("a name without NUL");
        // SAFETY: a C string that outlives the call.
        let index = unsafe { libc::if_nametoindex(c.as_ptr()) };
        assert_ne!(index, 0, "no interface {name}");
        index
    }
}

/// An interface to manage.
pub fn wanted(ifindex: u32, name: &str, role: Role) -> WantedInterface {
    WantedInterface {
        ifindex,
        name: name.to_owned(),
        role,
        addr4: Some([10, 0, 0, 1].into()),
        addr6: None,
        mac: [2, 0, 0, 0, 0, 1],
        flags: 0,
        loses_xdp_frames: false,
    }
}
