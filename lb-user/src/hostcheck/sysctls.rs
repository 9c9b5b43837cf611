//! Kernel settings that kube-proxy wrote, or that decide whose ports are whose (spec C6, reliability §4.6).
//!
//! Fairway writes none of them. What is worse than kube-proxy would have left it, or lets the kernel hand out a port
//! that Fairway uses, becomes a problem that names the command. A setting that cannot be read is not judged.

use std::fs;

use super::problem;
use crate::config::PortRange;
use crate::model::Problem;

/// kube-proxy's defaults.
const CONNTRACK_PER_CPU: u64 = 32_768;
const CONNTRACK_MIN: u64 = 131_072;
const ESTABLISHED_S: u64 = 86_400;
const CLOSE_WAIT_S: u64 = 3_600;

/// The settings, as far as they can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    cpus: u64,
    local_ports: Option<PortRange>,
    reserved: Vec<PortRange>,
    conntrack_max: Option<u64>,
    established_s: Option<u64>,
    close_wait_s: Option<u64>,
}

impl Settings {
    /// Of this network namespace.
    pub(super) fn read() -> Settings {
        let text = |key: &str| fs::read_to_string(format!("/proc/sys/net/{key}")).ok();
        let number = |key: &str| text(key)?.trim().parse().ok();
        Settings {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            local_ports: text("ipv4/ip_local_port_range").and_then(|t| range(&t)),
            reserved: text("ipv4/ip_local_reserved_ports").map(|t| ranges(&t)).unwrap_or_default(),
            conntrack_max: number("netfilter/nf_conntrack_max"),
            established_s: number("netfilter/nf_conntrack_tcp_timeout_established"),
            close_wait_s: number("netfilter/nf_conntrack_tcp_timeout_close_wait"),
        }
    }
}

/// Two ports with blanks between them.
fn range(text: &str) -> Option<PortRange> {
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next()?, ports.next()?) {
        (Ok(min), Ok(max)) => Some(PortRange { min, max }),
        _ => None,
    }
}

/// `30000-32767,8080`.
fn ranges(text: &str) -> Vec<PortRange> {
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    let parse = |part: &str| {
        let (min, max) = part.split_once('-').unwrap_or((part, part));
        Some(PortRange { min: min.trim().parse().ok()?, max: max.trim().parse().ok()? })
    };
    parts.filter_map(parse).collect()
}

/// What is wrong.
pub(super) fn problems(settings: &Settings, snat: PortRange, node_ports: PortRange) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (flag, wanted, why) in [
        (
            "--nodeport-range",
            node_ports,
            "replies to the node's own connections could be taken for a Service's",
        ),
        ("--snat-ports", snat, "the node's own connections could meet masqueraded ones"),
    ] {
        let Some(local) = settings.local_ports else { continue };
        if let Some(open) = unreserved(overlap(local, wanted), &settings.reserved) {
            let message = format!(
                "the kernel gives ports {open} of {flag} {wanted} to local sockets (ip_local_port_range is {local}): \
                 {why}; reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={wanted}"
            );
            problems.push(problem("sysctl net.ipv4.ip_local_port_range", flag, message));
        }
    }
    let wanted_max = CONNTRACK_MIN.max(CONNTRACK_PER_CPU.saturating_mul(settings.cpus));
    for (key, value, wanted) in [
        ("nf_conntrack_max", settings.conntrack_max, wanted_max),
        ("nf_conntrack_tcp_timeout_established", settings.established_s, ESTABLISHED_S),
        ("nf_conntrack_tcp_timeout_close_wait", settings.close_wait_s, CLOSE_WAIT_S),
    ] {
        if let Some(value) = value.filter(|value| *value < wanted) {
            let message = format!(
                "is {value}; kube-proxy would have set {wanted}, Fairway sets nothing: \
                 sysctl -w net.netfilter.{key}={wanted}"
            );
            problems.push(problem(format!("sysctl net.netfilter.{key}"), "", message));
        }
    }
    problems
}

fn overlap(a: PortRange, b: PortRange) -> Option<PortRange> {
    a.overlaps(&b).then(|| PortRange { min: a.min.max(b.min), max: a.max.min(b.max) })
}

/// From the first to the last port of `range` that no reserved range covers.
fn unreserved(range: Option<PortRange>, reserved: &[PortRange]) -> Option<PortRange> {
    let range = range?;
    let open = |port: &u16| !reserved.iter().any(|r| (r.min..=r.max).contains(port));
    let min = (range.min..=range.max).find(open)?;
    let max = (range.min..=range.max).rev().find(open)?;
    Some(PortRange { min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(word: &str) -> PortRange {
        word.parse().expect("range")
    }

    fn found(settings: &Settings) -> Vec<String> {
        let list = problems(settings, ports("61000-65535"), ports("30000-32767"));
        list.into_iter().map(|p| format!("{} {}: {}", p.object, p.field, p.message)).collect()
    }

    #[test]
    fn linux_defaults_overlap_with_nothing() {
        let local_ports = range("32768\t60999\n");
        assert_eq!(local_ports, Some(ports("32768-60999")));
        assert!(found(&Settings { local_ports, ..Settings::default() }).is_empty());
    }

    #[test]
    fn overlaps_are_named_with_the_ports_and_the_command_unless_they_are_reserved() {
        let mut settings = Settings { local_ports: Some(ports("1024-65535")), ..Settings::default() };
        let all = found(&settings);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].contains("30000-32767") && all[1].contains("61000-65535"), "{all:?}");
        settings.reserved = ranges("30000-32767,61000-65534\n");
        let rest = found(&settings);
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert!(rest[0].contains("ports 65535-65535 of --snat-ports"), "{rest:?}");
    }

    #[test]
    fn conntrack_is_compared_with_what_kube_proxy_would_have_set() {
        let settings = Settings {
            cpus: 8,
            conntrack_max: Some(200_000),
            established_s: Some(432_000),
            close_wait_s: Some(60),
            ..Settings::default()
        };
        let all = found(&settings);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].contains("nf_conntrack_max=262144"), "{all:?}");
        assert!(all[1].contains("nf_conntrack_tcp_timeout_close_wait=3600"), "{all:?}");
    }
}
