//! One group of steps in one commit, in their order: each is checked against the effects of those before it, then
//! written as a whole or refused. The steps of an exchange are checked against the same rows, then all of them are
//! written or none.

use twinbox_ids::{DirectoryId, Epoch, MailboxId, Pii, Timestamp};
use twinbox_mailbox::{
    Binding, BindingState, Class, EntryId, Mailbox, NewMailbox, Number, SyncedField, UserAddress, UserAddresses,
    ViewError,
    by_epoch::Author,
    claim, class_name,
    directory::{PasswordVerifier, Supplied, schema},
    is_timezone, mailbox_of, release, schema as mailbox_schema,
};
use twinbox_mailstore::{
    MailError, SystemContent, SystemMail,
    rows::{directory_in, set_addresses, system_mail_in, taken_in},
};
use twinbox_replication_core::Record;
use twinbox_replication_store::{Draft, StoreError};

use crate::{
    steps::{AppliedStep, AppliedSteps, ReadyStep, RefusedStep, StepAction, SuppliedValues},
    users::make_local,
};

/// Maximum length of a supplied value, in bytes.
const LONGEST_VALUE: usize = 1_024;

/// A step that is not written: for a reason, or because the store failed.
enum Refusal {
    Step(String),
    Store(MailError),
    /// It was done before.
    Done,
}

impl From<MailError> for Refusal {
    fn from(error: MailError) -> Self {
        match error {
            MailError::View(error) => Self::Step(error.to_string()),
            error => Self::Store(error),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

impl From<ViewError> for Refusal {
    fn from(error: ViewError) -> Self {
        Self::Step(error.to_string())
    }
}

/// Kind of a step's effect, for the counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    New,
    Changed,
    Disabled,
    Gone,
    Returned,
    Released,
    Unchanged,
}

/// A step that is possible.
struct Checked {
    effect: Effect,
    id: MailboxId,
    /// Rows before the step.
    record: Record,
    row: Record,
    before: Option<Mailbox>,
    supplied: Supplied,
    binding: Binding,
    /// Values for the registers of the mailbox, of fields that are not supplied any more too.
    values: SuppliedValues,
    number: Option<Number>,
    /// Another user who has the number now.
    held_by: Option<MailboxId>,
    /// Addresses before and after.
    addresses: (UserAddresses, UserAddresses),
    ready: ReadyStep,
}

/// Writes the possible ones of the steps.
pub(crate) fn write(
    draft: &mut Draft<'_>,
    directory: DirectoryId,
    epoch: Epoch,
    usual: &NewMailbox,
    group: Vec<ReadyStep>,
    now: Timestamp,
) -> Result<AppliedSteps, MailError> {
    let author = Author::Duty(epoch);
    let mut applied = AppliedSteps::default();
    if directory_in(draft, directory)?.is_none() {
        for ReadyStep { step, .. } in group {
            applied.refuse(step.entry, step.dn, "its directory was removed since the plan".to_owned());
        }
        return Ok(applied);
    }
    let mut steps = group.into_iter().peekable();
    while let Some(first) = steps.next() {
        let exchange = first.step.exchange;
        let mut together = vec![first];
        while let Some(next) = steps.next_if(|next| exchange.is_some() && next.step.exchange == exchange) {
            together.push(next);
        }
        let names: Vec<_> = together.iter().map(|ready| (ready.step.entry, ready.step.dn.clone())).collect();
        match check_all(draft, directory, together, now)? {
            Ok(checked) => {
                for step in &checked {
                    if step.effect != Effect::Unchanged {
                        step.write(draft, &author, usual, now)?;
                    }
                    applied.count(step);
                }
                applied.counts.unchanged += (names.len() - checked.len()) as u64;
            }
            Err(reasons) => {
                for ((entry, dn), reason) in names.into_iter().zip(reasons) {
                    applied.refuse(entry, dn, reason);
                }
            }
        }
    }
    Ok(applied)
}

/// Checks steps that are written together: those with an effect, or the reason of each why none is written.
fn check_all(
    draft: &Draft<'_>,
    directory: DirectoryId,
    together: Vec<ReadyStep>,
    now: Timestamp,
) -> Result<Result<Vec<Checked>, Vec<String>>, MailError> {
    let (mut checked, mut reasons) = (Vec::new(), Vec::new());
    for ready in together {
        let reason = match check(draft, directory, ready, now) {
            Ok(step) => {
                checked.push(step);
                None
            }
            Err(Refusal::Step(reason)) => Some(reason),
            Err(Refusal::Store(error)) => return Err(error),
            Err(Refusal::Done) => None,
        };
        reasons.push(reason);
    }
    let held = checked.iter().find(|step| !is_left(step, &checked)).and_then(|step| step.number.as_ref());
    let rest = match held {
        _ if reasons.iter().any(Option::is_some) => {
            "its number is exchanged with a user whose step is refused: correct that entry first".to_owned()
        }
        Some(number) => {
            format!("the number {number} belongs to another user: change it there or in the directory")
        }
        None => return Ok(Ok(checked)),
    };
    Ok(Err(reasons.into_iter().map(|reason| reason.unwrap_or_else(|| rest.clone())).collect()))
}

/// Whether the number of a step is free, or its holder leaves it in the same exchange.
fn is_left(step: &Checked, exchange: &[Checked]) -> bool {
    let leaves = |other: &Checked| {
        let has = other.before.as_ref().and_then(|mailbox| Number::normalise(&mailbox.number).ok());
        has.is_some() && has == step.number && other.number != step.number
    };
    step.held_by.is_none_or(|by| exchange.iter().any(|other| other.id == by && leaves(other)))
}

/// Checks a step against the rows as they are now.
fn check(draft: &Draft<'_>, directory: DirectoryId, ready: ReadyStep, now: Timestamp) -> Result<Checked, Refusal> {
    let AppliedStep { entry, dn, login, action, exchange: _ } = &ready.step;
    let key = schema::binding_key(directory, *entry);
    let row = draft.get(&key)?.unwrap_or_default();
    let bound = Binding::read(&key, &row)?;
    let id = match (action, &bound) {
        (StepAction::Create { .. }, None) => mailbox_of(directory, *entry),
        (StepAction::Adopt { mailbox, .. }, None) => *mailbox,
        (StepAction::Adopt { mailbox, .. }, Some(bound)) if bound.mailbox != *mailbox => {
            return refuse("the entry was bound to another user since the plan");
        }
        (_, Some(bound)) => bound.mailbox,
        (StepAction::Release, None) => return Err(Refusal::Done),
        (_, None) => return refuse("the user was made local since the plan"),
    };
    let key = mailbox_schema::mailbox_key(id);
    let record = draft.get(&key)?.unwrap_or_default();
    let before = if record.is_empty() { None } else { Mailbox::read(&key, &record)? };
    let own = Some((directory, *entry));
    match (&before, action) {
        (None, StepAction::Create { .. }) if record.is_empty() => {}
        (None, _) => {
            return refuse(
                "its mailbox was removed by an administrator: leave the entry out by the filter of the directory",
            );
        }
        (Some(mailbox), StepAction::Create { .. }) if mailbox.directory.is_none() && bound.is_none() => {
            return refuse(&format!(
                "its user, mailbox {}, was made local: bind it with `twinbox directory bind`",
                mailbox.number
            ));
        }
        (Some(mailbox), StepAction::Adopt { .. }) if mailbox.directory.is_none() => {}
        (Some(mailbox), _) if mailbox.directory == own => {}
        (Some(mailbox), _) => {
            return refuse(&format!("mailbox {} was bound to another entry since the plan", mailbox.number));
        }
    }
    let old = Supplied::read(&record)?;
    let mut values = old.as_ref().map(|old| old.values.clone()).unwrap_or_default();
    let mut fields = old.as_ref().map(Supplied::fields).unwrap_or_default();
    if let StepAction::Create { values: changes, fields: wanted, .. }
    | StepAction::Adopt { changes, fields: wanted, .. }
    | StepAction::Change { changes, fields: wanted } = action
    {
        fields = *wanted;
        let own = |field| before.as_ref().map(|user| own_value(user, field)).unwrap_or_default();
        for field in fields.iter() {
            values.entry(field).or_insert_with(|| own(field));
        }
        values.extend(resolve(draft, changes)?);
    }
    let state_before = bound.as_ref().map(|bound| bound.state);
    let state = match action {
        StepAction::Disable => BindingState::Disabled,
        StepAction::Gone | StepAction::Release => BindingState::Gone,
        StepAction::Return => BindingState::Active,
        StepAction::Create { .. } | StepAction::Adopt { .. } | StepAction::Change { .. } => {
            state_before.unwrap_or(BindingState::Active)
        }
    };
    if matches!(action, StepAction::Release) && state_before != Some(BindingState::Gone) {
        return refuse("the entry came back since the plan");
    }
    let moved = state_before != Some(state);
    // An entry that comes back as a disabled one was counted when it went.
    let lost = match state {
        BindingState::Active => false,
        BindingState::Disabled => moved && state_before != Some(BindingState::Gone),
        BindingState::Gone => moved,
    };
    let earlier = bound.as_ref();
    let known = |new: &Pii<String>, old: Option<&Pii<String>>| match old {
        Some(old) if new.reveal().is_empty() => old.clone(),
        _ => new.clone(),
    };
    let binding = Binding {
        directory,
        entry: *entry,
        mailbox: id,
        dn: known(dn, earlier.map(|bound| &bound.dn)),
        login: match action {
            StepAction::Create { .. } | StepAction::Adopt { .. } | StepAction::Change { .. } => login.clone(),
            _ => known(login, earlier.map(|bound| &bound.login)),
        },
        state,
        since: earlier.filter(|_| !moved).map_or(now, |bound| bound.since),
        lost_at: if lost { Some(now) } else { earlier.and_then(|bound| bound.lost_at) },
        fields,
    };
    let number = values.get(&SyncedField::Number).and_then(|number| Number::normalise(number.reveal()).ok());
    if before.is_none() && number.is_none() {
        return refuse("the entry has no number: map an attribute that it has to the number");
    }
    let addresses = before.as_ref().map(|mailbox| mailbox.addresses.clone()).unwrap_or_default();
    let mut wanted = addresses.clone();
    if let Some(mail) = values.get(&SyncedField::Mail) {
        wanted.mail = UserAddress::address(mail.reveal()).ok();
    }
    if let Some(taken) = taken_in(draft, id, &addresses, &wanted)? {
        let (address, number) = (taken.address.as_str(), taken.number);
        return refuse(&format!("the address {address} belongs to mailbox {number}: take it from that user first"));
    }
    let held_by = match &number {
        Some(number) if before.as_ref().is_none_or(|mailbox| mailbox.number != number.as_str()) => {
            number.holder(|key| draft.get(key))?.filter(|by| *by != id)
        }
        _ => None,
    };
    let same = |(field, value): (&SyncedField, &Pii<String>)| {
        let has_default = matches!(field, SyncedField::Language | SyncedField::Timezone);
        let is_default = has_default && value.reveal().is_empty();
        is_default || before.as_ref().is_some_and(|mailbox| own_value(mailbox, *field) == *value)
    };
    let supplied = Supplied {
        directory,
        entry: *entry,
        disabled: state != BindingState::Active,
        values: values.clone().into_iter().filter(|(field, _)| fields.contains(*field)).collect(),
    };
    let unchanged = old.as_ref() == Some(&supplied) && bound.as_ref() == Some(&binding) && values.iter().all(same);
    let effect = match action {
        _ if before.is_none() => Effect::New,
        StepAction::Release => Effect::Released,
        _ if unchanged => Effect::Unchanged,
        StepAction::Disable => Effect::Disabled,
        StepAction::Gone => Effect::Gone,
        StepAction::Return if moved => Effect::Returned,
        _ => Effect::Changed,
    };
    let addresses = (addresses, wanted);
    Ok(Checked { effect, id, record, row, before, supplied, binding, values, number, held_by, addresses, ready })
}

/// The present value of a user's field, as it is stored.
fn own_value(mailbox: &Mailbox, field: SyncedField) -> Pii<String> {
    match field {
        SyncedField::Number => Pii::new(mailbox.number.clone()),
        SyncedField::Name => mailbox.name.clone(),
        SyncedField::Mail => {
            Pii::new(mailbox.addresses.mail.as_ref().map_or_else(String::new, |mail| mail.as_str().to_owned()))
        }
        SyncedField::Language => Pii::new(mailbox.language.clone()),
        SyncedField::Timezone => Pii::new(mailbox.timezone.clone()),
        SyncedField::Class => Pii::new(mailbox.class.map_or_else(String::new, |class| class.to_string())),
    }
}

/// The values as they are stored.
fn resolve(draft: &Draft<'_>, values: &SuppliedValues) -> Result<SuppliedValues, Refusal> {
    let mut resolved = SuppliedValues::new();
    for (field, value) in values {
        let text = value.reveal().trim();
        if text.len() > LONGEST_VALUE {
            return refuse(&format!(
                "its {field} has more than {LONGEST_VALUE} bytes: shorten it in the directory"
            ));
        }
        let stored = match field {
            SyncedField::Number => match Number::normalise(text) {
                Ok(number) => number.to_string(),
                Err(reason) => return refuse(&format!("number '{}': {reason}", text.escape_debug())),
            },
            SyncedField::Mail if !text.is_empty() => match UserAddress::address(text) {
                Ok(address) => address.as_str().to_owned(),
                Err(reason) => return refuse(&format!("mail '{}': {reason}", text.escape_debug())),
            },
            SyncedField::Timezone if !text.is_empty() && !is_timezone(text) => {
                let error = MailError::Timezone { value: text.escape_debug().to_string() };
                return refuse(&error.to_string());
            }
            SyncedField::Class if !text.is_empty() => class_id(draft, text)?,
            _ => text.to_owned(),
        };
        resolved.insert(*field, Pii::new(stored));
    }
    Ok(resolved)
}

/// The id of a class as text; empty for the default one.
fn class_id(draft: &Draft<'_>, name: &str) -> Result<String, Refusal> {
    let none = || Refusal::Step(MailError::NoClass { name: name.escape_debug().to_string() }.to_string());
    let name = class_name(name).map_err(|_| none())?;
    if name == Class::DEFAULT_NAME {
        return Ok(String::new());
    }
    let record = draft.get(&mailbox_schema::class_name_key(&name))?;
    record.as_ref().and_then(Class::holder).map(|id| id.to_string()).ok_or_else(none)
}

impl Checked {
    fn write(
        &self,
        draft: &mut Draft<'_>,
        author: &Author,
        usual: &NewMailbox,
        now: Timestamp,
    ) -> Result<(), MailError> {
        if self.effect == Effect::Released {
            return make_local(draft, self.id, author, now, true);
        }
        let mut edits = match (&self.before, &self.number) {
            (None, Some(number)) => usual.edits(number, self.ready.pin.as_ref(), now),
            _ => Vec::new(),
        };
        edits.extend(Supplied::registers(&self.values));
        edits.extend(self.supplied.edits(&self.record, author, now)?);
        draft.edit(mailbox_schema::mailbox_key(self.id), edits)?;
        if let Some(number) = &self.number {
            let old = self.before.as_ref().and_then(|mailbox| Number::normalise(&mailbox.number).ok());
            if let Some(old) = old.filter(|old| old != number) {
                draft.edit(mailbox_schema::number_key(&old), release(self.id))?;
            }
            draft.edit(mailbox_schema::number_key(number), claim(self.id))?;
        }
        let (present, wanted) = &self.addresses;
        set_addresses(draft, self.id, present, wanted)?;
        if let Some(mail) = self.first_pin_mail() {
            system_mail_in(draft, &mail, self.id, 0)?;
        }
        release_others(draft, self.id, &self.record, self.number.as_ref(), wanted)?;
        let mut edits = self.binding.edits(&self.row, author, now)?;
        if self.supplied.disabled {
            edits.extend(PasswordVerifier::removal());
        }
        Ok(draft.edit(schema::binding_key(self.binding.directory, self.binding.entry), edits)?)
    }

    /// The mail with the first PIN of a new user; `None` if there is none to send.
    fn first_pin_mail(&self) -> Option<SystemMail> {
        let StepAction::Create { pin: Some(pin), mail_pin: Some(to), .. } = &self.ready.step.action else {
            return None;
        };
        if self.effect != Effect::New || self.ready.pin.is_none() {
            return None;
        }
        let content = SystemContent::FirstPin {
            number: self.number.as_ref()?.to_string(),
            name: self.values.get(&SyncedField::Name).cloned().unwrap_or_default(),
            pin: pin.clone(),
        };
        Some(SystemMail { to: to.clone(), content })
    }
}

/// Withdraws the claims of a user that other epochs made, except those of the number and addresses that count.
pub(crate) fn release_others(
    draft: &mut Draft<'_>,
    id: MailboxId,
    record: &Record,
    number: Option<&Number>,
    addresses: &UserAddresses,
) -> Result<(), MailError> {
    for (field, value) in Supplied::other_claims(record) {
        match field {
            SyncedField::Number => {
                let other = Number::normalise(value.reveal()).ok().filter(|other| Some(other) != number);
                if let Some(other) = other.filter(|_| number.is_some()) {
                    draft.edit(mailbox_schema::number_key(&other), release(id))?;
                }
            }
            _ => {
                let other = UserAddress::address(value.reveal()).ok();
                if let Some(other) = other.filter(|other| !addresses.all().contains(other)) {
                    draft.edit(mailbox_schema::address_key(&other), UserAddress::release(id))?;
                }
            }
        }
    }
    Ok(())
}

impl AppliedSteps {
    fn refuse(&mut self, entry: EntryId, dn: Pii<String>, reason: String) {
        self.counts.refused += 1;
        self.refused.push(RefusedStep { entry, dn, reason: Pii::new(reason) });
    }

    fn count(&mut self, step: &Checked) {
        let counts = &mut self.counts;
        match step.effect {
            Effect::New => counts.new += 1,
            Effect::Changed | Effect::Released => counts.changed += 1,
            Effect::Disabled => counts.disabled += 1,
            Effect::Gone => counts.gone += 1,
            Effect::Returned => counts.returned += 1,
            Effect::Unchanged => counts.unchanged += 1,
        }
        if step.effect == Effect::New {
            self.created.push(step.id);
            self.without_pin.extend(step.ready.without_pin.then_some(step.id));
        }
    }
}

fn refuse<T>(reason: &str) -> Result<T, Refusal> {
    Err(Refusal::Step(reason.to_owned()))
}
