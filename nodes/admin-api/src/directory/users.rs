//! Users of directories: bound and made local by hand, and their passwords.

use tonic::Status;
use tracing::info;
use twinbox_directory_core::DirectorySettings;
use twinbox_directory_duty::{PasswordCheck, PasswordVerdict, entry_names};
use twinbox_directory_store::DirectoryStore;
use twinbox_ids::Pii;
use twinbox_mailbox::EntryId;
use twinbox_wire::directory::{Changed, UserBindRequest, UserCheckPasswordReply, UserCheckPasswordRequest};

use super::{changed, records};
use crate::{
    AdminHandles,
    admin::{all_records, internal, mailbox},
};

/// Makes a user local.
pub async fn make_local(node: &AdminHandles, number: &str) -> Result<Changed, Status> {
    let mailbox = mailbox(node, number).await?;
    let acknowledgement =
        DirectoryStore::of(&node.mailstore).make_local(mailbox.id).await.map_err(records::refused)?;
    info!(mailbox = %mailbox.id, "administrator makes user local");
    Ok(changed(mailbox.id, &acknowledgement))
}

/// Binds a local user to an entry of a directory, which must be there: its names are read from the directory.
pub async fn bind(node: &AdminHandles, request: UserBindRequest) -> Result<Changed, Status> {
    let UserBindRequest { number, directory, entry } = request;
    let mailbox = mailbox(node, &number).await?;
    let directory = records::find(node, &directory)?;
    let entry = EntryId::parse(&entry).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let settings = DirectorySettings::from_settings(&directory.settings);
    let settings = settings.map_err(|error| Status::failed_precondition(error.to_string()))?;
    let names = entry_names(&settings, entry).await;
    let names = names.map_err(|error| Status::failed_precondition(format!("nothing was changed: {error}")))?;
    let Some((dn, login, disabled)) = names else {
        return Err(Status::not_found(format!(
            "directory '{}' has no entry {entry} below its bases that fits its filter: nothing was changed",
            directory.name
        )));
    };
    if disabled {
        return Err(Status::failed_precondition(format!(
            "the account of entry {entry} is disabled in directory '{}': enable it there first; nothing was changed",
            directory.name
        )));
    }
    let bound = DirectoryStore::of(&node.mailstore).bind_user(mailbox.id, directory.id, entry, dn, login).await;
    let acknowledgement = bound.map_err(records::refused)?;
    info!(mailbox = %mailbox.id, directory = %directory.id, "administrator binds user");
    Ok(changed(mailbox.id, &acknowledgement))
}

/// Checks a password as a sign-in does.
pub async fn check_password(
    node: &AdminHandles,
    passwords: &PasswordCheck,
    request: UserCheckPasswordRequest,
) -> Result<UserCheckPasswordReply, Status> {
    all_records(node)?;
    let UserCheckPasswordRequest { user, password } = request;
    let verdict = passwords.check(&user, &Pii::new(password)).await.map_err(internal)?;
    let mut reply = UserCheckPasswordReply { node: node.name.to_string(), ..UserCheckPasswordReply::default() };
    let (word, detail) = match verdict {
        PasswordVerdict::Right { mailbox, by } => {
            reply.decided_by = by.word().to_owned();
            let mailbox = node.mailstore.get(mailbox).await.map_err(internal)?;
            reply.number = mailbox.map(|mailbox| mailbox.number).unwrap_or_default();
            ("right", String::new())
        }
        PasswordVerdict::Wrong { by } => {
            reply.decided_by = by.map(|by| by.word().to_owned()).unwrap_or_default();
            ("wrong", "the user or the password is wrong".to_owned())
        }
        PasswordVerdict::Disabled(reason) => ("disabled", reason),
        PasswordVerdict::Local => {
            ("local", "the user comes from no directory: see 'twinbox directory bind'".to_owned())
        }
        PasswordVerdict::BackOff { seconds } => {
            ("back-off", format!("too many wrong tries: the next one is allowed in {seconds} s"))
        }
        PasswordVerdict::Unavailable(reason) => ("unavailable", reason),
    };
    reply.verdict = word.to_owned();
    reply.detail = detail;
    Ok(reply)
}
