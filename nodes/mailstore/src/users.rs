//! Import of many users: the plan for a table, and its execution.
//!
//! A table is checked as a whole before anything is changed, then written in groups: one commit, one sync and one
//! acknowledgement of the peer for a hundred users. While the peer takes one group the next is committed here, and PINs
//! of the groups after it are hashed, as many at a time as there are threads; the sign-in of a caller goes before them.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::mpsc, task::JoinSet};
use twinbox_ids::{MailboxId, Pii};
use twinbox_mailbox::{
    AddressChange, Class, Mailbox, MailboxChange, NewMailbox, NotifyColumns, Number, RowProblem, UserAddresses,
    UserRow, claim, pin::typable, repeated_addresses, schema,
};
use twinbox_replication_core::Edit;
use twinbox_replication_store::Draft;

use crate::{
    Acknowledgement, MailError, Mailstore, PinError,
    addresses::{address_words, set_addresses, taken_in},
    mailboxes::mailbox_in,
    synced::is_synced,
    table_devices::{DeviceStep, steps, steps_in, write_steps},
    work::blocking,
};

/// Users in one commit: about 250 changes, which a peer acknowledges well within its timeout.
const GROUP: usize = 128;

/// Groups whose PINs are hashed before they are written.
const AHEAD: usize = 2;

/// Groups that are written and not yet acknowledged: one here, one at the peer. With more, the last group would wait at
/// the peer, and so would callers who leave messages behind it.
const UNDER_WAY: usize = 2;

/// Policy for a PIN that the rules refuse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeakPins {
    /// Refuse the table.
    #[default]
    Refuse,
    /// Import the user without a PIN, and list it.
    LeaveOut,
    /// Accept it; it must be changed at the first sign-in.
    Accept,
}

/// Options of an import.
#[derive(Debug, Clone)]
pub struct UserImport {
    /// Defaults for new users where the table has no value; its number, name and PIN do not count.
    pub usual: NewMailbox,
    /// First PINs need not be changed.
    pub keep_pins: bool,
    /// Policy for PINs that are too easy.
    pub weak_pins: WeakPins,
}

/// The planned changes of one user.
#[derive(Debug, Clone)]
pub struct PlannedUser {
    /// The line of the table.
    pub line: u64,
    /// The mailbox number.
    pub number: Number,
    /// The mailbox exists already.
    pub known: bool,
    /// The planned settings, as text for the administrator; empty: none. The text may contain names.
    pub changes: Pii<Vec<String>>,
    /// Its PIN is too easy and is left out.
    pub without_pin: bool,
    action: Action,
    notify: NotifyColumns,
}

#[derive(Debug, Clone)]
enum Action {
    Create { new: Box<NewMailbox> },
    Change { id: MailboxId, edits: Vec<Edit>, addresses: AddressChange, pin: Option<(Pii<String>, bool)> },
}

/// The planned changes of a table.
#[derive(Debug, Clone, Default)]
pub struct UserPlan {
    /// By line.
    pub users: Vec<PlannedUser>,
}

/// Result of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// Users made.
    pub created: u64,
    /// Users changed.
    pub changed: u64,
    /// Users that already matched the table.
    pub unchanged: u64,
    /// Groups that are on this disk only, because no peer answered (rule A3).
    pub groups_alone: u64,
    /// Groups that are on two disks.
    pub groups_on_two: u64,
    /// Lines whose number or address was taken, or whose user was changed or removed or got a PIN, since the plan.
    pub missed: Vec<u64>,
}

/// An action whose PIN is hashed.
struct Ready {
    line: u64,
    id: MailboxId,
    /// Number of a new mailbox.
    create: Option<Number>,
    edits: Vec<Edit>,
    /// The edits give an existing mailbox its first PIN.
    first_pin: bool,
    addresses: AddressChange,
    notify: NotifyColumns,
}

impl Mailstore {
    /// Checks a table of users against the existing ones; the error lists all problems. Changes nothing.
    pub async fn plan_users(
        &self,
        rows: Vec<UserRow>,
        how: &UserImport,
    ) -> Result<Result<UserPlan, Vec<RowProblem>>, MailError> {
        let classes: HashMap<String, Class> =
            self.classes().await?.into_iter().filter(|c| !c.name_lost).map(|c| (c.name.clone(), c)).collect();
        let (mailstore, how) = (self.clone(), how.clone());
        blocking(move || {
            let (mut plan, mut problems) = (UserPlan::default(), repeated_addresses(&rows));
            for row in rows {
                plan.users.extend(mailstore.plan_user(row, &how, &classes, &mut problems)?);
            }
            Ok(if problems.is_empty() { Ok(plan) } else { Err(problems) })
        })
        .await?
    }

    fn plan_user(
        &self,
        row: UserRow,
        how: &UserImport,
        classes: &HashMap<String, Class>,
        problems: &mut Vec<RowProblem>,
    ) -> Result<Option<PlannedUser>, MailError> {
        let found = self.find_now(&row.number)?;
        let class = match &row.class {
            None => found.as_ref().map_or(how.usual.class, |mailbox| mailbox.class),
            Some(None) => None,
            Some(Some(name)) => match classes.get(&name.to_ascii_lowercase()) {
                Some(class) => Some(class.id).filter(|id| *id != Class::DEFAULT),
                None => {
                    let error = MailError::NoClass { name: name.clone() };
                    problems.push(RowProblem::new(row.line, format!("cos: {error}")));
                    return Ok(None);
                }
            },
        };
        // A user with a PIN keeps it: it may be the owner's own by now.
        let wanted = row.pin.clone().filter(|_| found.as_ref().is_none_or(|mailbox| mailbox.pin.is_none()));
        let (mut pin, mut without_pin) = (None, false);
        if let Some(wanted) = wanted {
            match self.accepts(&wanted, row.number.as_str(), &self.class_rules(class)?) {
                Ok(()) => pin = Some((wanted, !how.keep_pins)),
                Err(_) if how.weak_pins == WeakPins::Accept && typable(wanted.reveal(), 1).is_ok() => {
                    pin = Some((wanted, true));
                }
                Err(error) if how.weak_pins == WeakPins::Refuse => {
                    problems.push(RowProblem::new(row.line, format!("pin: {error}")));
                    return Ok(None);
                }
                Err(_) => without_pin = true,
            }
        }
        let Some(steps) = self.plan_addresses(&row, found.as_ref(), problems)? else { return Ok(None) };
        if let Some(mailbox) = &found
            && let Some(refused) = self.synced_field(mailbox, row.changed_fields(mailbox, class))?
        {
            problems.push(RowProblem::new(row.line, refused.to_string()));
            return Ok(None);
        }
        let mut user = match found {
            None => created(row, how, class, pin, without_pin),
            Some(mailbox) => changed(row, &mailbox, class, pin, without_pin),
        };
        let mut changes = user.changes.into_revealed();
        changes.extend(steps.iter().map(DeviceStep::words));
        user.changes = Pii::new(changes);
        Ok(Some(user))
    }

    /// The steps for the devices of a user; `None` if they or the addresses are a problem.
    fn plan_addresses(
        &self,
        row: &UserRow,
        mailbox: Option<&Mailbox>,
        problems: &mut Vec<RowProblem>,
    ) -> Result<Option<Vec<DeviceStep>>, MailError> {
        let before = problems.len();
        // A new mailbox has none of them.
        let id = mailbox.map_or(MailboxId(0), |mailbox| mailbox.id);
        let present = mailbox.map(|mailbox| mailbox.addresses.clone()).unwrap_or_default();
        let wanted = present.changed(&row.addresses);
        for taken in self.taken(id, &wanted)? {
            // One that was lost before is not refused again.
            if !present.all().contains(&taken.address) {
                let column = if wanted.mail.as_ref() == Some(&taken.address) { "mail" } else { "aliases" };
                let (address, number) = (taken.address.as_str(), taken.number);
                problems.push(RowProblem::new(
                    row.line,
                    format!("{column}: {address} belongs to mailbox {number}: take it from that user first"),
                ));
            }
        }
        let devices = match mailbox.filter(|_| row.notify != NotifyColumns::default()) {
            Some(mailbox) => self.devices_now(mailbox.id)?,
            None => Vec::new(),
        };
        let planned = steps(id, &devices, &row.notify);
        if let Err(error) = &planned {
            problems.push(RowProblem::new(row.line, format!("notify_delete: {error}")));
        }
        Ok(planned.ok().filter(|_| problems.len() == before))
    }

    /// Executes a plan. `progress` gets the number of users done; it may be called from any thread.
    pub async fn import_users(
        &self,
        plan: UserPlan,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<Imported, PinError> {
        let mut imported = Imported::default();
        let (due, same): (Vec<_>, Vec<_>) =
            plan.users.into_iter().partition(|user| !user.changes.reveal().is_empty());
        imported.unchanged = same.len() as u64;
        let (sender, mut groups) = mpsc::channel(AHEAD);
        let hashing = tokio::spawn({
            let mailstore = self.clone();
            async move {
                let mut due = due.into_iter().peekable();
                while due.peek().is_some() {
                    let group = mailstore.hash_all(due.by_ref().take(GROUP).collect()).await?;
                    if sender.send(group).await.is_err() {
                        break;
                    }
                }
                Ok::<_, PinError>(())
            }
        });
        let mut done = imported.unchanged;
        let mut under_way = JoinSet::new();
        loop {
            let group = match under_way.len() < UNDER_WAY {
                true => groups.recv().await,
                false => None,
            };
            if let Some(group) = group {
                let mailstore = self.clone();
                under_way.spawn(async move { mailstore.write_group(group).await });
                continue;
            }
            let Some(written) = under_way.join_next().await else { break };
            done += imported.add(written.map_err(|_| MailError::Ending)??);
            progress(done);
        }
        imported.missed.sort_unstable();
        hashing.await.map_err(|_| MailError::Ending)??;
        Ok(imported)
    }

    /// Hashes the PINs of a group, several at a time.
    async fn hash_all(&self, group: Vec<PlannedUser>) -> Result<Vec<Ready>, PinError> {
        let count = group.len();
        let queue = Arc::new(std::sync::Mutex::new(group.into_iter().enumerate()));
        let mut workers = JoinSet::new();
        for _ in 0..twinbox_pin_hashing::threads().min(count) {
            let (mailstore, queue) = (self.clone(), queue.clone());
            workers.spawn(async move {
                let mut ready = Vec::new();
                loop {
                    let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                    let Some((at, user)) = next else { return Ok::<_, PinError>(ready) };
                    ready.push((at, mailstore.ready(user).await?));
                }
            });
        }
        let mut all = Vec::with_capacity(count);
        while let Some(ready) = workers.join_next().await {
            all.extend(ready.map_err(|_| MailError::Ending)??);
        }
        all.sort_by_key(|(at, _)| *at);
        Ok(all.into_iter().map(|(_, ready)| ready).collect())
    }

    async fn ready(&self, user: PlannedUser) -> Result<Ready, PinError> {
        let PlannedUser { line, number, action, notify, .. } = user;
        Ok(match action {
            Action::Create { new } => {
                let pin = match &new.pin {
                    Some(pin) => Some(self.hash_of_many(pin, new.must_change).await?),
                    None => None,
                };
                let edits = new.edits(&number, pin.as_ref(), twinbox_clock::wall());
                let UserAddresses { mail, aliases } = new.addresses;
                let addresses = AddressChange { mail: Some(mail), aliases: Some(aliases) };
                let (id, create) = (MailboxId::random(), Some(number));
                Ready { line, id, create, edits, first_pin: false, addresses, notify }
            }
            Action::Change { id, mut edits, addresses, pin } => {
                let first_pin = pin.is_some();
                if let Some((pin, must_change)) = pin {
                    let pin = self.hash_of_many(&pin, must_change).await?;
                    edits.extend(MailboxChange::Pin(pin).edits());
                }
                Ready { line, id, create: None, edits, first_pin, addresses, notify }
            }
        })
    }

    async fn write_group(&self, group: Vec<Ready>) -> Result<Written, MailError> {
        let (mut written, acknowledgement) = self
            .commit(move |draft| {
                let mut written = Written::default();
                for ready in group {
                    let (line, new) = (ready.line, ready.create.is_some());
                    match ready.write(draft)? {
                        false => written.missed.push(line),
                        true if new => written.created += 1,
                        true => written.changed += 1,
                    }
                }
                Ok(written)
            })
            .await?;
        written.alone = acknowledgement == Acknowledgement::Alone;
        Ok(written)
    }
}

impl Ready {
    /// Writes all of it or nothing; `false` if another change has made it impossible since the plan.
    fn write(self, draft: &mut Draft<'_>) -> Result<bool, MailError> {
        let Self { id, create, edits, first_pin, addresses, notify, .. } = self;
        let present = match &create {
            Some(number) if number.holder(|key| draft.get(key))?.is_some() => return Ok(false),
            Some(_) => UserAddresses::default(),
            None => match mailbox_in(draft, id) {
                Ok(mailbox) if first_pin && mailbox.pin.is_some() => return Ok(false),
                Ok(mailbox) => mailbox.addresses,
                Err(MailError::NoMailbox(_)) => return Ok(false),
                Err(error) => return Err(error),
            },
        };
        let wanted = present.changed(&addresses);
        let Ok(steps) = steps_in(draft, id, &notify)? else { return Ok(false) };
        if taken_in(draft, id, &present, &wanted)?.is_some() || is_synced(draft, id, &edits, &present, &wanted)? {
            return Ok(false);
        }
        if let Some(number) = create {
            draft.edit(schema::number_key(&number), claim(id))?;
        }
        if !edits.is_empty() {
            draft.edit(schema::mailbox_key(id), edits)?;
        }
        set_addresses(draft, id, &present, &wanted)?;
        write_steps(draft, id, steps)?;
        Ok(true)
    }
}

/// Result of a group.
#[derive(Default)]
struct Written {
    created: u64,
    changed: u64,
    missed: Vec<u64>,
    /// No peer has the group.
    alone: bool,
}

impl Imported {
    /// Counts a group; returns its number of users.
    fn add(&mut self, group: Written) -> u64 {
        let Written { created, changed, missed, alone } = group;
        let users = created + changed + missed.len() as u64;
        self.created += created;
        self.changed += changed;
        self.missed.extend(missed);
        self.groups_alone += u64::from(alone);
        self.groups_on_two += u64::from(!alone);
        users
    }
}

fn created(
    row: UserRow,
    how: &UserImport,
    class: Option<twinbox_ids::ClassId>,
    pin: Option<(Pii<String>, bool)>,
    without_pin: bool,
) -> PlannedUser {
    let usual = how.usual.clone();
    let (pin, must_change) = pin.map_or((None, true), |(pin, must_change)| (Some(pin), must_change));
    let mut changes = vec![match (&pin, must_change) {
        (None, _) => "no PIN: sign-in is not possible".to_owned(),
        (Some(_), true) => "first PIN, to be changed".to_owned(),
        (Some(_), false) => "PIN".to_owned(),
    }];
    let name = row.name.unwrap_or_default();
    changes.extend((!name.reveal().is_empty()).then(|| format!("name {}", name.reveal())));
    changes.extend(row.timezone.as_ref().map(|zone| format!("time zone {zone}")));
    changes.extend(row.class.iter().flatten().map(|class| format!("cos {class}")));
    let addresses = UserAddresses::default().changed(&row.addresses);
    changes.extend(address_words(&UserAddresses::default(), &addresses));
    let new = NewMailbox {
        number: row.number.as_str().to_owned(),
        name,
        pin,
        must_change,
        timezone: row.timezone.unwrap_or(usual.timezone),
        language: row.language.unwrap_or(usual.language),
        quota: usual.quota,
        operator: row.operator.unwrap_or(usual.operator),
        class,
        addresses,
    };
    PlannedUser {
        line: row.line,
        number: row.number,
        known: false,
        changes: Pii::new(changes),
        without_pin,
        action: Action::Create { new: Box::new(new) },
        notify: row.notify,
    }
}

fn changed(
    row: UserRow,
    mailbox: &Mailbox,
    class: Option<twinbox_ids::ClassId>,
    pin: Option<(Pii<String>, bool)>,
    without_pin: bool,
) -> PlannedUser {
    let (mut changes, mut edits) = (Vec::new(), Vec::new());
    let mut set = |words: String, change: MailboxChange| {
        changes.push(words);
        edits.extend(change.edits());
    };
    if let Some(name) = row.name.filter(|name| *name != mailbox.name) {
        set(format!("name {}", name.reveal()), MailboxChange::Name(name));
    }
    if let Some(zone) = row.timezone.filter(|zone| *zone != mailbox.timezone) {
        set(format!("time zone {zone}"), MailboxChange::Timezone(zone));
    }
    if let Some(language) = row.language.filter(|language| *language != mailbox.language) {
        set(format!("language {language}"), MailboxChange::Language(language));
    }
    if let Some(operator) = row.operator.filter(|operator| *operator != mailbox.operator) {
        let words = operator.as_deref().unwrap_or("nowhere");
        set(format!("operator {words}"), MailboxChange::Operator(operator));
    }
    if class != mailbox.class {
        let words = row.class.flatten().unwrap_or_else(|| Class::DEFAULT_NAME.to_owned());
        set(format!("cos {words}"), MailboxChange::Class(class));
    }
    changes.extend(address_words(&mailbox.addresses, &mailbox.addresses.changed(&row.addresses)));
    if pin.is_some() {
        changes.push("PIN".to_owned());
    }
    PlannedUser {
        line: row.line,
        number: row.number,
        known: true,
        changes: Pii::new(changes),
        without_pin,
        action: Action::Change { id: mailbox.id, edits, addresses: row.addresses, pin },
        notify: row.notify,
    }
}
