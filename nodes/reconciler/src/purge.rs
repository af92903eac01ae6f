//! Purging: removes deleted messages and other deleted records, and audio that no record names, once every member has the
//! deletion and the grace has ended (rules D2, D3). It runs on every node, for its own disk.
//!
//! In two phases: one round finds removable records, and notes the changes that are here; a later round removes them when
//! these changes are stable ([`Peers::is_stable`]). A record that changed between the rounds stays.

mod clock;
mod policy;
mod removed_mailboxes;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use twinbox_clock::{BootInstant, wall};
use twinbox_ids::{BlobHash, MailboxId, MessageId, NodeName, RecordingId, Timestamp};
use twinbox_mailbox::{Message, Rules, is_message_purged, is_purge_due, is_purged, purge, schema};
use twinbox_mailstore::{
    MailError, Mailstore, blocking,
    rows::{forget_recording, forget_try, is_forgettable, note_purged},
};
use twinbox_outbox::{outlived_cause, schema::OUTBOX};
use twinbox_replication_core::{Key, Record, Table};
use twinbox_replication_peer::{Peers, StabilityMark};
use twinbox_replication_store::{
    CompactedPacks, DeletedRow, Draft, Filled, FreedSpace, PurgedRows, Removal, Store, StoreError,
};
use twinbox_roles::{MemberKind, Roles};

use self::{
    clock::PurgeClock,
    removed_mailboxes::{delete_left, left_messages, mailboxes_of},
};

pub use policy::PURGED_WHOLE;

/// Records of one table that one round reads.
const STEP: usize = 512;
/// Messages that are marked as purged in one commit.
const AT_A_TIME: usize = 16;
/// Recordings, and tries of PINs, that one round reads, deleted or not.
const RECORDINGS: usize = 2_048;
/// Blobs without a reference, and blobs of all kinds, that one round examines.
const BLOBS: usize = 2_000;
/// Packs of audio that one round examines: at worst it moves half of their bytes.
const PACKS: usize = 16;
/// Maximum difference between the clocks of members.
const CLOCKS_WITHIN: Duration = Duration::from_secs(60);
/// Pause between rounds: a twentieth of the grace, within these bounds.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// The parts of a node that purging needs.
pub struct Purge {
    /// Name of the node.
    pub name: NodeName,
    /// Store of records and audio.
    pub store: Store,
    /// Replication with the other nodes.
    pub peers: Peers,
    /// Mailboxes and their classes of service.
    pub mailstore: Mailstore,
    /// Role manager, the source of the members.
    pub roles: Roles,
    /// Time for which a deleted message can be undeleted, unless its class of service has another, and for which other
    /// deleted records and unused audio stay: the present value.
    pub grace: Box<dyn Fn() -> Duration + Send + Sync>,
}

/// Progress of the rounds.
#[derive(Default)]
struct Progress {
    /// By table the id of the last record that was examined; no entry: from the beginning.
    looked_at: BTreeMap<Table, Vec<u8>>,
    /// Records that are removed when the mark is stable.
    waiting: Option<(Vec<(DeletedRow, Removal)>, StabilityMark)>,
    /// The id of the last recording that was examined.
    recording: Vec<u8>,
    /// The id of the last record of tries of PINs that was examined.
    attempt: Vec<u8>,
    /// Start of the next round: the last blob without a reference, the last of all blobs, and the first pack.
    unreferenced: Option<BlobHash>,
    blobs: Option<BlobHash>,
    pack: u32,
    /// The clock of the purge, and the time at which it was read.
    clock: Option<(PurgeClock, BootInstant)>,
}

/// Records that one round found.
#[derive(Default)]
struct Found {
    removable: Vec<(DeletedRow, Removal)>,
    /// Messages that can be undeleted, with the time at which their deletion was seen here.
    deleted: Vec<(MailboxId, MessageId, Timestamp)>,
    /// Purged messages that the record of their recording does not remember.
    unnoted: Vec<MessageId>,
    /// Undeleted messages in mailboxes that were removed longer ago than the grace.
    left: Vec<(MailboxId, MessageId)>,
    looked_at: BTreeMap<Table, Vec<u8>>,
}

/// Purges until stopped.
pub fn purge_deleted(of: Purge, stop: CancellationToken) -> BoxFuture<'static, ()> {
    async move {
        let pause = || ((of.grace)() / 20).clamp(PAUSES.0, PAUSES.1);
        let mut progress = Progress::default();
        let looks = async {
            loop {
                tokio::time::sleep(pause()).await;
                if let Err(error) = of.look(&mut progress).await {
                    warn!(%error, "deleted records and audio cannot be purged; retrying");
                }
            }
        };
        stop.run_until_cancelled(looks).await;
    }
    .boxed()
}

impl Purge {
    async fn look(&self, progress: &mut Progress) -> Result<(), MailError> {
        // A node that lacks records, or does not know all members yet, does not know what is stable.
        if !self.store.filled().has_records() || !self.knows_members() || !self.hears_leader() {
            return Ok(());
        }
        // A change that is set aside may undelete any record, and a wrong clock makes every deletion old.
        if self.store.health().set_aside > 0 || !self.peers.clocks_agree(CLOCKS_WITHIN) {
            return Ok(());
        }
        let Some(now) = self.now(progress).await? else { return Ok(()) };
        while !self.store.index_step().await? {}
        let rows = self.remove_stable(progress).await?;
        // First, because a full disk refuses new marks.
        let freed = self.remove_audio(progress, now).await;
        // In a store that was built again, a pack without rows may have audio that no other node has.
        let packs = match self.store.filled() {
            Filled::Complete => self.store.compact(&mut progress.pack, PACKS).await,
            _ => Ok(CompactedPacks::default()),
        };
        self.find(progress, now).await?;
        self.forget_recordings(progress, now).await?;
        self.forget_tries(progress, now).await?;
        // After a failure the other steps still run.
        let freed = freed?;
        if rows != PurgedRows::default() || freed != FreedSpace::default() {
            let (records, without_audio) = (rows.whole, rows.audio);
            info!(records, without_audio, files = freed.blobs, bytes = freed.bytes, "purged");
        }
        match packs {
            Ok(packs) if packs == CompactedPacks::default() => {}
            Ok(packs) => {
                let CompactedPacks { removed, moved_bytes, freed_bytes } = packs;
                info!(removed, moved_bytes, freed_bytes, "packs of audio compacted")
            }
            Err(error) => warn!(%error, "packs of audio cannot be compacted; retrying"),
        }
        Ok(())
    }

    /// Whether replication knows every node of the agreed members, those that leave included.
    fn knows_members(&self) -> bool {
        let agreed = self.roles.agreed();
        let known: BTreeSet<NodeName> = self.peers.status().into_iter().map(|peer| peer.name).collect();
        let mut nodes = agreed.members.iter().filter(|(_, member)| member.kind == MemberKind::Node);
        agreed.members.contains_key(&self.name) && nodes.all(|(name, _)| *name == self.name || known.contains(name))
    }

    /// Whether this node has had contact with Raft's leader since its start: its agreed state is then recent.
    fn hears_leader(&self) -> bool {
        let view = self.roles.watch().borrow().clone();
        let heard = |leader: &NodeName| *leader == self.name || self.roles.since_contact(leader).is_some();
        view.leader.as_ref().is_some_and(heard)
    }

    /// The time up to which records age, which is stored; `None` while the clock is not set.
    async fn now(&self, progress: &mut Progress) -> Result<Option<Timestamp>, MailError> {
        let (wall, instant) = (wall(), BootInstant::now());
        let (mut clock, read) = match progress.clock {
            Some(clock) => clock,
            None => match PurgeClock::new(self.store.purge_clock()?, wall) {
                Some(clock) => (clock, instant),
                None => return Ok(None),
            },
        };
        let ran_ms = u64::try_from(instant.since(read).as_millis()).unwrap_or(u64::MAX);
        let now = clock.now(wall, ran_ms, self.peers.known() > 0);
        self.store.set_purge_clock(clock.shown()).await?;
        progress.clock = Some((clock, instant));
        Ok(Some(now))
    }

    async fn remove_stable(&self, progress: &mut Progress) -> Result<PurgedRows, MailError> {
        match progress.waiting.take() {
            Some((rows, mark)) if self.peers.is_stable(&mark) => {
                let store = self.store.clone();
                let rows = blocking(move || still_removable(&store, rows)).await??;
                Ok(self.store.purge(rows).await?)
            }
            waiting => {
                progress.waiting = waiting;
                Ok(PurgedRows::default())
            }
        }
    }

    /// Examines the next records of each table.
    async fn find(&self, progress: &mut Progress, now: Timestamp) -> Result<(), MailError> {
        let (store, looked_at, grace_ms) = (self.store.clone(), progress.looked_at.clone(), self.grace_ms());
        let found = blocking(move || find(&store, &looked_at, now, grace_ms)).await??;
        progress.looked_at = found.looked_at;
        for part in found.deleted.chunks(AT_A_TIME) {
            self.mark_purged(part, now).await?;
        }
        for part in found.unnoted.chunks(AT_A_TIME).map(<[MessageId]>::to_vec) {
            let note = move |draft: &mut Draft<'_>| part.into_iter().try_for_each(|id| note_purged(draft, id));
            self.mailstore.commit_in_background(note).await?;
        }
        // While earlier records wait for a member, a later round finds these again.
        if progress.waiting.is_none() && !found.removable.is_empty() {
            // The records that were read are durable once a later commit is, and the mark covers durable changes only.
            self.mailstore.commit(|_| Ok(())).await?;
            progress.waiting = Some((found.removable, self.peers.mark()));
        }
        delete_left(&self.mailstore, &found.left).await
    }

    /// Marks deleted messages as purged whose time for undeletion has ended: from then on no member undeletes them.
    async fn mark_purged(
        &self,
        messages: &[(MailboxId, MessageId, Timestamp)],
        now: Timestamp,
    ) -> Result<(), MailError> {
        let grace_ms = self.grace_ms();
        let mut candidates = Vec::with_capacity(messages.len());
        for (mailbox, id, seen) in messages {
            let rules = match self.mailstore.get_now(*mailbox) {
                Ok(Some(mailbox)) => self.mailstore.rules(&mailbox),
                Ok(None) => Ok(Rules::default()),
                Err(error) => Err(error),
            };
            // A mailbox that cannot be read now delays no other.
            let Ok(rules) = rules else { continue };
            let key = schema::message_key(*mailbox, *id);
            let record = self.store.get(&key)?.unwrap_or_default();
            // The audio of a partial message may be overruled by its recording: its time does not depend on that.
            let message = Message::read(&key, &record, |_| None);
            if message.is_ok_and(|message| is_purge_due(&message, &record, &rules, *seen, now, grace_ms)) {
                candidates.push((key, *id, *seen, rules));
            }
        }
        if candidates.is_empty() {
            return Ok(());
        }
        let mark = move |draft: &mut Draft<'_>| {
            for (key, id, seen, rules) in candidates {
                let record = draft.get(&key)?.unwrap_or_default();
                let message = Message::read(&key, &record, |_| None);
                if message.is_ok_and(|message| is_purge_due(&message, &record, &rules, seen, now, grace_ms)) {
                    note_purged(draft, id)?;
                    draft.edit(key, purge(&record))?;
                }
            }
            Ok::<_, MailError>(())
        };
        self.mailstore.commit_in_background(mark).await
    }

    /// Examines the next recordings, and deletes those that are not needed any more.
    async fn forget_recordings(&self, progress: &mut Progress, now: Timestamp) -> Result<(), MailError> {
        let (store, after) = (self.store.clone(), std::mem::take(&mut progress.recording));
        let next = move || {
            let open = open_recordings(&store);
            let is_due = |key: &Key, record: &Record| {
                let in_progress = schema::recording_of(key).is_some_and(|id| open.contains(&id));
                Ok(!in_progress && record.tombstone().is_none() && is_forgettable(&store, key, record, now)?)
            };
            next_due(&store, schema::RECORDING, &after, is_due)
        };
        let (forgettable, last) = blocking(next).await??;
        for part in forgettable.chunks(AT_A_TIME).map(<[Key]>::to_vec) {
            let forget =
                move |draft: &mut Draft<'_>| part.into_iter().try_for_each(|key| forget_recording(draft, key, now));
            self.mailstore.commit_in_background(forget).await?;
        }
        progress.recording = last;
        Ok(())
    }

    /// Examines the next records of tries of PINs, and deletes those that no longer count.
    async fn forget_tries(&self, progress: &mut Progress, now: Timestamp) -> Result<(), MailError> {
        progress.attempt = forget_tries(&self.mailstore, std::mem::take(&mut progress.attempt), now).await?;
        Ok(())
    }

    async fn remove_audio(&self, progress: &mut Progress, now: Timestamp) -> Result<FreedSpace, MailError> {
        let mut freed =
            self.store.remove_unreferenced(&mut progress.unreferenced, (self.grace)(), now, BLOBS).await?;
        freed += self.store.remove_orphan_blobs(&mut progress.blobs, (self.grace)(), now, BLOBS).await?;
        Ok(freed)
    }

    fn grace_ms(&self) -> u64 {
        u64::try_from((self.grace)().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Reads the next records with a tombstone of each table.
fn find(
    store: &Store,
    looked_at: &BTreeMap<Table, Vec<u8>>,
    now: Timestamp,
    grace_ms: u64,
) -> Result<Found, StoreError> {
    let (mut found, open) = (Found::default(), open_recordings(store));
    for table in policy::TABLES {
        let rows = store.deleted_rows(table, looked_at.get(&table).map(Vec::as_slice), STEP)?;
        // After the last record the next round begins again.
        if let Some(last) = rows.last().filter(|_| rows.len() == STEP) {
            found.looked_at.insert(table, last.key.id.clone());
        }
        for row in rows {
            sort(store, row, &open, now, grace_ms, &mut found)?;
        }
    }
    Ok(found)
}

/// The found records that can be removed now that their deletion is stable. Chunks, and messages in removed mailboxes, may have come
/// since they were found: every member that did not know of the removal has handed over the messages that it filed.
fn still_removable(
    store: &Store,
    mut rows: Vec<(DeletedRow, Removal)>,
) -> Result<Vec<(DeletedRow, Removal)>, StoreError> {
    let open = open_recordings(store);
    rows.retain(|(row, _)| recording_of(row).is_none_or(|id| !open.contains(&id)));
    if rows.iter().all(|(row, _)| row.key.table != schema::MAILBOX) {
        return Ok(rows);
    }
    let recorded = mailboxes_of(store, &open);
    let mut removable = Vec::with_capacity(rows.len());
    for (row, removal) in rows {
        // Without the mailbox's tombstone in the index no later round would find a message in it.
        let is_used = match schema::mailbox_of(&row.key) {
            Some(id) => recorded.contains(&id) || !left_messages(store, id)?.is_empty(),
            None => false,
        };
        if !is_used {
            removable.push((row, removal));
        }
    }
    Ok(removable)
}

/// One step of [`Purge::forget_tries`] behind the id `after`; returns where the next begins.
async fn forget_tries(mailstore: &Mailstore, after: Vec<u8>, now: Timestamp) -> Result<Vec<u8>, MailError> {
    let of = mailstore.clone();
    let next = move || {
        let is_due = |key: &Key, record: &Record| Ok(!record.is_deleted() && of.is_outlived_try(key, now));
        next_due(of.store(), schema::PIN_ATTEMPTS, &after, is_due)
    };
    let (outlived, last) = blocking(next).await??;
    for part in outlived.chunks(AT_A_TIME).map(<[Key]>::to_vec) {
        let forget = move |draft: &mut Draft<'_>| part.into_iter().try_for_each(|key| forget_try(draft, key));
        mailstore.commit_in_background(forget).await?;
    }
    Ok(last)
}

/// The due ones among the next records of a table behind `after`, and the id of the last record that was read; empty after the
/// last record of the table.
fn next_due(
    store: &Store,
    table: Table,
    after: &[u8],
    is_due: impl Fn(&Key, &Record) -> Result<bool, StoreError>,
) -> Result<(Vec<Key>, Vec<u8>), StoreError> {
    let from = if after.is_empty() { Vec::new() } else { [after, &[0]].concat() };
    let (mut found, mut last, mut read) = (Vec::new(), Vec::new(), 0);
    for row in store.rows_between(table, &from, &[u8::MAX; 17]).take(RECORDINGS) {
        read += 1;
        // A record that cannot be read stays; the next round begins behind it.
        let Ok((key, record)) = row else { continue };
        last.clone_from(&key.id);
        if is_due(&key, &record)? {
            found.push(key);
        }
    }
    if read < RECORDINGS {
        last.clear();
    }
    Ok((found, last))
}

/// Recordings with chunks here: these would make the message again.
fn open_recordings(store: &Store) -> BTreeSet<RecordingId> {
    store.recordings().open().into_iter().map(|(id, _, _)| id).collect()
}

/// The recording of a message that has one, or whose record it is.
fn recording_of(row: &DeletedRow) -> Option<RecordingId> {
    let of_message = schema::message_of(&row.key).map(|(_, id)| RecordingId(id.0));
    of_message.or_else(|| schema::recording_of(&row.key))
}

fn sort(
    store: &Store,
    row: DeletedRow,
    open: &BTreeSet<RecordingId>,
    now: Timestamp,
    grace_ms: u64,
    found: &mut Found,
) -> Result<(), StoreError> {
    let (message, recording) = (schema::message_of(&row.key), recording_of(&row));
    if recording.is_some_and(|id| open.contains(&id)) {
        return Ok(());
    }
    // A late filing by a member that did not know of the deletion.
    if row.key.table == schema::RECORDING && !is_forgettable(store, &row.key, &row.record, now)? {
        return Ok(());
    }
    if let Some(mailbox) = schema::mailbox_of(&row.key)
        && policy::is_grace_over(&row.record, row.seen, now, grace_ms)
    {
        let left = left_messages(store, mailbox)?;
        if !left.is_empty() {
            found.left.extend(left);
            return Ok(());
        }
    }
    if let Some((mailbox, message)) = outlived_cause(&row.record, now).filter(|_| row.key.table == OUTBOX) {
        let keys = [schema::message_key(mailbox, message), schema::recording_key(RecordingId(message.0))];
        for key in keys {
            if store.get(&key)?.is_some() {
                return Ok(());
            }
        }
    }
    let recorded = match message {
        Some((_, id)) => store.get(&schema::recording_key(RecordingId(id.0)))?.filter(|record| !record.is_empty()),
        None => None,
    };
    // The note comes before the removal: late chunks would make the message again.
    let is_noted = recorded.as_ref().is_none_or(is_message_purged);
    if !is_noted && is_purged(&row.record) {
        found.unnoted.extend(message.map(|(_, id)| id));
        return Ok(());
    }
    match policy::removal(&row.key, &row.record, recorded.is_some(), row.seen, now, grace_ms) {
        Some(removal) => found.removable.push((row, removal)),
        None => found.deleted.extend(message.map(|(mailbox, id)| (mailbox, id, row.seen))),
    }
    Ok(())
}

#[cfg(test)]
#[path = "../tests/unit/purge.rs"]
mod tests;

#[cfg(test)]
#[path = "../tests/unit/purge_guards.rs"]
mod guard_tests;
