//! The steps of a run of the synchronisation: written in groups, each in one commit under the permit of the duty.
//!
//! A step was planned from an earlier state of the store. Everything that it depends on is checked again in its commit;
//! a step that is not possible any more is refused with the reason, and the others go on. A step that was applied
//! before changes nothing.

use std::collections::BTreeMap;

use tokio::{sync::mpsc, task::JoinSet};
use twinbox_ids::{DirectoryId, Epoch, MailboxId, Pii};
use twinbox_mailbox::{
    EntryId, NewMailbox, RunCounts, SyncedField, SyncedFields, mailbox_of,
    pin::{PinRecord, typable},
};
use twinbox_mailstore::{Acknowledgement, MailError, PinError};

use crate::{DirectoryStore, group};

/// Steps in one commit.
const GROUP: usize = 128;

/// Groups whose PINs are hashed before they are written.
const AHEAD: usize = 2;

/// Values of fields that a directory supplies; an empty text is none. The class is the name of a class.
pub type SuppliedValues = BTreeMap<SyncedField, Pii<String>>;

/// A step for one entry of a directory.
#[derive(Debug, Clone)]
pub struct AppliedStep {
    /// The entry.
    pub entry: EntryId,
    /// Its distinguished name.
    pub dn: Pii<String>,
    /// Name by which the owner signs in; empty for none.
    pub login: Pii<String>,
    /// The change.
    pub action: StepAction,
    /// Steps in a row with the same exchange are written together or not at all: each takes the number of another one.
    pub exchange: Option<usize>,
}

/// The change of a step.
#[derive(Debug, Clone)]
pub enum StepAction {
    /// Makes the entry's user; its mailbox is [`mailbox_of`] the entry.
    Create {
        /// Values, a number among them; of other supplied fields the default.
        values: SuppliedValues,
        /// The supplied fields.
        fields: SyncedFields,
        /// The first PIN, to be changed at the first sign-in; `None`: no sign-in until one is set.
        pin: Option<Pii<String>>,
        /// Mail address to which the first PIN is sent, in the same commit; `None`: it is not sent.
        mail_pin: Option<Pii<String>>,
    },
    /// Binds a local user.
    Adopt {
        /// The user.
        mailbox: MailboxId,
        /// Changed values; the others stay.
        changes: SuppliedValues,
        /// The supplied fields.
        fields: SyncedFields,
    },
    /// Changes values of a bound user, the names of its entry, or the set of supplied fields.
    Change {
        /// Changed values; the others stay.
        changes: SuppliedValues,
        /// The supplied fields.
        fields: SyncedFields,
    },
    /// The directory disabled the account.
    Disable,
    /// The entry is gone.
    Gone,
    /// The entry came back, or its account was enabled again.
    Return,
    /// The grace of a gone entry is over: the user becomes local, and stays disabled.
    Release,
}

/// A step that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedStep {
    /// The entry.
    pub entry: EntryId,
    /// Its distinguished name.
    pub dn: Pii<String>,
    /// The reason, with the input and the remedy.
    pub reason: Pii<String>,
}

/// Result of applying steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppliedSteps {
    /// Counts by kind of step; steps without effect count as unchanged.
    pub counts: RunCounts,
    /// The refused steps.
    pub refused: Vec<RefusedStep>,
    /// The new users.
    pub created: Vec<MailboxId>,
    /// Those of the new users whose first PIN was not usable: they have none.
    pub without_pin: Vec<MailboxId>,
    /// Groups that are on this disk only, because no peer answered (rule A3).
    pub groups_alone: u64,
    /// Groups that are on two disks.
    pub groups_on_two: u64,
}

/// A step whose first PIN is hashed.
pub(crate) struct ReadyStep {
    pub step: AppliedStep,
    pub pin: Option<PinRecord>,
    /// The given PIN is not usable.
    pub without_pin: bool,
}

impl DirectoryStore {
    /// Applies steps of a directory in their order, under an epoch of the duty. New users have the settings of `usual`
    /// where the directory supplies none. `permit` is asked before each commit, and its result is kept until the commit
    /// is acknowledged; `None` ends the call with [`MailError::DutyLost`]. Rows written until then stay.
    pub async fn apply_directory_steps<P: Send>(
        &self,
        directory: DirectoryId,
        epoch: &Epoch,
        usual: &NewMailbox,
        steps: Vec<AppliedStep>,
        permit: impl Fn() -> Option<P>,
    ) -> Result<AppliedSteps, PinError> {
        let (sender, mut groups) = mpsc::channel(AHEAD);
        let hashing = tokio::spawn({
            let directories = self.clone();
            async move {
                let mut steps = steps.into_iter().peekable();
                while steps.peek().is_some() {
                    let mut group: Vec<AppliedStep> = steps.by_ref().take(GROUP).collect();
                    // An exchange is never divided.
                    if let Some(exchange) = group.last().and_then(|step| step.exchange) {
                        while let Some(step) = steps.next_if(|step| step.exchange == Some(exchange)) {
                            group.push(step);
                        }
                    }
                    let group = directories.hash_steps(directory, group).await?;
                    if sender.send(group).await.is_err() {
                        break;
                    }
                }
                Ok::<_, PinError>(())
            }
        });
        let mut applied = AppliedSteps::default();
        while let Some(group) = groups.recv().await {
            let Some(_permit) = permit() else { return Err(MailError::DutyLost.into()) };
            let (epoch, usual, now) = (epoch.clone(), usual.clone(), twinbox_clock::wall());
            let (written, acknowledgement) = self
                .mailstore
                .commit(move |draft| group::write(draft, directory, epoch, &usual, group, now))
                .await?;
            applied.add(written, &acknowledgement);
        }
        hashing.await.map_err(|_| MailError::Ending)??;
        Ok(applied)
    }

    /// Hashes the first PINs of a group, several at a time.
    async fn hash_steps(
        &self,
        directory: DirectoryId,
        group: Vec<AppliedStep>,
    ) -> Result<Vec<ReadyStep>, PinError> {
        let mut hashing = JoinSet::new();
        for (at, step) in group.into_iter().enumerate() {
            let directories = self.clone();
            hashing.spawn(async move { Ok::<_, PinError>((at, directories.hash_step(directory, step).await?)) });
        }
        let mut ready = Vec::new();
        while let Some(hashed) = hashing.join_next().await {
            ready.push(hashed.map_err(|_| MailError::Ending)??);
        }
        ready.sort_by_key(|(at, _)| *at);
        Ok(ready.into_iter().map(|(_, step)| step).collect())
    }

    async fn hash_step(&self, directory: DirectoryId, step: AppliedStep) -> Result<ReadyStep, PinError> {
        let StepAction::Create { pin: Some(pin), .. } = &step.action else {
            return Ok(ReadyStep { step, pin: None, without_pin: false });
        };
        // A user who exists keeps the PIN.
        let exists = self.mailstore.get_now(mailbox_of(directory, step.entry))?.is_some();
        if exists || typable(pin.reveal(), 1).is_err() {
            return Ok(ReadyStep { step, pin: None, without_pin: !exists });
        }
        let pin = self.mailstore.hash_of_many(pin, true).await?;
        Ok(ReadyStep { step, pin: Some(pin), without_pin: false })
    }
}

impl AppliedSteps {
    fn add(&mut self, group: Self, acknowledgement: &Acknowledgement) {
        let RunCounts { new, changed, disabled, gone, returned, refused, unchanged } = group.counts;
        self.counts.new += new;
        self.counts.changed += changed;
        self.counts.disabled += disabled;
        self.counts.gone += gone;
        self.counts.returned += returned;
        self.counts.refused += refused;
        self.counts.unchanged += unchanged;
        self.refused.extend(group.refused);
        self.created.extend(group.created);
        self.without_pin.extend(group.without_pin);
        let alone = *acknowledgement == Acknowledgement::Alone;
        self.groups_alone += u64::from(alone);
        self.groups_on_two += u64::from(!alone);
    }
}
