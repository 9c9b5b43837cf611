//! kube-proxy's nftables mode as input of `nft -f`: verdict maps from frontends to chains, one chain for each service
//! port and endpoint, masquerade marks.

use std::fmt::Write;

use super::{CLUSTER_CIDR, RulePort};
use crate::net::{self, Side};

const CHAINS: &str = "
 chain masquerading {
  meta mark & 0x4000 == 0 return
  meta mark set meta mark ^ 0x4000
  masquerade fully-random
 }
 chain services {
  ip daddr . meta l4proto . th dport vmap @service-ips
  ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
 }
 chain service-endpoints-check {
  ip daddr . meta l4proto . th dport vmap @no-endpoint-services
 }
 chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
 chain nat-output { type nat hook output priority -100; policy accept; jump services; }
 chain nat-postrouting { type nat hook postrouting priority srcnat; policy accept; jump masquerading; }
 chain filter-input { type filter hook input priority -110; policy accept; ct state new jump service-endpoints-check; }
 chain filter-forward { type filter hook forward priority -110; policy accept; ct state new jump service-endpoints-check; }
 chain filter-output { type filter hook output priority -110; policy accept; ct state new jump service-endpoints-check; }
}
";

/// The rules of these service ports.
pub fn rules(ports: &[RulePort]) -> String {
    let mut bodies = String::new();
    for p in ports {
        // Writing to a String cannot fail.
        let _ = port(&mut bodies, p);
    }
    let frontends: Vec<_> = ports
        .iter()
        .map(|p| format!("{} . {} . {} : goto service-{}", p.ip, p.proto, p.port, p.id))
        .collect();
    let node_ports: Vec<_> = ports
        .iter()
        .filter_map(|p| Some(format!("{} . {} : goto external-{}", p.proto, p.node_port?, p.id)))
        .collect();
    let addresses: Vec<_> = (1..=99u8)
        .flat_map(|n| [Side::Client, Side::Far].map(|side| net::node_address(n, side).v4.to_string()))
        .collect();
    format!(
        "table ip kube-proxy {{
 chain mark-for-masquerade {{
  meta mark set meta mark | 0x4000
 }}
{bodies}
 set nodeport-ips {{ type ipv4_addr; elements = {{ {} }}; }}
 map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
 map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}
 map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {} }}; }}
{CHAINS}",
        addresses.join(", "),
        frontends.join(",\n"),
        node_ports.join(", "),
    )
}

/// The chains of one service port anew, in one transaction.
pub fn changed(p: &RulePort) -> String {
    let mut bodies = String::new();
    // Writing to a String cannot fail.
    let _ = port(&mut bodies, p);
    let names = (0..p.endpoints.len()).map(|i| format!("endpoint-{}-{i}", p.id));
    let flushes: String = names
        .chain([format!("service-{}", p.id), format!("external-{}", p.id)])
        .map(|name| format!("flush chain ip kube-proxy {name}\n"))
        .collect();
    format!("{flushes}table ip kube-proxy {{\n{bodies}}}\n")
}

fn port(bodies: &mut String, p: &RulePort) -> std::fmt::Result {
    let (id, proto, ip) = (&p.id, p.proto, p.ip);
    for (i, (address, target)) in p.endpoints.iter().enumerate() {
        writeln!(
            bodies,
            " chain endpoint-{id}-{i} {{\n  ip saddr {address} jump mark-for-masquerade\n  \
             meta l4proto {proto} dnat to {address}:{target}\n }}"
        )?;
    }
    let choices: Vec<_> = (0..p.endpoints.len()).map(|i| format!("{i} : goto endpoint-{id}-{i}")).collect();
    writeln!(
        bodies,
        " chain service-{id} {{\n  ip daddr {ip} {proto} dport {} ip saddr != {CLUSTER_CIDR} jump mark-for-masquerade\n  \
         numgen random mod {} vmap {{ {} }}\n }}",
        p.port,
        choices.len(),
        choices.join(", ")
    )?;
    if p.node_port.is_some() {
        writeln!(bodies, " chain external-{id} {{\n  jump mark-for-masquerade\n  goto service-{id}\n }}")?;
    }
    Ok(())
}
