//! The replicated state machine behind Raft: [`State`] in memory, snapshots on disk.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::{
    EntryPayload, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::watch;
use twinbox_roles_core::{Command, CommandOutcome, State};

use super::{
    Types, codec,
    store::RaftStore,
    types::{LogId, SetAside, Snapshot, SnapshotMeta, StoredMembership},
};

/// The longest panic text shown, in characters.
const MAX_TEXT: usize = 200;

/// Function by which a command changes the state: [`State::apply`], unless a test wants a command to panic.
pub type Apply = fn(&mut State, Command) -> CommandOutcome;

/// The state after a command, or its panic text. State and command are the same on every member, and so is the result:
/// a command that panics on one panics on all.
pub(super) fn try_apply(apply: Apply, state: &State, command: Command) -> Result<(State, CommandOutcome), String> {
    let applying = || {
        let mut changed = state.clone();
        let outcome = apply(&mut changed, command);
        (changed, outcome)
    };
    catch_unwind(AssertUnwindSafe(applying)).map_err(|panic| panic_text(&*panic))
}

/// Text of a panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "(no message)".to_owned()).chars().take(MAX_TEXT).collect()
}

/// The applied state of this member.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The agreed state.
    pub state: Arc<State>,
    /// The term of the last applied entry; 0 when there is none.
    pub term: u64,
    pub(super) last: Option<LogId>,
    membership: StoredMembership,
    /// The last command set aside since the start of the process, as text.
    pub set_aside: Option<Arc<str>>,
}

/// The state machine. Other tasks read it through a watch.
pub struct Machine {
    store: RaftStore,
    applied: watch::Sender<Applied>,
    apply: Apply,
}

impl Machine {
    pub(super) fn new(store: RaftStore, applied: watch::Sender<Applied>, apply: Apply) -> Self {
        // A restarted core begins from the snapshot; the applied entries come again from the log.
        applied.send_modify(|known| {
            *known = Applied { set_aside: known.set_aside.take(), ..Applied::default() };
        });
        Self { store, applied, apply }
    }

    /// Applies a command to a state; one that panics, now or earlier, changes nothing (rule R11). Its setting aside is
    /// on disk before any later entry is applied: at the next start it is skipped.
    async fn apply_one(
        &self,
        at: LogId,
        command: Command,
    ) -> io::Result<Result<(State, CommandOutcome), SetAside>> {
        if self.store.is_set_aside(at)? {
            return Ok(Err(SetAside));
        }
        let state = self.applied.borrow().state.clone();
        let text = command.to_string();
        match try_apply(self.apply, &state, command) {
            Ok(applied) => Ok(Ok(applied)),
            Err(panic) => {
                let reason = format!("entry {}, '{text}': {panic}", at.index);
                tracing::error!(command = reason, "command panicked and is set aside; report this log line");
                self.store.set_aside(at).await?;
                self.applied.send_modify(|applied| applied.set_aside = Some(reason.into()));
                Ok(Err(SetAside))
            }
        }
    }
}

/// A snapshot in the making: the state at the time of the request.
pub struct Builder {
    store: RaftStore,
    applied: Applied,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let state = Bytes::from(serde_json::to_vec(&*self.applied.state).map_err(io::Error::other)?);
        let meta =
            SnapshotMeta { last_log_id: self.applied.last, last_membership: self.applied.membership.clone() };
        self.store.save_snapshot(&codec::snapshot(&meta, state.clone())).await?;
        Ok(Snapshot { meta, snapshot: state })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.applied.borrow();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut outcome = Ok(CommandOutcome::Unchanged);
            if !self.store.is_current() {
                return Err(io::Error::other("another core has been started since"));
            }
            let (mut state, mut membership) = (None, None);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    let applied = self.apply_one(entry.log_id, command).await?;
                    outcome = applied.map(|(changed, outcome)| {
                        state = Some(Arc::new(changed));
                        outcome
                    });
                }
                EntryPayload::Membership(members) => {
                    membership = Some(StoredMembership::new(Some(entry.log_id), members));
                }
            }
            self.applied.send_modify(|applied| {
                applied.last = Some(entry.log_id);
                applied.term = entry.log_id.leader_id.term;
                applied.state = state.unwrap_or_else(|| applied.state.clone());
                applied.membership = membership.unwrap_or_else(|| applied.membership.clone());
            });
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.store.clone(), applied: self.applied.borrow().clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let state: State = serde_json::from_slice(&snapshot).map_err(io::Error::other)?;
        self.store.save_snapshot(&codec::snapshot(meta, snapshot)).await?;
        self.applied.send_modify(|known| {
            *known = Applied {
                state: Arc::new(state),
                term: meta.last_log_id.map_or(0, |id| id.leader_id.term),
                last: meta.last_log_id,
                membership: meta.last_membership.clone(),
                set_aside: known.set_aside.take(),
            };
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.store.snapshot()?;
        snapshot.map(|snapshot| codec::read_snapshot(&snapshot).map_err(io::Error::other)).transpose()
    }
}
