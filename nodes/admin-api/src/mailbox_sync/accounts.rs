//! Mailboxes with an account as administrators see and change them.

use std::collections::{BTreeMap, HashMap};

use tonic::Status;
use tracing::info;
use twinbox_admin_kit::{Part, part};
use twinbox_ids::{MailServerId, MailboxId, MessageId};
use twinbox_mailbox_sync::{
    AccountSetting, AccountSettings, AccountState, Link, LocalMessage, MessageState, NamesKept, StoredAccount,
    account_change,
};
use twinbox_mailbox_sync_store::{EffectiveAccounts, LeftOut, LeftOutReason, SyncedMailbox};
use twinbox_mailstore::{Acknowledgement, Mailbox};
use twinbox_wire::mailbox_sync::{
    Account, AccountAddReply, AccountAddRequest, AccountListReply, AccountListRequest, AccountSetRequest,
    AccountShowReply, Changed, MessageStates, Setting,
};

use super::{MailboxSyncService, changed, changes, refused, servers};
use crate::admin::{acknowledged, all_records, internal, mailbox};

/// States that an administrator must look at.
const FAILING: [&str; 3] = ["failing", "held-back", "left-out"];

type ServerNames = HashMap<MailServerId, String>;

/// All mailboxes with an account.
pub async fn list(service: &MailboxSyncService, request: AccountListRequest) -> Result<AccountListReply, Status> {
    all_records(&service.node)?;
    let AccountListRequest { failing, limit, after } = request;
    let EffectiveAccounts { accounts, left_out } = service.store.effective().await.map_err(internal)?;
    let accounts = accounts.into_iter().map(|(account, state)| SyncedMailbox::Account(account, state));
    let synced = accounts.chain(left_out.into_iter().map(SyncedMailbox::LeftOut));
    let mailboxes = service.node.mailstore.mailboxes().await.map_err(internal)?.into_iter();
    let numbers: HashMap<MailboxId, String> = mailboxes.map(|Mailbox { id, number, .. }| (id, number)).collect();
    let servers = server_names(service)?;
    let rows = synced.filter_map(|synced| {
        let account = shown(synced, &servers, &numbers);
        let is_meant = !failing || FAILING.contains(&account.state.as_str());
        let cursor = format!("{:03}{}.{}", account.number.len(), account.number, account.id);
        is_meant.then_some((cursor, account))
    });
    let Part { items, next } = part(limit, &after, rows, Ok::<_, Status>)?;
    Ok(AccountListReply { accounts: items, next })
}

/// One mailbox with its settings and the states of its messages.
pub async fn show(service: &MailboxSyncService, number: &str) -> Result<AccountShowReply, Status> {
    let Mailbox { id, number, .. } = mailbox(&service.node, number).await?;
    let synced = service.store.effective_of(id).map_err(internal)?.ok_or_else(|| no_account(&number))?;
    let stored = own(service, id)?.map(|own| own.settings).unwrap_or_default();
    let set = AccountSetting::ALL.into_iter().filter_map(|setting| Some((setting, stored.get(&setting.number())?)));
    let settings = set.map(|(setting, value)| Setting { word: setting.word().to_owned(), value: value.clone() });
    let rows = service.store.rows(id).await.map_err(internal)?;
    let local = service.store.local(id).await.map_err(internal)?;
    let account = shown(synced, &server_names(service)?, &HashMap::from([(id, number)]));
    let messages = Some(states(&rows, &local));
    Ok(AccountShowReply { account: Some(account), settings: settings.collect(), messages })
}

/// Keeps mailboxes in accounts of a server.
pub async fn add(service: &MailboxSyncService, request: AccountAddRequest) -> Result<AccountAddReply, Status> {
    let AccountAddRequest { numbers, server, settings } = request;
    let server = servers::find(service, &server)?;
    let changes = changes(&BTreeMap::new(), &settings, account_change, AccountSettings::from_settings)?;
    let mut mailboxes = Vec::new();
    for number in &numbers {
        let mailbox = mailbox(&service.node, number).await?.id;
        if own(service, mailbox)?.is_some() {
            return Err(Status::failed_precondition(format!(
                "mailbox {number} has an account already, and nothing was changed: change it with 'twinbox mailbox-sync \
                 set {number}'"
            )));
        }
        mailboxes.push(mailbox);
    }
    let mut reply = AccountAddReply { ids: Vec::new(), acknowledged: String::new() };
    for mailbox in mailboxes {
        let added = service.store.set_account(mailbox, Some(server.id), changes.clone()).await.map_err(refused)?;
        info!(%mailbox, server = %server.id, "administrator adds mail account");
        reply.ids.push(mailbox.to_string());
        if reply.acknowledged.is_empty() || matches!(added, Acknowledgement::Alone) {
            reply.acknowledged = acknowledged(&added);
        }
    }
    Ok(reply)
}

/// Changes the account of a mailbox. One that the setting `users` of a server includes gets settings of its own.
pub async fn set(service: &MailboxSyncService, request: AccountSetRequest) -> Result<Changed, Status> {
    let AccountSetRequest { number, server, settings } = request;
    let mailbox = mailbox(&service.node, &number).await?.id;
    let stored = own(service, mailbox)?;
    let server = match service.store.effective_of(mailbox).map_err(internal)? {
        _ if !server.is_empty() => Some(servers::find(service, &server)?.id),
        _ if stored.is_some() => None,
        Some(SyncedMailbox::Account(account, _)) => Some(account.server),
        Some(SyncedMailbox::LeftOut(left_out)) => left_out.server,
        None => return Err(no_account(&number)),
    };
    let stored = stored.map(|own| own.settings).unwrap_or_default();
    let changes = changes(&stored, &settings, account_change, AccountSettings::from_settings)?;
    let acknowledgement = service.store.set_account(mailbox, server, changes).await.map_err(refused)?;
    info!(%mailbox, "administrator changes mail account");
    Ok(changed(mailbox, &acknowledgement))
}

/// Removes the account of a mailbox. A user who was removed has no number any more: the mailbox id names the account.
pub async fn remove(service: &MailboxSyncService, number: &str) -> Result<Changed, Status> {
    all_records(&service.node)?;
    let mailbox = match number.parse::<MailboxId>() {
        Ok(id) if own(service, id)?.is_some() => id,
        _ => mailbox(&service.node, number).await?.id,
    };
    let acknowledgement = service.store.remove_account(mailbox).await.map_err(refused)?;
    info!(%mailbox, "administrator removes mail account");
    Ok(changed(mailbox, &acknowledgement))
}

fn no_account(number: &str) -> Status {
    Status::not_found(format!(
        "mailbox {number} has no account of its own: add one with 'twinbox mailbox-sync add {number} --server NAME'"
    ))
}

/// The account that an administrator gave to a mailbox.
fn own(service: &MailboxSyncService, mailbox: MailboxId) -> Result<Option<StoredAccount>, Status> {
    let stored = service.store.account(mailbox).map_err(internal)?;
    Ok(stored.map(|(account, _)| account).filter(|account| account.created.is_some()))
}

fn server_names(service: &MailboxSyncService) -> Result<ServerNames, Status> {
    let servers = service.store.servers().map_err(internal)?;
    Ok(servers.into_iter().map(|server| (server.id, server.name)).collect())
}

fn shown(synced: SyncedMailbox, servers: &ServerNames, numbers: &HashMap<MailboxId, String>) -> Account {
    // The id names the account of a user who was removed.
    let number = |mailbox: MailboxId| numbers.get(&mailbox).cloned().unwrap_or_else(|| mailbox.to_string());
    let server = |id: MailServerId| servers.get(&id).cloned().unwrap_or_default();
    match synced {
        SyncedMailbox::Account(account, state) => Account {
            id: account.mailbox.to_string(),
            number: number(account.mailbox),
            server: server(account.server),
            account: account.user.into_revealed(),
            folder: account.folder,
            state: word(&state).to_owned(),
            error: state.error.unwrap_or_default(),
            held_back: state.held_back,
            synced_ms: state.synced_at.map_or(0, |at| at.0),
            failing_since_ms: state.failing_since.map_or(0, |at| at.0),
            listed: account.listed,
            refused: state.refused,
            names: match state.names {
                NamesKept::MessageId => "",
                NamesKept::OwnField => "own-field",
                NamesKept::Nothing => "nothing",
            }
            .to_owned(),
            read_to: state.scan.next,
        },
        SyncedMailbox::LeftOut(LeftOut { mailbox, server: of, listed, reason }) => Account {
            id: mailbox.to_string(),
            number: number(mailbox),
            server: of.map(server).unwrap_or_default(),
            state: match reason {
                LeftOutReason::AccountDisabled | LeftOutReason::ServerDisabled(_) => "disabled",
                _ => "left-out",
            }
            .to_owned(),
            error: reason.to_string(),
            listed,
            ..Account::default()
        },
    }
}

fn word(state: &AccountState) -> &'static str {
    match state {
        AccountState { error: Some(_), .. } => "failing",
        AccountState { held_back: 1.., .. } => "held-back",
        AccountState { synced_at: None, .. } => "waiting",
        AccountState { .. } => "synced",
    }
}

fn states(rows: &BTreeMap<MessageId, MessageState>, local: &[LocalMessage]) -> MessageStates {
    let waits = |message: &&LocalMessage| !message.state.deleted && !rows.contains_key(&message.id);
    let waiting = local.iter().filter(waits).count();
    let mut states = MessageStates { waiting: u64::try_from(waiting).unwrap_or(u64::MAX), ..Default::default() };
    for row in rows.values() {
        *match row.link {
            Link::Appending { .. } => &mut states.appending,
            Link::Bound { .. } => &mut states.synced,
            Link::Gone => &mut states.gone,
            Link::Held { .. } => &mut states.held,
        } += 1;
    }
    states
}

#[cfg(test)]
mod tests {
    use twinbox_ids::Timestamp;

    use super::*;

    #[test]
    fn state_is_the_first_that_an_administrator_must_know() {
        let fine = AccountState { synced_at: Some(Timestamp(1)), ..AccountState::default() };
        let held_back = AccountState { held_back: 3, ..fine.clone() };
        let failing = AccountState { error: Some("no such host".to_owned()), ..held_back.clone() };
        for (state, expected) in
            [(AccountState::default(), "waiting"), (fine, "synced"), (held_back, "held-back"), (failing, "failing")]
        {
            assert_eq!(word(&state), expected, "{state:?}");
        }
    }

    #[test]
    fn mailbox_that_is_left_out_shows_the_reason_and_a_disabled_one_is_no_failure() {
        let shown = |reason| {
            let left_out = LeftOut { mailbox: MailboxId(1), server: Some(MailServerId(2)), listed: true, reason };
            let servers = ServerNames::from([(MailServerId(2), "corp".to_owned())]);
            shown(SyncedMailbox::LeftOut(left_out), &servers, &HashMap::new())
        };
        let audio = shown(LeftOutReason::AudioStays);
        assert_eq!((audio.server.as_str(), audio.state.as_str()), ("corp", "left-out"));
        assert!(audio.error.contains("audio-out"), "{}", audio.error);
        assert_eq!(shown(LeftOutReason::AccountDisabled).state, "disabled");
        assert_eq!(shown(LeftOutReason::UserGone).number, MailboxId(1).to_string(), "there is no number");
    }
}
