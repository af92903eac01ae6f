//! The table of `user set`, and lines that an import missed.

use super::*;

fn args() -> UserSetArgs {
    UserSetArgs {
        number: "1001".to_owned(),
        name: None,
        timezone: None,
        operator: None,
        cos: None,
        mail: None,
        aliases: Vec::new(),
    }
}

#[test]
fn values_become_columns_and_an_empty_one_is_refused() {
    let text = |text: &str| Some(text.to_owned());
    let aliases = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let set =
        UserSetArgs { name: text("Ada \"L\""), operator: text("-"), aliases: aliases(&["ada", "al"]), ..args() };
    let table = columns_of(set).expect("a table");
    assert_eq!(table, (",name,operator,aliases".to_owned(), ",\"Ada \"\"L\"\"\",\"-\",\"ada al\"".to_owned()));
    for (set, part) in [
        (args(), "nothing to set"),
        (UserSetArgs { name: text(""), ..args() }, "--name is empty: write a value"),
        (
            UserSetArgs { operator: text(" "), name: text("Ada"), ..args() },
            "--operator is empty: write a value or '-'",
        ),
        (UserSetArgs { cos: text(""), ..args() }, "'-' for the default class"),
        (UserSetArgs { aliases: aliases(&["ada", ""]), ..args() }, "--alias is empty"),
    ] {
        let error = columns_of(set).expect_err(part);
        assert!(matches!(&error, CliError::Usage(text) if text.contains(part)), "{part}: {error}");
    }
}

#[test]
fn missed_lines_are_those_of_the_source_file() {
    let summary = UserImportSummary { missed: vec![2, 4], ..UserImportSummary::default() };
    let error = missed(&summary, |line| line * 10).expect_err("lines").to_string();
    assert!(error.ends_with("run the import again: 20, 40"), "{error}");
    assert!(missed(&UserImportSummary::default(), |line| line).is_ok());
}
