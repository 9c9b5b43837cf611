//! `fairway drops`: how often each program ended for which reason.

use lb_common::Reason;
use lb_common::reason::{COUNTERS_LEN, Hook};
use serde::Serialize;

use super::{Show, lines, table};

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonView {
    /// Stable label.
    pub reason: &'static str,
    /// The packet was not delivered.
    pub drop: bool,
    /// Count per hook, in the order of [`Hook::ALL`].
    pub by_hook: [u64; Hook::ALL.len()],
    /// Sum.
    pub total: u64,
}

/// All reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DropsView {
    /// Labels of the hooks.
    pub hooks: [&'static str; Hook::ALL.len()],
    /// Undelivered first, then the most frequent.
    pub reasons: Vec<ReasonView>,
}

/// Builds the view from the counters map, already summed over the CPUs. `all` keeps reasons never seen.
pub fn view(counters: &[u64], all: bool) -> DropsView {
    let count = |hook: Hook, reason: Reason| {
        let index = hook as u32 * Reason::COUNT + reason as u32;
        debug_assert!(index < COUNTERS_LEN);
        counters.get(index as usize).copied().unwrap_or(0)
    };
    let mut reasons: Vec<ReasonView> = Reason::ALL
        .iter()
        .map(|&reason| {
            let by_hook = Hook::ALL.map(|hook| count(hook, reason));
            ReasonView {
                reason: reason.label(),
                drop: reason.is_drop(),
                by_hook,
                total: by_hook.iter().sum(),
            }
        })
        .filter(|r| all || r.total > 0)
        .collect();
    reasons.sort_by_key(|r| (!r.drop, std::cmp::Reverse(r.total)));
    DropsView { hooks: Hook::ALL.map(Hook::label), reasons }
}

impl Show for DropsView {
    fn text(&self) -> String {
        if self.reasons.is_empty() {
            return "no packet has been counted yet".to_owned();
        }
        let header: Vec<&str> =
            ["REASON", "DELIVERED"].into_iter().chain(self.hooks).chain(["TOTAL"]).collect();
        let mut t = table(&header);
        for r in &self.reasons {
            let delivered = if r.drop { "no" } else { "yes" };
            let numbers = r.by_hook.iter().chain([&r.total]).map(u64::to_string);
            t.add_row([r.reason.to_owned(), delivered.to_owned()].into_iter().chain(numbers));
        }
        lines(&t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(values: &[(Hook, Reason, u64)]) -> Vec<u64> {
        let mut all = vec![0; COUNTERS_LEN as usize];
        for (hook, reason, n) in values {
            all[(*hook as u32 * Reason::COUNT + *reason as u32) as usize] = *n;
        }
        all
    }

    #[test]
    fn undelivered_packets_come_first() {
        let v = view(
            &counters(&[
                (Hook::Xdp, Reason::NotOurs, 900),
                (Hook::TcPod, Reason::NoSnatPort, 2),
                (Hook::Xdp, Reason::NoSnatPort, 3),
            ]),
            false,
        );
        let got: Vec<_> = v.reasons.iter().map(|r| (r.reason, r.total)).collect();
        assert_eq!(got, [("reject_no_snat_port", 5), ("pass_not_ours", 900)]);
        assert_eq!(v.reasons[0].by_hook, [3, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn all_shows_what_never_happened_and_a_short_map_is_no_panic() {
        assert_eq!(view(&[], true).reasons.len(), Reason::ALL.len());
        assert!(view(&[], false).text().starts_with("no packet"));
    }
}
