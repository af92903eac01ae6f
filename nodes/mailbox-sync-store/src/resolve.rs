//! The accounts in force: the account of a mailbox by its own row, or by the users that a server names; or the reason
//! why there is none.

use std::collections::HashMap;

use twinbox_ids::{ClassId, MailServerId, MailboxId, Pii};
use twinbox_mailbox::{
    Binding, Class, Mailbox, Number, Rule, UserAddress, directory::schema as directory_schema,
    schema as mailbox_schema,
};
use twinbox_mailbox_sync::{
    Account, AccountPlace, AccountSettings, AccountState, Owner, ServerSettings, StoredAccount, StoredServer,
    Users, account_of, schema,
};
use twinbox_mailstore::MailError;
use twinbox_replication_core::{Key, Record};

use crate::{
    account_place::{is_in, place_of},
    reader::Rows,
};

/// Reason why a mailbox is not synchronised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeftOutReason {
    /// Its mail server was removed.
    #[error("its mail server was removed: name another with `twinbox mailbox-sync set NUMBER --server NAME`")]
    ServerGone,
    /// The settings of its mail server make no server.
    #[error("mail server '{server}' cannot be used: {reason}")]
    ServerSettings {
        /// Name of the server.
        server: String,
        /// The cause, with the remedy.
        reason: String,
    },
    /// Its mail server is disabled.
    #[error("mail server '{0}' is disabled: enable it with `twinbox mailbox-sync server set {0} enabled=yes`")]
    ServerDisabled(String),
    /// The account is disabled.
    #[error("the account is disabled: enable it with `twinbox mailbox-sync set USER enabled=yes`")]
    AccountDisabled,
    /// The user does not exist any more.
    #[error(
        "the user was removed: remove the account with `twinbox mailbox-sync remove ID`, with the id that \
         `twinbox mailbox-sync list` shows"
    )]
    UserGone,
    /// The user is disabled.
    #[error(
        "the user is disabled: enable the user in its directory, or make it local with \
         `twinbox directory make-local`"
    )]
    UserDisabled,
    /// The class of service keeps audio in the cluster.
    #[error("its class of service keeps audio in the cluster: set the rule audio-out=yes with `twinbox cos set`")]
    AudioStays,
    /// Another mailbox has the mail address since a split.
    #[error("another user has its mail address since a split: change the address with `twinbox user set`")]
    AddressLost,
    /// The settings of the account make no account.
    #[error("{0}")]
    Account(String),
    /// A row cannot be read by this release.
    #[error("{0}")]
    Unreadable(String),
}

/// A mailbox with an account, or among the users of a server, that is not synchronised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its server; `None`: the server was removed.
    pub server: Option<MailServerId>,
    /// It has an account of its own; else the setting `users` of the server names it.
    pub listed: bool,
    /// The reason, with the remedy.
    pub reason: LeftOutReason,
}

/// A mailbox with an account, or among the users of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncedMailbox {
    /// It is synchronised with this account, whose state this is.
    Account(Account, AccountState),
    /// It is not synchronised.
    LeftOut(LeftOut),
}

/// A server with its settings as types, or the reason why they make none.
struct Server {
    stored: StoredServer,
    settings: Result<ServerSettings, String>,
}

/// All servers, by name: of several whose `users` name a mailbox, the first counts.
pub(crate) struct Servers(Vec<Server>);

impl Servers {
    pub(crate) fn read(rows: &impl Rows) -> Result<Self, MailError> {
        let settings = |stored: &StoredServer| {
            ServerSettings::from_settings(&stored.settings).map_err(|error| error.to_string())
        };
        let servers = readable_servers(&rows.table(schema::MAIL_SERVER)?).into_iter();
        Ok(Self(servers.map(|stored| Server { settings: settings(&stored), stored }).collect()))
    }

    /// Whether a server names users in addition to the listed ones.
    pub(crate) fn name_users(&self) -> bool {
        self.0.iter().filter_map(|server| server.settings.as_ref().ok()).any(|server| server.users != Users::Listed)
    }

    fn get(&self, id: MailServerId) -> Option<&Server> {
        self.0.iter().find(|server| server.stored.id == id)
    }

    /// The server whose `users` name the members of a class.
    fn of_class(&self, class: &str) -> Option<&Server> {
        self.0.iter().find(|server| match server.settings.as_ref().map(|settings| &settings.users) {
            Ok(Users::All) => true,
            Ok(Users::Classes(classes)) => classes.iter().any(|name| name == class),
            Ok(Users::Listed) | Err(_) => false,
        })
    }
}

/// The servers of these rows, by name. A server that this release cannot read is left out, and logged.
pub(crate) fn readable_servers(rows: &[(Key, Record)]) -> Vec<StoredServer> {
    let mut servers = Vec::new();
    for (key, record) in rows {
        match StoredServer::read(key, record) {
            Ok(server) => servers.extend(server),
            Err(error) => tracing::warn!(%error, "mail server cannot be read; it is left out"),
        }
    }
    servers.sort_by(|a, b| (&a.name, a.created, a.id).cmp(&(&b.name, b.created, b.id)));
    servers
}

/// Name of a class, and whether its rules let audio out of the cluster.
#[derive(Clone)]
struct ClassFacts {
    name: String,
    audio_out: bool,
}

/// Resolves the accounts of mailboxes.
pub(crate) struct Resolver<'a, R> {
    rows: &'a R,
    servers: &'a Servers,
    classes: HashMap<Option<ClassId>, ClassFacts>,
}

/// An account with its state, and the place where its messages are.
pub(crate) struct Resolved {
    pub(crate) account: Account,
    pub(crate) state: AccountState,
    pub(crate) place: AccountPlace,
    /// The stored states of messages are of this place.
    pub(crate) in_place: bool,
}

impl<'a, R: Rows> Resolver<'a, R> {
    pub(crate) fn new(rows: &'a R, servers: &'a Servers) -> Self {
        Self { rows, servers, classes: HashMap::new() }
    }

    /// The account of a mailbox, or the reason why it has none; `Ok(None)` for a mailbox without an account that no
    /// server names.
    pub(crate) fn synced(&mut self, id: MailboxId) -> Result<Option<SyncedMailbox>, MailError> {
        Ok(match self.resolve(id) {
            Ok(None) => None,
            Ok(Some(Ok(resolved))) => Some(SyncedMailbox::Account(resolved.account, resolved.state)),
            Ok(Some(Err(left_out))) => Some(SyncedMailbox::LeftOut(left_out)),
            Err(MailError::View(error)) => {
                let reason = LeftOutReason::Unreadable(error.to_string());
                Some(SyncedMailbox::LeftOut(LeftOut { mailbox: id, server: None, listed: false, reason }))
            }
            Err(error) => return Err(error),
        })
    }

    /// As [`Self::synced`], with the place.
    pub(crate) fn resolve(&mut self, id: MailboxId) -> Result<Option<Result<Resolved, LeftOut>>, MailError> {
        let key = schema::account_key(id);
        let record = self.rows.row(&key)?.unwrap_or_default();
        let stored = StoredAccount::read(&key, &record)?.filter(|stored| stored.created.is_some());
        let (servers, mailbox) = (self.servers, self.mailbox(id)?);
        let (server, listed) = match (&stored, &mailbox) {
            (Some(stored), _) => (stored.server.and_then(|server| servers.get(server)), true),
            // A server names only users with a mail address.
            (None, Some(mailbox)) if mailbox.addresses.mail.is_some() => {
                let class = self.class(mailbox.class)?;
                (servers.of_class(&class.name), false)
            }
            (None, _) => (None, false),
        };
        let left_out = |reason| {
            let server = server.map(|server| server.stored.id);
            Ok(Some(Err(LeftOut { mailbox: id, server, listed, reason })))
        };
        let Some(Server { stored: server, settings }) = server else {
            return if listed { left_out(LeftOutReason::ServerGone) } else { Ok(None) };
        };
        let settings = match settings {
            Ok(settings) if settings.enabled => settings,
            Ok(_) => return left_out(LeftOutReason::ServerDisabled(server.name.clone())),
            Err(reason) => {
                let (server, reason) = (server.name.clone(), reason.clone());
                return left_out(LeftOutReason::ServerSettings { server, reason });
            }
        };
        let own = match stored.map(|stored| AccountSettings::from_settings(&stored.settings)).transpose() {
            Ok(own) if own.as_ref().is_none_or(|own| own.enabled) => own,
            Ok(_) => return left_out(LeftOutReason::AccountDisabled),
            Err(error) => return left_out(LeftOutReason::Account(error.to_string())),
        };
        let Some(mailbox) = mailbox else { return left_out(LeftOutReason::UserGone) };
        if mailbox.disabled {
            return left_out(LeftOutReason::UserDisabled);
        }
        if !self.class(mailbox.class)?.audio_out {
            return left_out(LeftOutReason::AudioStays);
        }
        let owner = self.owner(&mailbox)?;
        if !listed && owner.mail.is_none() {
            return left_out(LeftOutReason::AddressLost);
        }
        let account = match account_of(settings, server.id, own.as_ref(), &owner) {
            Ok(account) => account,
            Err(error) => return left_out(LeftOutReason::Account(error.to_string())),
        };
        let place = place_of(settings, &account);
        let in_place = is_in(place, &record);
        let state = if in_place { AccountState::read(&record, place) } else { AccountState::default() };
        Ok(Some(Ok(Resolved { account, state, place, in_place })))
    }

    /// A mailbox; `None` when there is none, or it was removed.
    fn mailbox(&self, id: MailboxId) -> Result<Option<Mailbox>, MailError> {
        let key = mailbox_schema::mailbox_key(id);
        let record = self.rows.row(&key)?;
        Ok(record.map(|record| Mailbox::read(&key, &record)).transpose()?.flatten())
    }

    /// Names of the owner that no other mailbox has since a split: by such a number or address, messages would go to
    /// another person.
    fn owner(&self, mailbox: &Mailbox) -> Result<Owner, MailError> {
        let mail = match &mailbox.addresses.mail {
            Some(mail) if self.has_address(mailbox, mail)? => Some(Pii::new(mail.as_str().to_owned())),
            _ => None,
        };
        let number = match Number::normalise(&mailbox.number) {
            Ok(number) => {
                let own = number.is_held_by(mailbox.id, |key| self.rows.row(key))?;
                own.then(|| Pii::new(number.to_string()))
            }
            Err(_) => None,
        };
        Ok(Owner { mailbox: mailbox.id, mail, number, login: self.login(mailbox)? })
    }

    fn has_address(&self, mailbox: &Mailbox, address: &UserAddress) -> Result<bool, MailError> {
        let Some(record) = self.rows.row(&mailbox_schema::address_key(address))? else { return Ok(true) };
        for id in UserAddress::claimants(&record) {
            if id == mailbox.id {
                return Ok(true);
            }
            match self.mailbox(id) {
                // A claim may stay behind a mailbox that does not list the address any more.
                Ok(Some(other)) if other.addresses.all().contains(address) => return Ok(false),
                Ok(_) | Err(MailError::View(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Name by which the owner signs in at the directory.
    fn login(&self, mailbox: &Mailbox) -> Result<Option<Pii<String>>, MailError> {
        let Some((directory, entry)) = mailbox.directory else { return Ok(None) };
        let key = directory_schema::binding_key(directory, entry);
        let record = self.rows.row(&key)?.unwrap_or_default();
        let binding = Binding::read(&key, &record)?.filter(|binding| binding.mailbox == mailbox.id);
        Ok(binding.map(|binding| binding.login).filter(|login| !login.reveal().is_empty()))
    }

    fn class(&mut self, id: Option<ClassId>) -> Result<ClassFacts, MailError> {
        if let Some(facts) = self.classes.get(&id) {
            return Ok(facts.clone());
        }
        let class = |id: ClassId| -> Result<Option<Class>, MailError> {
            let key = mailbox_schema::class_key(id);
            // A class that this release cannot read sets no rules, as everywhere.
            Ok(self.rows.row(&key)?.and_then(|record| Class::read(&key, &record).ok().flatten()))
        };
        let own = id.filter(|id| *id != Class::DEFAULT).map(class).transpose()?.flatten();
        let usual = class(Class::DEFAULT)?.unwrap_or_else(Class::unchanged_default);
        let rules = own.as_ref().map(|own| own.rules).unwrap_or_default().over(usual.rules);
        let name = own.map_or(usual.name, |own| own.name);
        let facts = ClassFacts { name, audio_out: rules.allows(Rule::AudioOut, true) };
        self.classes.insert(id, facts.clone());
        Ok(facts)
    }
}
