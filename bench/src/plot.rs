//! Charts as SVG files, for a README.
//!
//! One file for each question a reader has; a chart whose suite was not run is not drawn. Bars are medians; Fairway
//! has one colour everywhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::report::{Cell, SuiteReport, figure};

const SIZE: (u32, u32) = (860, 420);
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHERS: [RGBColor; 5] = [
    RGBColor(0x9a, 0x9a, 0x9a),
    RGBColor(0xd6, 0x8a, 0x2e),
    RGBColor(0xb0, 0x56, 0x56),
    RGBColor(0x6b, 0x8e, 0x5a),
    RGBColor(0x8c, 0x6b, 0xb1),
];

/// One bar.
struct Bar {
    label: String,
    value: f64,
    ours: bool,
}

/// Draws every chart that the suites allow; returns the files.
pub fn all(dir: &Path, suites: &BTreeMap<String, SuiteReport>) -> Result<Vec<String>> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let mut files = Vec::new();
    let mut bars_of = |file: &str, title: &str, unit: &str, bars: Vec<Bar>| -> Result<()> {
        if !bars.is_empty() {
            bars_chart(&dir.join(file), title, unit, &bars).map_err(|e| anyhow!("draw {file}: {e}"))?;
            files.push(file.to_owned());
        }
        Ok(())
    };
    if let Some(suite) = suites.get("program") {
        bars_of("program.svg", "One packet through Fairway's XDP program", "ns", programs(suite))?;
    }
    if let Some(suite) = suites.get("forward") {
        let cells =
            suite.cells.iter().filter(|c| c.case.starts_with("established") && most_services(suite, c));
        let first = cells.clone().next().map(|c| c.case.clone()).unwrap_or_default();
        let bars = cells.filter(|c| c.case == first && c.who != "XDP drop").filter_map(bar_of).collect();
        bars_of("forward.svg", "One forwarding hop, established flows", "ns above an XDP drop", bars)?;
    }
    if let Some(suite) = suites.get("stream") {
        let cells = suite.cells.iter().filter(|c| c.case == "upload, nodePort");
        bars_of("stream.svg", "Bulk TCP through a nodePort", "Gbit/s", cells.filter_map(bar_of).collect())?;
    }
    if let Some(suite) = suites.get("control") {
        let cells = suite.cells.iter().filter(|c| c.case == "cold start" && most_services(suite, c));
        bars_of(
            "control.svg",
            "Loading all Services from nothing",
            "ms",
            cells.filter_map(bar_of).collect(),
        )?;
    }
    if let Some(suite) = suites.get("connect") {
        for (file, title, y) in [
            ("connect-rate.svg", "TCP connections per second through a nodePort", None),
            ("connect-p99.svg", "p99 of connect through a nodePort, µs", Some("p99 µs")),
        ] {
            lines_chart(&dir.join(file), title, suite, y).map_err(|e| anyhow!("draw {file}: {e}"))?;
            files.push(file.to_owned());
        }
    }
    Ok(files)
}

fn bar_of(cell: &Cell) -> Option<Bar> {
    let usable = cell.wrong.is_none() && cell.summary.n > 0;
    usable.then(|| Bar {
        label: cell.who.clone(),
        value: cell.summary.median,
        ours: cell.who.starts_with("fairway"),
    })
}

fn most_services(suite: &SuiteReport, cell: &Cell) -> bool {
    let of = |c: &Cell| c.params.get("services").copied();
    of(cell) == suite.cells.iter().filter_map(of).max()
}

fn programs(suite: &SuiteReport) -> Vec<Bar> {
    let wanted = [
        ("not ours, IPv4 TCP, XDP", 1, "not ours"),
        ("established forward, IPv4 TCP, XDP TX", 1, "IPv4, 1 flow"),
        ("established forward, IPv6 TCP, XDP TX", 1, "IPv6, 1 flow"),
        ("established forward, IPv4 TCP, XDP TX", 65_536, "IPv4, 65,536 flows"),
        ("established forward, IPv6 TCP, XDP TX", 65_536, "IPv6, 65,536 flows"),
        ("new flow, IPv4 TCP, XDP TX", 1, "IPv4, new flow"),
    ];
    let bars = wanted.iter().filter_map(|(case, flows, label)| {
        let bar = bar_of(suite.find(case, "fairway", &[("flows", *flows)])?)?;
        Some(Bar { label: (*label).to_owned(), ..bar })
    });
    bars.collect()
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn canvas(path: &Path) -> DrawingArea<SVGBackend<'_>, Shift> {
    SVGBackend::new(path, SIZE).into_drawing_area()
}

fn bars_chart(path: &Path, title: &str, unit: &str, bars: &[Bar]) -> Drawn {
    let root = canvas(path);
    root.fill(&WHITE)?;
    let largest = bars.iter().map(|b| b.value).fold(0.0, f64::max).max(1e-9);
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{title} ({unit})"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(150)
        .build_cartesian_2d(0.0..largest * 1.15, (0..bars.len()).into_segmented())?;
    let name = |at: &SegmentValue<usize>| match at {
        // The axis counts from below, and one beyond the last bar.
        SegmentValue::CenterOf(i) => bars.iter().rev().nth(*i).map_or_else(String::new, |b| b.label.clone()),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len())
        .y_label_formatter(&name)
        .label_style(("sans-serif", 14))
        .draw()?;
    for (i, bar) in bars.iter().rev().enumerate() {
        let colour = if bar.ours { OURS } else { OTHERS[0] };
        let corners = [(0.0, SegmentValue::Exact(i)), (bar.value, SegmentValue::Exact(i + 1))];
        let mut rectangle = Rectangle::new(corners, colour.filled());
        rectangle.set_margin(6, 6, 0, 0);
        chart.draw_series([rectangle])?;
        let at = (bar.value + largest * 0.01, SegmentValue::CenterOf(i));
        chart.draw_series([Text::new(figure(bar.value), at, ("sans-serif", 14))])?;
    }
    root.present()?;
    Ok(())
}

/// Lines over the number of Services, both axes logarithmic.
fn lines_chart(path: &Path, title: &str, suite: &SuiteReport, extra: Option<&str>) -> Drawn {
    let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for c in suite.cells.iter().filter(|c| c.case == "connect, nodePort" && c.wrong.is_none()) {
        let Some(services) = c.params.get("services") else { continue };
        let value = extra.map_or(Some(c.summary.median), |name| c.extra.get(name).copied());
        lines.entry(&c.who).or_default().extend(value.map(|v| (*services as f64, v)));
    }
    let values = || lines.values().flatten();
    let (low, high) = values().fold((f64::MAX, 1.0), |(l, h): (f64, f64), (_, v)| (l.min(*v), h.max(*v)));
    let most = values().map(|(n, _)| *n).fold(2.0, f64::max);
    let root = canvas(path);
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d((1.0..most * 1.1).log_scale(), (low * 0.8..high * 1.25).log_scale())?;
    chart.configure_mesh().x_desc("Services").label_style(("sans-serif", 14)).draw()?;
    let mut others = OTHERS.iter().cycle();
    for (who, mut points) in lines {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let colour = if who == "fairway" { &OURS } else { others.next().unwrap_or(&BLACK) };
        let style = colour.stroke_width(if who.starts_with("fairway") { 3 } else { 2 });
        chart
            .draw_series(LineSeries::new(points, style).point_size(3))?
            .label(who)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .position(SeriesLabelPosition::LowerLeft)
        .draw()?;
    root.present()?;
    Ok(())
}
