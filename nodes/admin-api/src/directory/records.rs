//! Directories as administrators see and change them.

use std::collections::HashMap;

use tonic::Status;
use tracing::info;
use twinbox_clock::wall;
use twinbox_config::nearest;
use twinbox_directory_core::{DirectorySettings, FirstPin, Setting};
use twinbox_directory_store::{DirectoryStore, DirectoryStoreError};
use twinbox_ids::DirectoryId;
use twinbox_mailbox::StoredDirectory;
use twinbox_wire::directory::{self, Changed, DirectoryListReply, DirectoryRequest, DirectorySetting};

use super::changed;
use crate::{
    AdminHandles,
    admin::{all_records, internal, mail},
};

/// Longest name, in characters.
const LONGEST_NAME: usize = 63;

/// All directories.
pub async fn list(node: &AdminHandles) -> Result<DirectoryListReply, Status> {
    all_records(node)?;
    let directories = DirectoryStore::of(&node.mailstore).directories().map_err(internal)?;
    let mut users: HashMap<DirectoryId, u64> = HashMap::new();
    if !directories.is_empty() {
        let present = DirectoryStore::of(&node.mailstore).present_users().await.map_err(internal)?;
        for binding in present.into_iter().filter_map(|user| user.binding) {
            *users.entry(binding.directory).or_default() += 1;
        }
    }
    let shown = directories.into_iter().map(|directory| {
        let users = users.get(&directory.id).copied().unwrap_or_default();
        shown(node, directory, users)
    });
    Ok(DirectoryListReply { directories: shown.collect::<Result<_, _>>()? })
}

/// Adds a directory. Only orders synchronise it until it is enabled: a dry run comes first.
pub async fn add(node: &AdminHandles, request: DirectoryRequest) -> Result<Changed, Status> {
    all_records(node)?;
    let DirectoryRequest { name, mut settings } = request;
    let name = checked_name(&name)?;
    let enabled = Setting::Enabled.word();
    let is_enabled = |text: &String| text.split_once('=').is_some_and(|(word, _)| word.trim() == enabled);
    if !settings.iter().any(is_enabled) {
        settings.push(format!("{enabled}=no"));
    }
    let empty = Default::default();
    let (checked, changes) = DirectorySettings::changed(&empty, &settings).map_err(invalid)?;
    may_be(&checked)?;
    let settings = changes.into_iter().filter_map(|(number, text)| Some((number, text?))).collect();
    let directory = StoredDirectory { id: DirectoryId::random(), name, created: wall(), settings };
    let id = directory.id;
    let acknowledgement = DirectoryStore::of(&node.mailstore).add_directory(directory).await.map_err(refused)?;
    info!(directory = %id, "administrator adds directory");
    Ok(changed(id, &acknowledgement))
}

/// Changes settings of a directory.
pub async fn set(node: &AdminHandles, request: DirectoryRequest) -> Result<Changed, Status> {
    let directory = find(node, &request.name)?;
    let (checked, changes) = DirectorySettings::changed(&directory.settings, &request.settings).map_err(invalid)?;
    if changes.is_empty() {
        return Err(Status::invalid_argument("no setting was named: write word=value, such as enabled=yes"));
    }
    may_be(&checked)?;
    let acknowledgement =
        DirectoryStore::of(&node.mailstore).change_directory(directory.id, changes).await.map_err(refused)?;
    info!(directory = %directory.id, "administrator changes directory");
    Ok(changed(directory.id, &acknowledgement))
}

/// Removes a directory; its users become local.
pub async fn remove(node: &AdminHandles, name: &str) -> Result<Changed, Status> {
    let directory = find(node, name)?;
    let (users, acknowledgement) =
        DirectoryStore::of(&node.mailstore).remove_directory(directory.id).await.map_err(refused)?;
    info!(directory = %directory.id, users, "administrator removes directory");
    Ok(changed(directory.id, &acknowledgement))
}

/// The directory with that name, or that id.
pub fn find(node: &AdminHandles, name: &str) -> Result<StoredDirectory, Status> {
    all_records(node)?;
    named(DirectoryStore::of(&node.mailstore).directories().map_err(internal)?, name)
}

fn named(directories: Vec<StoredDirectory>, name: &str) -> Result<StoredDirectory, Status> {
    let is_it = |of: &&StoredDirectory| of.name.eq_ignore_ascii_case(name) || of.id.to_string() == name;
    if let Some(directory) = directories.iter().find(is_it) {
        return Ok(directory.clone());
    }
    let names: Vec<&str> = directories.iter().map(|directory| directory.name.as_str()).collect();
    let near = nearest(name, &names).map(|near| format!(" (did you mean '{near}'?)")).unwrap_or_default();
    let known = match names.is_empty() {
        true => "there are none: add one with 'twinbox directory add NAME url=ldaps://HOST base=DN'".to_owned(),
        false => format!("there are {}", names.join(", ")),
    };
    Err(Status::not_found(format!("there is no directory '{name}'{near}; {known}")))
}

fn checked_name(name: &str) -> Result<String, Status> {
    let name = name.trim().to_ascii_lowercase();
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(name);
    }
    let shown = name.escape_debug();
    Err(Status::invalid_argument(format!(
        "'{shown}' cannot name a directory: use 1 to {LONGEST_NAME} of a-z, 0-9, '-' and '_'"
    )))
}

/// Refuses what this release cannot do.
fn may_be(settings: &DirectorySettings) -> Result<(), Status> {
    match settings.first_pin {
        FirstPin::Mail => Err(Status::invalid_argument(
            "first-pin=mail is not available in this release: use none, or a pattern such as \
             first-pin={number:last(4)}77",
        )),
        FirstPin::None | FirstPin::Pattern(_) => Ok(()),
    }
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The refusal of the store as an answer.
pub fn refused(error: DirectoryStoreError) -> Status {
    match error {
        DirectoryStoreError::Mail(error) => mail(error),
        DirectoryStoreError::None(_) | DirectoryStoreError::NoRun(_) => Status::not_found(error.to_string()),
        error => Status::failed_precondition(error.to_string()),
    }
}

fn shown(node: &AdminHandles, directory: StoredDirectory, users: u64) -> Result<directory::Directory, Status> {
    let state = DirectoryStore::of(&node.mailstore).sync_state(directory.id).map_err(internal)?;
    let time = |at: Option<twinbox_ids::Timestamp>| at.map_or(0, |at| at.0);
    let (settings, error) = match DirectorySettings::from_settings(&directory.settings) {
        Ok(settings) => (settings.settings(), state.error.unwrap_or_default()),
        // Of a newer release: shown as stored.
        Err(error) => {
            let texts = Setting::ALL.map(|setting| (setting.word(), setting.text(&directory.settings).to_owned()));
            (texts.to_vec(), error.to_string())
        }
    };
    let settings = settings.into_iter().map(|(word, value)| DirectorySetting { word: word.to_owned(), value });
    Ok(directory::Directory {
        id: directory.id.to_string(),
        enabled: Setting::Enabled.text(&directory.settings) == "yes",
        name: directory.name,
        settings: settings.collect(),
        full_ms: time(state.full_at),
        success_ms: time(state.ended_at),
        error,
        users,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_found_by_name_or_id_and_a_mistyped_name_gets_a_hint() {
        let corp = StoredDirectory {
            id: DirectoryId(5),
            name: "corp".to_owned(),
            created: wall(),
            settings: Default::default(),
        };
        let id = corp.id.to_string();
        for name in ["corp", "Corp", &id] {
            assert_eq!(named(vec![corp.clone()], name).expect(name), corp);
        }
        let missing = named(vec![corp], "crop").expect_err("no such directory");
        assert!(missing.message().contains("did you mean 'corp'?"), "{}", missing.message());
        assert!(named(Vec::new(), "x").expect_err("none").message().contains("twinbox directory add"));
    }

    #[test]
    fn names_are_checked_and_first_pins_by_mail_are_refused_by_name() {
        assert_eq!(checked_name("Corp-1").expect("a name"), "corp-1");
        for name in ["", "two words", &"x".repeat(64)] {
            assert!(checked_name(name).is_err(), "{name}");
        }
        let texts = ["url=ldaps://ldap.test", "base=dc=test"];
        let settings = DirectorySettings::parse(&texts).expect("settings");
        assert!(may_be(&settings).is_ok());
        let by_mail = DirectorySettings::parse(&[&texts[..], &["first-pin=mail"]].concat()).expect("settings");
        assert!(may_be(&by_mail).expect_err("refused").message().contains("first-pin=mail"));
    }
}
