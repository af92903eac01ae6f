//! One run: from the people of a search to users in the store.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering::Relaxed,
};

use tokio::task::spawn_blocking;
use tracing::info;
use twinbox_alarms::Code;
use twinbox_clock::wall;
use twinbox_directory_core::{
    Difference, DirectorySettings, HeldBack, Present, Scope, SettingError, difference, guard,
};
use twinbox_directory_service::LdapError;
use twinbox_directory_store::{DirectoryStore, DirectoryStoreError};
use twinbox_gate::Permit;
use twinbox_ids::Epoch;
use twinbox_mailbox::{EntryId, RunCounts, StoredDirectory};
use twinbox_mailstore::{MailError, PinError};

use crate::{
    found::Found,
    orders::SyncOrder,
    service::DutyParts,
    steps::{applied, present},
};

/// Maximum number of lines of a report.
const MOST_LINES: usize = 2_000;
/// Maximum length of a line, in characters.
const LONGEST_LINE: usize = 500;

/// Reason why a run changed nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Settings(#[from] SettingError),
    #[error(transparent)]
    Ldap(#[from] LdapError),
    #[error(transparent)]
    Directory(#[from] DirectoryStoreError),
    #[error(transparent)]
    Store(#[from] PinError),
    #[error("this node does not hold the duty any more: the next holder goes on")]
    DutyLost,
    #[error("the comparison ended unexpectedly: see the log of this node")]
    Compare,
}

impl From<MailError> for RunError {
    fn from(error: MailError) -> Self {
        match error {
            MailError::DutyLost => Self::DutyLost,
            error => Self::Store(error.into()),
        }
    }
}

/// A run that has ended without an error.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub counts: RunCounts,
    /// Changes for people, without those beyond the bound.
    pub lines: Vec<String>,
    pub more_lines: u64,
    /// Digest of the deletions, disablings and emptied fields.
    pub digest: [u8; 32],
    /// The run was stopped, for this reason, and nothing was changed.
    pub held_back: Option<HeldBack>,
    /// A change of a user was refused for what others have: one of them may have changed too, in a run before.
    pub unsettled: bool,
}

/// The directory and the epoch of a run.
pub(crate) struct Run<'a> {
    pub parts: &'a DutyParts,
    pub directory: &'a StoredDirectory,
    pub settings: &'a DirectorySettings,
    pub epoch: &'a Epoch,
}

impl Run<'_> {
    /// The users of the store.
    pub(crate) async fn users(&self) -> Result<Vec<Present>, RunError> {
        let users = DirectoryStore::of(&self.parts.mailstore).present_users().await?;
        Ok(users.into_iter().map(present).collect())
    }

    /// Compares, and makes the users as the directory has them, unless it is a dry run or too many would be lost.
    pub(crate) async fn apply(
        &self,
        found: Found,
        users: Vec<Present>,
        order: Option<&SyncOrder>,
    ) -> Result<Ended, RunError> {
        let dry = order.is_some_and(|order| order.dry_run);
        let accepted = match order.and_then(|order| order.accept_deletions) {
            Some(run) => {
                let _permit = self.permit().ok_or(RunError::DutyLost)?;
                Some(DirectoryStore::of(&self.parts.mailstore).accept_run(self.directory.id, run).await?.0.digest)
            }
            None => None,
        };
        let (id, settings) = (self.directory.id, self.settings.clone());
        let adopt = order.and_then(|order| order.adopt_by);
        let Found { scope, people, .. } = found;
        let is_full = scope == Scope::Full;
        let compare = move || {
            let now = wall();
            let difference = difference(id, &settings, &scope, people, &users, adopt, now);
            let checked = guard(&difference, &users, &settings.limits, accepted.as_ref(), now);
            let (lines, digest) = (difference.lines(), difference.digest());
            let unsettled = !is_full && refuses_users(&difference, &users);
            (difference, checked, lines, digest, unsettled)
        };
        let (difference, checked, lines, digest, unsettled) =
            spawn_blocking(compare).await.map_err(|_| RunError::Compare)?;
        let held_back = checked.err();
        let reason = held_back.as_ref().map(|held| format!("held back: {held}"));
        let mut ended = Ended { counts: difference.counts(), digest, held_back, unsettled, ..Ended::default() };
        ended.add_lines(reason.into_iter().chain(lines));
        if dry {
            return Ok(ended);
        }
        if ended.held_back.is_none() {
            self.write(&difference, &mut ended).await?;
        }
        self.conflicts(&ended, difference.notices.len(), is_full);
        Ok(ended)
    }

    async fn write(&self, difference: &Difference, ended: &mut Ended) -> Result<(), RunError> {
        let min_pin = self.parts.mailstore.live().min_pin_length;
        let rings = difference.exchanges.iter().cloned().enumerate();
        let exchanges: HashMap<usize, usize> =
            rings.flat_map(|(ring, steps)| steps.map(move |at| (at, ring))).collect();
        let mut steps = Vec::with_capacity(difference.steps.len());
        for (at, step) in difference.steps.iter().enumerate() {
            let (mut step, problem) = applied(step, &self.settings.first_pin, min_pin, (self.parts.mail_out)());
            step.exchange = exchanges.get(&at).copied();
            // Names of a directory may contain control characters.
            ended.add_lines(problem.map(|problem| format!("{}: {problem}", step.dn.reveal().escape_debug())));
            steps.push(step);
        }
        if steps.is_empty() {
            return Ok(());
        }
        let count = steps.len();
        let done = DirectoryStore::of(&self.parts.mailstore)
            .apply_directory_steps(self.directory.id, self.epoch, &self.parts.mailstore.live().usual, steps, || {
                self.permit()
            })
            .await
            .map_err(|error| match error {
                PinError::Mail(error) => RunError::from(error),
                error => RunError::Store(error),
            })?;
        self.parts.counts.users.fetch_add(count as u64, Relaxed);
        let alone = done.groups_alone;
        info!(directory = %self.directory.id, users = count, alone, "users of a directory changed");
        let refused = &done.refused;
        ended.add_lines(refused.iter().map(|step| {
            format!("refused: {}: {}", step.dn.reveal().escape_debug(), step.reason.reveal().escape_debug())
        }));
        ended.counts = RunCounts {
            refused: difference.refused.len() as u64 + done.counts.refused,
            unchanged: difference.unchanged + done.counts.unchanged,
            ..done.counts
        };
        Ok(())
    }

    /// Raises the alarm about entries that do not become users. Only a full search knows that there are none.
    fn conflicts(&self, ended: &Ended, notices: usize, is_full: bool) {
        let (alarms, name) = (&self.parts.alarms, self.directory.name.as_str());
        let refused = ended.counts.refused;
        if refused > 0 || notices > 0 {
            let detail = format!("{refused} entries are no users, {notices} values are left out");
            alarms.raise(Code::DirectoryConflicts, name, detail);
        } else if is_full {
            alarms.clear(Code::DirectoryConflicts, name);
        }
    }

    /// Permission to write in this epoch.
    pub(crate) fn permit(&self) -> Option<Permit> {
        self.parts.gate.enter(self.epoch).ok()
    }
}

/// Whether entries of present users are refused.
fn refuses_users(difference: &Difference, users: &[Present]) -> bool {
    let refused: HashSet<EntryId> = difference.refused.iter().map(|refused| refused.entry).collect();
    let bindings = users.iter().filter_map(|user| user.binding.as_ref());
    let mut of_directory = bindings.filter(|binding| binding.directory == difference.directory);
    of_directory.any(|binding| refused.contains(&binding.entry))
}

impl Ended {
    fn add_lines(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            if self.lines.len() < MOST_LINES {
                self.lines.push(line.chars().take(LONGEST_LINE).collect());
            } else {
                self.more_lines += 1;
            }
        }
    }

    /// The outcome as stored and shown.
    pub(crate) fn outcome(&self) -> &'static str {
        if self.held_back.is_some() { "held-back" } else { "done" }
    }

    /// Whether users changed, or were to change.
    pub(crate) fn has_steps(&self) -> bool {
        let RunCounts { new, changed, disabled, gone, returned, .. } = self.counts;
        new + changed + disabled + gone + returned > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_bounded_and_counts_the_rest() {
        let mut ended = Ended::default();
        ended.add_lines((0..MOST_LINES + 5).map(|n| format!("{n} {}", "x".repeat(2 * LONGEST_LINE))));
        assert_eq!((ended.lines.len(), ended.more_lines), (MOST_LINES, 5));
        assert!(ended.lines.iter().all(|line| line.chars().count() == LONGEST_LINE));
    }
}
