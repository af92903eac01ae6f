//! The source's side of a fill by state: all rows, page by page, while the log is pinned from the start of the scan.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::Status;
use tracing::info;
use twinbox_clock::BootInstant;
use twinbox_ids::Origin;
use twinbox_replication_core::{Key, Vector};
use twinbox_replication_store::{LogPin, StatePage, Store, StoreError, codec};
use twinbox_wire::replication as wire;

use crate::{error::StreamError, frames, link::Link, peers::Inner};

/// Version of the scan.
pub(crate) const VERSION: u32 = 1;
/// Bytes after which a page is full.
const PAGE: usize = 256 * 1024;
/// A follower that takes no page for this long has ended its scan.
const TAKEN: Duration = Duration::from_secs(60);
/// After the last page the log stays pinned until the follower has what was here then, or gets no further for this long.
const IDLE: Duration = Duration::from_secs(600);
/// Poll interval of the log pin.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

type Pages = mpsc::Sender<Result<wire::StatePage, Status>>;

/// Begins a scan for a follower; an earlier one of the same follower ends.
pub(crate) fn start(
    inner: &Arc<Inner>,
    link: &Arc<Link>,
    request: &wire::ScanStateRequest,
) -> Result<mpsc::Receiver<Result<wire::StatePage, Status>>, Status> {
    if request.version != VERSION {
        let text =
            format!("that node scans rows by version {VERSION}, not {}: upgrade the older one", request.version);
        return Err(Status::failed_precondition(text));
    }
    if frames::lacks_records(&inner.store) {
        return Err(Status::unavailable("that node lacks records itself"));
    }
    let (pages, receiver) = mpsc::channel(2);
    let number = link.scan.fetch_add(1, Relaxed) + 1;
    let scan = Scan { store: inner.store.clone(), link: link.clone(), number, seen: BTreeMap::new(), pages };
    inner.spawn(scan.run());
    Ok(receiver)
}

struct Scan {
    store: Store,
    link: Arc<Link>,
    number: u64,
    /// The highest number of each origin that was reported to the follower.
    seen: BTreeMap<Origin, u64>,
    pages: Pages,
}

/// The follower does not take pages any more.
struct Gone;

impl Scan {
    async fn run(mut self) {
        let began = BootInstant::now();
        info!(peer = %self.link.name, "scan of all rows for peer begins");
        match self.scan().await {
            Ok(Ok(pin)) => {
                info!(peer = %self.link.name, took_ms = began.elapsed().as_millis(), "scan of all rows for peer ended");
                let Self { store, link, number, pages, .. } = self;
                drop(pages);
                hold(pin, &store, &link, number).await;
            }
            Ok(Err(error)) => {
                info!(peer = %self.link.name, %error, "scan of all rows for peer failed");
                let _ = timeout(TAKEN, self.pages.send(Err(error.into()))).await;
            }
            Err(Gone) => info!(peer = %self.link.name, "scan of all rows for peer interrupted"),
        }
    }

    fn is_current(&self) -> bool {
        self.link.scan.load(Relaxed) == self.number
    }

    async fn scan(&mut self) -> Result<Result<LogPin, StreamError>, Gone> {
        let pinning = self.store.clone();
        let begin = blocking(move || {
            let pin = pinning.pin_log();
            Ok((pin, frames::report_all(&pinning)))
        });
        let (pin, has) = match begin.await {
            Ok(begun) => begun,
            Err(error) => return Ok(Err(error.into())),
        };
        let Some(has) = has else { return Ok(Err(Status::unavailable("too many gaps in its changes").into())) };
        let rows = self.store.group_sums().map_or(0, |(_, rows)| rows);
        let start = wire::StateStart { vector: Some(codec::vector_to_wire(pin.vector())), has: Some(has), rows };
        self.send(wire::StatePage { start: Some(start), ..wire::StatePage::default() }).await?;
        let mut after: Option<Key> = None;
        loop {
            let (store, from) = (self.store.clone(), after.clone());
            // The rows may show changes that are not here, from a scan of another node: one that was interrupted, or that
            // is under way too. Read behind the rows, which came with their mark.
            let read = blocking(move || Ok((store.state_page(from.as_ref(), PAGE)?, store.scanned()?)));
            let (page, scanned) = match read.await {
                Ok(read) => read,
                Err(error) => return Ok(Err(error.into())),
            };
            // Behind all changes that the rows show.
            if let Err(error) = self.store.announced().await {
                return Ok(Err(error.into()));
            }
            let StatePage { rows, upto } = page;
            let seen = self.newly_seen(&scanned);
            let row = |(key, record): (Key, _)| wire::StateRow { key: Some(key_to_wire(&key)), record };
            let page = wire::StatePage {
                start: None,
                row: rows.into_iter().map(row).collect(),
                upto: upto.as_ref().map(key_to_wire),
                seen: Some(codec::vector_to_wire(&seen)),
            };
            self.send(page).await?;
            match upto {
                Some(upto) => after = Some(upto),
                None => return Ok(Ok(pin)),
            }
        }
    }

    /// The highest numbers of the changes here, and of those that were `scanned`, that rose since the last call.
    fn newly_seen(&mut self, scanned: &Vector) -> Vector {
        let mut risen = Vector::new();
        let held = self.store.holdings().into_iter().map(|(origin, seqs)| (origin, seqs.end().saturating_sub(1)));
        for (origin, last) in held.chain(scanned.iter()) {
            let told = self.seen.entry(origin).or_default();
            if last > *told {
                *told = last;
                risen.raise(origin, last);
            }
        }
        risen
    }

    async fn send(&self, page: wire::StatePage) -> Result<(), Gone> {
        if !self.is_current() {
            return Err(Gone);
        }
        match timeout(TAKEN, self.pages.send(Ok(page))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

/// Keeps the log until the follower has everything that was here at the end of its scan.
async fn hold(pin: LogPin, store: &Store, link: &Link, number: u64) {
    let wanted = store.vector();
    let (mut lag, mut since) = (link.lag(&wanted), BootInstant::now());
    while link.scan.load(Relaxed) == number && lag > 0 && since.elapsed() < IDLE {
        sleep(POLL_INTERVAL).await;
        let now = link.lag(&wanted);
        if now < lag {
            (lag, since) = (now, BootInstant::now());
        }
    }
    drop(pin);
}

pub(crate) fn key_to_wire(key: &Key) -> wire::Key {
    wire::Key { table: key.table.0.into(), id: key.id.clone().into() }
}

/// Runs work that waits for the disk off the async runtime.
pub(crate) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
) -> Result<R, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))
}
