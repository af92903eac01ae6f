//! Names that administrators give: checked when they are new, found again by name or id.

use tonic::Status;
use twinbox_mailbox::nearest;

/// Longest name, in characters.
const LONGEST_NAME: usize = 63;

/// The item with that name, or that id; `of` returns the name and the id of an item. The refusal calls an item `what`,
/// and names the command `add` if there is none.
pub fn find<T>(
    items: Vec<T>,
    wanted: &str,
    of: impl Fn(&T) -> (&str, String),
    what: &str,
    add: &str,
) -> Result<T, Status> {
    let names: Vec<String> = items.iter().map(|item| of(item).0.to_owned()).collect();
    let found = items.into_iter().find(|item| {
        let (name, id) = of(item);
        name.eq_ignore_ascii_case(wanted) || id == wanted
    });
    found.ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let near = nearest(wanted, &names).map(|near| format!(" (did you mean '{near}'?)")).unwrap_or_default();
        let known = match names.is_empty() {
            true => format!("there are none: add one with '{add}'"),
            false => format!("there are {}", names.join(", ")),
        };
        Status::not_found(format!("there is no {what} '{wanted}'{near}; {known}"))
    })
}

/// The name for a new `what`, in lower case.
pub fn checked(name: &str, what: &str) -> Result<String, Status> {
    let name = name.trim().to_ascii_lowercase();
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(name);
    }
    let shown = name.escape_debug();
    Err(Status::invalid_argument(format!(
        "'{shown}' cannot name a {what}: use 1 to {LONGEST_NAME} of a-z, 0-9, '-' and '_'"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_is_found_by_name_or_id_and_a_mistyped_name_gets_a_hint() {
        let find = |items: Vec<(String, u32)>, wanted: &str| {
            super::find(items, wanted, |(name, id)| (name.as_str(), id.to_string()), "job", "twinbox timetable add")
        };
        let nightly = ("nightly".to_owned(), 5);
        for name in ["nightly", "Nightly", "5"] {
            assert_eq!(find(vec![nightly.clone()], name).expect(name), nightly);
        }
        let missing = find(vec![nightly], "nightli").expect_err("no such job");
        assert_eq!(missing.message(), "there is no job 'nightli' (did you mean 'nightly'?); there are nightly");
        assert!(find(Vec::new(), "x").expect_err("none").message().contains("twinbox timetable add"));
    }

    #[test]
    fn new_name_has_1_to_63_plain_characters() {
        assert_eq!(checked("Corp-1", "directory").expect("a name"), "corp-1");
        for name in ["", "two words", &"x".repeat(64)] {
            let refused = checked(name, "directory").expect_err(name);
            assert!(refused.message().contains("cannot name a directory"), "{}", refused.message());
        }
    }
}
