//! Large transfers whose every byte is checked.
//!
//! Both ends know the data: a pattern that depends on the position, so that lost, doubled or swapped pieces
//! change the checksum.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ask::blocked_is_timed_out;
use super::{Answer, Ask};
use crate::ns::Ns;

/// Bytes handled at once.
pub(super) const CHUNK: usize = 64 * 1024;

/// A transfer whose content was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Its length.
    pub bytes: u64,
    /// Its CRC-32.
    pub crc: u32,
    /// From before the connection to the last byte.
    pub elapsed: Duration,
}

/// Receives `bytes` from the server at `dst`; `InvalidData` if the content is wrong.
///
/// `stall` is how long nothing may move.
pub fn tcp_download(ns: &Ns, dst: SocketAddr, bytes: u64, stall: Duration) -> io::Result<Transfer> {
    ns.run(|| {
        let started = Instant::now();
        let mut stream = Ask::new(dst).timeout(stall).connect()?;
        stream.write_all(format!("send {bytes}\n").as_bytes())?;
        let (mut crc, mut left, mut chunk) = (crc32fast::Hasher::new(), bytes, vec![0; CHUNK]);
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            match stream.read(&mut chunk[..room]).map_err(blocked_is_timed_out)? {
                0 => {
                    return Err(io::Error::new(
                        ErrorKind::UnexpectedEof,
                        format!("{left} of {bytes} bytes missing"),
                    ));
                }
                count => {
                    crc.update(&chunk[..count]);
                    left -= count as u64;
                }
            }
        }
        checked(bytes, crc.finalize(), started)
    })
    .map_err(io::Error::other)?
}

/// Sends `bytes` to the server at `dst`; `InvalidData` if the server saw something else.
///
/// `stall` is how long nothing may move.
pub fn tcp_upload(ns: &Ns, dst: SocketAddr, bytes: u64, stall: Duration) -> io::Result<Transfer> {
    ns.run(|| {
        let started = Instant::now();
        let mut stream = Ask::new(dst).timeout(stall).connect()?;
        stream.write_all(format!("recv {bytes}\n").as_bytes())?;
        let mut pattern = Pattern::new(bytes);
        while let Some(chunk) = pattern.next_chunk() {
            stream.write_all(chunk).map_err(blocked_is_timed_out)?;
        }
        let mut answer = [0; "crc=00000000\n".len()];
        stream.read_exact(&mut answer).map_err(blocked_is_timed_out)?;
        let text = String::from_utf8_lossy(&answer);
        let crc = text.trim_end().strip_prefix("crc=").and_then(|hex| u32::from_str_radix(hex, 16).ok());
        checked(bytes, crc.ok_or(ErrorKind::InvalidData)?, started)
    })
    .map_err(io::Error::other)?
}

/// Asks the server at `dst` to close its direction, sees its FIN, and only then sends `bytes`.
///
/// The server counts them: see [`super::PodServer::wait_for_bytes_after_half_close`].
pub fn tcp_half_close(ns: &Ns, dst: SocketAddr, bytes: u64, stall: Duration) -> io::Result<Answer> {
    ns.run(|| {
        let mut stream = Ask::new(dst).timeout(stall).connect()?;
        stream.write_all(b"halfclose\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(blocked_is_timed_out)?;
        let mut pattern = Pattern::new(bytes);
        while let Some(chunk) = pattern.next_chunk() {
            stream.write_all(chunk).map_err(blocked_is_timed_out)?;
        }
        Answer::parse(&answer)
    })
    .map_err(io::Error::other)?
}

fn checked(bytes: u64, crc: u32, started: Instant) -> io::Result<Transfer> {
    let elapsed = started.elapsed();
    let expected = Pattern::new(bytes).crc();
    if crc == expected {
        Ok(Transfer { bytes, crc, elapsed })
    } else {
        let message = format!("{bytes} bytes with checksum {crc:08x} instead of {expected:08x}");
        Err(io::Error::new(ErrorKind::InvalidData, message))
    }
}

/// The data of a transfer, chunk by chunk.
pub(super) struct Pattern {
    chunk: Vec<u8>,
    number: u64,
    left: u64,
}

impl Pattern {
    pub(super) fn new(bytes: u64) -> Self {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let chunk = (0..CHUNK / 8).flat_map(|_| noise().to_le_bytes()).collect();
        Self { chunk, number: 0, left: bytes }
    }

    /// The next piece; its first bytes carry its number.
    pub(super) fn next_chunk(&mut self) -> Option<&[u8]> {
        if self.left == 0 {
            return None;
        }
        self.chunk[..8].copy_from_slice(&self.number.to_le_bytes());
        self.number += 1;
        let count = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        self.left -= count as u64;
        Some(&self.chunk[..count])
    }

    fn crc(mut self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        while let Some(chunk) = self.next_chunk() {
            crc.update(chunk);
        }
        crc.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_has_the_length_asked_for_and_no_two_chunks_are_alike() {
        let (mut pattern, mut total, mut last) = (Pattern::new(CHUNK as u64 * 2 + 5), 0, Vec::new());
        while let Some(chunk) = pattern.next_chunk() {
            total += chunk.len();
            assert_ne!(chunk, last);
            last = chunk.to_vec();
        }
        assert_eq!(total, CHUNK * 2 + 5);
    }
}
