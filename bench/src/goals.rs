//! The goals of the issue, and how far a run meets them. Ratios are of figures taken in this one run.

use std::collections::BTreeMap;

use crate::report::{Cell, Goal, SuiteReport, figure};

/// The largest number of Services.
const MANY: u64 = 30_000;

/// All goals; those whose suite was not run are not measured.
pub fn judge(suites: &BTreeMap<String, SuiteReport>) -> Vec<Goal> {
    let judge = Judge { suites };
    [judge.programs(), judge.forwarding(), judge.connections(), judge.streams(), judge.control()].concat()
}

struct Judge<'a> {
    suites: &'a BTreeMap<String, SuiteReport>,
}

/// A way to compare.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn is_met(&self, value: f64) -> bool {
        match self {
            Bound::AtMost(limit) => value <= *limit,
            Bound::AtLeast(limit) => value >= *limit,
        }
    }
}

fn goal(text: &str, unit: &str, bound: Bound, value: Option<f64>, from: &str) -> Goal {
    Goal {
        goal: text.to_owned(),
        measured: value.map(|v| format!("{} {unit}", figure(v)).trim_end().to_owned()),
        met: value.map(|v| bound.is_met(v)),
        from: from.to_owned(),
    }
}

impl Judge<'_> {
    /// A usable cell; the smallest or largest number of Services where `services` names none that was measured.
    fn cell(&self, suite: &str, case: &str, who: &str, params: &[(&str, u64)]) -> Option<&Cell> {
        self.suites.get(suite)?.find(case, who, params).filter(|c| c.wrong.is_none() && c.summary.n > 0)
    }

    fn median(&self, suite: &str, case: &str, who: &str, params: &[(&str, u64)]) -> Option<f64> {
        Some(self.cell(suite, case, who, params)?.summary.median)
    }

    fn program(&self, case: &str, flows: u64, services: u64) -> Option<f64> {
        self.median("program", case, "fairway", &[("flows", flows), ("services", services)])
    }

    /// The case of established flows: out by another device, else, where that is not measured, by the same one.
    fn established(&self, family: &str) -> String {
        let case = |how: &str| format!("established forward, {family} TCP, XDP {how}");
        let redirect = case("redirect");
        if self.program(&redirect, 1, 1).is_some() { redirect } else { case("TX") }
    }

    fn programs(&self) -> Vec<Goal> {
        let (v4, v6) = (self.established("IPv4"), self.established("IPv6"));
        let (v4, v6) = (v4.as_str(), v6.as_str());
        const NEW: &str = "new flow, IPv4 TCP, XDP TX";
        const NOT_OURS: &str = "not ours, IPv4 TCP, XDP";
        let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
        // The worst growth of anything, in percent.
        let growth = self.suites.get("program").and_then(|suite| {
            let grown =
                suite.cells.iter().filter(|c| c.params.get("services") == Some(&MANY)).filter_map(|c| {
                    let flows = *c.params.get("flows")?;
                    let few = self.program(&c.case, flows, 1)?;
                    Some((self.program(&c.case, flows, MANY)? / few - 1.0) * 100.0)
                });
            grown.max_by(f64::total_cmp)
        });
        let min = |case: &str, flows: u64| {
            let cell = self.cell("program", case, "fairway", &[("flows", flows), ("services", 1)]);
            cell.map(|c| c.summary.min)
        };
        vec![
            goal(
                "established IPv4 TCP, 1 flow: ≤ 100 ns",
                "ns",
                Bound::AtMost(100.0),
                self.program(v4, 1, 1),
                v4,
            ),
            goal("the same, fastest round", "ns", Bound::AtMost(100.0), min(v4, 1), v4),
            goal(
                "established IPv4 TCP, 65,536 flows: ≤ 220 ns",
                "ns",
                Bound::AtMost(220.0),
                self.program(v4, 65_536, 1),
                v4,
            ),
            goal("the same, fastest round", "ns", Bound::AtMost(220.0), min(v4, 65_536), v4),
            goal(
                "established IPv6 at most 1.25 × IPv4, 1 flow",
                "×",
                Bound::AtMost(1.25),
                ratio(self.program(v6, 1, 1), self.program(v4, 1, 1)),
                v6,
            ),
            goal(
                "established IPv6 at most 1.25 × IPv4, 65,536 flows",
                "×",
                Bound::AtMost(1.25),
                ratio(self.program(v6, 65_536, 1), self.program(v4, 65_536, 1)),
                v6,
            ),
            goal("not ours: ≤ 35 ns", "ns", Bound::AtMost(35.0), self.program(NOT_OURS, 1, 1), NOT_OURS),
            goal("new flow: ≤ 550 ns", "ns", Bound::AtMost(550.0), self.program(NEW, 1, 1), NEW),
            goal(
                "1 → 30,000 services: nothing grows by more than 10 %",
                "% at worst",
                Bound::AtMost(10.0),
                growth,
                "program, every case",
            ),
        ]
    }

    fn forwarding(&self) -> Vec<Goal> {
        let hop = |who: &str, services: u64| {
            self.median("forward", "established, 1024 flows", who, &[("services", services)])
        };
        [("nftables", 1), ("iptables", 1), ("nftables", MANY), ("iptables", MANY)]
            .into_iter()
            .map(|(rival, services)| {
                let ratio = hop(rival, services).zip(hop("fairway", services)).map(|(r, f)| r / f);
                goal(
                    &format!("hop at least 5 × cheaper than {rival}, {services} services"),
                    "×",
                    Bound::AtLeast(5.0),
                    ratio,
                    "forward, established, 1024 flows",
                )
            })
            .collect()
    }

    /// The better of Fairway's two ways: an administrator would choose it.
    fn best(&self, suite: &str, case: &str, params: &[(&str, u64)]) -> Option<f64> {
        let rates = ["fairway", "fairway tc"].iter().filter_map(|who| self.median(suite, case, who, params));
        rates.max_by(f64::total_cmp)
    }

    fn connections(&self) -> Vec<Goal> {
        const NODE_PORT: &str = "connect, nodePort";
        const SOCKET: &str = "connect, clusterIP from the node";
        let against = |rival: &str, services: u64| {
            let params = [("services", services)];
            Some(
                self.best("connect", NODE_PORT, &params)?
                    / self.median("connect", NODE_PORT, rival, &params)?,
            )
        };
        let p99 = |services: u64| {
            let cells = ["fairway", "fairway tc"].iter().filter_map(|who| {
                self.cell("connect", NODE_PORT, who, &[("services", services)])?.extra.get("p99 µs").copied()
            });
            cells.min_by(f64::total_cmp)
        };
        let grown = p99(MANY).zip(p99(1)).map(|(many, one)| many / one);
        let socket = (|| {
            let params = [("services", 1)];
            let fairway = self.median("connect", SOCKET, "fairway", &params)?;
            Some(fairway / self.median("connect", SOCKET, "routing", &params)?)
        })();
        vec![
            goal(
                "nodePort connections/s at least 1.12 × nftables, 1 service",
                "×",
                Bound::AtLeast(1.12),
                against("nftables", 1),
                NODE_PORT,
            ),
            goal(
                "nodePort connections/s at least 12 × iptables, 30,000 services",
                "×",
                Bound::AtLeast(12.0),
                against("iptables", MANY),
                NODE_PORT,
            ),
            goal(
                "p99 of connect does not grow, 1 → 30,000 services",
                "×",
                Bound::AtMost(1.10),
                grown,
                "connect, nodePort, p99",
            ),
            goal(
                "never slower than iptables, in any cell",
                "× at worst",
                Bound::AtLeast(1.0),
                self.worst_against_iptables(),
                "connect, stream, forward: every case",
            ),
            goal(
                "clusterIP by socket hook at least 0.98 of the direct address",
                "×",
                Bound::AtLeast(0.98),
                socket,
                SOCKET,
            ),
        ]
    }

    /// Fairway's better way against the better of both iptables, in the worst case of all.
    fn worst_against_iptables(&self) -> Option<f64> {
        let mut worst: Option<f64> = None;
        for (suite, report) in self.suites {
            for cell in report.cells.iter().filter(|c| c.who.starts_with("iptables") && c.wrong.is_none()) {
                let params: Vec<_> = cell.params.iter().map(|(name, value)| (*name, *value)).collect();
                let ours = ["fairway", "fairway tc"].iter().filter_map(|who| {
                    let ours = self.cell(suite, &cell.case, who, &params)?;
                    Some(match ours.better {
                        crate::report::Better::Higher => ours.summary.median / cell.summary.median,
                        crate::report::Better::Lower => cell.summary.median / ours.summary.median,
                    })
                });
                if suite != "control"
                    && let Some(ratio) = ours.max_by(f64::total_cmp)
                {
                    worst = Some(worst.map_or(ratio, |w| w.min(ratio)));
                }
            }
        }
        worst
    }

    fn streams(&self) -> Vec<Goal> {
        let ratio = |case: &str, who: &str, reference: &str| {
            Some(self.median("stream", case, who, &[])? / self.median("stream", case, reference, &[])?)
        };
        let mut goals = Vec::new();
        for case in ["upload, nodePort", "download, nodePort", "upload, clusterIP from a pod"] {
            for (who, reference) in [("fairway tc", "routing"), ("fairway", "routing, empty XDP")] {
                goals.push(goal(
                    &format!("bulk TCP at least 0.97 of {reference}: {case}, {who}"),
                    "×",
                    Bound::AtLeast(0.97),
                    ratio(case, who, reference),
                    case,
                ));
            }
        }
        goals
    }

    fn control(&self) -> Vec<Goal> {
        let extra = |case: &str, services: u64, endpoints: u64, name: &str| {
            let params = [("services", services), ("endpoints", endpoints)];
            self.cell("control", case, "fairway", &params)?.extra.get(name).copied()
        };
        let event = self.cell("control", "one slice event", "fairway", &[("services", 10_000)]);
        let memory =
            self.cell("control", "memory, agent", "fairway", &[("services", 10_000), ("endpoints", 10)]);
        vec![
            goal(
                "10,000 × 10 from cold: ≤ 0.6 s of agent time",
                "s",
                Bound::AtMost(0.6),
                extra("cold start", 10_000, 10, "agent ms").map(|ms| ms / 1e3),
                "control, cold start, CPU time of the agent",
            ),
            goal(
                "5,000 × 50 from cold: ≤ 1 s of agent time",
                "s",
                Bound::AtMost(1.0),
                extra("cold start", 5_000, 50, "agent ms").map(|ms| ms / 1e3),
                "control, cold start, CPU time of the agent",
            ),
            goal(
                "one slice event to the map: ≤ 2 ms at p99, 10,000 services",
                "ms",
                Bound::AtMost(2.0),
                event.map(|c| c.summary.p99),
                "control, one slice event",
            ),
            goal(
                "agent under 60 MB at 100,000 endpoints",
                "MB",
                Bound::AtMost(60.0),
                memory.map(|c| c.summary.median),
                "control, memory, agent",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Better;
    use crate::stats::Summary;

    fn cell(who: &str, services: u64, rate: f64) -> Cell {
        let cell = Cell::new("connect, nodePort", who, "connections/s", Better::Higher);
        Cell { summary: Summary::of(&[rate]), ..cell.with("services", services) }
    }

    #[test]
    fn a_goal_is_judged_by_figures_of_one_run_and_is_open_without_them() {
        let cells =
            vec![cell("fairway", 1, 24_000.0), cell("nftables", 1, 20_000.0), cell("iptables", 1, 25_000.0)];
        let report = SuiteReport { cells, ..SuiteReport::default() };
        let goals = judge(&BTreeMap::from([("connect".to_owned(), report)]));
        let find = |text: &str| goals.iter().find(|g| g.goal.contains(text)).expect("a goal");
        assert_eq!(find("1.12 × nftables").met, Some(true));
        assert_eq!(find("never slower than iptables").met, Some(false));
        assert_eq!(find("12 × iptables").met, None);
        assert_eq!(find("not ours").measured, None);
    }
}
