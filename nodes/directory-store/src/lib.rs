//! Directories from which users come, in the store of a node: their settings, the state of their synchronisation, its
//! runs, and the users whom it makes and changes.

mod group;
mod steps;
mod users;

use std::collections::BTreeMap;

use twinbox_clock::wall;
use twinbox_ids::{DirectoryId, Epoch};
use twinbox_mailbox::{StoredDirectory, StoredRun, SyncState, by_epoch::Author, directory::schema};
use twinbox_replication_core::{Edit, Key, Record};

pub use steps::{AppliedStep, AppliedSteps, RefusedStep, StepAction, SuppliedValues};
pub use users::PresentUser;

use twinbox_mailstore::{Acknowledgement, MailError, Mailstore, rows::directory_in};

/// Number of runs of a directory that are kept.
const KEPT_RUNS: usize = 100;

/// A directory, or the binding of a user, was not changed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryStoreError {
    /// Another directory has the name.
    #[error("directory '{0}' already exists: change it with `twinbox directory set`, or choose another name")]
    Taken(String),
    /// There is no such directory (any more).
    #[error("directory {0} does not exist: list the directories with `twinbox directory list`")]
    None(DirectoryId),
    /// There is no such run (any more).
    #[error(
        "run {0} does not exist: make a dry run with `twinbox directory sync NAME --dry-run`, which names its run"
    )]
    NoRun(u64),
    /// The user is local already.
    #[error("mailbox {number} is local already: nothing was changed")]
    Local {
        /// Number of the mailbox.
        number: String,
    },
    /// The user comes from a directory already.
    #[error(
        "mailbox {number} comes from directory '{directory}': make the user local first with \
         `twinbox directory make-local {number}`"
    )]
    Bound {
        /// Number of the mailbox.
        number: String,
        /// Name of the directory.
        directory: String,
    },
    /// The entry belongs to another user.
    #[error(
        "the entry belongs to mailbox {number}: make that user local first with \
         `twinbox directory make-local {number}`"
    )]
    EntryBound {
        /// Number of that mailbox.
        number: String,
    },
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

/// The directories, their users and runs, in the store of a node. Cheap to clone.
#[derive(Clone)]
pub struct DirectoryStore {
    mailstore: Mailstore,
}

impl DirectoryStore {
    /// The directories in this store.
    pub fn of(mailstore: &Mailstore) -> Self {
        Self { mailstore: mailstore.clone() }
    }

    /// All directories, by name. One that this release cannot read is skipped, and logged.
    pub fn directories(&self) -> Result<Vec<StoredDirectory>, MailError> {
        Ok(readable(&self.mailstore.store().scan(schema::DIRECTORY, &[])?))
    }

    /// Adds a directory.
    pub async fn add_directory(&self, directory: StoredDirectory) -> Result<Acknowledgement, DirectoryStoreError> {
        let name = directory.name.clone();
        let (taken, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let all = readable(&draft.scan(schema::DIRECTORY, &[])?);
                let taken = all.iter().any(|other| other.name == directory.name && other.id != directory.id);
                if !taken {
                    draft.edit(schema::directory_key(directory.id), directory.edits())?;
                }
                Ok(taken)
            })
            .await?;
        if taken { Err(DirectoryStoreError::Taken(name)) } else { Ok(acknowledgement) }
    }

    /// Changes settings of a directory; `None` unsets one.
    pub async fn change_directory(
        &self,
        id: DirectoryId,
        changes: BTreeMap<u16, Option<String>>,
    ) -> Result<Acknowledgement, DirectoryStoreError> {
        let edits = changes
            .iter()
            .flat_map(|(number, value)| StoredDirectory::change(*number, value.as_deref()))
            .collect::<Vec<Edit>>();
        let (found, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let found = directory_in(draft, id)?.is_some();
                if found {
                    draft.edit(schema::directory_key(id), edits)?;
                }
                Ok(found)
            })
            .await?;
        if found { Ok(acknowledgement) } else { Err(DirectoryStoreError::None(id)) }
    }

    /// Removes a directory. Its users become local and keep what they have; those whom it disabled stay disabled until
    /// they are made local by name. Returns the number of users that became local. If it fails in between, the
    /// directory is still there: remove it again.
    pub async fn remove_directory(&self, id: DirectoryId) -> Result<(u64, Acknowledgement), DirectoryStoreError> {
        self.mailstore.directory(id)?.ok_or(DirectoryStoreError::None(id))?;
        let users = self.release_users(id).await?;
        let ((), acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                for (key, _) in draft.scan(schema::DIRECTORY_RUN, &id.to_bytes())? {
                    draft.edit(key, vec![Edit::Delete])?;
                }
                Ok(draft.edit(schema::directory_key(id), StoredDirectory::removal())?)
            })
            .await?;
        // A run under way may have made users meanwhile.
        let later = self.release_users(id).await?;
        Ok((users + later, acknowledgement))
    }

    /// State of a directory's synchronisation, of the highest epoch; the empty one before the first run.
    pub fn sync_state(&self, id: DirectoryId) -> Result<SyncState, MailError> {
        Ok(self
            .mailstore
            .store()
            .get(&schema::directory_key(id))?
            .map(|record| SyncState::read(&record))
            .unwrap_or_default())
    }

    /// Stores the state of a directory's synchronisation, under the epoch of the duty. Refused when a newer epoch has
    /// stored one. Nothing happens for a directory that was removed.
    pub async fn set_sync_state(
        &self,
        id: DirectoryId,
        state: SyncState,
        epoch: &Epoch,
    ) -> Result<Acknowledgement, MailError> {
        let author = Author::Duty(epoch.clone());
        let ((), acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                if directory_in(draft, id)?.is_none() {
                    return Ok(());
                }
                let key = schema::directory_key(id);
                let record = draft.get(&key)?.unwrap_or_default();
                if SyncState::read(&record) != state {
                    draft.edit(key, state.edits(&record, &author, wall())?)?;
                }
                Ok(())
            })
            .await?;
        Ok(acknowledgement)
    }

    /// The runs of a directory, the latest first; at most 100 are kept.
    pub fn runs(&self, directory: DirectoryId) -> Result<Vec<StoredRun>, MailError> {
        let mut runs = runs_of(&self.mailstore.store().scan(schema::DIRECTORY_RUN, &directory.to_bytes())?);
        runs.reverse();
        Ok(runs)
    }

    /// A run of a directory; `None` when there is none, or it was removed.
    pub fn run(&self, directory: DirectoryId, run: u64) -> Result<Option<StoredRun>, MailError> {
        let key = schema::run_key(directory, run);
        let record = self.mailstore.store().get(&key)?;
        Ok(record.map(|record| StoredRun::read(&key, &record)).transpose()?.flatten())
    }

    /// Stores a run, whose acceptance stays as it is; the oldest runs beyond 100 are removed.
    pub async fn write_run(&self, run: StoredRun) -> Result<Acknowledgement, MailError> {
        let ((), acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                draft.edit(schema::run_key(run.directory, run.run), run.edits())?;
                let runs = runs_of(&draft.scan(schema::DIRECTORY_RUN, &run.directory.to_bytes())?);
                for old in runs.iter().take(runs.len().saturating_sub(KEPT_RUNS)) {
                    draft.edit(schema::run_key(old.directory, old.run), vec![Edit::Delete])?;
                }
                Ok(())
            })
            .await?;
        Ok(acknowledgement)
    }

    /// Accepts the deletions of a run; returns the run, whose digest names exactly these.
    pub async fn accept_run(
        &self,
        directory: DirectoryId,
        run: u64,
    ) -> Result<(StoredRun, Acknowledgement), DirectoryStoreError> {
        let (accepted, acknowledgement) = self
            .mailstore
            .commit(move |draft| {
                let key = schema::run_key(directory, run);
                let record = draft.get(&key)?.unwrap_or_default();
                if record.is_empty() || StoredRun::read(&key, &record)?.is_none() {
                    return Ok(None);
                }
                draft.edit(key.clone(), StoredRun::acceptance())?;
                Ok(StoredRun::read(&key, &draft.get(&key)?.unwrap_or_default())?)
            })
            .await?;
        accepted.map(|run| (run, acknowledgement)).ok_or(DirectoryStoreError::NoRun(run))
    }
}

fn readable(rows: &[(Key, Record)]) -> Vec<StoredDirectory> {
    let mut directories = Vec::new();
    for (key, record) in rows {
        match StoredDirectory::read(key, record) {
            Ok(directory) => directories.extend(directory),
            Err(error) => tracing::warn!(%error, "directory cannot be read; it is left out"),
        }
    }
    directories.sort_by(|a, b| (&a.name, a.created, a.id).cmp(&(&b.name, b.created, b.id)));
    directories
}

/// The runs of these rows, in order of their keys: the oldest first.
fn runs_of(rows: &[(Key, Record)]) -> Vec<StoredRun> {
    rows.iter().filter_map(|(key, record)| StoredRun::read(key, record).ok().flatten()).collect()
}
