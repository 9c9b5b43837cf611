//! Networks in the programs' configuration: base and mask as they lie in packets; unused places match nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use lb_common::config::{Cidr, MAX_SERVICE_CIDRS};
use lb_common::{A4, A6, Config};

/// Makes every network match nothing: all zeros, as in a new map, would match everything.
pub(super) fn clear(config: &mut Config) {
    fill(config, Some(&[]), Some(&[]));
}

/// Writes the networks that are given; `None` leaves what is there. What does not fit is left out.
pub(super) fn fill(config: &mut Config, service: Option<&[IpNet]>, local: Option<&[IpNet]>) {
    if let Some(networks) = service {
        let (v4, v6) = split(networks);
        config.service_cidrs4 = [Cidr::NONE4; MAX_SERVICE_CIDRS];
        config.service_cidrs6 = [Cidr::NONE6; MAX_SERVICE_CIDRS];
        config.service_cidrs4.iter_mut().zip(v4).for_each(|(place, net)| *place = net);
        config.service_cidrs6.iter_mut().zip(v6).for_each(|(place, net)| *place = net);
    }
    if let Some(networks) = local {
        let (v4, v6) = split(networks);
        config.local_cidr4 = v4.first().copied().unwrap_or(Cidr::NONE4);
        config.local_cidr6 = v6.first().copied().unwrap_or(Cidr::NONE6);
    }
}

fn split(networks: &[IpNet]) -> (Vec<Cidr<A4>>, Vec<Cidr<A6>>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for network in networks {
        match network {
            IpNet::V4(net) => {
                let (base, mask): (Ipv4Addr, Ipv4Addr) = (net.network(), net.netmask());
                v4.push(Cidr { base: base.into(), mask: mask.into() });
            }
            IpNet::V6(net) => {
                let (base, mask): (Ipv6Addr, Ipv6Addr) = (net.network(), net.netmask());
                v6.push(Cidr { base: base.into(), mask: mask.into() });
            }
        }
    }
    (v4, v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("network")).collect()
    }

    #[test]
    fn a_new_configuration_matches_nothing_and_what_is_unknown_stays() {
        let mut c = Config::default();
        let (a4, a6) =
            (A4::from(Ipv4Addr::new(10, 96, 1, 2)), A6::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7)));
        let matches = |c: &Config| {
            let service4 = c.service_cidrs4.iter().filter(|net| net.contains(&a4)).count();
            let service6 = c.service_cidrs6.iter().filter(|net| net.contains(&a6)).count();
            (service4, service6, c.local_cidr4.contains(&a4), c.local_cidr6.contains(&a6))
        };
        clear(&mut c);
        assert_eq!(matches(&c), (0, 0, false, false));
        fill(
            &mut c,
            Some(&nets(&["10.96.0.0/12", "10.200.0.0/16", "fd00::/108"])),
            Some(&nets(&["10.0.0.0/8"])),
        );
        assert_eq!(matches(&c), (1, 1, true, false));
        fill(&mut c, None, None);
        assert_eq!(matches(&c), (1, 1, true, false));
        fill(&mut c, Some(&[]), None);
        assert_eq!(matches(&c), (0, 0, true, false));
        let many: Vec<String> = (0..6).map(|n| format!("10.{n}.0.0/16")).collect();
        fill(&mut c, Some(&nets(&many.iter().map(String::as_str).collect::<Vec<_>>())), Some(&[]));
        assert_eq!(c.service_cidrs4[MAX_SERVICE_CIDRS - 1].base, A4::from(Ipv4Addr::new(10, 3, 0, 0)));
    }
}
