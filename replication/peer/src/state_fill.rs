//! Filling by state: a node that no log reaches takes all rows of one peer, and then that peer's vector as of the start of
//! its scan (rules D1, D2, D3).
//!
//! One scan at a time, from its beginning: an interrupted one begins again, with the same peer or another. Before rows are
//! removed because the peer lacks them, the peer has every change that this node had.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use prost::Message;
use tokio::time::{sleep, timeout};
use tonic::{Code, Streaming};
use tracing::{error, info, warn};
use twinbox_clock::BootInstant;
use twinbox_ids::Origin;
use twinbox_replication_core::{
    Holdings, Key, Ranges, Record, Table, Vector,
    page_rate::{PAGE, PageRate},
    state_fill::{AbsentRow, Cover, ScanFacts, Way, reaches},
};
use twinbox_replication_store::{ExtraRow, Store, StoredRow, codec};
use twinbox_wire::replication::{self as wire, replication_client::ReplicationClient};

use crate::{
    comparison::{Client, PeerRows, ROWS as ASKED},
    config::limits,
    error::StreamError,
    fill,
    frames::{self, bad},
    link::Link,
    peers::Inner,
    state_scan::{VERSION, blocking},
};

/// Time from the opening of a stream after which its peer may be scanned although not all others are followed yet: a log
/// that reaches this node may be one of theirs.
const SETTLE: Duration = Duration::from_secs(2);
/// Poll interval of the decision, in addition to notifications.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time within which the peer must get the changes of this node. After it the scan removes no row.
const HAND_OVER: Duration = Duration::from_secs(30);
/// Time for the acknowledgement of the changes of this node, before each attempt, and its poll interval.
const ACKNOWLEDGED: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(20));
/// Rows, and bytes, of one page at most. An honest peer sends less.
const PAGE_ROWS: usize = 8_192;
/// A row was made by a change, and the source reports the numbers of all changes that its rows show: it has at most that many
/// rows, and some that were repaired.
const REPAIRED: u64 = 10_000;
/// Longest id of a row: that of the keys of the index.
const KEY: usize = 1_024;
/// Rows of one commit, and commits under way: a caller's commit waits for no more than these. While this node serves no callers, a
/// page is one commit.
const ROWS: usize = 64;
const COMMITS: usize = 4;
/// Rows that the peer lacks, looked at in one go.
const EXTRA: usize = 64;
/// Numbers of changes read in one go.
const CHANGES: u64 = 1_024;
/// Readings of the rows that the peer lacks, for one page: each removes or excludes all that it found.
const EXTRA_ROUNDS: usize = 100_000;

/// A peer as the decision sees it.
#[derive(Debug, Clone)]
struct Candidate {
    way: Way,
    /// Its own fill has ended.
    is_complete: bool,
    /// All peers are followed, or its stream is open for long enough.
    is_settled: bool,
    /// The fill continues without it: its announced log is not trusted.
    is_stuck: bool,
    /// Its vector, as far as it is known.
    has: Vector,
    log_begins: Vector,
}

/// The peer whose rows are to be scanned. None while the log of some peer brings this node to where the log of another
/// reaches it.
fn choose(own: &Vector, peers: &[Candidate]) -> Option<usize> {
    let brings = |wanted: &Candidate| {
        peers.iter().filter(|peer| peer.way == Way::History && !peer.is_stuck).any(|peer| {
            let mut reached = own.clone();
            reached.join(&peer.has);
            reaches(&wanted.log_begins, &reached)
        })
    };
    peers.iter().position(|peer| peer.way != Way::History && peer.is_complete && peer.is_settled && !brings(peer))
}

/// Fills by state whenever no log reaches this node.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.state_filling.notified() => {}
            () = sleep(POLL_INTERVAL) => {}
        }
        let Some((link, way, since)) = due(&inner) else { continue };
        let attempt = fill(&inner, &link, way, since).await;
        inner.state_fills.over();
        let now = BootInstant::now();
        match attempt {
            Ok(rows) => {
                info!(peer = %link.name, rows, "all rows of peer are here; its log does the rest");
                inner.counters.state_fills.fetch_add(1, Relaxed);
                inner.state_fills.ended(&link.name);
            }
            Err(Failed::NotHandedOver) => inner.state_fills.failed(&link.name, now, None),
            Err(Failed::Stream(failure)) => {
                inner.state_fills.failed(&link.name, now, Some(&failure));
                inner.counters.state_fills_failed.fetch_add(1, Relaxed);
                if let StreamError::OwnOriginAhead { .. } = &failure {
                    inner.counters.own_origin_alarms.fetch_add(1, Relaxed);
                }
                match &failure {
                    StreamError::Rpc(status) if status.code() == Code::Unavailable => {
                        warn!(peer = %link.name, %failure, "scan of all rows of peer interrupted; it begins again");
                    }
                    _ => error!(peer = %link.name, %failure, "rows of peer cannot be scanned; retrying"),
                }
            }
        }
    }
}

/// The peer that is to be scanned now.
fn due(inner: &Inner) -> Option<(Arc<Link>, Way, Duration)> {
    let (own, own_begins) = (inner.store.vector(), inner.store.log_begins());
    let (mut links, mut candidates) = (Vec::new(), Vec::new());
    let peers: Vec<_> = inner.links.all().into_iter().map(|link| (link.source(), link)).collect();
    let all_followed = peers.iter().all(|(source, _)| source.is_some());
    for (source, link) in peers {
        let Some(source) = source else { continue };
        let mut has = source.vector.clone();
        has.join(&link.has());
        let is_stuck = link.stuck().is_some();
        let way = inner.state_fills.way(&link.name, Way::between(&own, &own_begins, &has, &source.log_begins));
        // A node whose fill missed this member continues to serve while it asks it again.
        let merges = way == Way::State && is_stuck && inner.store.filled().has_records();
        candidates.push(Candidate {
            way: if merges { Way::Merge } else { way },
            is_complete: !source.lacks_records,
            is_settled: all_followed || source.opened.elapsed() >= SETTLE,
            is_stuck,
            has,
            log_begins: source.log_begins,
        });
        links.push(link);
    }
    let now = BootInstant::now();
    // A peer that has just failed leaves its turn to the next.
    loop {
        let chosen = choose(&own, &candidates)?;
        let (link, way) = (links.get(chosen)?, candidates.get(chosen)?.way);
        if let Some(since) = inner.state_fills.begin(&link.name, now) {
            return Some((link.clone(), way, since));
        }
        candidates.get_mut(chosen)?.is_settled = false;
    }
}

/// Reason for the early end of a scan.
enum Failed {
    /// The peer does not have all changes of this node yet.
    NotHandedOver,
    Stream(StreamError),
}

impl<E: Into<StreamError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Stream(error.into())
    }
}

async fn fill(inner: &Arc<Inner>, link: &Arc<Link>, way: Way, since: Duration) -> Result<u64, Failed> {
    let store = &inner.store;
    if way == Way::State && store.filled().has_records() {
        warn!(peer = %link.name, "no log reaches back to what this node has; taking all rows of a peer");
        // From here on callers are not told that there is no such mailbox (rule D13).
        store.reopen_fill().await?;
        inner.filling.notify_one();
    }
    let begins = link.source().ok_or(StreamError::Closed)?.log_begins;
    let judged = store.holdings();
    let before = Holdings::from(judged.clone());
    if way == Way::State {
        acknowledged(link, &before.vector()).await;
    }
    let endpoint = inner.config.tls.endpoint(&link.name, &link.address())?;
    let mut client = ReplicationClient::new(endpoint.connect_timeout(limits::SILENCE).connect_lazy())
        .max_decoding_message_size(limits::MESSAGE)
        .max_encoding_message_size(limits::MESSAGE);
    let asked = client.scan_state(wire::ScanStateRequest { version: VERSION });
    let mut pages = timeout(PAGE, asked).await.map_err(|_| StreamError::Silent)??.into_inner();
    let first = next(&mut pages).await?;
    let begin = first.start.ok_or_else(|| bad("a scan that does not say its start"))?;
    let start = frames::read_prefixes(begin.vector.as_ref())?;
    let (has, _) =
        frames::read_report(begin.has.ok_or_else(|| bad("a scan that does not say what its node has"))?)?;
    frames::check_own(store, start.get(store.origin()))?;
    frames::check_own(store, has.vector().get(store.origin()))?;
    if !reaches(&begins, &start) || !has.covers(&Holdings::of(&start)) {
        return Err(bad("a scan that starts before the log of its node").into());
    }
    check_made(inner, link, &start).await?;
    // Behind the commits of a scan that was given up.
    store.announced().await?;
    let seen = store.scanned()?;
    // Nor may it be behind an earlier source, of whose rows some are here.
    let handed_over = has.covers(&before) && reaches(&seen, &start);
    if way == Way::State && !handed_over {
        if since < HAND_OVER {
            return Err(Failed::NotHandedOver);
        }
        warn!(peer = %link.name, "peer does not get what only this node has, or an earlier source had; its rows are taken, and none is removed");
    }
    let cover = Cover::new(ScanFacts { way, handed_over, start: &start, seen: &seen });
    inner.state_fills.begun(begin.rows);
    let (told, noted) = (start.clone(), BTreeMap::new());
    let mut scan = Scan { inner, link, cover, told, noted, judged, after: None, rows: 0, removed: 0 };
    let mut rate = PageRate::default();
    loop {
        let asked = BootInstant::now();
        let page = next(&mut pages).await?;
        let bytes: usize = page.row.iter().map(Message::encoded_len).sum();
        if !rate.suffices(asked.elapsed(), page.row.len() as u64, bytes as u64) {
            return Err(bad("pages that come too slowly for the rows in them").into());
        }
        if scan.take(page).await? {
            break;
        }
    }
    if way == Way::Merge {
        // Before the vector: a report that covers these rows names the audio that is not here.
        fill::note_missing(store).await?;
    }
    let ended = scan.end(&start).await;
    let Scan { rows, removed, .. } = scan;
    if removed > 0 {
        warn!(peer = %link.name, removed, "rows that the members had deleted and purged were removed here, too");
    }
    if way == Way::Merge {
        inner.spawn(fill::fetch_missing(inner.clone()));
    }
    ended?;
    inner.filling.notify_one();
    Ok(rows)
}

/// Refuses a vector with changes that their node has not made: this node would never ask for the true ones. Only for
/// nodes that it follows and waits for; the vector of each is as old as its last probe, so this waits for the next.
async fn check_made(inner: &Inner, source: &Link, start: &Vector) -> Result<(), StreamError> {
    let (began, mut known) = (BootInstant::now(), BTreeMap::new());
    loop {
        let is_believed = |link: &Arc<Link>| link.name != source.name && link.stuck().is_none();
        let links = inner.links.all().into_iter().filter(is_believed);
        // The changes of a node stay known when its stream ends meanwhile.
        known.extend(links.filter_map(|link| Some((link.name.clone(), link.made()?))));
        match known.iter().find(|(_, (origin, made))| start.get(*origin) > *made) {
            None => return Ok(()),
            Some((name, (_, made))) if began.elapsed() >= ACKNOWLEDGED.0 => {
                return Err(bad(format!("changes of {name} that it has not made, which has made {made}")));
            }
            Some(_) => sleep(ACKNOWLEDGED.1).await,
        }
    }
}

/// Waits for a moment until the peer has acknowledged these changes.
async fn acknowledged(link: &Link, vector: &Vector) {
    let began = BootInstant::now();
    while link.lag(vector) > 0 && began.elapsed() < ACKNOWLEDGED.0 {
        sleep(ACKNOWLEDGED.1).await;
    }
}

/// One scan on its way.
struct Scan<'a> {
    inner: &'a Arc<Inner>,
    link: &'a Arc<Link>,
    cover: Cover,
    /// The numbers of changes that the rows show, as the peer reports.
    told: Vector,
    /// The changes here, beyond the start of the scan, whose rows the cover knows.
    noted: BTreeMap<Origin, Ranges>,
    /// The changes here up to the start whose rows were judged: those of before the scan, each with its page.
    judged: BTreeMap<Origin, Ranges>,
    after: Option<Key>,
    rows: u64,
    removed: u64,
}

impl Scan<'_> {
    /// Takes a page; true when it was the last one.
    async fn take(&mut self, page: wire::StatePage) -> Result<bool, StreamError> {
        if page.start.is_some() {
            return Err(bad("a scan that begins again in its middle"));
        }
        let seen = frames::read_prefixes(page.seen.as_ref())?;
        let upto = page.upto.map(read_key).transpose()?;
        let rows = read_rows(page.row, self.after.as_ref(), upto.as_ref())?;
        let listed: BTreeSet<Key> = rows.iter().map(|(key, _)| key.clone()).collect();
        self.rows += rows.len() as u64;
        self.inner.state_fills.scanned(&self.link.name, self.rows);
        self.told.join(&seen);
        if self.rows > self.told.total().saturating_add(REPAIRED) {
            return Err(bad("more rows than changes that its node tells of"));
        }
        // Before the rows of the page are merged in, so that an empty store has none to look at.
        self.remove_absent(upto.as_ref(), listed).await?;
        let mut present = rows.into_iter().filter_map(|(key, record)| Some((key, record?)));
        let together = if self.inner.store.filled().has_records() { ROWS } else { PAGE_ROWS };
        let mut parts = std::iter::from_fn(|| Some(present.by_ref().take(together).collect::<Vec<_>>()))
            .take_while(|part| !part.is_empty())
            .peekable();
        if parts.peek().is_none() {
            self.inner.store.merge_state(Vec::new(), seen.clone()).await?;
        }
        // Each notes what its rows may show: one may be durable before another.
        let merge = |part| self.inner.store.merge_state(part, seen.clone());
        let mut merging: FuturesUnordered<_> = parts.by_ref().take(COMMITS).map(merge).collect();
        while let Some(too_large) = merging.next().await {
            // Set aside (rule R11): the next comparison names the row.
            self.inner.counters.set_aside.fetch_add(too_large?, Relaxed);
            merging.extend(parts.next().map(merge));
        }
        self.after = upto;
        Ok(self.after.is_none())
    }

    /// Removes the rows up to `upto` that are not in the page and that the peer has purged.
    async fn remove_absent(&mut self, upto: Option<&Key>, listed: BTreeSet<Key>) -> Result<(), StreamError> {
        // Those that stay count as listed for the rest of the page.
        let mut listed = Arc::new(listed);
        for _ in 0..EXTRA_ROUNDS {
            if !self.cover.removes() {
                return Ok(());
            }
            let (store, after, end, known) =
                (self.inner.store.clone(), self.after.clone(), upto.cloned(), Arc::clone(&listed));
            let extra = blocking(move || store.extra_rows(after.as_ref(), end.as_ref(), &known, EXTRA)).await?;
            if extra.is_empty() {
                return Ok(());
            }
            Arc::make_mut(&mut listed).extend(extra.iter().map(|row| row.key.clone()));
            self.remove_purged(extra).await?;
        }
        warn!(peer = %self.link.name, "too many rows that the peer lacks in one page; the rest stays");
        Ok(())
    }

    /// Removes, of the rows that the peer lacks, those that it has purged.
    async fn remove_purged(&mut self, extra: Vec<ExtraRow>) -> Result<(), StreamError> {
        // All changes that these rows show are announced before, and are then noted.
        self.inner.store.announced().await?;
        self.note_changes().await?;
        let purged = |key: &Key| self.inner.purges_whole(key.table) && self.cover.judge(key) == AbsentRow::Purged;
        let purged: Vec<_> = extra.into_iter().filter(|row| purged(&row.key)).collect();
        if !purged.is_empty() {
            self.removed += self.inner.store.remove_extra(purged).await?;
        }
        Ok(())
    }

    /// Takes the peer's vector. Before, it judges the rows that streams of others have brought behind the page which lacked
    /// them: the vector covers their deletion, which would never come.
    async fn end(&mut self, start: &Vector) -> Result<(), StreamError> {
        let mut client = Client::new(self.inner, self.link)?;
        loop {
            if self.cover.removes() {
                self.judge_brought(&mut client, start).await?;
            }
            let judged = self.cover.removes().then(|| self.judged.clone());
            if self.inner.store.take_vector(start.clone(), judged).await? {
                return Ok(());
            }
        }
    }

    async fn judge_brought(&mut self, client: &mut Client, start: &Vector) -> Result<(), StreamError> {
        let store = &self.inner.store;
        store.announced().await?;
        for (origin, seqs) in store.holdings() {
            let end = start.get(origin) + 1;
            let covered =
                seqs.iter().filter(|range| range.start < end).map(|range| range.start..range.end.min(end));
            let judged = self.judged.entry(origin).or_default().clone();
            for range in covered.flat_map(|range| judged.gaps(range)).collect::<Vec<_>>() {
                for piece in pieces(&range) {
                    let rows: Vec<Key> = self.changed_rows(origin, piece).await?.into_iter().collect();
                    for keys in rows.chunks(ASKED) {
                        let PeerRows { rows, .. } = client.rows(keys).await?;
                        let absent = keys.iter().zip(rows).filter(|(_, row)| *row == StoredRow::Absent);
                        let here = absent.map(|(key, _)| store.extra_row(key));
                        let here = here.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
                        self.remove_purged(here).await?;
                    }
                }
                self.judged.entry(origin).or_default().insert(range);
            }
        }
        Ok(())
    }

    /// The rows of these changes of the log here; if some were cut from it before, their rows are not known, and the scan
    /// removes no further row.
    async fn changed_rows(&mut self, origin: Origin, seqs: Range<u64>) -> Result<BTreeSet<Key>, StreamError> {
        let (store, count) = (self.inner.store.clone(), seqs.end - seqs.start);
        let rows = blocking(move || store.changed_rows(origin, seqs)).await?;
        if (rows.len() as u64) < count {
            self.cover.remove_nothing();
        }
        Ok(rows.into_iter().collect())
    }

    /// Notes the rows of all changes here that the start of the scan does not cover.
    async fn note_changes(&mut self) -> Result<(), StreamError> {
        let store = &self.inner.store;
        for (origin, seqs) in store.holdings() {
            let noted = self
                .noted
                .entry(origin)
                .or_insert_with(|| std::iter::once(1..self.cover.start().get(origin) + 1).collect());
            let fresh: Vec<_> = seqs.iter().flat_map(|range| noted.gaps(range)).collect();
            for range in fresh {
                for piece in pieces(&range) {
                    self.changed_rows(origin, piece).await?.into_iter().for_each(|key| self.cover.note(key));
                }
                self.noted.entry(origin).or_default().insert(range);
            }
        }
        Ok(())
    }
}

/// A range in parts that are read in one go.
fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    (range.start..end).step_by(CHANGES as usize).map(move |from| from..end.min(from + CHANGES))
}

/// The next page.
async fn next(pages: &mut Streaming<wire::StatePage>) -> Result<wire::StatePage, StreamError> {
    timeout(PAGE, pages.message()).await.map_err(|_| StreamError::Silent)??.ok_or(StreamError::Closed)
}

pub(crate) fn read_key(key: wire::Key) -> Result<Key, StreamError> {
    let table = u16::try_from(key.table).map_err(|_| bad("a key of an unknown table"))?;
    if key.id.len() > KEY {
        return Err(bad("a key that is too long"));
    }
    Ok(Key::new(Table(table), key.id))
}

/// The rows of a page: each behind the one before it, and none behind `upto`.
fn read_rows(
    rows: Vec<wire::StateRow>,
    after: Option<&Key>,
    upto: Option<&Key>,
) -> Result<Vec<(Key, Option<Record>)>, StreamError> {
    if rows.len() > PAGE_ROWS {
        return Err(bad("too many rows in a page"));
    }
    let mut read: Vec<(Key, Option<Record>)> = Vec::with_capacity(rows.len());
    for row in rows {
        let key = read_key(row.key.ok_or_else(|| bad("a row without a key"))?)?;
        let last = read.last().map(|(key, _)| key).or(after);
        if last.is_some_and(|last| *last >= key) || upto.is_some_and(|upto| key > *upto) {
            return Err(bad("rows that are not in order"));
        }
        read.push((key, row.record.map(|record| codec::record_from_bytes(&record)).transpose().map_err(bad)?));
    }
    // Pages that do not advance, or that have no rows, would never end.
    if upto.is_some_and(|upto| read.is_empty() || after.is_some_and(|after| *upto <= *after)) {
        return Err(bad("pages that do not advance"));
    }
    Ok(read)
}

/// Ends a stream whose source could not serve this node from its log, as soon as it can.
pub(crate) async fn reopen(store: &Store, log_begins: &Vector, asked_with: &Vector) -> StreamError {
    if reaches(log_begins, asked_with) {
        return std::future::pending().await;
    }
    while !reaches(log_begins, &store.vector()) {
        sleep(POLL_INTERVAL).await;
    }
    StreamError::Reached
}

#[cfg(test)]
#[path = "../tests/unit/state_fill.rs"]
mod tests;
