//! Attaching programs to interfaces, and keeping them attached.
//!
//! Every attachment is a pinned link `<links>/<ifindex>-<hook>`, so it outlives the agent. A link that runs the
//! wanted program is not touched; one that runs another is moved in place by BPF_LINK_UPDATE, without a packet
//! in between that no program sees. Programs are compared by id, not by tag: the tag masks map references, so
//! two programs of one tag may write different maps. LINK_CREATE never replaces what others attached.
//!
//! Links of other map versions are taken over in the same way, pin and all, once this version is ready to serve: two
//! versions on one interface would both translate, and the former one by maps that nobody keeps up to date.
//!
//! The ladder of an uplink: native XDP, else none; generic XDP only if asked for; tc always, since XDP hands it
//! what it cannot forward itself.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type};
use lb_common::maps::progs;
use lb_common::{Iface, config};
use serde::Serialize;
use tracing::{debug, warn};

use super::DatapathError;
use super::load::{Prog, Programs};
use super::pins;
use super::sys::{self, LinkInfo, SysError};

/// What an interface faces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The outside.
    Uplink,
    /// Other nodes, through an overlay such as VXLAN.
    Overlay,
    /// Pods.
    Pod,
    /// The node itself: only what leaves is looked at, for its own processes.
    Loopback,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Uplink => "uplink",
            Role::Overlay => "overlay",
            Role::Pod => "pod",
            Role::Loopback => "loopback",
        })
    }
}

/// Which XDP modes may be used on uplinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the device can, else tc alone.
    #[default]
    Auto,
    /// As `auto`, but a device that cannot is worth a problem report, and one that loses what XDP sends back gets it
    /// all the same.
    Native,
    /// Generic XDP.
    Generic,
    /// No XDP.
    Off,
}

impl FromStr for XdpMode {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(XdpMode::Auto),
            "native" => Ok(XdpMode::Native),
            "generic" => Ok(XdpMode::Generic),
            "off" => Ok(XdpMode::Off),
            _ => Err(format!("{s}: not one of auto, native, generic, off")),
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            XdpMode::Auto => "auto",
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Off => "off",
        })
    }
}

/// An interface that Fairway shall manage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedInterface {
    /// Index in this network namespace.
    pub ifindex: u32,
    /// Name, for people.
    pub name: String,
    /// What it faces.
    pub role: Role,
    /// This node's IPv4 address on it.
    pub addr4: Option<Ipv4Addr>,
    /// This node's IPv6 address on it, not link-local.
    pub addr6: Option<Ipv6Addr>,
    /// MAC address.
    pub mac: [u8; 6],
    /// `IFACE_CAN_*` abilities.
    pub flags: u32,
    /// Native XDP there would lose every frame that it sends back.
    pub loses_xdp_frames: bool,
}

impl WantedInterface {
    /// The entry of the interface map.
    pub fn entry(&self) -> Iface {
        let m = self.mac;
        Iface {
            role: match self.role {
                Role::Uplink => config::IFACE_UPLINK,
                Role::Pod => config::IFACE_POD,
                Role::Loopback => config::IFACE_LOOPBACK,
                Role::Overlay => config::IFACE_OVERLAY,
            },
            flags: self.flags,
            addr4: self.addr4.map(Into::into).unwrap_or_default(),
            addr6: self.addr6.map(Into::into).unwrap_or_default(),
            mac: [u32::from_ne_bytes([m[0], m[1], m[2], m[3]]), u32::from_ne_bytes([m[4], m[5], 0, 0])],
        }
    }
}

/// What is attached to an interface, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachState {
    /// Name.
    pub ifname: String,
    /// Index.
    pub ifindex: u32,
    /// What it faces.
    pub role: Role,
    /// Every step taken, in order.
    pub hooks: Vec<HookState>,
    /// XDP may redirect frames of other devices to it: it was wanted, and our program is attached natively (some
    /// drivers have a queue for such frames only while a program is).
    pub takes_redirects: bool,
}

/// One step of the ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookState {
    /// `xdp`, `tc-ingress` or `tc-egress`.
    pub hook: String,
    /// `native`, `generic` or `tcx`; `off` when it was not tried.
    pub mode: String,
    /// Attached program; none when the step failed.
    pub prog_id: Option<u32>,
    /// Its link.
    pub link_id: Option<u32>,
    /// Why it is so.
    pub reason: String,
}

/// A place on an interface where a program can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookPoint {
    /// Driver-mode XDP.
    XdpNative,
    /// Generic XDP.
    XdpGeneric,
    /// TCX ingress.
    TcIngress,
    /// TCX egress.
    TcEgress,
}

impl HookPoint {
    const ALL: [HookPoint; 4] =
        [HookPoint::XdpNative, HookPoint::XdpGeneric, HookPoint::TcIngress, HookPoint::TcEgress];

    /// The pin's name after the interface index.
    pub const fn pin_name(self) -> &'static str {
        match self {
            HookPoint::XdpNative => "xdp",
            HookPoint::XdpGeneric => "xdpgeneric",
            HookPoint::TcIngress => "tc_in",
            HookPoint::TcEgress => "tc_out",
        }
    }

    /// The hook as people name it.
    pub const fn label(self) -> &'static str {
        match self {
            HookPoint::XdpNative | HookPoint::XdpGeneric => "xdp",
            HookPoint::TcIngress => "tc-ingress",
            HookPoint::TcEgress => "tc-egress",
        }
    }

    /// How it is attached.
    pub const fn mode(self) -> &'static str {
        match self {
            HookPoint::XdpNative => "native",
            HookPoint::XdpGeneric => "generic",
            HookPoint::TcIngress | HookPoint::TcEgress => "tcx",
        }
    }

    fn attach_type(self) -> bpf_attach_type {
        match self {
            HookPoint::XdpNative | HookPoint::XdpGeneric => bpf_attach_type::BPF_XDP,
            HookPoint::TcIngress => bpf_attach_type::BPF_TCX_INGRESS,
            HookPoint::TcEgress => bpf_attach_type::BPF_TCX_EGRESS,
        }
    }

    fn flags(self) -> u32 {
        match self {
            HookPoint::XdpNative => XDP_FLAGS_DRV_MODE,
            HookPoint::XdpGeneric => XDP_FLAGS_SKB_MODE,
            HookPoint::TcIngress | HookPoint::TcEgress => 0,
        }
    }
}

/// Links that agents of other map versions left, and whether they may be taken over.
#[derive(Debug)]
pub struct Former {
    /// Their links directories.
    pub dirs: Vec<PathBuf>,
    /// The tables of this version are up to date. Before that the former programs serve on.
    pub may_replace: bool,
}

/// Path of a link's pin.
fn link_path(links: &Path, ifindex: u32, point: HookPoint) -> PathBuf {
    links.join(format!("{ifindex}-{}", point.pin_name()))
}

/// Interface index and hook of a pin's path; none for a name that is not ours.
pub fn parse_link_path(path: &Path) -> Option<(u32, HookPoint)> {
    let (ifindex, hook) = path.file_name()?.to_str()?.split_once('-')?;
    let point = HookPoint::ALL.into_iter().find(|p| p.pin_name() == hook)?;
    Some((ifindex.parse().ok()?, point))
}

/// Opens a pinned link; none when there is no such pin.
pub fn open_link(path: &Path) -> Result<Option<(OwnedFd, LinkInfo)>, DatapathError> {
    let failed = |e| DatapathError::kernel(path.display(), e);
    match sys::obj_get(path) {
        Ok(fd) => {
            let info = sys::link_info(fd.as_fd()).map_err(failed)?;
            Ok(Some((fd, info)))
        }
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

/// Detaches and unpins a link; a missing one is no error.
pub fn remove_link(path: &Path) -> Result<(), DatapathError> {
    if let Some((fd, info)) = open_link(path)?
        && info.ifindex != 0
        && let Err(e) = sys::link_detach(fd.as_fd())
    {
        // Not fatal: without its pin the kernel detaches it too, if a little later.
        debug!(link = %path.display(), error = %e, "cannot detach at once");
    }
    pins::remove(path)
}

/// Attaches what the interface's role asks for, keeping what is there already.
pub fn attach_interface(
    links: &Path,
    former: &Former,
    programs: &Programs,
    mode: XdpMode,
    wanted: &WantedInterface,
) -> Result<AttachState, DatapathError> {
    let (ingress, egress) = match wanted.role {
        Role::Pod => (progs::TC_POD_IN, progs::TC_POD_OUT),
        Role::Uplink | Role::Overlay | Role::Loopback => (progs::TC_UPLINK_IN, progs::TC_UPLINK_OUT),
    };
    let mut hooks = Vec::new();
    let xdp = match (wanted.role, mode) {
        (Role::Uplink, XdpMode::Auto) if wanted.loses_xdp_frames => None,
        (Role::Uplink, XdpMode::Auto | XdpMode::Native) => Some(HookPoint::XdpNative),
        (Role::Uplink, XdpMode::Generic) => Some(HookPoint::XdpGeneric),
        _ => None,
    };
    for other in [HookPoint::XdpNative, HookPoint::XdpGeneric] {
        if xdp != Some(other) {
            remove_link(&link_path(links, wanted.ifindex, other))?;
            for dir in former.dirs.iter().filter(|_| former.may_replace) {
                remove_link(&link_path(dir, wanted.ifindex, other))?;
            }
        }
    }
    let ensure = |point, program| ensure(links, former, wanted.ifindex, point, programs.get(program)?);
    match xdp {
        Some(point) => hooks.push(ensure(point, progs::XDP_UPLINK)?),
        None if wanted.role == Role::Uplink => hooks.push(HookState {
            hook: "xdp".to_owned(),
            mode: "off".to_owned(),
            prog_id: None,
            link_id: None,
            reason: if mode == XdpMode::Off {
                "switched off by --xdp-mode"
            } else {
                "the veth's other end has neither XDP nor GRO and would lose what XDP sends back"
            }
            .to_owned(),
        }),
        None => {}
    }
    if wanted.role != Role::Loopback {
        hooks.push(ensure(HookPoint::TcIngress, ingress)?);
    }
    hooks.push(ensure(HookPoint::TcEgress, egress)?);
    let native = hooks.iter().any(|h| h.mode == HookPoint::XdpNative.mode() && h.prog_id.is_some());
    Ok(AttachState {
        ifname: wanted.name.clone(),
        ifindex: wanted.ifindex,
        role: wanted.role,
        hooks,
        takes_redirects: native && wanted.flags & config::IFACE_CAN_XDP_REDIRECT != 0,
    })
}

/// Makes one hook run `prog`. A refusal of the kernel is a state, not an error.
fn ensure(
    links: &Path,
    former: &Former,
    ifindex: u32,
    point: HookPoint,
    prog: &Prog,
) -> Result<HookState, DatapathError> {
    let path = link_path(links, ifindex, point);
    let state = |link_id: Option<u32>, reason: String| HookState {
        hook: point.label().to_owned(),
        mode: point.mode().to_owned(),
        prog_id: link_id.map(|_| prog.info.id),
        link_id,
        reason,
    };
    match open_link(&path)? {
        Some((_, info)) if info.ifindex == ifindex && info.prog_id == prog.info.id => {
            return Ok(state(Some(info.id), "attached, kept".to_owned()));
        }
        Some((fd, info)) if info.ifindex == ifindex => {
            return Ok(match sys::link_update(fd.as_fd(), prog.fd.as_fd()) {
                Ok(()) => state(Some(info.id), format!("program {} replaced in place", info.prog_id)),
                Err(e) => HookState {
                    prog_id: Some(info.prog_id),
                    ..state(Some(info.id), format!("still the former program: {e}"))
                },
            });
        }
        // The interface it was made for is gone; the index was given out again.
        Some(_) => remove_link(&path)?,
        None => {}
    }
    for dir in &former.dirs {
        let theirs = link_path(dir, ifindex, point);
        match open_link(&theirs)? {
            Some((_, info)) if info.ifindex == ifindex && !former.may_replace => {
                return Ok(state(None, FORMER_SERVES.to_owned()));
            }
            Some((fd, info)) if info.ifindex == ifindex && take_over(&fd, prog, &theirs, &path)? => {
                return Ok(state(Some(info.id), former_replaced(info.prog_id)));
            }
            _ => {}
        }
    }
    let link = match sys::link_create(prog.fd.as_fd(), ifindex, point.attach_type(), point.flags()) {
        Ok(link) => link,
        Err(e) => return Ok(state(None, refusal(point, &e))),
    };
    let info = sys::link_info(link.as_fd()).map_err(|e| DatapathError::kernel(path.display(), e))?;
    sys::obj_pin(link.as_fd(), &path).map_err(|e| DatapathError::kernel(path.display(), e))?;
    Ok(state(Some(info.id), "attached".to_owned()))
}

/// Why a hook waits.
pub(super) const FORMER_SERVES: &str = "the program of another version serves until the first sync";

/// What became of a hook that had waited.
pub(super) fn former_replaced(prog_id: u32) -> String {
    format!("program {prog_id} of another version replaced in place")
}

/// Makes a link of another version run `prog` and moves its pin to `path`. False when the kernel refuses: then the
/// link is detached, and the hook is free.
pub(super) fn take_over(
    link: &OwnedFd,
    prog: &Prog,
    theirs: &Path,
    path: &Path,
) -> Result<bool, DatapathError> {
    if let Err(error) = sys::link_update(link.as_fd(), prog.fd.as_fd()) {
        warn!(link = %theirs.display(), %error, "the program of another version is detached, not replaced");
        remove_link(theirs)?;
        return Ok(false);
    }
    std::fs::rename(theirs, path).map_err(|e| DatapathError::io(path, e))?;
    Ok(true)
}

/// The kernel's refusal in words.
fn refusal(point: HookPoint, error: &SysError) -> String {
    let xdp = matches!(point, HookPoint::XdpNative | HookPoint::XdpGeneric);
    match error.errno() {
        libc::EBUSY | libc::EEXIST if xdp => {
            "another XDP program is attached to the interface and is left alone".to_owned()
        }
        libc::EOPNOTSUPP if xdp => "the driver has no native XDP".to_owned(),
        libc::ERANGE if xdp => "the interface's MTU is too large for native XDP".to_owned(),
        libc::EINVAL if xdp => {
            format!("the driver refused the program, perhaps for its MTU or offloads ({error})")
        }
        libc::ENODEV => "the interface is gone".to_owned(),
        _ => error.to_string(),
    }
}

/// Detaches everything from one interface.
pub fn detach_interface(links: &Path, ifindex: u32) -> Result<(), DatapathError> {
    HookPoint::ALL.into_iter().try_for_each(|point| remove_link(&link_path(links, ifindex, point)))
}

/// Detaches every interface that is not in `keep`; links whose interface is gone lose their pin too. Returns the
/// pins removed.
pub fn detach_others(links: &Path, keep: impl Fn(u32) -> bool) -> Result<Vec<PathBuf>, DatapathError> {
    let mut removed = Vec::new();
    for path in pins::list(links)? {
        let Some((ifindex, _)) = parse_link_path(&path) else { continue };
        let gone = open_link(&path)?.is_some_and(|(_, info)| info.ifindex != ifindex);
        if gone || !keep(ifindex) {
            remove_link(&path)?;
            removed.push(path);
        }
    }
    Ok(removed)
}
