//! One comparison with one peer.
//!
//! The sums are read several times: a bucket that was equal once holds no damage, so that changes on their way drop out. The
//! rows of the buckets that remain are listed on both sides, in the ranges of keys whose sums differ, and compared by their
//! hashes. Those that differ are read.
//! A row of the peer shows a fault of the row here only when the peer has all changes that this node had before it asked, and
//! this node has all that the peer had after it read the row: data that the row here then lacks was lost.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use twinbox_clock::BootInstant;
use twinbox_replication_core::{
    BlobRef, Holdings, Key, Lack, Record, Vector,
    buckets::{BucketSet, GROUP, unequal},
    range_sums::{self, Span},
};
use twinbox_replication_fetch::{Got, MAX_BLOB};
use twinbox_replication_store::{RepairedRow, RowFault, Store, StoreError, StoredRow};

use super::{
    AudioCheck, ComparisonReport, Difference, DifferenceOutcome, Subject, audio,
    client::{Client, PeerRows, Repairs},
    count_all,
    frames::ROWS,
};
use crate::{error::StreamError, frames, link::Link, peers::Inner, state_scan::blocking};

/// Readings of the sums at most, and the pause between them, in which changes arrive.
const READINGS: u32 = 5;
const READING_PAUSE: Duration = Duration::from_millis(250);
/// Rows that one pass looks at; further ones come in the next pass.
const PASS: usize = 4_096;
/// Passes of one comparison.
const PASSES: u32 = 16;
/// Pages of one list: an honest peer fills each with some thousand rows.
const PAGES: u32 = 100_000;
/// Ranges of keys whose sums are compared: 33 million rows. Those behind them count as one.
const RANGES: usize = 65_536;
/// Spans of keys of which the rows are listed one by one. With more, the pages of one list of all rows are fewer requests.
const SPANS: usize = 256;
/// Readings of a row until both nodes have each other's changes, and the pause between them.
const ATTEMPTS: u32 = 12;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(250);
/// Time in which the changes that a peer had arrive here, and the poll interval.
const ARRIVAL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(20));

/// Maximum time of the exchange with the peer, audio left out: others wait for their turn.
const EXCHANGE: Duration = Duration::from_secs(1_800);

/// Rows of a peer, and the result of their repair here.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) repaired: Vec<RepairedRow>,
    /// The rows that still lack data, and the parts that they lack.
    pub(super) failed: Vec<RepairedRow>,
    pub(super) undecided: Vec<Key>,
    /// The rows of the peer that were decided.
    theirs: Vec<(Key, StoredRow)>,
}

/// The end of a pass.
enum Passed {
    /// All rows that differed were looked at.
    All,
    /// There are more rows than one pass looks at.
    Part,
    /// Rows could not be decided.
    Undecided,
}

/// Compares the stores and repairs both; `Err` is the reason why the comparison was not completed.
pub(super) async fn compare(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    check: AudioCheck,
    report: &mut ComparisonReport,
) -> Result<(), String> {
    if !inner.store.filled().has_records() {
        return Err("the first fill of this node is in progress".to_owned());
    }
    count_all(inner).await.map_err(|error| error.to_string())?;
    match timeout(EXCHANGE, exchange(inner, link, report)).await {
        Ok(ended) => ended?,
        Err(_) => return Err(format!("the comparison with {} took more than half an hour", link.name)),
    }
    report.rows = inner.store.group_sums().map_or(0, |(_, rows)| rows);
    audio::check(inner, check, report).await.map_err(|error| error.to_string())
}

/// Compares the rows in passes and repairs both sides; `Err` is the reason why not all were compared.
async fn exchange(inner: &Arc<Inner>, link: &Arc<Link>, report: &mut ComparisonReport) -> Result<(), String> {
    let problem = |error: StreamError| match &error {
        StreamError::Rpc(status) if status.code() == Code::Unimplemented => {
            format!("not possible with {}: it runs an earlier release; upgrade it", link.name)
        }
        StreamError::Rpc(status) if status.code() == Code::Unavailable && status.message().is_empty() => {
            format!("{} does not answer", link.name)
        }
        _ => error.to_string(),
    };
    let mut client = Client::new(inner, link).map_err(problem)?;
    let mut suspects: BTreeSet<Key> = suspects(&inner.store).map_err(|error| error.to_string())?;
    let mut passes = 0;
    loop {
        let found = report.differences.len() as u64 + report.more;
        match pass(inner, link, &mut client, std::mem::take(&mut suspects), report).await.map_err(problem)? {
            Passed::All => return Ok(()),
            Passed::Part => {}
            Passed::Undecided => {
                let text = "the nodes lack changes of each other for too long; the next comparison decides";
                return Err(text.to_owned());
            }
        }
        passes += 1;
        if report.differences.len() as u64 + report.more == found {
            return Err(format!("the sums of {} do not agree with its rows", link.name));
        }
        if passes >= PASSES {
            return Err("more rows differ than one comparison repairs; the next one goes on".to_owned());
        }
    }
}

/// Rows that no sum shows: those that cannot be read, and those of changes that were set aside.
fn suspects(store: &Store) -> Result<BTreeSet<Key>, StoreError> {
    let mut rows: BTreeSet<Key> = store.unreadable_rows().into_iter().collect();
    if store.health().set_aside > 0 {
        rows.extend(store.set_aside_rows()?);
    }
    Ok(rows)
}

/// Compares once. Ends at the first rows that this node cannot decide: the others would wait as long without a result.
async fn pass(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    client: &mut Client,
    mut rows: BTreeSet<Key>,
    report: &mut ComparisonReport,
) -> Result<Passed, StreamError> {
    let buckets = Arc::new(differing(&inner.store, client).await?);
    let spans = if buckets.is_empty() { Vec::new() } else { differing_spans(&inner.store, client).await? };
    let mut is_full = false;
    for span in spans {
        is_full = list(&inner.store, client, &buckets, span, &mut rows).await?;
        if is_full {
            break;
        }
    }
    let rows: Vec<Key> = rows.into_iter().collect();
    for rows in rows.chunks(ROWS) {
        if !both_ways(inner, link, client, rows, report).await? {
            return Ok(Passed::Undecided);
        }
    }
    Ok(if is_full { Passed::Part } else { Passed::All })
}

/// The buckets whose sums differed at each reading.
async fn differing(store: &Store, client: &mut Client) -> Result<BucketSet, StreamError> {
    let (mut buckets, mut known) = (BucketSet::all(), HashMap::new());
    for reading in 0..READINGS {
        if reading > 0 {
            sleep(READING_PAUSE).await;
        }
        let theirs = client.group_sums().await?;
        let (ours, _) = store.group_sums().ok_or_else(not_counted)?;
        for (group, (our, their)) in (0..=u8::MAX).zip(ours.iter().zip(&theirs)) {
            if our == their {
                buckets.remove_group(group);
            }
        }
        let mut groups = buckets.groups();
        if groups.is_empty() {
            break;
        }
        // The buckets of a group whose sums are as they were differ as before.
        groups.retain(|group| {
            let sums = (ours[usize::from(*group)], theirs[usize::from(*group)]);
            known.insert(*group, sums) != Some(sums)
        });
        if groups.is_empty() {
            continue;
        }
        let theirs = client.bucket_sums(&groups).await?;
        for (group, theirs) in groups.iter().zip(theirs.chunks(GROUP)) {
            buckets.remove_equal(*group, &store.bucket_sums(*group).ok_or_else(not_counted)?, theirs);
        }
        if buckets.is_empty() {
            break;
        }
    }
    Ok(buckets)
}

/// The spans of keys in which rows may differ.
async fn differing_spans(store: &Store, client: &mut Client) -> Result<Vec<Span<Key>>, StreamError> {
    let Some(theirs) = client.range_sums(RANGES).await? else { return Ok(vec![(None, None)]) };
    let ours = store.range_sums(None, RANGES).ok_or_else(not_counted)?;
    let spans = range_sums::differing(&ours, &theirs);
    Ok(if spans.len() > SPANS { vec![(None, None)] } else { spans })
}

/// Adds the rows of these buckets within a span that only one side has, or that have different hashes; true when there are more
/// than one pass looks at.
async fn list(
    store: &Store,
    client: &mut Client,
    buckets: &Arc<BucketSet>,
    (mut after, end): Span<Key>,
    found: &mut BTreeSet<Key>,
) -> Result<bool, StreamError> {
    for _ in 0..PAGES {
        let (reading, of, from, upto) = (store.clone(), buckets.clone(), after.clone(), end.clone());
        let mut ours = blocking(move || reading.rows_of_buckets(&of, from.as_ref(), upto.as_ref())).await?;
        let theirs = client.list(buckets, (after.as_ref(), ours.upto.as_ref())).await?;
        if let Some(upto) = &theirs.upto {
            ours.rows.retain(|(key, _)| key <= upto);
        }
        found.extend(unequal(ours.rows, theirs.rows));
        if found.len() >= PASS {
            return Ok(true);
        }
        if theirs.upto == end {
            return Ok(false);
        }
        after = theirs.upto;
    }
    Err(frames::bad("a list of rows that does not end"))
}

/// Takes the data that this node lacks in these rows, and requests the same of the peer. False when this node could not
/// decide them.
async fn both_ways(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    client: &mut Client,
    rows: &[Key],
    report: &mut ComparisonReport,
) -> Result<bool, StreamError> {
    let own = &inner.config.node;
    let difference = |node: &twinbox_ids::NodeName, key: Key, fault, outcome| Difference {
        subject: Subject::Row(key),
        node: node.clone(),
        fault,
        lacked: Default::default(),
        outcome,
    };
    let decided = |node: &twinbox_ids::NodeName, row: RepairedRow, outcome| Difference {
        lacked: row.added,
        ..difference(node, row.key, row.fault, outcome)
    };
    let Settled { repaired, failed, undecided, theirs } = settle(inner, client, rows).await?;
    repaired.into_iter().for_each(|row| report.note(decided(own, row, DifferenceOutcome::Repaired)));
    failed.into_iter().for_each(|row| report.note(decided(own, row, DifferenceOutcome::NotRepaired)));
    let is_decided = undecided.is_empty();
    for key in undecided {
        report.note(difference(own, key, RowFault::Incomplete, DifferenceOutcome::Undecided));
    }
    let (mut lacking, mut unreadable) = (Vec::new(), Vec::new());
    for (key, theirs) in theirs {
        let ours = inner.store.stored_row(&key)?;
        if theirs.fault_beside(&ours).is_some() && !matches!(ours, StoredRow::Unreadable) {
            if theirs == StoredRow::Unreadable {
                unreadable.push(key.clone());
            }
            lacking.push(key);
        }
    }
    if lacking.is_empty() {
        return Ok(is_decided);
    }
    let Repairs { repaired, failed, undecided } = client.repair(&lacking).await?;
    let is_named = |key: &Key| repaired.iter().chain(&failed).any(|row| row.key == *key) || undecided.contains(key);
    unreadable.retain(|key| !is_named(key));
    repaired.into_iter().for_each(|row| report.note(decided(&link.name, row, DifferenceOutcome::Repaired)));
    failed.into_iter().for_each(|row| report.note(decided(&link.name, row, DifferenceOutcome::NotRepaired)));
    for key in undecided {
        report.note(difference(&link.name, key, RowFault::Incomplete, DifferenceOutcome::Undecided));
    }
    if !unreadable.is_empty() {
        // The peer may read a row that this release cannot: it repairs nothing then, and the rows differ all the same.
        let PeerRows { rows, .. } = client.rows(&unreadable).await?;
        for (key, _) in unreadable.into_iter().zip(rows).filter(|(_, row)| *row == StoredRow::Unreadable) {
            report.note(difference(&link.name, key, RowFault::Unreadable, DifferenceOutcome::NotRepaired));
        }
    }
    Ok(is_decided)
}

/// Takes the data that this node lacks in these rows, for a peer that compares.
pub(super) async fn take_lacking(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    rows: Vec<Key>,
) -> Result<Settled, StreamError> {
    let mut client = Client::new(inner, link)?;
    let mut settled = settle(inner, &mut client, &rows).await?;
    // The peer can read them, as it asks for their repair: this release cannot.
    for (key, _) in settled.theirs.iter().filter(|(_, theirs)| *theirs == StoredRow::Unreadable) {
        if settled.failed.iter().any(|row| row.key == *key) {
            continue;
        }
        let fault = match inner.store.stored_row(key)? {
            StoredRow::Absent => RowFault::Missing,
            StoredRow::Unreadable => RowFault::Unreadable,
            StoredRow::Record(_) => RowFault::Incomplete,
        };
        settled.failed.push(RepairedRow { key: key.clone(), fault, added: Lack::default() });
    }
    Ok(settled)
}

/// Reads rows of the peer until they can be judged, and takes the data that this node lacks.
async fn settle(inner: &Arc<Inner>, client: &mut Client, rows: &[Key]) -> Result<Settled, StreamError> {
    let before = Holdings::from(inner.store.holdings());
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(ATTEMPT_PAUSE).await;
        }
        let PeerRows { rows: theirs, holdings, seen } = client.rows(rows).await?;
        frames::check_own(&inner.store, holdings.vector().get(inner.store.origin()))?;
        if holdings.covers(&before) && arrives(&inner.store, &holdings).await {
            let theirs: Vec<_> = rows.iter().cloned().zip(theirs).collect();
            let (repaired, failed) = take(inner, &theirs, seen).await?;
            return Ok(Settled { repaired, failed, theirs, ..Settled::default() });
        }
    }
    Ok(Settled { undecided: rows.to_vec(), ..Settled::default() })
}

/// Waits for the changes of a peer; true when all are here.
async fn arrives(store: &Store, report: &Holdings) -> bool {
    let began = BootInstant::now();
    while !Holdings::from(store.holdings()).covers(report) {
        if began.elapsed() >= ARRIVAL.0 {
            return false;
        }
        sleep(ARRIVAL.1).await;
    }
    true
}

/// Takes the data that this node lacks in these rows, after the audio that they name. Returns the rows that were repaired, and
/// those that still lack data.
async fn take(
    inner: &Arc<Inner>,
    theirs: &[(Key, StoredRow)],
    seen: Vector,
) -> Result<(Vec<RepairedRow>, Vec<RepairedRow>), StreamError> {
    let store = &inner.store;
    // A row that holds all may still have changes to clear that were set aside.
    let has_set_aside = store.health().set_aside > 0;
    let (mut lacking, mut copies, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for (key, row) in theirs {
        let ours = store.stored_row(key)?;
        let is_lacking = ours.fault_beside(row).is_some();
        if is_lacking {
            lacking.push((key, row, ours == StoredRow::Absent));
        }
        let StoredRow::Record(record) = row else { continue };
        if is_lacking {
            fetch_audio(inner, record, &mut lost).await;
        }
        if is_lacking || has_set_aside {
            copies.push((key.clone(), record.clone(), ours == StoredRow::Absent));
        }
    }
    if lacking.is_empty() && copies.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut left = Vec::with_capacity(copies.len());
    for (key, record, was_absent) in copies {
        // A row that was here and is absent now was purged while the audio came.
        if was_absent || store.stored_row(&key)? != StoredRow::Absent {
            left.push((key, record));
        }
    }
    if !lost.is_empty() {
        // Before the rows: a report that covers them names the audio that is not here.
        store.apply_without(Vec::new(), lost.clone()).await?;
    }
    let repaired = if left.is_empty() { Ok(Vec::new()) } else { store.repair(left, seen).await };
    // Behind the rows: audio that no row names is not requested. Also after a failure: it is noted.
    inner.lost_audio.add(lost);
    let repaired = repaired?;
    let mut failed = Vec::new();
    for (key, row, was_absent) in lacking {
        let ours = store.stored_row(key)?;
        let is_purged = !was_absent && ours == StoredRow::Absent;
        if let Some(fault) = ours.fault_beside(row).filter(|_| !is_purged) {
            failed.push(RepairedRow { key: key.clone(), fault, added: ours.lacks(row) });
        }
    }
    Ok((repaired, failed))
}

/// Gets the audio of a record that is to be copied, and adds to `lost` what does not come: the record is repaired all the same.
async fn fetch_audio(inner: &Inner, record: &Record, lost: &mut Vec<BlobRef>) {
    for blob in record.blobs().filter(|blob| !record.is_deleted() && blob.length <= MAX_BLOB) {
        if !inner.store.blobs().has(&blob.hash) && inner.fetcher.get_from_any(blob).await != Got::Here {
            lost.push(*blob);
        }
    }
}

fn not_counted() -> StreamError {
    Status::unavailable("the rows of this node are still being counted").into()
}
