//! A difference as text for the administrator, and its counts.

use twinbox_ids::Pii;
use twinbox_mailbox::{BindingState, RunCounts, SyncedField};

use crate::{Difference, DirectoryStep, FieldChange, Person, UserLabel};

impl Difference {
    /// The difference in lines: new, adopted, changed, returned, disabled, gone and released users, then refused
    /// entries and values that are left out. They contain names and numbers: for the administrator, never for a log.
    /// Control characters of the directory are escaped.
    pub fn lines(&self) -> Vec<String> {
        let mut steps: Vec<&DirectoryStep> = self.steps.iter().collect();
        // A stable sort: within a group the order of the steps.
        steps.sort_by_key(|step| place(step));
        let steps = steps.into_iter().map(line);
        let refused = self
            .refused
            .iter()
            .map(|entry| format!("refused: {}: {}", shown(entry.dn.reveal()), shown(entry.reason.reveal())));
        let notices = self.notices.iter().map(|notice| {
            let (dn, reason) = (shown(notice.dn.reveal()), shown(notice.reason.reveal()));
            format!("left out: {} of {dn}: {reason}", notice.field)
        });
        steps.chain(refused).chain(notices).collect()
    }

    /// The counts of the run. An adopted user counts as changed, a released one too.
    pub fn counts(&self) -> RunCounts {
        let mut counts =
            RunCounts { refused: self.refused.len() as u64, unchanged: self.unchanged, ..RunCounts::default() };
        let mut changed = std::collections::BTreeSet::new();
        for step in &self.steps {
            match step {
                DirectoryStep::Create { .. } => counts.new += 1,
                DirectoryStep::Disable { .. } => counts.disabled += 1,
                DirectoryStep::Gone { .. } => counts.gone += 1,
                DirectoryStep::Return { .. } => counts.returned += 1,
                DirectoryStep::Adopt { mailbox, .. }
                | DirectoryStep::Change { mailbox, .. }
                | DirectoryStep::Release { mailbox, .. } => {
                    changed.insert(*mailbox);
                }
            }
        }
        counts.changed = changed.len() as u64;
        counts
    }
}

/// Place of a step's group in the text.
fn place(step: &DirectoryStep) -> u8 {
    match step {
        DirectoryStep::Create { .. } => 0,
        DirectoryStep::Adopt { .. } => 1,
        DirectoryStep::Change { .. } => 2,
        DirectoryStep::Return { .. } => 3,
        DirectoryStep::Disable { .. } => 4,
        DirectoryStep::Gone { .. } => 5,
        DirectoryStep::Release { .. } => 6,
    }
}

fn line(step: &DirectoryStep) -> String {
    match step {
        DirectoryStep::Create { person, .. } => {
            let values: Vec<String> = SyncedField::ALL
                .into_iter()
                .filter_map(|field| Some(format!("{field} {}", shown(person.value(field)?))))
                .collect();
            format!("new: {} ({})", values.join(", "), dn(person))
        }
        DirectoryStep::Adopt { person, changes, .. } => {
            let number = shown(person.value(SyncedField::Number).unwrap_or_default());
            let changes = match changes.is_empty() {
                true => "no field changes".to_owned(),
                false => shown_changes(changes),
            };
            format!("adopted: {number} ({}): {changes}", dn(person))
        }
        DirectoryStep::Change { person, changes, user, .. } => {
            let mut parts = Vec::new();
            if !changes.is_empty() {
                parts.push(shown_changes(changes));
            }
            let moved = !user.dn.reveal().is_empty() && user.dn != person.dn;
            if moved {
                parts.push(format!("entry {} -> {}", shown(user.dn.reveal()), dn(person)));
            }
            if parts.is_empty() {
                parts.push("sign-in name or supplied fields".to_owned());
            }
            format!("changed: {}: {}", shown_user(user), parts.join(", "))
        }
        DirectoryStep::Disable { user, .. } => format!("disabled: {}", shown_user(user)),
        DirectoryStep::Gone { user, before, .. } => match before {
            BindingState::Disabled => format!("gone: {}, disabled before", shown_user(user)),
            _ => format!("gone: {}", shown_user(user)),
        },
        DirectoryStep::Return { user, .. } => format!("returned: {}", shown_user(user)),
        DirectoryStep::Release { user, .. } => {
            format!("released: {}: the grace time is over; the user is local and stays disabled", shown_user(user))
        }
    }
}

fn dn(person: &Person) -> String {
    shown(person.dn.reveal())
}

fn shown_user(user: &UserLabel) -> String {
    let (number, name) = (shown(user.number.reveal()), shown(user.name.reveal()));
    if name.is_empty() { number } else { format!("{number} {name}") }
}

fn shown_changes(changes: &[FieldChange]) -> String {
    let value = |value: &Option<Pii<String>>| value.as_ref().map_or("none".to_owned(), |text| shown(text.reveal()));
    let changes: Vec<String> = changes
        .iter()
        .map(|change| format!("{} {} -> {}", change.field, value(&change.from), value(&change.to)))
        .collect();
    changes.join(", ")
}

/// Text of a directory for a terminal: without control characters and marks that turn the direction of writing.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

fn is_harmful(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control()
}
