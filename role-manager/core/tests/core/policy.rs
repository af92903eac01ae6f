//! The policy as the documentation shows it.

use std::{env, fs, path::Path};

use twinbox_roles_core::{RULES, RoleAction, Rule, Trigger, rule_for};

const BEGIN: &str = "<!-- policy -->\n";
const END: &str = "<!-- /policy -->";

#[test]
fn every_sign_and_every_trigger_has_its_row() {
    for rule in &RULES {
        assert_eq!(rule_for(rule.sign), rule);
    }
    for trigger in Trigger::ALL {
        assert!(RULES.iter().any(|rule| rule.trigger == Some(trigger)), "{trigger} moves nothing");
        assert_eq!(Trigger::from_name(trigger.name()), Some(trigger));
    }
    // A sign that takes a node out of service moves its duties (rule R9: soft triggers take no node out).
    for rule in RULES.iter().filter(|rule| rule.status.is_some()) {
        assert_eq!((rule.publisher, rule.duties), (RoleAction::Move, RoleAction::Move), "{}", rule.when);
    }
}

/// The policy as a table in Markdown.
fn policy_table() -> String {
    let mut table = String::from(
        "| condition observed | trigger | its status becomes | publisher | duties | waits for |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for Rule { when, trigger, status, publisher, duties, waits, .. } in RULES {
        let trigger = trigger.map_or("always".to_owned(), |trigger| format!("`{trigger}`"));
        let status = status.map_or("unchanged".to_owned(), |status| format!("`{status}`"));
        let (publisher, duties) = (action(publisher, "s"), action(duties, ""));
        table.push_str(&format!("| {when} | {trigger} | {status} | {publisher} | {duties} | {waits} |\n"));
    }
    table
}

/// An action as a verb with this ending.
fn action(action: RoleAction, ending: &str) -> String {
    match action {
        RoleAction::Stay => format!("stay{ending}"),
        RoleAction::Move => format!("move{ending}"),
        RoleAction::MoveToBetter => format!("move{ending} to a better node"),
        RoleAction::Follow => format!("follow{ending}"),
    }
}

/// `TWINBOX_BLESS=1` writes the table into the document.
#[test]
fn the_documentation_shows_the_policy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/roles.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (before, rest) = text.split_once(BEGIN).expect("the line <!-- policy -->");
    let (shown, after) = rest.split_once(END).expect("the line <!-- /policy -->");
    let table = policy_table();
    if env::var_os("TWINBOX_BLESS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
        return;
    }
    assert_eq!(shown, table, "docs/roles.md is out of date: run this test with TWINBOX_BLESS=1");
}
