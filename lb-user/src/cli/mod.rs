//! The reading subcommands: pure views of what the kernel holds, as a table or as JSON.
//!
//! Each module turns kernel values (and the names the agent left in its state directory) into a serializable view
//! and the view into a table. None of them needs a running agent.

pub mod drops;
pub mod flows;
pub mod read;
pub mod services;
pub mod status;

use comfy_table::{Table, presets};
use serde::Serialize;

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A view that can be shown to people.
pub trait Show: Serialize {
    /// The text for people, without a final newline.
    fn text(&self) -> String;
}

/// The text of a view in the wanted form.
pub fn render(view: &impl Show, output: Output) -> Result<String, serde_json::Error> {
    match output {
        Output::Table => Ok(view.text()),
        Output::Json => serde_json::to_string_pretty(view),
    }
}

/// An empty table in the house style: no frames, so that it can be cut and searched.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The table's text without trailing blanks.
fn lines(table: &Table) -> String {
    table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `1h 2m`, `3m 4s`, `5s`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_have_two_units() {
        assert_eq!(super::duration(59), "59s");
        assert_eq!(super::duration(61), "1m 1s");
        assert_eq!(super::duration(7_260), "2h 1m");
        assert_eq!(super::duration(90_000), "1d 1h");
    }
}
