//! What a run found, as plain data, as tables and as one JSON document.

use std::collections::BTreeMap;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::stats::Summary;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Less is better.
    Lower,
    /// More is better.
    Higher,
}

/// One contestant's result in one case.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// What was done; equal for all contestants.
    pub case: String,
    /// Who did it.
    pub who: String,
    /// The case's parameters, such as `services` and `flows`.
    pub params: BTreeMap<&'static str, u64>,
    /// Unit of the summary.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// The samples.
    pub summary: Summary,
    /// The empty program during these samples; none where it was not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_ns: Option<Summary>,
    /// Other figures of the same samples, by name and unit.
    pub extra: BTreeMap<String, f64>,
    /// Rounds that were repeated because the machine was disturbed.
    pub repeated: u32,
    /// Samples that are disturbed all the same, after the last repetition allowed.
    pub disturbed: u32,
    /// What the datapath counted in the last sample, by reason.
    pub counted: BTreeMap<String, u64>,
    /// What is wrong with this cell; its numbers mean nothing then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrong: Option<String>,
}

impl Cell {
    /// An empty cell.
    pub fn new(case: impl Into<String>, who: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self {
            case: case.into(),
            who: who.into(),
            params: BTreeMap::new(),
            unit,
            better,
            summary: Summary::default(),
            floor_ns: None,
            extra: BTreeMap::new(),
            repeated: 0,
            disturbed: 0,
            counted: BTreeMap::new(),
            wrong: None,
        }
    }

    /// With a parameter.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: u64) -> Self {
        self.params.insert(name, value);
        self
    }

    fn params_text(&self) -> String {
        self.params.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }
}

/// What a suite found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SuiteReport {
    /// Every cell, in order.
    pub cells: Vec<Cell>,
    /// Remarks for the reader.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl SuiteReport {
    /// The first cell of a case, a contestant and these parameters.
    pub fn find(&self, case: &str, who: &str, params: &[(&str, u64)]) -> Option<&Cell> {
        self.cells.iter().find(|c| {
            c.case == case
                && c.who == who
                && params.iter().all(|(name, value)| c.params.get(name) == Some(value))
        })
    }
}

/// A goal and how far it is met.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// What is asked for.
    pub goal: String,
    /// What was measured, with its unit; none when the suite was not run.
    pub measured: Option<String>,
    /// Whether it is met; none when it was not measured.
    pub met: Option<bool>,
    /// From which cells.
    pub from: String,
}

/// The whole document.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// Version of Fairway.
    pub version: &'static str,
    /// The command line that made it.
    pub command: String,
    /// True when it measures nothing and only shows that everything runs.
    pub quick: bool,
    /// Seconds since the epoch.
    pub started_unix_s: u64,
    /// Kernel release and CPU.
    pub machine: BTreeMap<&'static str, String>,
    /// What the empty program costs on the quiet machine.
    pub floor_ns: f64,
    /// By suite.
    pub suites: BTreeMap<String, SuiteReport>,
    /// The goals.
    pub goals: Vec<Goal>,
}

/// A suite's cells as a table: one line each, with the ratio to the first contestant of the same case.
pub fn table(report: &SuiteReport) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "case",
        "parameters",
        "who",
        "min",
        "median",
        "p99",
        "unit",
        "vs fairway",
        "n",
        "remarks",
    ]);
    for cell in &report.cells {
        let reference = report.cells.iter().find(|c| {
            c.case == cell.case
                && c.params == cell.params
                && c.unit == cell.unit
                && c.who.starts_with("fairway")
        });
        let ratio = reference.filter(|r| r.summary.median != 0.0 && r.who != cell.who);
        let ratio = ratio.map_or(String::new(), |r| format!("{:.2}", cell.summary.median / r.summary.median));
        table.add_row([
            cell.case.clone(),
            cell.params_text(),
            cell.who.clone(),
            figure(cell.summary.min),
            figure(cell.summary.median),
            figure(cell.summary.p99),
            cell.unit.to_owned(),
            ratio,
            cell.summary.n.to_string(),
            remarks(cell),
        ]);
    }
    let notes: String = report.notes.iter().map(|note| format!("\n  {note}")).collect();
    format!("{table}{notes}")
}

/// The goals as a table.
pub fn goals(goals: &[Goal]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["goal", "measured", "met", "from"]);
    for goal in goals {
        let met = goal.met.map_or("-", |met| if met { "yes" } else { "NO" });
        let measured = goal.measured.clone().unwrap_or_else(|| "not measured".to_owned());
        table.add_row([goal.goal.clone(), measured, met.to_owned(), goal.from.clone()]);
    }
    table.to_string()
}

fn remarks(cell: &Cell) -> String {
    let mut remarks = Vec::new();
    remarks.extend(cell.wrong.clone().map(|what| format!("WRONG: {what}")));
    remarks.extend(cell.extra.iter().map(|(name, value)| format!("{name} {}", figure(*value))));
    if cell.disturbed > 0 {
        remarks.push(format!("{} disturbed", cell.disturbed));
    }
    if cell.repeated > 0 {
        remarks.push(format!("{} repeated", cell.repeated));
    }
    remarks.join(", ")
}

/// A number with as many digits as mean something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
