//! Directories as administrators see and change them.

use std::collections::HashMap;

use tonic::Status;
use tracing::info;
use twinbox_admin_kit::named;
use twinbox_clock::wall;
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
    let name = named::checked(&name, "directory")?;
    let enabled = Setting::Enabled.word();
    let is_enabled = |text: &String| text.split_once('=').is_some_and(|(word, _)| word.trim() == enabled);
    if !settings.iter().any(is_enabled) {
        settings.push(format!("{enabled}=no"));
    }
    let empty = Default::default();
    let (checked, changes) = DirectorySettings::changed(&empty, &settings).map_err(invalid)?;
    may_be(&checked, node.settings.services().mail_out.is_configured())?;
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
    may_be(&checked, node.settings.services().mail_out.is_configured())?;
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
    let directories = DirectoryStore::of(&node.mailstore).directories().map_err(internal)?;
    let add = "twinbox directory add NAME url=ldaps://HOST base=DN";
    named::find(directories, name, |of| (of.name.as_str(), of.id.to_string()), "directory", add)
}

/// Refuses what the configuration does not allow.
fn may_be(settings: &DirectorySettings, mail_out: bool) -> Result<(), Status> {
    match settings.first_pin {
        FirstPin::Mail if !mail_out => Err(Status::failed_precondition(
            "first-pin=mail needs mail out: set mail.domain and mail.smarthost, or use none or a pattern such as \
              first-pin={number:last(4)}77",
        )),
        FirstPin::Mail | FirstPin::None | FirstPin::Pattern(_) => Ok(()),
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
    fn first_pins_by_mail_need_mail_out() {
        let texts = ["url=ldaps://ldap.test", "base=dc=test"];
        let settings = DirectorySettings::parse(&texts).expect("settings");
        assert!(may_be(&settings, false).is_ok());
        let by_mail = DirectorySettings::parse(&[&texts[..], &["first-pin=mail"]].concat()).expect("settings");
        assert!(may_be(&by_mail, true).is_ok());
        assert!(may_be(&by_mail, false).expect_err("refused").message().contains("first-pin=mail"));
    }
}
