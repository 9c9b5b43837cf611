//! What a person sees: headings, tables, and one line per step with a spinner while it runs.
//!
//! With `--json` standard output belongs to the document and everything here goes to standard error. The
//! spinner is always on standard error, and only on a terminal; elsewhere a step announces itself with a line
//! there, so that a log shows what is slow.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use comfy_table::{Attribute, Cell, CellAlignment, LineStyle, Table, TableStyle};
use console::{Style, Term};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Rows of one line each.
const LIST: TableStyle = TableStyle::new()
    .top_border(LineStyle::none().fill('─').junction('─'))
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));
/// Rows of several lines, hence with something between them.
const TABLE: TableStyle = LIST.row_separator(LineStyle::none().fill('┈').junction('┈'));
const SPINNER_PERIOD: Duration = Duration::from_millis(80);

/// Where the demo speaks.
#[derive(Debug, Clone)]
pub struct Screen {
    term: Term,
    on_stderr: bool,
}

impl Screen {
    /// Speaks on standard output, or on standard error if that is taken.
    pub fn new(stdout_is_taken: bool) -> Self {
        let term = if stdout_is_taken { Term::stderr() } else { Term::stdout() };
        Self { term, on_stderr: stdout_is_taken }
    }

    /// One line, or several. A reader that has gone is no reason to leave a cluster behind.
    pub fn say(&self, text: impl AsRef<str>) {
        let _ = self.term.write_line(text.as_ref());
    }

    /// The title of a part.
    pub fn heading(&self, title: &str) {
        self.say(format!("\n{}", self.style().bold().cyan().apply_to(title)));
    }

    /// A remark under a title.
    pub fn remark(&self, text: &str) {
        self.say(self.style().dim().apply_to(text).to_string());
    }

    /// Something that is not as it should be.
    pub fn complain(&self, text: &str) {
        self.say(format!("{} {text}", self.style().red().bold().apply_to("✗")));
    }

    /// A line of success.
    pub fn praise(&self, text: &str) {
        self.say(format!("{} {text}", self.style().green().apply_to("✓")));
    }

    /// An empty table for rows of several lines. Cells are not wrapped: their lines belong together.
    pub fn table(&self, header: &[&str]) -> Table {
        self.styled_table(TABLE, header)
    }

    /// An empty table for rows of one line.
    pub fn list(&self, header: &[&str]) -> Table {
        self.styled_table(LIST, header)
    }

    fn styled_table(&self, style: TableStyle, header: &[&str]) -> Table {
        let mut table = Table::new();
        let bold = |title: &&str| Cell::new(title).add_attribute(Attribute::Bold);
        table.load_style(style).set_header(header.iter().map(bold));
        if self.on_stderr {
            table.use_stderr();
        }
        table
    }

    /// Shows a table, without blanks at the ends of its lines.
    pub fn show(&self, table: &Table) {
        table.lines().for_each(|line| self.say(line.trim_end()));
    }

    /// Begins a step that may take a while.
    pub fn step(&self, title: impl Into<Cow<'static, str>>) -> Step {
        let title = title.into();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{spinner:.cyan} {prefix}  {elapsed:.dim}  {wide_msg:.dim}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(title.clone());
        if bar.is_hidden() {
            let _ = Term::stderr().write_line(&format!("… {title}"));
        } else {
            bar.enable_steady_tick(SPINNER_PERIOD);
        }
        Step { screen: self.clone(), bar, title, started: Instant::now(), told: false }
    }

    fn style(&self) -> Style {
        if self.on_stderr { Style::new().for_stderr() } else { Style::new() }
    }
}

/// A step under way; dropped before [`Step::done`] it has failed.
#[derive(Debug)]
pub struct Step {
    screen: Screen,
    bar: ProgressBar,
    title: Cow<'static, str>,
    started: Instant,
    told: bool,
}

impl Step {
    /// What it is doing now.
    pub fn now(&self, what: impl Into<Cow<'static, str>>) {
        self.bar.set_message(what);
    }

    /// It is done; `result` in a few words, or nothing.
    pub fn done(mut self, result: impl AsRef<str>) {
        let result = result.as_ref();
        let told =
            if result.is_empty() { self.title.to_string() } else { format!("{}: {result}", self.title) };
        let took = format!("({:.1} s)", self.started.elapsed().as_secs_f64());
        self.bar.finish_and_clear();
        self.told = true;
        self.screen.praise(&format!("{told} {}", self.screen.style().dim().apply_to(took)));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.told {
            self.bar.finish_and_clear();
            self.screen.complain(&format!("{}: not finished", self.title));
        }
    }
}

/// Puts the numbers of these columns below each other.
pub fn align_right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Milliseconds for people: `0.8 ms`, `12 ms`, `1.4 s`.
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// `1,234`.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            (millis(0.84), millis(12.3), millis(1440.0)),
            ("0.8 ms".into(), "12 ms".into(), "1.4 s".into())
        );
        assert_eq!(
            (count(7), count(1000), count(1_234_567)),
            ("7".into(), "1,000".into(), "1,234,567".into())
        );
    }
}
