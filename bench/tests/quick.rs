//! Every suite runs from beginning to end, and its document is complete. Says nothing about speed.
//!
//! Needs root, `FAIRWAY_BENCH_OBJ` and `FAIRWAY_BIN`: `cargo xtask test -p bench`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

/// Suites, and a case of each with the contestants that it must have results of.
const EXPECTED: [(&str, &str, &[&str]); 8] = [
    ("program", "established forward, IPv4 TCP, XDP TX", &["fairway"]),
    ("program", "established reply, IPv6 UDP, XDP TX", &["fairway"]),
    ("program", "new flow, IPv4 TCP, XDP TX", &["fairway"]),
    ("program", "not ours, IPv6 TCP, XDP", &["fairway"]),
    ("forward", "established, 64 flows", &["XDP drop", "fairway", "nftables", "iptables", "routing"]),
    ("connect", "connect, nodePort", &["fairway", "fairway tc", "nftables", "iptables", "routing"]),
    ("stream", "upload, clusterIP from a pod", &["fairway", "fairway tc", "nftables", "iptables", "routing"]),
    ("control", "cold start", &["fairway", "nftables", "iptables"]),
];

fn namespaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[test]
fn every_suite_runs_and_its_document_is_complete() {
    let dir = tempfile::tempdir().expect("a directory");
    let (json, plots) = (dir.path().join("bench.json"), dir.path().join("plots"));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_fairway-bench"));
    bench.arg("--quick").arg("--json").arg(&json).arg("--plot").arg(&plots);
    let child = bench.spawn().expect("fairway-bench starts");
    let own = format!("fw{}-", child.id());
    let output = child.wait_with_output().expect("fairway-bench ends");
    assert!(output.status.success(), "fairway-bench: {}", output.status);
    let left: Vec<_> = namespaces().into_iter().filter(|name| name.starts_with(&own)).collect();
    assert!(left.is_empty(), "left behind: {left:?}");

    let text = fs::read_to_string(&json).expect("a document");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["quick"], true);
    for (suite, case, contestants) in EXPECTED {
        let cells = document["suites"][suite]["cells"].as_array().expect("cells");
        for who in contestants {
            let found: Vec<_> = cells.iter().filter(|c| c["case"] == case && c["who"] == *who).collect();
            assert!(!found.is_empty(), "{suite}: no {case} of {who}");
            for cell in found {
                assert_eq!(cell["wrong"], Value::Null, "{suite}: {case} of {who}");
                assert!(cell["summary"]["n"].as_u64() > Some(0), "{suite}: {case} of {who} has no sample");
            }
        }
    }
    for (suite, report) in document["suites"].as_object().expect("suites") {
        for cell in report["cells"].as_array().expect("cells") {
            let measured = cell["summary"]["n"].as_u64() > Some(0);
            assert!(measured || cell["wrong"].is_string(), "{suite}: {cell} is empty and does not say why");
        }
    }
    assert!(document["goals"].as_array().is_some_and(|goals| goals.len() > 20));
    for chart in
        ["program.svg", "forward.svg", "connect-rate.svg", "connect-p99.svg", "stream.svg", "control.svg"]
    {
        let svg = fs::read_to_string(plots.join(chart)).unwrap_or_default();
        assert!(svg.contains("</svg>"), "{chart} is no chart");
    }
}
