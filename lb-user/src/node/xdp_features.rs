//! Which devices take frames that XDP redirects to them, asked of the generic netlink family `netdev` (Linux 6.3).
//!
//! The ability comes and goes: a veth has it while its peer runs XDP or GRO, some drivers while a program is attached
//! to the device itself. A frame redirected to a device without it is lost silently. So whatever is not known to take
//! frames is taken for one that does not (older kernels altogether), and [`Changes`] tells of every change at once.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;

use netlink_packet_core::{DecodeError, Emitable, NlasIterator, ParseableParametrized, parse_u32, parse_u64};
use netlink_packet_generic::ctrl::nlas::{GenlCtrlAttrs, McastGrpAttrs};
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

use super::netlink::{Answer, Channel, NetlinkError};

/// `NETDEV_FAMILY_NAME`, and its version.
const FAMILY: &str = "netdev";
const VERSION: u8 = 1;
/// `NETDEV_CMD_DEV_GET`.
const GET: u8 = 1;
/// Group of the notifications about devices.
const GROUP: &str = "mgmt";
/// `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES`.
const ATTRIBUTE_INDEX: u16 = 1;
const ATTRIBUTE_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`: the device sends frames that XDP programs of others redirect to it.
const NDO_XMIT: u64 = 1 << 2;

/// What a device does for XDP: `enum netdev_xdp_act` of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// It sends frames that XDP redirects to it.
    pub fn takes_redirects(self) -> bool {
        self.0 & NDO_XMIT != 0
    }
}

/// The features of every device of this network namespace, by ifindex. Empty on kernels that do not tell.
pub fn read() -> Result<BTreeMap<u32, XdpFeatures>, NetlinkError> {
    let mut channel = Channel::open(NETLINK_GENERIC)?;
    let Some(family) = family(&mut channel)? else { return Ok(BTreeMap::new()) };
    let mut question = GenlMessage::from_payload(GetDevices);
    question.set_resolved_family_id(family.id);
    let devices: Vec<GenlMessage<Device>> = channel.ask(question, Answer::All)?;
    Ok(devices.into_iter().map(|d| (d.payload.index, d.payload.features)).collect())
}

/// Tells when the features of some device have changed.
pub struct Changes(Option<TokioSocket>);

impl Changes {
    /// Listens from now on. On kernels that do not tell, nothing ever changes.
    pub fn listen() -> Result<Changes, NetlinkError> {
        let mut channel = Channel::open(NETLINK_GENERIC)?;
        let Some(group) = family(&mut channel)?.and_then(|f| f.group) else { return Ok(Changes(None)) };
        let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(group)?;
        Ok(Changes(Some(socket)))
    }

    /// Waits for a change. Dropping the future loses none.
    pub async fn next(&mut self) -> io::Result<()> {
        let Some(socket) = &mut self.0 else { return pending().await };
        match socket.recv_from_full().await {
            // Too many at once: all the more a reason to look.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            result => result.map(drop),
        }
    }
}

/// The family as this kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Family {
    id: u16,
    group: Option<u32>,
}

/// Looks the family up; none on kernels without it.
fn family(channel: &mut Channel) -> Result<Option<Family>, NetlinkError> {
    let name = GenlCtrlAttrs::FamilyName(FAMILY.to_owned());
    let question = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] });
    let answers: Vec<GenlMessage<GenlCtrl>> = match channel.ask(question, Answer::One) {
        Err(e) if e.is_not_found() => return Ok(None),
        result => result?,
    };
    Ok(answers.into_iter().find_map(|answer| family_of(&answer.payload.nlas)))
}

fn family_of(attributes: &[GenlCtrlAttrs]) -> Option<Family> {
    let id = attributes.iter().find_map(|a| match a {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    })?;
    let groups = attributes.iter().filter_map(|a| match a {
        GenlCtrlAttrs::McastGroups(groups) => Some(groups),
        _ => None,
    });
    let group = groups.flatten().find_map(|group| {
        let named = group.iter().any(|a| matches!(a, McastGrpAttrs::Name(name) if name == GROUP));
        let id = group.iter().find_map(|a| match a {
            McastGrpAttrs::Id(id) => Some(*id),
            McastGrpAttrs::Name(_) => None,
        });
        id.filter(|_| named)
    });
    Some(Family { id, group })
}

/// The question for all devices.
#[derive(Debug)]
struct GetDevices;

impl GenlFamily for GetDevices {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        GET
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for GetDevices {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _buffer: &mut [u8]) {}
}

/// The answer for one device.
#[derive(Debug, Default, PartialEq, Eq)]
struct Device {
    index: u32,
    features: XdpFeatures,
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(bytes: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Device::default();
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            match attribute.kind() {
                ATTRIBUTE_INDEX => device.index = parse_u32(attribute.value())?,
                ATTRIBUTE_FEATURES => device.features = XdpFeatures(parse_u64(attribute.value())?),
                _ => {}
            }
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from((4 + value.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_device_takes_redirects_by_one_bit_of_its_features() {
        let header = GenlHeader { cmd: GET, version: VERSION };
        let device = |features: u64| {
            let bytes = [
                attribute(ATTRIBUTE_INDEX, &7u32.to_ne_bytes()),
                attribute(2, &[]),
                attribute(ATTRIBUTE_FEATURES, &features.to_ne_bytes()),
                attribute(4, &1u32.to_ne_bytes()),
            ];
            Device::parse_with_param(&bytes.concat(), header).expect("whole")
        };
        assert_eq!(device(0x23).index, 7);
        assert!(!device(0x23).features.takes_redirects(), "basic, redirect, fragments received");
        assert!(device(0x67).features.takes_redirects());
        assert!(Device::parse_with_param(&attribute(ATTRIBUTE_FEATURES, &[1, 2]), header).is_err());
    }

    #[test]
    fn the_family_has_its_group_among_others() {
        let group = |name: &str, id| vec![McastGrpAttrs::Name(name.into()), McastGrpAttrs::Id(id)];
        let groups = vec![group("page-pool", 3), group(GROUP, 5)];
        let attributes = [GenlCtrlAttrs::FamilyId(30), GenlCtrlAttrs::McastGroups(groups)];
        assert_eq!(family_of(&attributes), Some(Family { id: 30, group: Some(5) }));
        assert_eq!(family_of(&attributes[..1]), Some(Family { id: 30, group: None }));
        assert_eq!(family_of(&attributes[1..]), None);
    }

    #[test]
    fn this_kernel_knows_the_loopback_device() {
        assert!(read().expect("answered").contains_key(&1), "Linux 6.3 or newer");
    }
}
