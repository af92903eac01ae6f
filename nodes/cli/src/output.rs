//! Tables for people, JSON for programs.

use chrono::{DateTime, Local};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::CliError;

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), CliError> {
    println!("{}", serde_json::to_string_pretty(value).map_err(CliError::failed)?);
    Ok(())
}

/// A table without frames that a terminal's width folds.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `acknowledged on two` or `acknowledged alone`, with what that means (rule A3).
pub fn acknowledged(how: &str) -> String {
    match how {
        "alone" => "acknowledged alone: on this node's disk only, until a peer is back".to_owned(),
        how => format!("acknowledged {how}"),
    }
}

/// A time as people here read it, to the millisecond.
pub fn time(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}
