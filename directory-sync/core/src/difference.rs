//! The difference between the people of a directory and the users of the store, as steps.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use twinbox_ids::{DirectoryId, MailboxId, Pii, Timestamp};
use twinbox_mailbox::{BindingState, EntryId, SyncedField, mailbox_of};

use crate::{
    DirectorySettings, DirectoryStep, Notice, Person, Present, RefusedEntry,
    claims::{Claim, contested, handed_over, in_order},
    number_exchange::NumberExchange,
    plan::{Plan, Target, label},
    present::Users,
};

/// Maximum number of other entries that the reason of a conflict names.
const MOST_NAMED: usize = 3;

/// Field by which local users are bound to entries in bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdoptBy {
    /// The number.
    Number,
    /// The mail address.
    Mail,
}

impl AdoptBy {
    /// All fields.
    pub const ALL: [Self; 2] = [Self::Number, Self::Mail];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        self.field().word()
    }

    const fn field(self) -> SyncedField {
        match self {
            Self::Number => SyncedField::Number,
            Self::Mail => SyncedField::Mail,
        }
    }
}

/// Extent of a run: all people of the directory, or the changed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All people, of a search that ended with success: an absent entry is gone.
    Full,
    /// People that changed: an absent entry did not change.
    Changes {
        /// Entries that the server reported as deleted, or that a comparison of all ids did not find. One that is also
        /// among the people is there.
        gone: Vec<EntryId>,
    },
}

/// Work that makes the users of the store as the directory has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The directory.
    pub directory: DirectoryId,
    /// Steps, in the order in which they are applied.
    pub steps: Vec<DirectoryStep>,
    /// Indices of steps that are applied together or not at all: users who exchange their numbers.
    pub exchanges: Vec<Range<usize>>,
    /// Entries of which nothing is taken, by id.
    pub refused: Vec<RefusedEntry>,
    /// Values that are left out.
    pub notices: Vec<Notice>,
    /// Number of users without a change.
    pub unchanged: u64,
}

/// Compares people with the users of the store. `present` has the users of this directory, the local ones, and those of
/// other directories, whose numbers and addresses are taken. The order of both does not matter. Local users are not
/// changed unless `adopt` names the field by which they are bound. Applying the steps and comparing again gives none.
pub fn difference(
    directory: DirectoryId,
    settings: &DirectorySettings,
    scope: &Scope,
    mut people: Vec<Person>,
    present: &[Present],
    adopt: Option<AdoptBy>,
    now: Timestamp,
) -> Difference {
    // Two searches of overlapping bases return an entry twice.
    people.sort();
    people.dedup_by_key(|person| person.entry);
    let found = Difference {
        directory,
        steps: Vec::new(),
        exchanges: Vec::new(),
        refused: Vec::new(),
        notices: Vec::new(),
        unchanged: 0,
    };
    let mut run = Run { users: Users::new(directory, present), adopt, found };
    run.absences(scope, &people, settings.grace_ms(), now);
    let plans: Vec<_> = people.into_iter().filter_map(|person| run.plan(person)).collect();
    let plans = run.without_shared_adoptions(plans);
    let plans = run.with_settled_numbers(plans);
    run.write(plans);
    run.found.refused.sort_by_key(|refused| refused.entry);
    run.found
}

/// A comparison under way.
struct Run<'a> {
    users: Users<'a>,
    adopt: Option<AdoptBy>,
    found: Difference,
}

impl<'a> Run<'a> {
    fn refuse(&mut self, person: &Person, reason: String) {
        let refused = RefusedEntry { entry: person.entry, dn: person.dn.clone(), reason: Pii::new(reason) };
        self.found.refused.push(refused);
    }

    fn note(&mut self, person: &Person, field: SyncedField, reason: String) {
        let notice = Notice { entry: person.entry, dn: person.dn.clone(), field, reason: Pii::new(reason) };
        self.found.notices.push(notice);
    }

    /// Users whose entries are gone, and those whose grace time is over.
    fn absences(&mut self, scope: &Scope, people: &[Person], grace_ms: u64, now: Timestamp) {
        let there: HashSet<EntryId> = people.iter().map(|person| person.entry).collect();
        let reported: Option<HashSet<EntryId>> = match scope {
            Scope::Full => None,
            Scope::Changes { gone } => Some(gone.iter().copied().collect()),
        };
        let (mut gone, mut released) = (BTreeMap::new(), BTreeMap::new());
        for present in self.users.all {
            let Some(binding) = present.bound_to(self.users.directory) else { continue };
            let (mailbox, entry, before) = (present.mailbox, binding.entry, binding.state);
            if there.contains(&entry) {
                continue;
            }
            let is_absent = reported.as_ref().is_none_or(|reported| reported.contains(&entry));
            let user = label(present);
            if before != BindingState::Gone && is_absent {
                gone.insert(entry, DirectoryStep::Gone { mailbox, entry, before, user });
            } else if before == BindingState::Gone && now.0.saturating_sub(binding.since.0) >= grace_ms {
                released.insert(entry, DirectoryStep::Release { mailbox, entry, user });
            }
        }
        self.found.steps.extend(gone.into_values().chain(released.into_values()));
    }

    /// The user that a person has or gets; `None` if it gets none.
    fn plan(&mut self, person: Person) -> Option<Plan<'a>> {
        let bound = self.users.of_entry(person.entry);
        if bound.is_none() && person.disabled {
            return None;
        }
        // The entries of former staff often lose their number, and the user keeps it.
        if person.number.is_none() && !person.disabled {
            let problem = person.problem(SyncedField::Number).map(|problem| problem.text.reveal().clone());
            self.refuse(&person, problem.unwrap_or_else(|| "the entry has no number".to_owned()));
            return None;
        }
        let (mailbox, target) = match bound {
            Some(present) => (present.mailbox, Target::Bound(present, present.bound_to(self.users.directory)?)),
            None => match self.unbound(&person) {
                Ok(found) => found,
                Err(reason) => {
                    self.refuse(&person, reason);
                    return None;
                }
            },
        };
        Some(Plan { person, mailbox, target, keeps_mail: false, ring: None })
    }

    /// The local user that a person adopts, or a new one.
    fn unbound(&self, person: &Person) -> Result<(MailboxId, Target<'a>), String> {
        if let Some(field) = self.adopt.map(AdoptBy::field) {
            let value = person.value(field).unwrap_or_default();
            let found = self.users.with(field, value).iter().copied();
            let mut local = found.filter(|present| present.binding.is_none());
            match (local.next(), local.next()) {
                (Some(_), Some(_)) => {
                    let remedy = "bind the right one with `twinbox directory bind`";
                    return Err(format!("several local users have {field} {value}: {remedy}"));
                }
                (Some(present), None) => return Ok((present.mailbox, Target::Local(present))),
                _ => {}
            }
        }
        let mailbox = mailbox_of(self.users.directory, person.entry);
        match self.users.of_mailbox(mailbox) {
            None => Ok((mailbox, Target::New)),
            Some(former) => Err(format!(
                "its user {} was made local: bind it with `twinbox directory bind`, or leave the entry out by the \
                 filter",
                former.number
            )),
        }
    }

    /// Refuses entries that adopt one user together.
    fn without_shared_adoptions(&mut self, plans: Vec<Plan<'a>>) -> Vec<Plan<'a>> {
        let mut adoptions: HashMap<MailboxId, usize> = HashMap::new();
        for plan in plans.iter().filter(|plan| matches!(plan.target, Target::Local(_))) {
            *adoptions.entry(plan.mailbox).or_default() += 1;
        }
        let mut rest = Vec::with_capacity(plans.len());
        for plan in plans {
            match (plan.target, adoptions.get(&plan.mailbox)) {
                (Target::Local(present), Some(count)) if *count > 1 => {
                    let number = &present.number;
                    let remedy = "bind the right one with `twinbox directory bind`";
                    let reason = format!("{count} entries fit the local user {number}: {remedy}");
                    self.refuse(&plan.person, reason);
                }
                _ => rest.push(plan),
            }
        }
        rest
    }

    /// Refuses entries whose number another user has or gets, and returns the others in an order in which each number
    /// is free when it is taken. Users who exchange their numbers are the last ones, and marked.
    fn with_settled_numbers(&mut self, plans: Vec<Plan<'a>>) -> Vec<Plan<'a>> {
        let field = SyncedField::Number;
        let reasons = self.conflicts(field, &plans);
        let mut rest = Vec::with_capacity(plans.len());
        for (at, plan) in plans.into_iter().enumerate() {
            match reasons.get(&at) {
                Some(reason) => rest.extend(self.refuse_number(plan, reason.clone())),
                None => rest.push(plan),
            }
        }
        let (order, rings) = in_order(&claims(field, &rest));
        let mut rest: Vec<Option<Plan<'a>>> = rest.into_iter().map(Some).collect();
        let rings = rings.into_iter().enumerate();
        let ringed = rings.flat_map(|(ring, members)| members.into_iter().map(move |at| (at, Some(ring))));
        let settled = order.into_iter().map(|at| (at, None)).chain(ringed);
        settled.filter_map(|(at, ring)| Some(Plan { ring, ..rest.get_mut(at)?.take()? })).collect()
    }

    /// Refuses a number, and the entry with it. A disabled account is disabled all the same and keeps its number.
    fn refuse_number(&mut self, mut plan: Plan<'a>, reason: String) -> Option<Plan<'a>> {
        if !plan.person.disabled {
            self.refuse(&plan.person, reason);
            return None;
        }
        self.note(&plan.person, SyncedField::Number, reason);
        plan.person.number = None;
        Some(plan)
    }

    /// Settles the mail addresses, and writes the steps of all plans.
    fn write(&mut self, mut plans: Vec<Plan<'a>>) {
        let field = SyncedField::Mail;
        let reasons = self.conflicts(field, &plans);
        for (at, plan) in plans.iter_mut().enumerate() {
            if let Some(reason) = reasons.get(&at) {
                plan.keeps_mail = true;
                self.note(&plan.person, field, reason.clone());
            }
        }
        let (order, rings) = in_order(&claims(field, &plans));
        for at in rings.into_iter().flatten() {
            if let Some(plan) = plans.get_mut(at) {
                plan.keeps_mail = true;
                let reason = "the address is exchanged with another user: take it from one of both first";
                self.note(&plan.person, field, reason.to_owned());
            }
        }
        // An address that another user of this run leaves is free only after that user's step.
        let later = {
            let claims = claims(field, &plans);
            let taken = handed_over(&claims);
            let waits = |at: &usize| claims.get(*at).is_some_and(|claim| is_taken(claim, &taken));
            order.into_iter().filter(waits).collect::<Vec<usize>>()
        };
        let waiting: HashSet<usize> = later.iter().copied().collect();
        let mut exchanges: BTreeMap<usize, NumberExchange> = BTreeMap::new();
        for (at, plan) in plans.iter_mut().enumerate() {
            for problem in plan.person.problems.iter().filter(|_| !plan.person.disabled) {
                self.note(&plan.person, problem.field, problem.text.reveal().clone());
            }
            let waits = waiting.contains(&at);
            plan.keeps_mail |= waits;
            let steps = plan.steps();
            plan.keeps_mail &= !waits;
            self.found.unchanged += u64::from(steps.is_empty() && !waits);
            match plan.ring {
                Some(ring) => exchanges.entry(ring).or_default().add(steps),
                None => self.found.steps.extend(steps),
            }
        }
        for exchange in exchanges.into_values() {
            let together = exchange.write(&mut self.found.steps);
            self.found.exchanges.push(together);
        }
        let last = later.into_iter().filter_map(|at| plans.get(at));
        self.found.steps.extend(last.map(Plan::mail_step));
    }

    /// The plans whose value of a field another user has or gets, with the reason.
    fn conflicts(&self, field: SyncedField, plans: &[Plan<'a>]) -> HashMap<usize, String> {
        let claims = claims(field, plans);
        let planned: HashSet<MailboxId> =
            plans.iter().filter_map(|plan| plan.present().map(|present| present.mailbox)).collect();
        let others = self.users.all.iter().filter(|present| !planned.contains(&present.mailbox));
        let kept: HashSet<&str> = others.filter_map(|present| present.value(field)).collect();
        let mut wanting: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, claim) in claims.iter().enumerate() {
            if let Some(value) = claim.wants {
                wanting.entry(value).or_default().push(at);
            }
        }
        let reason = |at: usize| {
            let plan = plans.get(at)?;
            let value = claims.get(at)?.wants?;
            let rivals = wanting.get(value).into_iter().flatten().filter(|rival| **rival != at);
            let rivals = rivals.filter_map(|rival| plans.get(*rival)).take(MOST_NAMED);
            let rivals: Vec<&str> = rivals.map(|rival| rival.person.dn.reveal().as_str()).collect();
            let reason = match rivals.is_empty() {
                false => format!(
                    "{field} {value} is also that of {}: give each entry its own in the directory",
                    rivals.join(" and ")
                ),
                true => self.held(field, value, plan.mailbox),
            };
            Some((at, reason))
        };
        contested(&claims, &kept).into_iter().filter_map(reason).collect()
    }

    /// The reason of a conflict with a user who keeps the value.
    fn held(&self, field: SyncedField, value: &str, mailbox: MailboxId) -> String {
        let holder = self.users.with(field, value).iter().find(|present| present.mailbox != mailbox);
        let Some(holder) = holder else { return format!("{field} {value} is taken by another user") };
        let name = &holder.name;
        match &holder.binding {
            None => format!(
                "{field} {value} is that of the local user {} ({name}): bind that user with --adopt-by {}, or \
                 change one of both",
                holder.number,
                AdoptBy::Number.word()
            ),
            Some(binding) if binding.directory == self.users.directory => format!(
                "{field} {value} is still that of user {number} ({name}) of this directory, whose entry is {}: make \
                 that user local with `twinbox directory make-local {number}`, then change or remove it",
                binding.state.word(),
                number = holder.number
            ),
            Some(_) => format!(
                "{field} {value} is that of user {} ({name}) of another directory: change it in one of both",
                holder.number
            ),
        }
    }
}

fn claims<'p>(field: SyncedField, plans: &'p [Plan<'_>]) -> Vec<Claim<'p>> {
    plans.iter().map(|plan| plan.claim(field)).collect()
}

/// Whether the claim takes a value that is handed over.
fn is_taken(claim: &Claim<'_>, taken: &HashSet<&str>) -> bool {
    claim.has != claim.wants && claim.wants.is_some_and(|value| taken.contains(value))
}
