//! kube-proxy's iptables mode as input of `iptables-restore`: KUBE-SERVICES → KUBE-SVC → KUBE-SEP, masquerade marks,
//! and the chains of the filter table that every packet passes.

use std::fmt::Write;

use super::{CLUSTER_CIDR, RulePort};

/// Nothing at all.
pub const EMPTY: &str = "*nat\nCOMMIT\n*filter\nCOMMIT\n*mangle\nCOMMIT\n";

const FILTER: &str = "*filter
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

const NAT_CHAINS: &str = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

const NAT_RULES: &str = "-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

/// The rules of these service ports.
pub fn rules(ports: &[RulePort]) -> String {
    let mut chains = String::from(NAT_CHAINS);
    let mut rules = String::from(NAT_RULES);
    let mut bodies = String::new();
    for p in ports {
        // Writing to a String cannot fail.
        let _ = port(&mut chains, &mut rules, &mut bodies, p);
    }
    rules.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n");
    format!("{FILTER}{chains}{rules}{bodies}COMMIT\n")
}

/// The chains of one service port anew, for a restore that keeps all others.
pub fn changed(p: &RulePort) -> String {
    let (mut chains, mut rules, mut bodies) = (String::from("*nat\n"), String::new(), String::new());
    // Writing to a String cannot fail; the ways to the port stay as they are.
    let _ = port(&mut chains, &mut rules, &mut bodies, p);
    // A marking chain that other chains share is named, not declared: declaring would empty it.
    format!("{chains}{bodies}COMMIT\n")
}

fn port(chains: &mut String, rules: &mut String, bodies: &mut String, p: &RulePort) -> std::fmt::Result {
    let (id, proto, ip) = (&p.id, p.proto, p.ip);
    let frontend = format!("-d {ip}/32 -p {proto} -m {proto} --dport {}", p.port);
    writeln!(chains, ":KUBE-SVC-{id} - [0:0]")?;
    writeln!(rules, "-A KUBE-SERVICES {frontend} -j KUBE-SVC-{id}")?;
    writeln!(bodies, "-A KUBE-SVC-{id} ! -s {CLUSTER_CIDR} {frontend} -j KUBE-MARK-MASQ")?;
    if let Some(node_port) = p.node_port {
        writeln!(chains, ":KUBE-EXT-{id} - [0:0]")?;
        writeln!(rules, "-A KUBE-NODEPORTS -p {proto} -m {proto} --dport {node_port} -j KUBE-EXT-{id}")?;
        writeln!(bodies, "-A KUBE-EXT-{id} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{id} -j KUBE-SVC-{id}")?;
    }
    let count = p.endpoints.len();
    for (i, (address, target)) in p.endpoints.iter().enumerate() {
        let sep = format!("KUBE-SEP-{id}{i}");
        writeln!(chains, ":{sep} - [0:0]")?;
        if i + 1 < count {
            let share = 1.0 / (count - i) as f64;
            writeln!(
                bodies,
                "-A KUBE-SVC-{id} -m statistic --mode random --probability {share:.10} -j {sep}"
            )?;
        } else {
            writeln!(bodies, "-A KUBE-SVC-{id} -j {sep}")?;
        }
        writeln!(bodies, "-A {sep} -s {address}/32 -j KUBE-MARK-MASQ")?;
        writeln!(bodies, "-A {sep} -p {proto} -m {proto} -j DNAT --to-destination {address}:{target}")?;
    }
    Ok(())
}
