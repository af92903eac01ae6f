//! Comma-separated values (RFC 4180), as spreadsheets write them: quoted fields, CRLF or LF, a byte order mark, and `;`
//! or a tab where the country's decimal comma took the comma.
//!
//! A field that a spreadsheet would evaluate is written with an apostrophe in front, and read without it: names may come
//! from directories whose users choose them.

use std::borrow::Cow;

/// A row and its first line, from 1.
pub(crate) type Row = (u64, Vec<String>);

/// Splits a text into rows; empty lines are skipped. The separator is the most frequent of `,`, `;` and tab in the
/// first line. The error is the line of a quote that never ends or ends in the middle of a field.
pub(crate) fn read(text: &str) -> Result<Vec<Row>, u64> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Some spreadsheets name the separator on a first line of its own.
    let (named, text) = match text.strip_prefix("sep=").and_then(|rest| rest.split_once('\n')) {
        Some((separator, rest)) if separator.trim_end_matches('\r').chars().count() == 1 => (true, rest),
        _ => (false, text),
    };
    let first = text.lines().next().unwrap_or_default();
    let count = |c: char| first.matches(c).count();
    let separator = [',', ';', '\t'].into_iter().rev().max_by_key(|c| count(*c)).unwrap_or(',');
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut begin) = (1 + u64::from(named), 1 + u64::from(named));
    let mut quoted_at = None;
    let mut was_quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if quoted_at.is_some() {
            match c {
                '"' if chars.next_if_eq(&'"').is_some() => field.push('"'),
                '"' => (quoted_at, was_quoted) = (None, true),
                c => {
                    line += u64::from(c == '\n');
                    field.push(c);
                }
            }
            continue;
        }
        match c {
            '"' if field.trim().is_empty() && !was_quoted => {
                field.clear();
                quoted_at = Some(line);
            }
            '"' => return Err(line),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' | '\r' => {
                end_field(&mut row, &mut field, &mut was_quoted);
                end_row(&mut rows, &mut row, begin);
                line += 1;
                begin = line;
            }
            c if c == separator => end_field(&mut row, &mut field, &mut was_quoted),
            c if was_quoted && c.is_whitespace() => {}
            _ if was_quoted => return Err(line),
            c => field.push(c),
        }
    }
    if let Some(line) = quoted_at {
        return Err(line);
    }
    if !row.is_empty() || !field.is_empty() || was_quoted {
        end_field(&mut row, &mut field, &mut was_quoted);
        end_row(&mut rows, &mut row, begin);
    }
    Ok(rows)
}

fn end_field(row: &mut Vec<String>, field: &mut String, was_quoted: &mut bool) {
    let text = std::mem::take(field);
    let text = if std::mem::take(was_quoted) { text.as_str() } else { text.trim() };
    row.push(original(text).to_owned());
}

fn end_row(rows: &mut Vec<Row>, row: &mut Vec<String>, line: u64) {
    let row = std::mem::take(row);
    if row.iter().any(|field| !field.is_empty()) {
        rows.push((line, row));
    }
}

/// First letters of a field that a spreadsheet takes for a formula.
const FORMULA: [char; 4] = ['=', '+', '-', '@'];

/// Whether a text, or what follows its apostrophes, is a formula to a spreadsheet. `-` and a number in international form
/// (`+49…`) are harmless, and stay as they are for other programs.
fn is_formula(text: &str) -> bool {
    let text = text.trim_start_matches('\'');
    let digits = text.strip_prefix('+').unwrap_or_default();
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    text.starts_with(FORMULA) && text != "-" && !is_number
}

/// The field as it is written. One that has such apostrophes already gets one more, so that [`original`] is exact.
fn defused(field: &str) -> Cow<'_, str> {
    if is_formula(field) { Cow::Owned(format!("'{field}")) } else { Cow::Borrowed(field) }
}

/// The field before [`defused`].
fn original(text: &str) -> &str {
    text.strip_prefix('\'').filter(|field| is_formula(field)).unwrap_or(text)
}

/// A row as text, with a line end.
pub(crate) fn write(fields: &[&str]) -> String {
    let quote = |field: &&str| {
        let field = defused(field);
        let plain = !field.contains([',', ';', '\t', '"', '\n', '\r']) && field.trim() == field;
        if plain { field.into_owned() } else { format!("\"{}\"", field.replace('"', "\"\"")) }
    };
    fields.iter().map(quote).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_of_spreadsheets_is_read() {
        for (text, expected) in [
            ("a,b\n1,2\n", Ok(vec![(1, vec!["a", "b"]), (2, vec!["1", "2"])])),
            ("\u{feff}a;b\r\n1; 2 \r\n", Ok(vec![(1, vec!["a", "b"]), (2, vec!["1", "2"])])),
            ("\u{feff}sep=;\r\na;b\r\n1;2\r\n", Ok(vec![(2, vec!["a", "b"]), (3, vec!["1", "2"])])),
            ("a\tb\n\n\"x\ny\"\tz", Ok(vec![(1, vec!["a", "b"]), (3, vec!["x\ny", "z"])])),
            (
                "a,b\n\"x\ny\",z\nlast,\n",
                Ok(vec![(1, vec!["a", "b"]), (2, vec!["x\ny", "z"]), (4, vec!["last", ""])]),
            ),
            ("a,b\n\"say \"\"hi\"\"\",\n", Ok(vec![(1, vec!["a", "b"]), (2, vec!["say \"hi\"", ""])])),
            ("a,b\n,\n", Ok(vec![(1, vec!["a", "b"])])),
            ("", Ok(vec![])),
            ("a\n\"open\n", Err(2)),
            ("a,b\n\"x\"y,z\n", Err(2)),
            ("a,b\nx\"y,z\n", Err(2)),
        ] {
            let rows = read(text);
            let rows = rows.as_ref().map_err(|line| *line).map(|rows| {
                rows.iter().map(|(line, row)| (*line, row.iter().map(String::as_str).collect())).collect::<Vec<_>>()
            });
            assert_eq!(rows, expected, "{text:?}");
        }
    }

    #[test]
    fn written_rows_are_read_back() {
        let row = ["1001", "Ada \"the\" L, Countess", " padded ", "a\nb", ""];
        let text = write(&row);
        assert_eq!(read(&("h,h,h,h,h\n".to_owned() + &text)).unwrap()[1].1, row);
    }

    #[test]
    fn formulas_are_written_as_text_and_read_back_exactly() {
        for (field, written) in [
            ("=HYPERLINK(A1)", "'=HYPERLINK(A1)"),
            ("=1;2", "\"'=1;2\""),
            ("+49 30 99", "'+49 30 99"),
            ("+1+1", "'+1+1"),
            ("+", "'+"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("'=1", "''=1"),
            ("''@", "'''@"),
            ("=x@example.com", "'=x@example.com"),
            // No formulas: the sign for none, a number, and other uses of the apostrophe.
            ("-", "-"),
            ("'-", "'-"),
            ("+4930123456", "+4930123456"),
            ("'+4930", "'+4930"),
            ("'t Hooft", "'t Hooft"),
            ("'", "'"),
            ("a=b", "a=b"),
        ] {
            assert_eq!(write(&[field]), format!("{written}\n"));
            assert_eq!(read(&format!("h\n{written}\n")).unwrap()[1].1, [field]);
        }
        // A table of another program may have such a field as it is.
        assert_eq!(read("h\n=1\n").unwrap()[1].1, ["=1"]);
    }
}
