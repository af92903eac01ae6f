//! Users as a CSV table: reading and writing.

use std::collections::{BTreeSet, HashMap};

use twinbox_ids::{ClassId, Pii};

use crate::{
    AddressChange, InvalidAddress, MOST_ALIASES, Mailbox, Number, SyncedField, UserAddress, check_operator, csv,
    is_mail_address, is_timezone,
    nearest::hint,
    pin::MAX_LENGTH,
    user_field::{LONGEST, is_line},
};

/// Maximum length of a mail address.
const LONGEST_ADDRESS: usize = 254;
/// Maximum length of a list of aliases: of the longest ones with the spaces between them.
const LONGEST_ALIASES: usize = MOST_ALIASES * (LONGEST_ADDRESS + 1);

/// The columns, in output order.
const COLUMNS: [&str; 13] = [
    "number",
    "name",
    "pin",
    "timezone",
    "language",
    "operator",
    "cos",
    "mail",
    "aliases",
    "notify_mail",
    "notify_audio",
    "notify_delete",
    "notify_pager",
];

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
    /// Own mail address, and aliases.
    pub addresses: AddressChange,
    /// The first mail device and the first pager.
    pub notify: NotifyColumns,
}

impl UserRow {
    /// The fields of a user that the line would change, of those that a directory may supply; `class` is that of the line, or
    /// the present one.
    pub fn changed_fields(&self, mailbox: &Mailbox, class: Option<ClassId>) -> Vec<SyncedField> {
        let differs = |field: &SyncedField| match field {
            // The line names its user by the number.
            SyncedField::Number => false,
            SyncedField::Name => self.name.as_ref().is_some_and(|name| *name != mailbox.name),
            SyncedField::Mail => self.addresses.mail.as_ref().is_some_and(|mail| *mail != mailbox.addresses.mail),
            SyncedField::Language => self.language.as_ref().is_some_and(|language| *language != mailbox.language),
            SyncedField::Timezone => self.timezone.as_ref().is_some_and(|zone| *zone != mailbox.timezone),
            SyncedField::Class => class != mailbox.class,
        };
        SyncedField::ALL.into_iter().filter(differs).collect()
    }
}

/// Columns of a table for the first mail device and the first pager of a user. In an exported table an address is
/// `Some(None)` where the user has no such device, or a disabled one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifyColumns {
    /// Address of the mail device; `Some(None)`: none is notified.
    pub mail: Option<Option<Pii<String>>>,
    /// The mail has the recording.
    pub audio: Option<bool>,
    /// The message is deleted once the mail with its recording is delivered.
    pub delete: Option<bool>,
    /// Address of the pager; `Some(None)`: none is notified.
    pub pager: Option<Option<Pii<String>>>,
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

/// A problem for each line with an address that a line before it has.
pub fn repeated_addresses(rows: &[UserRow]) -> Vec<RowProblem> {
    let mut seen = HashMap::<&UserAddress, u64>::new();
    let mut problems = Vec::new();
    for row in rows {
        let AddressChange { mail, aliases } = &row.addresses;
        // One user may have an address as both.
        let own: BTreeSet<_> = mail.iter().flatten().chain(aliases.iter().flatten()).collect();
        for address in own {
            if let Some(first) = seen.insert(address, row.line) {
                let words = format!("the address {} is on line {first} already", address.as_str());
                problems.push(RowProblem::new(row.line, words));
            }
        }
    }
    problems
}

/// Reads a CSV table of users; the error lists all problems of the table. The first line names the columns: `number`,
/// and any of the others. An empty field leaves the value as it is; `-` as operator, class, address, aliases or device
/// stands for none.
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
    let mut seen = HashMap::new();
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
        let longest = match name {
            "aliases" => LONGEST_ALIASES,
            "mail" | "notify_mail" | "notify_pager" => LONGEST_ADDRESS,
            _ => LONGEST,
        };
        if !is_line(&text, longest) {
            wrong(format!("{name}: at most {longest} characters, on one line"));
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
    let operator = field("operator").map(or_none);
    if let Some(Err(error)) = operator.as_ref().and_then(Option::as_ref).map(|text| check_operator(text)) {
        wrong(format!("operator: {error}"));
    }
    // Addresses are private: a mistake names only the column.
    let mail = field("mail").and_then(|text| {
        let mail = or_none(text).map(|text| UserAddress::address(&text)).transpose();
        match mail {
            Ok(mail) => Some(mail),
            Err(error) => {
                wrong(format!("mail: {error}"));
                None
            }
        }
    });
    let aliases = field("aliases").and_then(|text| {
        let aliases = or_none(text).map(|text| UserAddress::aliases(&text)).transpose();
        match aliases {
            Ok(aliases) => Some(aliases.unwrap_or_default()),
            Err(error) => {
                wrong(format!("aliases: {error}"));
                None
            }
        }
    });
    let mut device = |name: &str| {
        let address = or_none(field(name)?);
        if address.as_ref().is_some_and(|address| !is_mail_address(address)) {
            wrong(format!("{name}: {}", InvalidAddress::Address));
            return None;
        }
        Some(address.map(Pii::new))
    };
    let (notify_mail, notify_pager) = (device("notify_mail"), device("notify_pager"));
    let mut switch = |name: &str| match field(name)?.as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => {
            wrong(format!("{name}: write yes or no"));
            None
        }
    };
    let notify = NotifyColumns {
        mail: notify_mail,
        audio: switch("notify_audio"),
        delete: switch("notify_delete"),
        pager: notify_pager,
    };
    Some(UserRow {
        line,
        number,
        name: field("name").map(Pii::new),
        pin: pin.map(Pii::new),
        timezone,
        language,
        operator,
        class: field("cos").map(or_none),
        addresses: AddressChange { mail, aliases },
        notify,
    })
}

/// Writes mailboxes as a table that [`read_users`] takes. PINs are not included, since only their hashes are stored.
/// Each mailbox comes with the name of its class, and with its devices as far as the table has them.
pub fn write_users<'a>(mailboxes: impl IntoIterator<Item = (&'a Mailbox, String, NotifyColumns)>) -> String {
    let or_dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
    let device = |address: &Option<Option<Pii<String>>>| match address {
        Some(address) => or_dash(address.as_ref().map(|address| address.reveal().as_str())),
        None => String::new(),
    };
    let switch = |on: Option<bool>| on.map_or("", |on| if on { "yes" } else { "no" });
    let columns: Vec<&str> = COLUMNS.into_iter().filter(|column| *column != "pin").collect();
    let mut text = csv::write(&columns);
    for (mailbox, class, notify) in mailboxes {
        let addresses = &mailbox.addresses;
        text += &csv::write(&[
            &mailbox.number,
            mailbox.name.reveal(),
            &mailbox.timezone,
            &mailbox.language,
            mailbox.operator.as_deref().unwrap_or("-"),
            &class,
            &or_dash(addresses.mail.as_ref().map(UserAddress::as_str)),
            &or_dash(Some(&addresses.aliases_text())),
            &device(&notify.mail),
            switch(notify.audio),
            switch(notify.delete),
            &device(&notify.pager),
        ]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_columns_leave_values_unset() {
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
    fn columns_of_addresses_and_devices_are_read() {
        let users = read_users(
            "number,mail,aliases,notify_mail,notify_audio,notify_delete,notify_pager\n\
             1001,Anna@Example.com,\"Anna, a.l@old.example\",Anna@example.com,yes,no,1@pager.example\n\
             1002,-,-,-,,,-\n1003,,,,,,\n",
        )
        .unwrap();
        let some = |text: &str| Some(Some(Pii::new(text.to_owned())));
        let texts = |user: &UserRow| {
            let aliases = user.addresses.aliases.as_ref();
            aliases.map(|all| all.iter().map(|alias| alias.as_str().to_owned()).collect::<Vec<_>>())
        };
        let mail = users[0].addresses.mail.clone().flatten();
        assert_eq!(mail.as_ref().map(UserAddress::as_str), Some("anna@example.com"));
        assert_eq!(texts(&users[0]), Some(vec!["anna".to_owned(), "a.l@old.example".to_owned()]));
        let notify = NotifyColumns {
            mail: some("Anna@example.com"),
            audio: Some(true),
            delete: Some(false),
            pager: some("1@pager.example"),
        };
        assert_eq!(users[0].notify, notify);
        assert_eq!(users[1].addresses, AddressChange { mail: Some(None), aliases: Some(vec![]) });
        let none = NotifyColumns { mail: Some(None), pager: Some(None), ..NotifyColumns::default() };
        assert_eq!(users[1].notify, none);
        assert_eq!((&users[2].addresses, &users[2].notify), (&AddressChange::default(), &NotifyColumns::default()));
    }

    #[test]
    fn mistakes_in_addresses_name_their_column_and_repeat_no_address() {
        for (column, value) in [
            ("mail", "anna.secret"),
            ("aliases", "1001"),
            ("aliases", "anna secret@"),
            ("notify_mail", "anna secret@example.com"),
            ("notify_pager", "secret"),
            ("notify_audio", "secret"),
            ("notify_delete", "1"),
        ] {
            let problems = read_users(&format!("number,{column}\n1001,{value}\n")).unwrap_err();
            let [problem] = &problems[..] else { panic!("{column}={value}: {problems:?}") };
            assert!(problem.line == 2 && problem.what.starts_with(&format!("{column}: ")), "{problem:?}");
            assert!(!problem.what.contains("secret"), "{problem:?}");
        }
    }

    #[test]
    fn all_errors_are_reported_together_with_their_lines() {
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
            ("number,operator\n1001,+49 30 99\n", "without spaces"),
            ("name\nAda\n", "number"),
            ("number,Nmae\n", "did you mean 'name'?"),
            ("number,number\n", "twice"),
        ] {
            assert!(read_users(table).unwrap_err()[0].what.contains(word), "{table}");
        }
    }
}
