//! Questions to the kernel over netlink, each asked and answered at once.
//!
//! The kernel answers from memory, so this blocks for no longer than it works; should an answer be lost, the wait
//! ends after [`PATIENCE`] with an error. Every question is one that is acknowledged or dumped, so that its end is
//! always told.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that messages are aligned to.
const ALIGNMENT: usize = 4;

/// A question that the kernel refused, or an answer that could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket, or the kernel's answer.
    #[error("netlink: {0}")]
    Io(#[from] io::Error),
    /// Not the bytes that were expected.
    #[error("netlink answer: {0}")]
    Answer(#[from] DecodeError),
}

impl NetlinkError {
    /// The kernel knows no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, NetlinkError::Io(e) if e.raw_os_error() == Some(libc::ENOENT))
    }
}

/// How a question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// By at most one message.
    One,
    /// By all there are.
    All,
}

/// A socket for questions of one netlink protocol.
#[derive(Debug)]
pub(super) struct Channel {
    socket: Socket,
    sequence: u32,
}

impl Channel {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open(protocol: isize) -> io::Result<Channel> {
        let mut socket = Socket::new(protocol)?;
        SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Channel { socket, sequence: 0 })
    }

    /// Asks, and gives what the kernel answers; its refusal is an error.
    pub(super) fn ask<Q, A>(&mut self, question: Q, answer: Answer) -> Result<Vec<A>, NetlinkError>
    where
        Q: NetlinkSerializable + Into<NetlinkPayload<Q>>,
        A: NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.sequence_number = self.sequence;
        header.flags = NLM_F_REQUEST
            | match answer {
                Answer::One => NLM_F_ACK,
                Answer::All => NLM_F_DUMP,
            };
        let mut message = NetlinkMessage::new(header, question.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut found = Vec::new();
        loop {
            let (packet, _) = self.socket.recv_from_full()?;
            if take(&packet, self.sequence, &mut found)? {
                return Ok(found);
            }
        }
    }
}

/// Takes the messages of a packet in; true when the answer is complete.
fn take<A: NetlinkDeserializable>(
    mut packet: &[u8],
    sequence: u32,
    found: &mut Vec<A>,
) -> Result<bool, NetlinkError> {
    while !packet.is_empty() {
        let message = NetlinkMessage::<A>::deserialize(packet)?;
        let length = (message.header.length as usize).max(1).next_multiple_of(ALIGNMENT);
        packet = packet.get(length..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            // The rest of a question that was given up.
            continue;
        }
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => found.push(inner),
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(-done.code).into());
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io().into()),
            NetlinkPayload::Error(_) => return Ok(true),
            NetlinkPayload::Overrun(_) => return Err(io::Error::from_raw_os_error(libc::ENOBUFS).into()),
            _ => {}
        }
    }
    Ok(false)
}
