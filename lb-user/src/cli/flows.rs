//! `fairway flows`: the flow records, filtered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use lb_common::flow::{
    FLOW_FROM_POD, FLOW_HAIRPIN, FLOW_LOCAL, FLOW_SNAT, ST_ESTABLISHED, ST_FIN_FWD, ST_FIN_REV, ST_REPLIED,
    ST_RST, ST_USED, TICK_NS,
};
use lb_common::{A4, A6, Addr, Flow, FlowKey};
use serde::Serialize;

use super::services::proto_of;
use super::{Show, duration, lines, table};

/// An address, with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddrFilter {
    ip: IpAddr,
    port: Option<u16>,
}

impl FromStr for AddrFilter {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if let Ok(sa) = s.parse::<SocketAddr>() {
            return Ok(AddrFilter { ip: sa.ip(), port: Some(sa.port()) });
        }
        let ip = s.parse().map_err(|_| format!("`{s}` is not an address, nor an address with a port"))?;
        Ok(AddrFilter { ip, port: None })
    }
}

impl AddrFilter {
    fn accepts(&self, sa: &SocketAddr) -> bool {
        self.ip == sa.ip() && self.port.is_none_or(|p| p == sa.port())
    }
}

/// Protocol word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ProtoFilter {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Filters; all given ones must match.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Filters {
    /// Only flows to this frontend (ADDR or ADDR:PORT)
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub frontend: Option<AddrFilter>,
    /// Only flows of this client
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub client: Option<AddrFilter>,
    /// Only flows to this backend
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub backend: Option<AddrFilter>,
    /// Only this protocol
    #[arg(long, value_enum)]
    pub proto: Option<ProtoFilter>,
    /// Show at most this many; 0 = all
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowView {
    /// TCP or UDP.
    pub proto: String,
    /// Who asked.
    pub client: SocketAddr,
    /// What was asked.
    pub frontend: SocketAddr,
    /// Who answers.
    pub backend: SocketAddr,
    /// Source the backend sees, when it is not the client.
    pub masqueraded_as: Option<SocketAddr>,
    /// Where the flow stands.
    pub state: &'static str,
    /// `local`, `hairpin`, `from-pod`.
    pub path: Vec<&'static str>,
    /// Seconds since its first packet.
    pub age_s: u64,
    /// Seconds since its last packet.
    pub idle_s: u64,
    /// Idle longer than its timeout.
    pub expired: bool,
    /// Packets towards the backend.
    pub fwd_packets: u32,
    /// Packets towards the client.
    pub rev_packets: u32,
    /// Backend id.
    pub backend_id: u32,
    /// Its generation when the flow began.
    pub backend_generation: u32,
    /// Service-port id.
    pub svc_id: u32,
}

/// The flows that matched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowsView {
    /// Flows that matched, whether shown or not.
    pub matched: usize,
    /// Shown flows.
    pub flows: Vec<FlowView>,
}

/// An address of the map ABI as std's.
pub trait ToIp: Copy {
    /// The address.
    fn to_ip(self) -> IpAddr;
}

impl ToIp for A4 {
    fn to_ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl ToIp for A6 {
    fn to_ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
}

fn ends<A: ToIp>(key: &FlowKey<A>) -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::new(key.src.to_ip(), u16::from_be(key.sport_be)),
        SocketAddr::new(key.dst.to_ip(), u16::from_be(key.dport_be)),
    )
}

impl FlowsView {
    /// Adds records of one family that are in use, stable and match.
    pub fn add<A: ToIp + Addr>(
        &mut self,
        records: impl IntoIterator<Item = Flow<A>>,
        filters: &Filters,
        now_tick: u32,
    ) {
        for flow in records {
            if flow.state & ST_USED == 0 || flow.seq & 1 == 1 {
                continue;
            }
            let view = flow_view(&flow, now_tick);
            if !filters.accept(&view) {
                continue;
            }
            self.matched += 1;
            if filters.limit == 0 || self.flows.len() < filters.limit {
                self.flows.push(view);
            }
        }
    }
}

impl Filters {
    fn accept(&self, flow: &FlowView) -> bool {
        let addr =
            |filter: &Option<AddrFilter>, sa: &SocketAddr| filter.as_ref().is_none_or(|f| f.accepts(sa));
        let proto = match self.proto {
            None => true,
            Some(ProtoFilter::Tcp) => flow.proto == "TCP",
            Some(ProtoFilter::Udp) => flow.proto == "UDP",
        };
        proto
            && addr(&self.frontend, &flow.frontend)
            && addr(&self.client, &flow.client)
            && addr(&self.backend, &flow.backend)
    }
}

fn flow_view<A: ToIp + Addr>(flow: &Flow<A>, now_tick: u32) -> FlowView {
    let (client, frontend) = ends(&flow.orig);
    let (backend, answered_to) = ends(&flow.reply);
    let seconds = |tick: u32| {
        let elapsed = now_tick.wrapping_sub(tick);
        // A packet may pass between reading the clock and reading the record.
        if elapsed > u32::MAX / 2 { 0 } else { u64::from(elapsed) * TICK_NS / 1_000_000_000 }
    };
    let idle_ticks = now_tick.wrapping_sub(flow.last_tick) as i32;
    let path = [(FLOW_LOCAL, "local"), (FLOW_HAIRPIN, "hairpin"), (FLOW_FROM_POD, "from-pod")];
    FlowView {
        proto: proto_of(flow.orig.proto).map_or_else(|| flow.orig.proto.to_string(), |p| p.to_string()),
        client,
        frontend,
        backend,
        masqueraded_as: (flow.flags & FLOW_SNAT != 0).then_some(answered_to),
        state: state_of(flow),
        path: path.iter().filter(|(flag, _)| flow.flags & flag != 0).map(|(_, name)| *name).collect(),
        age_s: seconds(flow.born_tick),
        idle_s: seconds(flow.last_tick),
        expired: idle_ticks > 0 && flow.timeout() < idle_ticks as u32,
        fwd_packets: flow.fwd_packets,
        rev_packets: flow.rev_packets,
        backend_id: flow.backend_id,
        backend_generation: flow.backend_generation,
        svc_id: flow.svc_id,
    }
}

fn state_of<A: Addr>(flow: &Flow<A>) -> &'static str {
    let has = |bit: u32| flow.state & bit != 0;
    if flow.orig.proto != 6 {
        return if has(ST_REPLIED) { "answered" } else { "unanswered" };
    }
    if has(ST_RST) {
        "reset"
    } else if flow.is_closed() {
        "closed"
    } else if has(ST_FIN_FWD) {
        "closing (client)"
    } else if has(ST_FIN_REV) {
        "closing (backend)"
    } else if has(ST_ESTABLISHED) {
        "established"
    } else if has(ST_REPLIED) {
        "syn-ack"
    } else {
        "syn"
    }
}

impl Show for FlowsView {
    fn text(&self) -> String {
        if self.matched == 0 {
            return "no flows".to_owned();
        }
        let mut t = table(&[
            "PROTO",
            "CLIENT",
            "FRONTEND",
            "BACKEND",
            "MASQUERADED AS",
            "STATE",
            "PATH",
            "IDLE",
            "PACKETS",
        ]);
        for f in &self.flows {
            t.add_row([
                f.proto.clone(),
                f.client.to_string(),
                f.frontend.to_string(),
                f.backend.to_string(),
                f.masqueraded_as.map_or_else(|| "-".to_owned(), |a| a.to_string()),
                if f.expired { format!("{} (expired)", f.state) } else { f.state.to_owned() },
                if f.path.is_empty() { "-".to_owned() } else { f.path.join(",") },
                duration(f.idle_s),
                format!("{}/{}", f.fwd_packets, f.rev_packets),
            ]);
        }
        let hidden = self.matched - self.flows.len();
        let more =
            if hidden > 0 { format!("\n… and {hidden} more (--limit 0 shows all)") } else { String::new() };
        lines(&t) + &more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client_port: u16, state: u32, flags: u32) -> Flow<A4> {
        let a = |last: u8| A4::from(Ipv4Addr::new(10, 0, 0, last));
        Flow {
            seq: 2,
            state: state | ST_USED,
            flags,
            last_tick: 1_000,
            orig: FlowKey {
                src: a(1),
                dst: a(2),
                sport_be: client_port.to_be(),
                dport_be: 30080u16.to_be(),
                proto: 6,
            },
            reply: FlowKey {
                src: a(3),
                dst: a(2),
                sport_be: 80u16.to_be(),
                dport_be: 61000u16.to_be(),
                proto: 6,
            },
            ..Flow::default()
        }
    }

    fn view(filters: &Filters, records: Vec<Flow<A4>>) -> FlowsView {
        let mut v = FlowsView::default();
        v.add(records, filters, 3_000);
        v
    }

    #[test]
    fn a_masqueraded_flow_shows_what_the_backend_sees() {
        let v = view(&Filters::default(), vec![flow(5000, ST_REPLIED | ST_ESTABLISHED, FLOW_SNAT)]);
        let f = &v.flows[0];
        assert_eq!(f.masqueraded_as, Some("10.0.0.2:61000".parse().expect("addr")));
        assert_eq!((f.state, f.idle_s, f.expired), ("established", 2, false));
    }

    #[test]
    fn free_and_half_written_records_are_not_flows() {
        let free = Flow { state: 0, ..flow(1, 0, 0) };
        let torn = Flow { seq: 3, ..flow(2, 0, 0) };
        assert_eq!(view(&Filters::default(), vec![free, torn]).matched, 0);
    }

    #[test]
    fn filters_all_have_to_match() {
        let records = || vec![flow(1, 0, 0), flow(2, 0, 0)];
        let filters =
            |words: &str| Filters { client: Some(words.parse().expect("filter")), ..Filters::default() };
        assert_eq!(view(&filters("10.0.0.1"), records()).matched, 2);
        assert_eq!(view(&filters("10.0.0.1:2"), records()).matched, 1);
        assert_eq!(
            view(&Filters { proto: Some(ProtoFilter::Udp), ..Filters::default() }, records()).matched,
            0
        );
        assert!("web".parse::<AddrFilter>().is_err());
        assert!("[fd00::1]:80".parse::<AddrFilter>().is_ok());
    }

    #[test]
    fn the_limit_says_what_it_hides() {
        let v = view(&Filters { limit: 1, ..Filters::default() }, vec![flow(1, 0, 0), flow(2, 0, 0)]);
        assert!(v.text().ends_with("… and 1 more (--limit 0 shows all)"), "{}", v.text());
    }

    #[test]
    fn tcp_states_have_names() {
        for (bits, name) in [
            (0, "syn"),
            (ST_REPLIED, "syn-ack"),
            (ST_REPLIED | ST_ESTABLISHED | ST_FIN_FWD, "closing (client)"),
            (ST_FIN_FWD | ST_FIN_REV, "closed"),
            (ST_ESTABLISHED | ST_RST, "reset"),
        ] {
            assert_eq!(state_of(&flow(1, bits, 0)), name);
        }
    }
}
