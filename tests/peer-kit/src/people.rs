//! People of a directory, and the users that nodes make of them.

use std::{fmt::Write, ops::Range};

use serde_json::Value;
use twinbox_testkit::{Cli, Slapd};

/// A user in `user list`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedUser {
    /// Number of the mailbox.
    pub number: String,
    /// Name.
    pub name: String,
    /// Id of the mailbox.
    pub id: String,
}

/// The people with these numbers as LDIF, below `ou=people` of a [`Slapd`].
pub fn people(numbers: Range<usize>) -> String {
    let suffix = Slapd::SUFFIX;
    let mut ldif = format!(
        "dn: {suffix}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n\
         dn: ou=people,{suffix}\nobjectClass: organizationalUnit\nou: people\n\n"
    );
    for number in numbers {
        let _ = write!(ldif, "{}\n\n", person(number, &format!("ou=people,{suffix}")));
    }
    ldif
}

/// A person as LDIF, below this entry.
pub fn person(number: usize, above: &str) -> String {
    format!(
        "dn: uid=u{number},{above}\nobjectClass: inetOrgPerson\nuid: u{number}\ncn: User {number}\nsn: {number}\n\
         displayName: {}\nmail: u{number}@example.org\ntelephoneNumber: +49 30 123 {number}",
        name_of(number)
    )
}

/// Name of the person with this number.
pub fn name_of(number: usize) -> String {
    format!("User {number}")
}

/// Adds a directory `corp` of people with numbers of five digits. It is synchronised only by an order unless `further`
/// enables it.
pub fn add_directory(cli: &Cli, url: &str, password_file: &str, further: &[&str]) {
    let (url, base) = (format!("url={url}"), format!("base=ou=people,{}", Slapd::SUFFIX));
    let (bind, file) = (format!("bind-dn={}", Slapd::ADMIN), format!("password-file={password_file}"));
    let usual = [&url[..], &base, &bind, &file, "number={telephoneNumber:digits:last(5)}", "start-tls=no"];
    cli.json(&[&["directory", "add", "corp"][..], &usual, further].concat());
}

/// All users by number, then name and id; none while the node does not answer.
pub fn listed_users(cli: &Cli) -> Vec<ListedUser> {
    let list = cli.try_json(&["user", "list"]).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let read = |user: &Value| ListedUser {
        number: text(&user["number"]),
        name: text(&user["name"]),
        id: text(&user["id"]),
    };
    let mut users: Vec<_> = list["users"].as_array().into_iter().flatten().map(read).collect();
    users.sort();
    users
}

/// The node on which a duty runs, as this node sees it.
pub fn holder_of(cli: &Cli, duty: &str) -> Option<String> {
    let duties = cli.try_json(&["duty", "list"]).ok()?;
    let found = duties["duties"].as_array()?.iter().find(|row| row["duty"] == duty)?;
    (found["state"] == "running").then(|| found["holder"].as_str().unwrap_or_default().to_owned())
}
