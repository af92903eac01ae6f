//! Limits of deletions, disablings and emptied fields, so that a mistake in a directory or in its settings takes few
//! users out of service, and few values away, before an administrator looks.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use twinbox_ids::{MailboxId, Timestamp};
use twinbox_mailbox::{BindingState, EntryId, SyncedField};

use crate::{Difference, DirectoryStep, Present};

/// Time over which losses are summed: 24 hours, in milliseconds.
pub const GUARD_WINDOW_MS: u64 = 24 * 3_600_000;

/// Limits of losses: of users whom the directory deletes or disables, and of users one of whose fields it empties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum share in percent: of the users of the directory within 24 hours, and of the users whose field the
    /// directory supplies within one run.
    pub percent: u8,
    /// Number of losses within 24 hours, and of emptied values of one field within one run, that pass whatever their
    /// share is.
    pub count: u64,
}

/// Rule that holds a run back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBackReason {
    /// More than the share.
    Share {
        /// The share, in percent.
        percent: u8,
    },
    /// No user would stay in service.
    All,
    /// One field would be emptied for more than the share.
    Emptied {
        /// The field.
        field: SyncedField,
        /// The share, in percent.
        percent: u8,
    },
}

/// A run would delete or disable too many users, or empty a field of too many. None of its steps is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// Users that the run would delete or disable, or whose field it would empty.
    pub losses: u64,
    /// Other users that the directory deleted or disabled in the last 24 hours; 0 for an emptied field.
    pub earlier: u64,
    /// Users of the directory, 24 hours ago; for an emptied field those for whom the directory supplies it.
    pub users: u64,
    /// The rule.
    pub reason: HeldBackReason,
}

impl std::error::Error for HeldBack {}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { losses, earlier, users, reason } = self;
        let limit = match reason {
            HeldBackReason::Share { percent } => format!("the limit is {percent} % in 24 hours"),
            HeldBackReason::All => "none would stay in service".to_owned(),
            HeldBackReason::Emptied { field, percent } => {
                return write!(
                    f,
                    "the run would empty the {field} of {losses} of the {users} users for whom the directory \
                     supplies it; the limit is {percent} %: read its dry run (`twinbox directory sync NAME --dry-run`), \
                     then accept exactly these losses with --accept-deletions RUN, or let the account of the \
                     directory read the attribute, or correct the template"
                );
            }
        };
        write!(f, "the run would delete or disable {losses} of {users} users")?;
        if *earlier > 0 {
            write!(f, ", and {earlier} others were in the last 24 hours")?;
        }
        write!(
            f,
            "; {limit}: read its dry run (`twinbox directory sync NAME --dry-run`), then accept exactly these \
             losses with --accept-deletions RUN, or correct the directory or its filter"
        )
    }
}

/// Checks the losses of a run with those of the last 24 hours, on whatever path they came: [`Present::binding`] says
/// when the directory lost each user. Then checks the fields that the run empties. `accepted` is
/// [`Difference::digest`] of a run that an administrator accepted: it lets exactly the same losses through.
pub fn guard(
    difference: &Difference,
    present: &[Present],
    limits: &Limits,
    accepted: Option<&[u8; 32]>,
    now: Timestamp,
) -> Result<(), HeldBack> {
    if accepted == Some(&difference.digest()) {
        return Ok(());
    }
    check_losses(difference, present, limits, now)?;
    check_fields(difference, present, limits)
}

fn check_losses(
    difference: &Difference,
    present: &[Present],
    limits: &Limits,
    now: Timestamp,
) -> Result<(), HeldBack> {
    let losses: HashSet<MailboxId> =
        difference.steps.iter().filter(|step| step.is_loss()).map(DirectoryStep::mailbox).collect();
    if losses.is_empty() {
        return Ok(());
    }
    let (mut users, mut earlier, mut active) = (0_u64, 0_u64, 0_u64);
    for binding in present.iter().filter_map(|user| user.bound_to(difference.directory)) {
        let is_lost = losses.contains(&binding.mailbox);
        // A time in the future is of a clock that was set back: it counts.
        let recent = binding.lost_at.is_some_and(|at| now.0.saturating_sub(at.0) < GUARD_WINDOW_MS);
        users += u64::from(recent || binding.state != BindingState::Gone);
        earlier += u64::from(recent && !is_lost);
        active += u64::from(binding.state == BindingState::Active && !is_lost);
    }
    let held = |reason| HeldBack { losses: losses.len() as u64, earlier, users, reason };
    let lost = (losses.len() as u64).saturating_add(earlier);
    if active == 0 && users > 1 {
        Err(held(HeldBackReason::All))
    } else if exceeds(lost, users, limits) {
        Err(held(HeldBackReason::Share { percent: limits.percent }))
    } else {
        Ok(())
    }
}

/// A server that does not show an attribute any more empties its field for all users at once. Each field has its own
/// share: few users may have a class, and all of them may lose it.
fn check_fields(difference: &Difference, present: &[Present], limits: &Limits) -> Result<(), HeldBack> {
    for (field, emptied) in difference.emptied() {
        let supplied = |user: &&Present| {
            let binding = user.bound_to(difference.directory);
            let counts = |state| state != BindingState::Gone;
            user.value(field).is_some()
                && binding.is_some_and(|binding| binding.fields.contains(field) && counts(binding.state))
        };
        let (losses, users) = (emptied.len() as u64, present.iter().filter(supplied).count() as u64);
        if exceeds(losses, users, limits) {
            let reason = HeldBackReason::Emptied { field, percent: limits.percent };
            return Err(HeldBack { losses, earlier: 0, users, reason });
        }
    }
    Ok(())
}

fn exceeds(lost: u64, users: u64, limits: &Limits) -> bool {
    lost > limits.count && lost.saturating_mul(100) > users.saturating_mul(u64::from(limits.percent))
}

impl Difference {
    /// Digest of the losses: the same for the same set of users to delete, to disable, and to take a value from, in any
    /// order.
    pub fn digest(&self) -> [u8; 32] {
        let losses: BTreeSet<(bool, u128, u128)> = self
            .steps
            .iter()
            .filter(|step| step.is_loss())
            .map(|step| (matches!(step, DirectoryStep::Gone { .. }), step.entry().0, step.mailbox().0))
            .collect();
        let mut hasher = blake3::Hasher::new_derive_key("twinbox directory losses v1");
        hasher.update(&self.directory.to_bytes());
        for (is_gone, entry, mailbox) in losses {
            hasher.update(&[u8::from(is_gone)]);
            hasher.update(&entry.to_be_bytes());
            hasher.update(&mailbox.to_be_bytes());
        }
        for (field, users) in self.emptied() {
            for (entry, mailbox) in users {
                hasher.update(&[2]);
                hasher.update(&entry.0.to_be_bytes());
                hasher.update(&mailbox.0.to_be_bytes());
                hasher.update(field.word().as_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// The users from whom the run takes a value without another one in its place, by field.
    fn emptied(&self) -> BTreeMap<SyncedField, BTreeSet<(EntryId, MailboxId)>> {
        let mut emptied: BTreeMap<SyncedField, BTreeSet<(EntryId, MailboxId)>> = BTreeMap::new();
        for step in &self.steps {
            let DirectoryStep::Change { mailbox, entry, changes, .. } = step else { continue };
            for change in changes.iter().filter(|change| change.from.is_some() && change.to.is_none()) {
                emptied.entry(change.field).or_default().insert((*entry, *mailbox));
            }
        }
        emptied
    }
}
