//! Tables for people, JSON for programs.

use std::io::{IsTerminal, stdin};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use twinbox_admin_client::CliError;
pub use twinbox_ids::counted;

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), CliError> {
    println!("{}", serde_json::to_string_pretty(value).map_err(CliError::failed)?);
    Ok(())
}

/// Table without frames that folds to the width of the terminal.
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

/// Requires the administrator to type a word, to prevent mistakes.
pub fn confirm(prompt: &str, word: &str) -> Result<(), CliError> {
    if !stdin().is_terminal() {
        return Err(CliError::Usage("nothing changed: stdin is not a terminal; confirm with --yes".to_owned()));
    }
    eprint!("{prompt}");
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(CliError::failed)?;
    match answer.trim() == word {
        true => Ok(()),
        false => Err(CliError::Failed(format!("nothing changed: that is not '{word}'"))),
    }
}

/// `acknowledged on two` or `acknowledged alone`, with its meaning (rule A3).
pub fn acknowledged(how: &str) -> String {
    match how {
        "alone" => "acknowledged alone: on this node's disk only, until a peer is back".to_owned(),
        how => format!("acknowledged {how}"),
    }
}

/// Local time of this machine, with milliseconds, from milliseconds since 1970.
pub fn time(ms: u64) -> String {
    local(ms, "%Y-%m-%d %H:%M:%S%.3f").unwrap_or_default()
}

/// Local time of this machine in a strftime format, from milliseconds since 1970; `None` beyond the year 9999.
pub fn local(ms: u64, format: &str) -> Option<String> {
    Some(timestamp(ms)?.to_zoned(TimeZone::system()).strftime(format).to_string())
}

/// Milliseconds since 1970 as a timestamp; `None` beyond the year 9999.
pub fn timestamp(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}
