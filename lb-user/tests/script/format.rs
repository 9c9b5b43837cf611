//! The script format: one statement a line, `#` comments, expected output in lines that begin with `|`.
//!
//! ```text
//! limits services=8 backends=8 slots=32
//! node n1 zone=a address=192.0.2.1
//! service default/web created=5 ip=10.0.0.1 port=http/TCP/80/30080 external-local
//! slice default/web-1 for=web port=http/TCP/8080
//!   10.1.0.1 node=n1 zones=a,b
//!   10.1.0.2 unready serving terminating
//! sync
//! expect maps
//! | …
//! ```

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use lb_user::model::{Endpoint, Family, Hints, Key, NodeView, Proto, Service, ServicePort, Slice, SlicePort};
use lb_user::tables::Limits;
use std::net::IpAddr;

/// Unless the script says otherwise.
pub const LIMITS: Limits = Limits { services: 64, backends: 64, slots: 256, ranges: 64 };

/// One statement.
pub enum Statement {
    Limits(Limits),
    ExternalIpCidrs(Vec<IpNet>),
    Node(NodeView),
    Service(Service),
    Slice(Slice),
    DeleteService(Key),
    DeleteSlice(Key),
    /// Converge, with whatever faults the run injects.
    Sync,
    /// One sync in which every call fails.
    SyncFailing,
    /// A new agent.
    Restart,
    /// Compare `what` with the text; the line number of the statement is kept for rewriting.
    Expect {
        what: String,
        text: String,
        line: usize,
    },
}

/// Parses a script.
pub fn parse(script: &str) -> Result<Vec<Statement>> {
    let mut statements: Vec<Statement> = Vec::new();
    for (line, text) in script.lines().enumerate() {
        add(&mut statements, text, line).with_context(|| format!("line {}: {text}", line + 1))?;
    }
    Ok(statements)
}

fn add(statements: &mut Vec<Statement>, text: &str, line: usize) -> Result<()> {
    if let Some(expected) = text.strip_prefix('|') {
        let Some(Statement::Expect { text, .. }) = statements.last_mut() else {
            bail!("no expect before it")
        };
        text.push_str(expected.strip_prefix(' ').unwrap_or(expected));
        text.push('\n');
        return Ok(());
    }
    let mut words = text.split('#').next().unwrap_or_default().split_whitespace();
    let Some(first) = words.next() else { return Ok(()) };
    let rest: Vec<&str> = words.collect();
    if text.starts_with(' ') {
        let Some(Statement::Slice(slice)) = statements.last_mut() else {
            bail!("an endpoint outside a slice")
        };
        slice.endpoints.push(endpoint(first, &rest)?);
        slice.family = Family::of(&slice.endpoints[0].addr);
        return Ok(());
    }
    let name = || rest.first().copied().ok_or_else(|| anyhow!("name missing"));
    statements.push(match first {
        "limits" => Statement::Limits(limits(&rest)?),
        "external-ip-cidrs" => {
            Statement::ExternalIpCidrs(rest.iter().map(|cidr| cidr.parse()).collect::<Result<_, _>>()?)
        }
        "node" => Statement::Node(node(name()?, &rest[1..])?),
        "service" => Statement::Service(service(name()?, &rest[1..])?),
        "slice" => Statement::Slice(slice(name()?, &rest[1..])?),
        "delete" => match rest[..] {
            ["service", name] => Statement::DeleteService(key(name)?),
            ["slice", name] => Statement::DeleteSlice(key(name)?),
            _ => bail!("delete service|slice NAME"),
        },
        "sync" => Statement::Sync,
        "sync-failing" => Statement::SyncFailing,
        "restart" => Statement::Restart,
        "expect" => Statement::Expect { what: name()?.to_string(), text: String::new(), line },
        _ => bail!("unknown statement"),
    });
    Ok(())
}

fn key(text: &str) -> Result<Key> {
    let (namespace, name) = text.split_once('/').context("NAMESPACE/NAME")?;
    Ok(Key::new(namespace, name))
}

fn limits(words: &[&str]) -> Result<Limits> {
    let mut limits = LIMITS;
    for word in words {
        match word.split_once('=').context("KEY=VALUE")? {
            ("services", n) => limits.services = n.parse()?,
            ("backends", n) => limits.backends = n.parse()?,
            ("slots", n) => limits.slots = n.parse()?,
            ("ranges", n) => limits.ranges = n.parse()?,
            _ => bail!("unknown limit {word}"),
        }
    }
    Ok(limits)
}

fn node(name: &str, words: &[&str]) -> Result<NodeView> {
    let mut node = NodeView { name: name.to_string(), ..NodeView::default() };
    for word in words {
        match word.split_once('=').context("KEY=VALUE")? {
            ("zone", zone) => node.zone = Some(zone.to_string()),
            ("address", a) => {
                node.node_port_addresses.push(a.parse()?);
                node.local_addresses.push(a.parse()?);
                node.main_addresses.push(a.parse()?);
            }
            _ => bail!("unknown word {word}"),
        }
    }
    Ok(node)
}

fn proto(text: &str) -> Result<Proto> {
    match text {
        "TCP" => Ok(Proto::Tcp),
        "UDP" => Ok(Proto::Udp),
        _ => bail!("unknown protocol {text}"),
    }
}

fn service(name: &str, words: &[&str]) -> Result<Service> {
    let mut service = Service {
        key: key(name)?,
        uid: String::new(),
        created_unix_s: 0,
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: Vec::new(),
        internal_local: false,
        external_local: false,
        affinity_timeout_s: None,
        source_ranges: Vec::new(),
        health_check_node_port: 0,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("created", n) => service.created_unix_s = n.parse()?,
            ("ip", a) => service.cluster_ips.push(a.parse()?),
            ("external", a) => service.external_ips.push(a.parse()?),
            ("range", net) => service.source_ranges.push(net.parse()?),
            ("vip", a) => service.load_balancer_ips.push(a.parse()?),
            ("affinity", n) => service.affinity_timeout_s = Some(n.parse()?),
            ("internal-local", _) => service.internal_local = true,
            ("external-local", _) => service.external_local = true,
            ("port", p) => {
                let parts: Vec<&str> = p.split('/').collect();
                let (&[name, protocol, port], node_port) =
                    (parts.first_chunk().context("NAME/PROTO/PORT")?, parts.get(3));
                let node_port = node_port.map_or(Ok(0), |n| n.parse())?;
                let (proto, port) = (proto(protocol)?, port.parse()?);
                service.ports.push(ServicePort { name: name.into(), proto, port, node_port });
            }
            _ => bail!("unknown word {word}"),
        }
    }
    Ok(service)
}

fn slice(name: &str, words: &[&str]) -> Result<Slice> {
    let key = key(name)?;
    let mut slice = Slice { key, service: "".into(), family: Family::V4, ports: vec![], endpoints: vec![] };
    for word in words {
        match word.split_once('=').context("KEY=VALUE")? {
            ("for", service) => slice.service = service.into(),
            ("port", p) => {
                let [name, protocol, port] = p.split('/').collect::<Vec<_>>()[..] else {
                    bail!("NAME/PROTO/PORT")
                };
                let (name, proto, port) = (name.into(), proto(protocol)?, port.parse()?);
                slice.ports.push(SlicePort { name, proto, port });
            }
            _ => bail!("unknown word {word}"),
        }
    }
    Ok(slice)
}

fn endpoint(address: &str, words: &[&str]) -> Result<Endpoint> {
    let addr: IpAddr = address.parse()?;
    let list = |text: &str| text.split(',').map(str::to_string).collect::<Vec<_>>();
    let mut endpoint = Endpoint {
        addr,
        ready: !words.iter().any(|w| ["unready", "terminating"].contains(w)),
        serving: !words.contains(&"unready") || words.contains(&"serving"),
        terminating: words.contains(&"terminating"),
        node_name: None,
        hints: None,
    };
    let mut hints = Hints::default();
    for word in words {
        match word.split_once('=') {
            Some(("node", name)) => endpoint.node_name = Some(name.into()),
            Some(("zones", zones)) => hints.zones = list(zones),
            Some(("nodes", nodes)) => hints.nodes = list(nodes),
            None if ["unready", "serving", "terminating"].contains(word) => {}
            _ => bail!("unknown word {word}"),
        }
    }
    endpoint.hints = Hints::of(hints.zones, hints.nodes);
    Ok(endpoint)
}
