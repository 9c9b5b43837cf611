//! Making flows: tuples of imagined clients, and real first packets through the real programs.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use anyhow::{Result, bail, ensure};
use lab::address::Dual;

use crate::frames::{self, FlowSet, Kind, Macs, Tuple};
use crate::object::BenchObject;
use crate::testrun::{self, Entry};

/// Distinct client ports; the same port comes back with another client.
const PORTS: u32 = 50_000;
const FIRST_PORT: u32 = 10_000;
/// Clients that share a block of [`PORTS`] flows.
const CLIENTS: u32 = 199;

/// Clients of one kind, by number: every number is another tuple, and neighbours in number are far apart.
#[derive(Debug, Clone, Copy)]
pub struct Clients {
    /// The address of client `i`.
    pub address: fn(u32) -> Dual,
    /// Where they connect to.
    pub server: IpAddr,
    /// Its port.
    pub port: u16,
}

impl Clients {
    /// The tuple of flow `i`.
    pub fn tuple(&self, i: u32) -> Tuple {
        // Port numbers spread, because masquerading keeps them and two flows of one backend must differ in them.
        let (block, at) = (i / PORTS, i % PORTS);
        let client = (self.address)(256 + block * (CLIENTS + 52) + at % CLIENTS);
        let src = if self.server.is_ipv4() { client.v4.into() } else { client.v6.into() };
        Tuple { src, sport: (FIRST_PORT + at) as u16, dst: self.server, dport: self.port }
    }

    /// Flows `from..from + count` in random order.
    pub fn tuples(&self, from: u32, count: u32) -> Vec<Tuple> {
        let mut tuples: Vec<_> = (from..from + count).map(|i| self.tuple(i)).collect();
        fastrand::Rng::with_seed(u64::from(from) + 1).shuffle(&mut tuples);
        tuples
    }
}

/// A program and the way to it.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// The program.
    pub program: BorrowedFd<'a>,
    /// Device and hook.
    pub entry: Entry,
    /// The frame's MAC addresses there.
    pub macs: Macs,
}

impl Way<'_> {
    /// The frames of these tuples.
    pub fn set(&self, kind: Kind, tuples: &[Tuple]) -> Result<FlowSet> {
        FlowSet::new(self.macs, kind, tuples.iter().copied())
    }

    /// Sends each frame of the set once.
    fn send(&self, object: &BenchObject, set: &FlowSet) -> Result<()> {
        object.choose(set)?;
        object.aim(self.entry, self.program)?;
        let prologue = object.prologue(self.entry, set)?;
        testrun::repeat(prologue, self.entry, &set.first, set.count() as u32)?;
        Ok(())
    }

    /// Sends a first packet and returns the tuple that leaves, or what happened instead.
    fn open(&self, kind: Kind, tuple: Tuple) -> Result<Tuple> {
        let outcome = testrun::once(self.program, self.entry, &frames::frame(self.macs, kind, tuple)?)?;
        let left = Tuple::of(&outcome.frame)?;
        ensure!(left.dst != tuple.dst, "verdict {} without translation", outcome.retval.cast_signed());
        Ok(left)
    }
}

/// Established flows: what clients send, and what backends answer.
#[derive(Debug, Clone)]
pub struct Established {
    /// Packets of clients.
    pub forward: Vec<Tuple>,
    /// Packets of backends.
    pub reply: Vec<Tuple>,
}

/// Establishes flows `0..count`: a first packet each by `there`, the answer by `back`, one more by `there`.
pub fn establish(
    object: &BenchObject,
    clients: &Clients,
    udp: bool,
    count: u32,
    there: Way<'_>,
    back: Way<'_>,
) -> Result<Established> {
    let (first, second, third) =
        if udp { (Kind::Udp, Kind::Udp, Kind::Udp) } else { (Kind::Syn, Kind::SynAck, Kind::Ack) };
    let forward = clients.tuples(0, count);
    let mut reply = Vec::with_capacity(forward.len());
    for tuple in &forward {
        match there.open(first, *tuple) {
            Ok(left) => reply.push(left.turned()),
            Err(error) => bail!("flow {} of {count}: {error:#}", reply.len() + 1),
        }
    }
    back.send(object, &back.set(second, &reply)?)?;
    there.send(object, &there.set(third, &forward)?)?;
    Ok(Established { forward, reply })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Side, imagined_client};
    use std::collections::HashSet;

    #[test]
    fn every_flow_has_a_tuple_of_its_own() {
        let server = "10.0.0.1".parse().expect("an address");
        let clients = Clients { address: |i| imagined_client(Side::Far, i), server, port: 80 };
        let all: HashSet<_> = (0..300_000).map(|i| clients.tuple(i)).collect();
        assert_eq!(all.len(), 300_000);
    }
}
