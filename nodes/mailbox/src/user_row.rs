//! Users as a CSV table: reading and writing.

use twinbox_ids::Pii;

use crate::{Mailbox, Number, csv, is_timezone, nearest::hint, pin::MAX_LENGTH};

/// Maximum length of a field, in characters.
const LONGEST: usize = 128;

/// The columns, in output order.
const COLUMNS: [&str; 7] = ["number", "name", "pin", "timezone", "language", "operator", "cos"];

/// One user of a table. `None` leaves the value as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// The line of the file, from 1.
    pub line: u64,
    /// The mailbox number.
    pub number: Number,
    /// The owner's name.
    pub name: Option<Pii<String>>,
    /// The first PIN; a mailbox that has a PIN keeps it.
    pub pin: Option<Pii<String>>,
    /// IANA time zone.
    pub timezone: Option<String>,
    /// Language of prompts.
    pub language: Option<String>,
    /// Target of key `0`; `Some(None)`: none.
    pub operator: Option<Option<String>>,
    /// Name of the class of service; `Some(None)`: the default class.
    pub class: Option<Option<String>>,
}

/// A problem of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowProblem {
    /// The line, from 1.
    pub line: u64,
    /// The problem and its remedy.
    pub what: String,
}

impl RowProblem {
    /// A problem in a line.
    pub fn new(line: u64, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

/// Reads a CSV table of users; the error lists all problems of the table. The first line names the columns: `number`,
/// and any of `name`, `pin`, `timezone`, `language`, `operator` and `cos`. An empty field leaves the value as it is;
/// `-` as operator or class removes it.
pub fn read_users(text: &str) -> Result<Vec<UserRow>, Vec<RowProblem>> {
    let (users, problems) = read_table(text);
    if problems.is_empty() { Ok(users) } else { Err(problems) }
}

/// As [`read_users`], with the valid rows in addition to the problems: a caller with further checks of the users can
/// apply them too, so that all problems of a table are reported together.
pub fn read_table(text: &str) -> (Vec<UserRow>, Vec<RowProblem>) {
    let only = |line, what: &str| (Vec::new(), vec![RowProblem::new(line, what)]);
    let mut rows = match csv::read(text) {
        Ok(rows) => rows.into_iter(),
        Err(line) => {
            return only(line, "a quoted field does not end as it should: write \" within quotes as \"\"");
        }
    };
    let Some((line, head)) = rows.next() else {
        return only(1, "the table is empty: its first line names the columns, such as number,name,pin");
    };
    let columns = match columns(line, &head) {
        Ok(columns) => columns,
        Err(problems) => return (Vec::new(), problems),
    };
    let (mut users, mut problems) = (Vec::<UserRow>::new(), Vec::new());
    let mut seen = std::collections::HashMap::new();
    for (line, row) in rows {
        let before = problems.len();
        let user = read_user(line, &row, &columns, &mut problems);
        if let Some(user) = user {
            match seen.get(&user.number) {
                Some(first) => {
                    problems.push(RowProblem::new(
                        line,
                        format!("the number {} is on line {first} already", user.number),
                    ));
                }
                None => {
                    seen.insert(user.number.clone(), line);
                }
            }
            if problems.len() == before {
                users.push(user);
            }
        }
    }
    (users, problems)
}

/// The column of each field.
fn columns(line: u64, head: &[String]) -> Result<Vec<&'static str>, Vec<RowProblem>> {
    let mut problems = Vec::new();
    let mut columns: Vec<&'static str> = Vec::new();
    for name in head {
        let lower = name.to_ascii_lowercase();
        match COLUMNS.into_iter().find(|column| *column == lower) {
            Some(column) if columns.contains(&column) => {
                problems.push(RowProblem::new(line, format!("the column {column} is there twice")));
            }
            Some(column) => columns.push(column),
            None => problems.push(RowProblem::new(
                line,
                format!("there is no column '{name}': there are {}{}", COLUMNS.join(", "), hint(&lower, &COLUMNS)),
            )),
        }
    }
    if problems.is_empty() && !columns.contains(&"number") {
        problems.push(RowProblem::new(
            line,
            "the first line names no column 'number': it names the columns, such as number,name,pin",
        ));
    }
    if problems.is_empty() { Ok(columns) } else { Err(problems) }
}

fn read_user(
    line: u64,
    row: &[String],
    columns: &[&'static str],
    problems: &mut Vec<RowProblem>,
) -> Option<UserRow> {
    if row.len() > columns.len() {
        problems.push(RowProblem::new(
            line,
            format!(
                "{} fields where the first line names {}: quote a field that has a comma in it",
                row.len(),
                columns.len()
            ),
        ));
        return None;
    }
    let field = |name: &str| -> Option<String> {
        let at = columns.iter().position(|column| *column == name)?;
        row.get(at).filter(|text| !text.is_empty()).cloned()
    };
    let number = match Number::normalise(&field("number").unwrap_or_default()) {
        Ok(number) => number,
        Err(error) => {
            problems.push(RowProblem::new(line, format!("number: {error}")));
            return None;
        }
    };
    let mut wrong = |what: String| problems.push(RowProblem::new(line, what));
    for name in COLUMNS {
        let text = field(name).unwrap_or_default();
        if text.chars().count() > LONGEST || text.chars().any(char::is_control) {
            wrong(format!("{name}: at most {LONGEST} characters, on one line"));
        }
    }
    let pin = field("pin");
    if pin.as_ref().is_some_and(|pin| pin.len() > MAX_LENGTH || !pin.bytes().all(|b| b.is_ascii_digit())) {
        wrong(format!("pin: a PIN has digits only, at most {MAX_LENGTH}"));
    }
    let timezone = field("timezone");
    if let Some(name) = timezone.as_ref().filter(|name| !is_timezone(name)) {
        wrong(format!("timezone: '{name}' is no time zone: use an IANA name such as Europe/Berlin"));
    }
    let language = field("language");
    let is_language = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if let Some(name) = language.as_ref().filter(|name| !is_language(name)) {
        wrong(format!("language: '{name}' is no language: write it such as en or de"));
    }
    let or_none = |text: String| Some(text).filter(|text| text != "-");
    Some(UserRow {
        line,
        number,
        name: field("name").map(Pii::new),
        pin: pin.map(Pii::new),
        timezone,
        language,
        operator: field("operator").map(or_none),
        class: field("cos").map(or_none),
    })
}

/// Writes mailboxes as a table that [`read_users`] takes. PINs are not included, since only their hashes are stored.
/// Each mailbox comes with the name of its class.
pub fn write_users<'a>(mailboxes: impl IntoIterator<Item = (&'a Mailbox, String)>) -> String {
    let columns: Vec<&str> = COLUMNS.into_iter().filter(|column| *column != "pin").collect();
    let mut text = csv::write(&columns);
    for (mailbox, class) in mailboxes {
        text += &csv::write(&[
            &mailbox.number,
            mailbox.name.reveal(),
            &mailbox.timezone,
            &mailbox.language,
            mailbox.operator.as_deref().unwrap_or("-"),
            &class,
        ]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_it_says_and_nothing_more() {
        let users = read_users(
            "Number,NAME,pin,timezone,operator,cos\n1001,Ada,284617,Europe/Berlin,0,sales\n+1 002,,,,-,-\n",
        )
        .unwrap();
        assert_eq!(users[0].name.as_ref().map(|n| n.reveal().as_str()), Some("Ada"));
        assert_eq!(users[0].class, Some(Some("sales".to_owned())));
        assert_eq!((users[0].operator.clone(), users[0].language.clone()), (Some(Some("0".to_owned())), None));
        assert_eq!(users[1].number.as_str(), "1002");
        assert_eq!((users[1].pin.clone(), users[1].timezone.clone()), (None, None));
        assert_eq!((users[1].operator.clone(), users[1].class.clone()), (Some(None), Some(None)));
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_by_line() {
        let table = "number,name,pin,timezone\n1001,Ada,12x4,Europe/Berlin\n1002,Bo,284617,Mars\nalice,,,\n1002,,,\n1003,a,b,c,d\n";
        let problems = read_users(table).unwrap_err();
        let lines: Vec<u64> = problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6], "{problems:?}");
        for (at, word) in ["pin", "Mars", "number", "line 3", "fields"].into_iter().enumerate() {
            assert!(problems[at].what.contains(word), "{:?} without {word}", problems[at]);
        }
        // Private data is not repeated in an error.
        assert!(!format!("{problems:?}").contains("12x4"));
        for (table, word) in [
            ("", "empty"),
            ("name\nAda\n", "number"),
            ("number,Nmae\n", "did you mean 'name'?"),
            ("number,number\n", "twice"),
        ] {
            assert!(read_users(table).unwrap_err()[0].what.contains(word), "{table}");
        }
    }
}
