//! The chains of nftables, asked of the kernel itself: a container needs no `nft` for that.
//!
//! iptables' nft variant keeps its chains in the same place, so this sees both modes of kube-proxy.

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr};

/// `NETLINK_NETFILTER`.
const PROTOCOL: isize = 12;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = 10 << 8 | 4;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// nlmsghdr, then nfgenmsg.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// `NFTA_CHAIN_TABLE`, `NFTA_CHAIN_NAME`.
const ATTRIBUTE_TABLE: u16 = 1;
const ATTRIBUTE_NAME: u16 = 3;

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chain {
    /// Family as `nft` writes it.
    pub(super) family: &'static str,
    /// Table.
    pub(super) table: String,
    /// Name.
    pub(super) name: String,
}

/// All chains of this network namespace; an error where there is no nftables, or no right to ask.
pub(super) fn chains() -> std::io::Result<Vec<Chain>> {
    let mut socket = Socket::new(PROTOCOL)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(HEADER + GENERIC);
    request.extend_from_slice(&((HEADER + GENERIC) as u32).to_ne_bytes());
    request.extend_from_slice(&GET_CHAIN.to_ne_bytes());
    request.extend_from_slice(&DUMP.to_ne_bytes());
    // Sequence and port; then any family, version 0, resource 0.
    request.extend_from_slice(&[0; 8 + GENERIC]);
    socket.send(&request, 0)?;
    let mut found = Vec::new();
    loop {
        let (packet, _) = socket.recv_from_full()?;
        if take(&packet, &mut found)? {
            return Ok(found);
        }
    }
}

/// Takes the messages of a packet in; true when the dump is complete.
fn take(mut packet: &[u8], found: &mut Vec<Chain>) -> std::io::Result<bool> {
    let broken = || std::io::Error::other("a netlink message is cut short");
    while packet.len() >= HEADER {
        let word = |at: usize| [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
        let length = u32::from_ne_bytes(word(0)) as usize;
        let kind = u16::from_ne_bytes([packet[4], packet[5]]);
        let message = packet.get(HEADER..length).ok_or_else(broken)?;
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = message.get(..4).and_then(|c| c.try_into().ok()).ok_or_else(broken)?;
                return Err(std::io::Error::from_raw_os_error(-i32::from_ne_bytes(code)));
            }
            _ => found.extend(chain(message)),
        }
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(packet.is_empty() && found.is_empty())
}

fn chain(message: &[u8]) -> Option<Chain> {
    let family = match message.first()? {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    };
    let text = |wanted: u16| {
        let attributes = NlasIterator::new(message.get(GENERIC..)?);
        let attribute: NlaBuffer<_> = attributes.flatten().find(|a| a.kind() == wanted)?;
        Some(String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
    };
    Some(Chain { family, table: text(ATTRIBUTE_TABLE)?, name: text(ATTRIBUTE_NAME)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from(((HEADER + body.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute(kind: u16, text: &str) -> Vec<u8> {
        let mut bytes = Vec::from((4 + text.len() as u16 + 1).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(text.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_dump_is_read_to_its_end() {
        let body = [vec![10, 0, 0, 0], attribute(1, "nat"), attribute(3, "KUBE-SERVICES")].concat();
        let packet = [message(0x0a03, &body), message(NLMSG_DONE, &[0; 4])].concat();
        let mut found = Vec::new();
        assert!(take(&packet, &mut found).expect("whole"));
        let chain = Chain { family: "ip6", table: "nat".into(), name: "KUBE-SERVICES".into() };
        assert_eq!(found, [chain]);
    }

    #[test]
    fn errors_and_cut_messages_are_errors() {
        let refused = message(NLMSG_ERROR, &(-1i32).to_ne_bytes());
        let error = take(&refused, &mut Vec::new()).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(1));
        let whole = message(0x0a03, &[0; 20]);
        assert!(take(&whole[..24], &mut Vec::new()).is_err());
    }
}
