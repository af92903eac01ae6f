//! Forms of a report: CSV, JSON, and a table of plain text for a mail or a file.

use serde_json::{Map, Value};

use crate::Report;

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines of plain text, with columns of equal width.
    Table,
    /// Comma-separated values.
    Csv,
    /// An array of objects.
    Json,
}

impl Format {
    /// The form of a word: table, csv or json.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "table" => Some(Self::Table),
            "csv" => Some(Self::Csv),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// The extension of a file in this form.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Table => "txt",
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }

    /// The report in this form.
    pub fn render(self, report: &Report) -> String {
        match self {
            Self::Table => text(report),
            Self::Csv => csv(report),
            Self::Json => format!("{:#}\n", json(report)),
        }
    }
}

/// First letters of a cell that a spreadsheet takes for a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// The report as CSV (RFC 4180): a line of column names, then a line for each row, each ended by CR LF. A text that a
/// spreadsheet would take for a formula gets an apostrophe in front, also a number in international form (`+49…`): the
/// caller chooses it.
pub fn csv(report: &Report) -> String {
    let mut text = line(report.columns.iter().map(|column| field(&column.name, true)));
    for row in &report.rows {
        let numbers = report.columns.iter().map(|column| column.number);
        text += &line(row.iter().zip(numbers).map(|(cell, number)| field(cell, number)));
    }
    text
}

/// The report as JSON: an array with an object for each row, whose names are those of the columns. An unknown value is
/// null.
pub fn json(report: &Report) -> Value {
    let row = |cells: &Vec<String>| {
        let cells = report.columns.iter().zip(cells).map(|(column, cell)| {
            let value = match cell.parse::<u64>() {
                _ if cell.is_empty() => Value::Null,
                Ok(number) if column.number => Value::from(number),
                _ => Value::from(cell.as_str()),
            };
            (column.name.clone(), value)
        });
        Value::Object(cells.collect::<Map<_, _>>())
    };
    report.rows.iter().map(row).collect()
}

/// The report as lines of plain text, with columns of equal width.
pub fn text(report: &Report) -> String {
    let header = headings(report);
    let rows: Vec<&Vec<String>> = std::iter::once(&header).chain(&report.rows).collect();
    let widest = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..report.columns.len()).map(widest).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), column) in row.iter().zip(&widths).zip(&report.columns) {
            let cell = printable(cell);
            line += &if column.number { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Names of the columns over a table for people.
pub fn headings(report: &Report) -> Vec<String> {
    report.columns.iter().map(|column| column.name.replace('_', " ").to_uppercase()).collect()
}

/// A line break in a cell must not look like another row.
fn printable(cell: &str) -> String {
    cell.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

fn line(fields: impl Iterator<Item = String>) -> String {
    fields.collect::<Vec<_>>().join(",") + "\r\n"
}

/// A field of CSV; `safe`: not from outside.
fn field(cell: &str, safe: bool) -> String {
    let defused = match cell.starts_with(FORMULA) && !safe {
        true => format!("'{cell}"),
        false => cell.to_owned(),
    };
    match defused.contains(['"', ',', '\r', '\n', '\'']) {
        true => format!("\"{}\"", defused.replace('"', "\"\"")),
        false => defused,
    }
}
