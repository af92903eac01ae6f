//! Limits of deletions and disablings, so that a mistake in a directory or in its settings takes few users out of
//! service before an administrator looks.

use std::collections::{BTreeSet, HashSet};

use twinbox_ids::{MailboxId, Timestamp};
use twinbox_mailbox::BindingState;

use crate::{Difference, Present, Step};

/// Time over which losses are summed: 24 hours, in milliseconds.
pub const GUARD_WINDOW_MS: u64 = 24 * 3_600_000;

/// Limits of losses: of users whom the directory deletes or disables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum share of the users of the directory within 24 hours, in percent.
    pub percent: u8,
    /// Number of losses within 24 hours that pass whatever their share is.
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
}

/// A run would delete or disable too many users. None of its steps is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// Users that the run would delete or disable.
    pub losses: u64,
    /// Other users that the directory deleted or disabled in the last 24 hours.
    pub earlier: u64,
    /// Users of the directory, 24 hours ago.
    pub users: u64,
    /// The rule.
    pub reason: HeldBackReason,
}

impl std::error::Error for HeldBack {}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { losses, earlier, users, reason } = self;
        write!(f, "the run would delete or disable {losses} of {users} users")?;
        if *earlier > 0 {
            write!(f, ", and {earlier} others were in the last 24 hours")?;
        }
        match reason {
            HeldBackReason::Share { percent } => write!(f, "; the limit is {percent} % in 24 hours")?,
            HeldBackReason::All => f.write_str("; none would stay in service")?,
        }
        f.write_str(
            ": read its dry run (`twinbox directory sync NAME --dry-run`), then accept exactly these losses with \
             --accept-deletions RUN, or correct the directory or its filter",
        )
    }
}

/// Checks the losses of a run with those of the last 24 hours, on whatever path they came: [`Present::binding`] says
/// when the directory lost each user. `accepted` is [`Difference::digest`] of a run that an administrator accepted: it
/// lets exactly the same losses through.
pub fn guard(
    difference: &Difference,
    present: &[Present],
    limits: &Limits,
    accepted: Option<&[u8; 32]>,
    now: Timestamp,
) -> Result<(), HeldBack> {
    let losses: HashSet<MailboxId> =
        difference.steps.iter().filter(|step| step.is_loss()).map(Step::mailbox).collect();
    if losses.is_empty() || accepted == Some(&difference.digest()) {
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
    } else if lost > limits.count && lost.saturating_mul(100) > users.saturating_mul(u64::from(limits.percent)) {
        Err(held(HeldBackReason::Share { percent: limits.percent }))
    } else {
        Ok(())
    }
}

impl Difference {
    /// Digest of the losses: the same for the same set of users to delete and to disable, in any order.
    pub fn digest(&self) -> [u8; 32] {
        let losses: BTreeSet<(bool, u128, u128)> = self
            .steps
            .iter()
            .filter(|step| step.is_loss())
            .map(|step| (matches!(step, Step::Gone { .. }), step.entry().0, step.mailbox().0))
            .collect();
        let mut hasher = blake3::Hasher::new_derive_key("twinbox directory losses v1");
        hasher.update(&self.directory.to_bytes());
        for (is_gone, entry, mailbox) in losses {
            hasher.update(&[u8::from(is_gone)]);
            hasher.update(&entry.to_be_bytes());
            hasher.update(&mailbox.to_be_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}
