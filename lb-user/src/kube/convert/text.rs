//! Addresses and networks as Kubernetes reads them: white space around and zeros in front do no harm.
//!
//! `010.0.0.1` means 10.0.0.1, as it always did in Kubernetes; Rust refuses it, because elsewhere it was octal.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// An address; `None` if it is none.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| with_zeros(text).map(IpAddr::V4))
}

/// A network in canonical form; `None` if it is none.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let (base, bits) = text.trim().split_once('/')?;
    IpNet::new(address(base)?, bits.parse().ok()?).ok().map(|network| network.trunc())
}

/// An IPv4 address whose parts may begin with zeros.
fn with_zeros(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part =
            parts.next().filter(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))?;
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or_else(|error| match part.bytes().all(|b| b == b'0') {
                true => Ok(0),
                false => Err(error),
            })
            .ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_in_front_and_spaces_around_do_no_harm() {
        let same = |a: &str, b: &str| assert_eq!(address(a), b.parse().ok(), "{a}");
        same("010.000.00.001", "10.0.0.1");
        same(" 10.0.0.1 ", "10.0.0.1");
        same("2001:DB8:0::1", "2001:db8::1");
        for wrong in
            ["", "10.0.0", "10.0.0.1.2", "10.0.0.256", "10.0.0.-1", "10.0.0.+1", "10.0.0.", "a.b.c.d"]
        {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn networks_lose_what_is_behind_the_prefix() {
        let text = |n: &str| network(n).map(|n| n.to_string());
        assert_eq!(text(" 10.1.2.3/8"), Some("10.0.0.0/8".into()));
        assert_eq!(text("fd00::1/64 "), Some("fd00::/64".into()));
        for wrong in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/x", "/8"] {
            assert_eq!(network(wrong), None, "{wrong}");
        }
    }
}
