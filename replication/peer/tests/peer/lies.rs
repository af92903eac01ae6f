//! Scans of all rows that lie, frames that no node sends, and followers that ask for scans as no node does: refused by
//! name, nothing of a lie stays, and another source is taken (rules D1, D2, D3).

use std::{
    io::Write,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};
use twinbox_ids::{Origin, RecordingId};
use twinbox_replication_core::{Change, CommitPart, Record, Value, Vector};
use twinbox_replication_peer::LogPolicy;
use twinbox_replication_store::{Filled, codec};
use twinbox_wire::replication::{
    Chunk, Field, Key, Live, Probe, Record as WireRecord, Register, Report, ScanStateRequest, Stamp, StatePage,
    StateRow, StateStart, field, replication_client::ReplicationClient, source_frame::Frame,
};

use crate::kit::{
    Cluster, Node, TABLE, audio, key,
    liar::{CHANGES, Liar, Pages},
    name, until,
};

const DAY: Duration = Duration::from_secs(86_400);
/// Cuts everything.
const NOTHING: LogPolicy = LogPolicy { stable_for: DAY, keep_for: DAY, keep_bytes: 0 };

/// Reason for the refusal of a number that lies beyond those of any store.
const UNREACHED: &str = "a number of a change that no store has reached";

/// The log of this process.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Before the first cluster, which would write the log elsewhere.
    fn start() -> Self {
        let captured = Self::default();
        let writer = captured.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        log.with_env_filter("twinbox=info").try_init().expect("the only log of this process");
        captured
    }

    fn has(&self, parts: &[&str]) -> bool {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn wire_key(id: &[u8]) -> Key {
    Key { table: TABLE.0.into(), id: id.to_vec().into() }
}

fn row(id: &[u8]) -> StateRow {
    StateRow { key: Some(wire_key(id)), record: Some(codec::record_to_bytes(&Record::new()).into()) }
}

/// A first page in order, with this vector as the start.
fn first(start: &Vector) -> StatePage {
    let vector = Some(codec::vector_to_wire(start));
    let has = Report { vector: vector.clone(), ..Report::default() };
    StatePage { start: Some(StateStart { vector, has: Some(has), rows: 0 }), ..StatePage::default() }
}

fn page(rows: Vec<StateRow>, upto: Option<&[u8]>) -> StatePage {
    StatePage { row: rows, upto: upto.map(wire_key), ..StatePage::default() }
}

fn pages(all: Vec<StatePage>) -> Pages {
    Arc::new(move |number| all.get(number as usize).cloned())
}

/// A node with rows and audio whose log no other node can use.
async fn honest(cluster: &Cluster) -> Node {
    let c = cluster.node("c").await;
    c.write_many("row", 50).await;
    let blob = c.record(RecordingId::random(), &audio(20_000)).await;
    c.write("message", Value::Blob(blob)).await;
    c.store.set_state_fillers(["a", "b"].map(name).into()).await.unwrap();
    while c.store.stats().unwrap().log.0 > 0 {
        c.peers.cut_log(&NOTHING).await.unwrap();
    }
    c.start();
    c
}

/// The lies, each with a part of the reason for which it is refused. `origin`: of the liar, `own` and `other`: those of the
/// node that fills and of the third one.
fn lies(origin: Origin, own: Origin, other: Origin) -> Vec<(&'static str, Pages)> {
    let truth = Liar::vector(origin);
    let with = |extra: (Origin, u64)| -> Vector { truth.iter().chain([extra]).collect() };
    let started = |rest: Vec<StatePage>| pages([vec![first(&truth)], rest].concat());
    let damaged = WireRecord {
        field: vec![Field { tag: 1, merge: Some(field::Merge::Register(Register { stamp: 0, value: None })) }],
        tombstone: None,
        stamp: vec![Stamp::default()],
        origin: vec![vec![1, 2].into()],
    };
    let damaged = StateRow { record: Some(damaged.encode_to_vec().into()), ..row(b"lie") };
    let begin = truth.clone();
    let empty: Pages = Arc::new(move |number| match number {
        0 => Some(first(&begin)),
        _ => Some(page(Vec::new(), Some(format!("k{number:09}").as_bytes()))),
    });
    let begin = truth.clone();
    let endless: Pages = Arc::new(move |number| match number {
        0 => Some(first(&begin)),
        _ => {
            let ids: Vec<_> = (number * 8_000..(number + 1) * 8_000).map(u64::to_be_bytes).collect();
            let end = ids.last().map(<[u8; 8]>::as_slice);
            Some(page(ids.iter().map(|id| row(id)).collect(), end))
        }
    });
    let many = (0..9_000_u32).map(|n| row(&n.to_be_bytes())).collect();
    let mut ahead_of_has = first(&truth);
    ahead_of_has.start.as_mut().unwrap().has = Some(Report::default());
    vec![
        ("that does not say its start", pages(vec![page(vec![row(b"lie")], None)])),
        ("rows that are not in order", started(vec![page(vec![row(b"lie b"), row(b"lie a")], None)])),
        ("pages that do not advance", empty),
        ("too many rows in a page", started(vec![page(many, None)])),
        ("more rows than changes", endless),
        ("a key that is too long", started(vec![page(vec![row(&[b'l'; 1_025])], None)])),
        ("is not valid", started(vec![page(vec![damaged], None)])),
        (
            "begins again in its middle",
            started(vec![page(vec![row(b"lie")], Some(b"lie")), first(&with((Origin(7), 9)))]),
        ),
        ("starts before the log of its node", pages(vec![first(&[(origin, CHANGES - 1)].into_iter().collect())])),
        ("starts before the log of its node", pages(vec![ahead_of_has])),
        ("this node's own origin", pages(vec![first(&with((own, 7)))])),
        (UNREACHED, pages(vec![first(&with((Origin(7), u64::MAX / 2)))])),
        ("changes of c that it has not made", pages(vec![first(&with((other, 1_000_000)))])),
    ]
}

/// A node without data gets everything from the honest node, and nothing that a lie would give it.
async fn fill_despite(lie: usize, log: Captured) {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let c = honest(&cluster).await;
    let b = cluster.node_that_fills("b", TempDir::new().unwrap(), &[]).await;
    let origin = Origin::random();
    let (reason, pages) = lies(origin, b.store.origin(), c.store.origin()).swap_remove(lie);
    // The changes that a node has made are known only while it is followed.
    let follows_before = reason.contains("changes of c");
    if follows_before {
        b.start();
        until("b follows c", || b.status("c").following).await;
    }
    let liar = Liar::start(&cluster, "a", origin, pages).await;
    if !follows_before {
        b.start();
    }
    until("the lie is refused, and the other source taken", || {
        let counters = b.peers.counters();
        counters.state_fills_failed > 0 && counters.state_fills > 0
    })
    .await;
    until("the rows of the honest node", || b.store.vector().get(c.store.origin()) == c.store.vector().total())
        .await;
    assert!(log.has(&["rows of peer cannot be scanned", "peer=a", reason]), "{reason}");
    let of_c = c.records();
    assert!(of_c.iter().all(|row| b.records().contains(row)), "{reason}");
    let lied: Vec<_> = b.records().into_iter().filter(|row| !of_c.contains(row)).collect();
    // A row that came before the lie was in order: it is merged, as any row of a member.
    let had_true_rows = matches!(reason, "begins again in its middle" | "more rows than changes");
    assert!(lied.is_empty() || had_true_rows, "{reason}: {} rows", lied.len());
    let vector = b.store.vector();
    assert_eq!((vector.get(origin), vector.get(Origin(7))), (0, 0), "{reason}");
    assert_eq!(b.peers.counters().own_origin_alarms > 0, reason.contains("own origin"), "{reason}");
    assert!(liar.sent.load(Relaxed) < 1_000, "{reason}: it is not read on and on");
    // The liar may have changes that no other node has: the first fill waits for it for a while.
    assert!(b.store.filled() != Filled::Complete && b.status("a").stuck.is_none(), "{reason}");
}

/// It goes on without the liar, says why, and goes on asking it.
#[tokio::test]
async fn a_first_fill_goes_on_without_a_member_of_which_nothing_comes() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let c = honest(&cluster).await;
    let b = cluster.node_that_fills("b", TempDir::new().unwrap(), &[]).await;
    let origin = Origin::random();
    let rows = vec![first(&Liar::vector(origin)), page(vec![row(b"lie b"), row(b"lie a")], None)];
    let liar = Liar::start(&cluster, "a", origin, pages(rows)).await;
    b.peers.set_source_patience(Duration::ZERO);
    b.start();
    until("all records but those of the liar", || b.store.filled().has_records()).await;
    assert!(c.records().iter().all(|row| b.records().contains(row)), "those of the honest node came first");
    assert_eq!(b.store.fill_missed(), [name("a")].into(), "noted until it is heard");
    until("the liar is asked again", || liar.sent.load(Relaxed) > 2).await;
    assert_eq!(b.status("c").stuck, None);
    assert!(b.status("a").stuck.is_some());
}

/// Its records may be elsewhere only on the member that sends no data: it serves no caller.
#[tokio::test]
async fn a_first_fill_waits_for_its_only_source_and_says_why() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let b = cluster.node_that_fills("b", TempDir::new().unwrap(), &[]).await;
    let origin = Origin::random();
    let rows = vec![first(&Liar::vector(origin)), page(vec![row(b"lie b"), row(b"lie a")], None)];
    let _liar = Liar::start(&cluster, "a", origin, pages(rows)).await;
    b.peers.set_source_patience(Duration::ZERO);
    b.start();
    until("the reason", || b.status("a").stuck.is_some_and(|reason| reason.contains("not in order"))).await;
    assert!(!b.store.filled().has_records() && !b.peers.fill_had_no_source());
}

#[tokio::test]
async fn a_scan_that_lies_is_refused_by_name_and_another_source_is_taken() {
    let log = Captured::start();
    let count = lies(Origin(1), Origin(2), Origin(3)).len();
    let mut cases = JoinSet::new();
    for lie in 0..count {
        cases.spawn(fill_despite(lie, log.clone()));
    }
    cases.join_all().await;
}

/// The liar is asked first, and sends too little, which the next node goes on from.
#[tokio::test]
async fn a_wrong_beginning_of_a_recording_does_not_spoil_what_another_node_sends() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let c = honest(&cluster).await;
    let b = cluster.node_that_fills("b", TempDir::new().unwrap(), &[]).await;
    Liar::start_filling(&cluster, "a").await;
    b.start();
    let blob = c.value("message").and_then(|value| value.blob().map(|blob| blob.hash)).unwrap();
    until("the audio", || b.store.blobs().has(&blob)).await;
    assert_eq!(b.store.blobs().read(&blob).await.unwrap(), audio(20_000));
}

#[tokio::test]
async fn a_scan_without_an_end_is_given_up() {
    let log = Captured::start();
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let c = honest(&cluster).await;
    let b = cluster.node_that_fills("b", TempDir::new().unwrap(), &[]).await;
    let origin = Origin::random();
    let begun = vec![first(&Liar::vector(origin)), page(vec![row(b"early")], Some(b"early"))];
    let liar = Liar::start(&cluster, "a", origin, pages(begun)).await;
    b.start();
    until("the scan begins", || liar.sent.load(Relaxed) >= 2).await;
    // The time for a page passes. b may begin to wait for one only after the page before was sent.
    let given_up = || log.has(&["rows of peer cannot be scanned", "peer=a", "sent nothing in time"]);
    for _ in 0..3 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(31)).await;
        tokio::time::resume();
        if tokio::time::timeout(Duration::from_secs(3), until("the source is given up", given_up)).await.is_ok() {
            break;
        }
    }
    assert!(given_up());
    until("another source is taken", || b.peers.counters().state_fills > 0).await;
    assert!(c.records().iter().all(|row| b.records().contains(row)));
    assert_eq!(b.store.vector().get(origin), 0, "what a scan without an end was to bring");
}

/// Frames that no node sends, each with a part of the reason for which the stream ends.
fn false_frames() -> Vec<(&'static str, Vec<Frame>)> {
    let change = |seq, (before, after), length| {
        let stamp = twinbox_ids::Stamp { wall: 1, counter: 0, origin: Origin(7) };
        let value = Value::Bytes(vec![b'v'; length]);
        let field = twinbox_replication_core::Field::Register { stamp, value };
        let (delta, part) = (Record::from_parts([(1, field)], None), CommitPart { before, after });
        let change = Change { origin: Origin(7), seq, key: key("lie"), delta, part };
        Frame::Live(Live { change: vec![codec::change_to_bytes(&change).into()] })
    };
    let (recording, data) = (Bytes::copy_from_slice(&RecordingId::random().to_bytes()), Bytes::new());
    let large = (0..9_u32).map(|before| change(u64::from(before) + 1, (before, 20 - before), 15 << 20));
    vec![
        ("a chunk without audio", vec![Frame::Chunk(Chunk { recording, take: 1, offset: 0, data })]),
        ("a commit that is too large", vec![change(6, (5, 1 << 18), 1)]),
        ("a commit that does not end", large.collect()),
        (UNREACHED, vec![change(u64::MAX, (0, 0), 1)]),
        (UNREACHED, vec![change(1 << 62, (0, 0), 1)]),
        (UNREACHED, vec![Frame::Probe(Probe { number: 1, head: u64::MAX, ..Probe::default() })]),
    ]
}

#[tokio::test]
async fn frame_that_no_node_sends_ends_the_stream_and_leaves_nothing() {
    let log = Captured::start();
    for (number, (reason, frames)) in (1..).zip(false_frames()) {
        // Several are refused for one reason: the names of the liars tell them apart in the log.
        let name = format!("liar{number}");
        let cluster = Cluster::new(&[&name, "b"]).await;
        let b = cluster.node("b").await;
        Liar::start_sending(&cluster, &name, frames).await;
        b.start();
        let peer = format!("peer={name}");
        until(reason, || log.has(&["stream from peer ended", &peer, reason])).await;
        assert!(b.store.recordings().open().is_empty() && b.records().is_empty(), "{reason}");
        assert!(!b.store.holdings().contains_key(&Origin(7)), "{reason}");
        b.stop().await;
    }
}

/// The beginning of its log would be a reason to fill by state, and to answer callers `503` until that ends.
#[tokio::test]
async fn source_that_names_numbers_which_no_store_has_reached_is_refused_and_the_node_stays_complete() {
    let log = Captured::start();
    let cluster = Cluster::new(&["a", "b"]).await;
    let b = cluster.node("b").await;
    b.write("row", Value::Bytes(b"x".into())).await;
    Liar::start_ahead(&cluster, "a", u64::MAX / 2).await;
    b.start();
    until("the refusal", || log.has(&["stream from peer ended", "peer=a", UNREACHED])).await;
    assert!(b.store.filled() == Filled::Complete && !b.status("a").following);
    assert_eq!(b.peers.behind(), 0);
}

/// Asks a node for a scan, as the member of this certificate.
async fn scan(cluster: &Cluster, certificate: &str, version: u32) -> Result<Streaming<StatePage>, Status> {
    let endpoint = cluster.identity(certificate).endpoint(&name("a"), &cluster.address("a").to_string()).unwrap();
    let mut client = ReplicationClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(16 << 20);
    Ok(client.scan_state(ScanStateRequest { version }).await?.into_inner())
}

/// Reads a scan to its end; true when the last page came.
async fn read_all(mut pages: Streaming<StatePage>) -> bool {
    let mut last = false;
    while let Ok(Some(page)) = pages.message().await {
        last = page.start.is_none() && page.upto.is_none();
    }
    last
}

#[tokio::test]
async fn a_scan_holds_the_log_only_while_its_follower_reads() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let a = cluster.node("a").await;
    a.write_many("row", 12_000).await;
    a.store.set_state_fillers([name("b")].into()).await.unwrap();
    assert_eq!(scan(&cluster, "x", 1).await.err().unwrap().code(), Code::PermissionDenied);
    let refused = scan(&cluster, "b", 9).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("upgrade the older one"), "{}", refused.message());

    let mut early = scan(&cluster, "b", 1).await.unwrap();
    assert!(early.message().await.unwrap().unwrap().start.is_some());
    a.write_many("later", 50).await;
    a.peers.cut_log(&NOTHING).await.unwrap();
    let left = a.store.stats().unwrap().log.0;
    assert!(left >= 50, "the scan has pinned the log from its start on: {left} are left");
    // A second one begins while the first one is read, and comes to its end.
    let later = scan(&cluster, "b", 1).await.unwrap();
    let (_, second) = tokio::join!(read_all(early), read_all(later));
    assert!(second);

    // One that is given up lets go of the log.
    let mut given_up = scan(&cluster, "b", 1).await.unwrap();
    assert!(given_up.message().await.unwrap().unwrap().start.is_some());
    drop(given_up);
    let mut left = u64::MAX;
    while left > 0 {
        a.peers.cut_log(&NOTHING).await.unwrap();
        left = a.store.stats().unwrap().log.0;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A source that fills itself tells of the changes that its rows show, though they came after the start of the scan.
#[tokio::test]
async fn a_scan_tells_of_rows_that_came_in_its_middle() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let a = cluster.node("a").await;
    // Far more than the buffers of the connection hold.
    let large = Value::Bytes(vec![b'v'; 16_000]);
    for n in 0..2_000 {
        a.write(&format!("row{n:04}"), large.clone()).await;
    }
    let mut pages = scan(&cluster, "b", 1).await.unwrap();
    assert!(pages.message().await.unwrap().unwrap().start.is_some());
    let elsewhere = Origin::random();
    let (_, record) = a.records().into_iter().next().unwrap();
    a.store
        .merge_state(
            vec![(twinbox_replication_core::Key::new(TABLE, b"zz".to_vec()), record)],
            [(elsewhere, 7)].into_iter().collect(),
        )
        .await
        .unwrap();
    let (mut has_row, mut told) = (false, 0);
    while let Some(page) = pages.message().await.unwrap() {
        has_row |= page.row.iter().any(|row| row.key.as_ref().is_some_and(|key| key.id.as_ref() == b"zz"));
        let seen = page.seen.into_iter().flat_map(|seen| seen.prefix);
        told = seen
            .filter(|entry| entry.origin.as_ref() == elsewhere.to_bytes())
            .map(|e| e.upto)
            .max()
            .unwrap_or(told);
    }
    assert!(has_row, "the row came before the end of the scan was read");
    assert_eq!(told, 7, "what the row may show");
}
