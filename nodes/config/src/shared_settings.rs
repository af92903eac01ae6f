//! Settings that all nodes share: the file's values are the first ones of the cluster (`twinbox-cluster-settings`).

use std::path::Path;

use toml::{Table, Value};
use twinbox_calls::{CallsConfig, UnknownMailbox};
use twinbox_cluster_settings::{FileValues, GroupError, Key, Kind, Register, Values};
use twinbox_mailbox::{NewMailbox, Quota};
use twinbox_sip::redirect::RedirectOrder;

use super::reader::Mistakes;

/// Takes the shared settings out of a node's file, checked as `twinbox setting set` checks them.
pub(super) fn take(table: &mut Table, base: &Path, mistakes: &Mistakes) -> FileValues {
    let mut found = FileValues::default();
    for key in Key::ALL {
        let Some(text) = remove(table, key.name()).and_then(|value| text(key, value, base)) else { continue };
        match key.check(&text) {
            Ok(value) => found.set(key, value),
            Err(error) => mistakes.add(key.name(), error.to_string()),
        }
    }
    for register in Register::ALL {
        match found.entries(register).check(register) {
            // The rest of a section whose other keys moved is no mistake.
            Ok(()) | Err(GroupError::Without(..)) => {}
            Err(error) => mistakes.add("", error.to_string()),
        }
    }
    found
}

fn remove(table: &mut Table, name: &str) -> Option<Value> {
    match name.split_once('.') {
        None => table.remove(name),
        Some((section, rest)) => remove(table.get_mut(section)?.as_table_mut()?, rest),
    }
}

/// The value as text. One of another kind keeps its quotes or brackets, so that the check refuses and shows it.
fn text(key: Key, value: Value, base: &Path) -> Option<String> {
    Some(match (key.kind(), value) {
        (Kind::List(_), Value::Array(items)) if items.is_empty() => return None,
        (Kind::List(_), Value::Array(items)) => {
            let items = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            items.collect::<Vec<_>>().join(",")
        }
        (Kind::Number(_) | Kind::Flag, value @ Value::String(_)) => value.to_string(),
        (Kind::Path, Value::String(path)) => {
            let path = base.join(path);
            std::path::absolute(&path).unwrap_or(path).display().to_string()
        }
        (_, Value::String(text)) => text,
        (_, value) => value.to_string(),
    })
}

/// Writes the settings of calls.
pub fn apply_to_calls(values: &Values, calls: &mut CallsConfig) {
    let ms = |key| values.number(key).saturating_mul(1_000);
    calls.ack_timeout_ms = values.number(Key::AckTimeoutMs);
    calls.redirect = match values.text(Key::Redirect) {
        "last" => RedirectOrder::Last,
        _ => RedirectOrder::First,
    };
    calls.unknown_mailbox = match values.text(Key::UnknownMailbox) {
        "apology" => UnknownMailbox::Apology,
        _ => UnknownMailbox::NotFound,
    };
    calls.pilots.sign_in = values.list(Key::Pilot);
    calls.pilots.ask_mailbox = values.list(Key::PilotAsk);
    calls.session_expires_s = values.small(Key::SessionSeconds);
    calls.min_se_s = values.small(Key::MinSessionSeconds);
    calls.max_hold_s = values.small(Key::MaxHoldSeconds);
    values.text(Key::KeyMap).clone_into(&mut calls.key_map);
    calls.max_message_ms = ms(Key::MaxMessageSeconds);
    calls.min_message_ms = values.number(Key::MinMessageMs);
    calls.end_silence_ms = ms(Key::SilenceSeconds);
    calls.digit_timeout_ms = ms(Key::DigitSeconds);
    calls.pin_tries = values.tiny(Key::PinTries);
    calls.min_pin_length = values.tiny(Key::MinPinLength);
}

/// A new mailbox with these settings, without number and PIN.
pub fn usual_mailbox(values: &Values) -> NewMailbox {
    NewMailbox {
        pin: None,
        timezone: values.text(Key::Timezone).to_owned(),
        language: values.text(Key::Language).to_owned(),
        quota: Quota {
            max_messages: values.number(Key::MaxMessages),
            max_message_ms: values.number(Key::MaxMessageSeconds).saturating_mul(1_000),
        },
        ..NewMailbox::new("", "")
    }
}
