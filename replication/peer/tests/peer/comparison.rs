//! Comparison of stores: damage is found and repaired, whatever is on its way meanwhile, and a peer that lies gets no
//! further than its own rows.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use twinbox_disk::{Disk, DiskError, Transaction};
use twinbox_ids::{NodeName, Origin, RecordingId};
use twinbox_replication_core::{Edit, Key, Table, Value, Vector, buckets::BucketSet};
use twinbox_replication_peer::{AudioCheck, ComparisonReport, DifferenceOutcome, Subject};
use twinbox_replication_store::{Filled, Removal, RowFault, Store, StoreConfig, codec};
use twinbox_wire::replication::{
    self as wire, BlobPieces, FetchBlobsRequest, FollowerFrame, SourceFrame, compare_reply,
    compare_request::Part,
    replication_server::{Replication, ReplicationServer},
};

use crate::kit::{Cluster, Node, TABLE, audio, converge, key, name, until};

/// The row as the index has it.
fn index_key(key: &Key) -> Vec<u8> {
    [b"r", &key.table.0.to_be_bytes()[..], &key.id].concat()
}

/// Changes the index of a node that does not run.
async fn damage(dir: &TempDir, change: impl FnOnce(&mut Transaction<'_>) + Send + 'static) {
    let path = dir.path().join("store/db");
    let mut disk = None;
    until("the index is closed", || {
        disk = Disk::open(&path).ok();
        disk.is_some()
    })
    .await;
    let run = move |transaction: &mut Transaction<'_>| {
        change(transaction);
        Ok::<_, DiskError>(())
    };
    disk.unwrap().transact(run).await.unwrap();
}

/// Two nodes with the same rows.
async fn pair() -> (Cluster, Node, Node) {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    a.start();
    b.start();
    a.write_many("row", 300).await;
    converge(&[&a, &b]).await;
    (cluster, a, b)
}

/// Compares once the peer has counted its rows.
async fn compare(node: &Node, peer: &str, audio: AudioCheck) -> Arc<ComparisonReport> {
    loop {
        let report = node.peers.compare(&name(peer), audio).await.unwrap();
        match &report.problem {
            Some(problem) if problem.contains("being counted") => tokio::task::yield_now().await,
            _ => return report,
        }
    }
}

/// Rows, the node that lacked something, the fault, and what became of it.
fn found(report: &ComparisonReport) -> Vec<(Key, NodeName, RowFault, DifferenceOutcome)> {
    let rows = report.differences.iter().filter_map(|difference| match &difference.subject {
        Subject::Row(key) => Some((key.clone(), difference.node.clone(), difference.fault, difference.outcome)),
        Subject::Audio(_) => None,
    });
    rows.collect()
}

fn assert_equal(report: &ComparisonReport) {
    assert!(report.is_equal(), "{report:?}");
}

#[tokio::test]
async fn lost_and_damaged_rows_are_copied_from_the_side_that_has_them() {
    let (cluster, a, b) = pair().await;
    assert_equal(&*compare(&a, "b", AudioCheck::Presence).await);
    let vector = a.store.vector();
    let dir = b.stop().await;
    damage(&dir, |transaction| {
        transaction.remove(index_key(&key("row000007")));
        transaction.put(index_key(&key("row000008")), b"\x02\xffdamage".to_vec()).unwrap();
    })
    .await;
    let b = cluster.node_in("b", dir, &[]).await;
    b.start();
    converge_vectors(&a, &b).await;

    // The node that is whole finds it, too, unless a scheduled comparison was faster.
    let report = compare(&a, "b", AudioCheck::None).await;
    let expected = [
        (key("row000007"), name("b"), RowFault::Missing, DifferenceOutcome::Repaired),
        (key("row000008"), name("b"), RowFault::Unreadable, DifferenceOutcome::Repaired),
    ];
    assert!(found(&report).iter().all(|found| expected.contains(found)), "{report:?}");
    assert!(report.differences.iter().all(|difference| difference.lacked.fields == [1]), "{report:?}");
    assert_eq!(a.records(), b.records());
    assert_equal(&*compare(&b, "a", AudioCheck::None).await);
    // A repair is no change: neither vector has moved for it.
    assert!(vector.missing_from(&a.store.vector()).is_empty());
    assert_eq!(a.store.vector().total(), vector.total());
    until("both repairs are counted", || b.peers.comparison_counts().repaired == 2).await;
}

#[tokio::test]
async fn node_repairs_itself_and_what_it_does_not_know_of() {
    let (cluster, a, b) = pair().await;
    let dir = a.stop().await;
    damage(&dir, |transaction| {
        for n in 0..200 {
            transaction.remove(index_key(&key(&format!("row{n:06}"))));
        }
    })
    .await;
    let a = cluster.node_in("a", dir, &[]).await;
    a.start();
    converge_vectors(&a, &b).await;
    let report = compare(&a, "b", AudioCheck::None).await;
    // A scheduled comparison may have repaired a part of them.
    assert_eq!((report.differences.len() as u64, report.rows), (report.repaired(), 300));
    assert!(report.differences.iter().all(|difference| difference.node == name("a")));
    until("all repairs are counted", || a.peers.comparison_counts().repaired == 200).await;
    assert_eq!(a.records(), b.records());
}

/// Both nodes have the same changes, whatever their rows are.
async fn converge_vectors(a: &Node, b: &Node) {
    until("both have the same changes", || a.store.vector() == b.store.vector()).await;
}

#[tokio::test]
async fn purged_row_stays_away_and_a_deleted_one_deletes_no_present_one() {
    let (_cluster, a, b) = pair().await;
    for row in ["row000001", "row000002"] {
        let key = key(row);
        a.store.commit(move |draft| draft.edit(key, vec![Edit::Delete])).await.unwrap();
    }
    converge(&[&a, &b]).await;
    let rows = a.store.deleted_rows(TABLE, None, 10).unwrap();
    let rows = rows.into_iter().filter(|row| row.key == key("row000001")).map(|row| (row, Removal::Whole));
    a.store.purge(rows.collect()).await.unwrap();
    for (node, peer) in [(&a, "b"), (&b, "a")] {
        assert_equal(&*compare(node, peer, AudioCheck::None).await);
    }
    assert_eq!(a.store.get(&key("row000001")), Ok(None));
    assert!(b.store.get(&key("row000001")).unwrap().unwrap().is_deleted());
}

/// A row that came by an interrupted scan is marked on each node to which a comparison copies it: a later scan of a node that does
/// not know it must not remove it.
#[tokio::test]
async fn copy_of_a_row_of_an_interrupted_scan_is_marked_too() {
    let (_cluster, a, b) = pair().await;
    let (_, record) = a.records().into_iter().next().unwrap();
    let seen: Vector = [(Origin::random(), 7)].into_iter().collect();
    a.store.merge_state(vec![(key("scanned"), record)], seen.clone()).await.unwrap();
    let repaired = compare(&b, "a", AudioCheck::None).await;
    assert_eq!(found(&repaired), [(key("scanned"), name("b"), RowFault::Missing, DifferenceOutcome::Repaired)]);
    assert_eq!((b.records(), b.store.scanned().unwrap()), (a.records(), seen));
}

#[tokio::test]
async fn comparison_under_constant_writes_ends_and_finds_the_damage_only() {
    let (cluster, a, b) = pair().await;
    let dir = b.stop().await;
    damage(&dir, |transaction| transaction.remove(index_key(&key("row000042")))).await;
    let b = cluster.node_in("b", dir, &[]).await;
    b.start();
    converge_vectors(&a, &b).await;
    let writes = async {
        for n in 0.. {
            a.write(&format!("row{:06}", 100 + n % 50), Value::Bytes(format!("{n}").into_bytes())).await;
            b.write(&format!("new{n}"), Value::Bytes(b"x".to_vec())).await;
        }
    };
    let report = tokio::select! {
        report = compare(&a, "b", AudioCheck::None) => report,
        () = writes => unreachable!("the writes do not end"),
    };
    // A scheduled comparison may have been faster.
    let damage = (key("row000042"), name("b"), RowFault::Missing, DifferenceOutcome::Repaired);
    assert!(found(&report).iter().all(|found| *found == damage), "{report:?}");
    converge(&[&a, &b]).await;
    until("the repair is counted", || b.peers.comparison_counts().repaired == 1).await;
    assert_equal(&*compare(&b, "a", AudioCheck::None).await);
}

#[tokio::test]
async fn change_that_did_not_arrive_yet_is_no_difference() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node("b").await);
    // Without streams: what one has the other lacks, and no row may be taken for damage.
    a.write("of a", Value::Bytes(b"1".to_vec())).await;
    b.write("of b", Value::Bytes(b"2".to_vec())).await;
    while !b.store.sum_step().await.unwrap() {}
    let report = compare(&a, "b", AudioCheck::None).await;
    assert!(
        report.differences.iter().all(|difference| difference.outcome == DifferenceOutcome::Undecided),
        "{report:?}"
    );
    assert!(!report.differences.is_empty() && !report.is_equal());
    assert!(report.problem.as_ref().is_some_and(|problem| problem.contains("the next comparison decides")));
    assert_eq!((a.value("of b"), b.value("of a")), (None, None));
}

#[tokio::test]
async fn missing_and_damaged_audio_comes_from_the_peer() {
    let (_cluster, a, b) = pair().await;
    let blob = a.record(RecordingId::random(), &audio(30_000)).await;
    a.write("message", Value::Blob(blob)).await;
    converge(&[&a, &b]).await;
    flip(&b.dir.path().join("store"), &audio(30_000)[..2_000]);
    assert!(b.store.blobs().read(&blob.hash).await.is_err());
    let report = compare(&b, "a", AudioCheck::Content).await;
    let [difference] = &report.differences[..] else { panic!("{report:?}") };
    assert_eq!(
        (&difference.subject, difference.outcome),
        (&Subject::Audio(blob.hash), DifferenceOutcome::Repaired)
    );
    assert_eq!(b.store.blobs().read(&blob.hash).await.unwrap(), audio(30_000));
    assert_equal(&*compare(&b, "a", AudioCheck::Content).await);
}

#[tokio::test]
async fn audio_that_a_fill_still_fetches_is_no_difference() {
    let cluster = Cluster::new(&["a", "b"]).await;
    let (a, b) = (cluster.node("a").await, cluster.node_that_fills("b", TempDir::new().unwrap(), &[]).await);
    for n in 0..20 {
        let blob = a.record(RecordingId::random(), &audio(1_000 + n)).await;
        a.write(&format!("message{n:02}"), Value::Blob(blob)).await;
    }
    // As the streams of a fill do it: the records come first.
    b.store.apply(a.store.changes_after(&b.store.vector(), 1_000).unwrap()).await.unwrap();
    b.store.set_filled(Filled::Records).await.unwrap();
    assert_eq!(b.store.missing_audio(false, None).unwrap().blobs.len(), 20);
    while !a.store.sum_step().await.unwrap() {}
    assert_equal(&*compare(&b, "a", AudioCheck::Presence).await);
    assert_equal(&*compare(&b, "a", AudioCheck::Content).await);
    assert_eq!(b.store.missing_audio(false, None).unwrap().blobs.len(), 20);

    // Audio that is not here after the fill is missing.
    b.store.set_filled(Filled::Complete).await.unwrap();
    let report = compare(&b, "a", AudioCheck::Presence).await;
    assert_eq!((report.differences.len(), report.repaired()), (20, 20), "{report:?}");
    assert!(b.store.missing_audio(false, None).unwrap().blobs.is_empty());
}

/// Flips a byte of every place in the files of a folder that has this content.
fn flip(dir: &Path, content: &[u8]) {
    let mut flipped = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                // The index has no audio.
                if entry.file_name() != "db" {
                    folders.push(entry.path());
                }
                continue;
            }
            let mut bytes = fs::read(entry.path()).unwrap();
            if let Some(at) = bytes.windows(content.len()).position(|window| window == content) {
                bytes[at] ^= 1;
                fs::write(entry.path(), bytes).unwrap();
                flipped += 1;
            }
        }
    }
    assert!(flipped > 0, "the audio is on the disk");
}

/// The answer of a peer to a part of a comparison.
type Answer = dyn Fn(Part) -> Result<compare_reply::Part, Status> + Send + Sync;

/// A peer that answers comparisons as it likes.
struct Answers(Box<Answer>);

#[tonic::async_trait]
impl Replication for Answers {
    type FollowStream = ReceiverStream<Result<SourceFrame, Status>>;
    type FetchBlobsStream = ReceiverStream<Result<BlobPieces, Status>>;
    type ScanStateStream = ReceiverStream<Result<wire::StatePage, Status>>;

    async fn follow(&self, _: Request<Streaming<FollowerFrame>>) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unavailable("not now"))
    }

    async fn fetch_blobs(&self, _: Request<FetchBlobsRequest>) -> Result<Response<Self::FetchBlobsStream>, Status> {
        Err(Status::not_found("no"))
    }

    async fn compare(
        &self,
        request: Request<wire::CompareRequest>,
    ) -> Result<Response<wire::CompareReply>, Status> {
        let part = (self.0)(request.into_inner().part.unwrap())?;
        Ok(Response::new(wire::CompareReply { part: Some(part) }))
    }

    async fn scan_state(
        &self,
        _: Request<wire::ScanStateRequest>,
    ) -> Result<Response<Self::ScanStateStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn repair(&self, _: Request<wire::RepairRequest>) -> Result<Response<wire::RepairReply>, Status> {
        Ok(Response::new(wire::RepairReply::default()))
    }
}

/// A node `a` without rows, whose peer `b` answers so.
async fn with_peer(answer: Box<Answer>) -> (Cluster, Node) {
    let cluster = Cluster::new(&["a", "b"]).await;
    let a = cluster.node("a").await;
    let listener = TcpListener::bind(cluster.address("b")).await.unwrap();
    let tls = Arc::new(cluster.identity("b"));
    let service = ReplicationServer::new(Answers(answer));
    let serve = tls.server().add_service(service).serve_with_incoming(tls.listen(listener));
    tokio::spawn(async move { serve.await.unwrap() });
    (cluster, a)
}

/// The same, whose peer lies. `seen`: the number of a change that its rows may show, of an interrupted scan.
async fn with_liar(seen: u64) -> (Cluster, Node) {
    let calls = AtomicU64::new(0);
    let answer = move |part: Part| -> Result<compare_reply::Part, Status> {
        let call = calls.fetch_add(1, Relaxed);
        Ok(match part {
            // Other sums at each reading.
            Part::Groups(_) => {
                let sums = vec![call as u8 | 1; 256 * 16].into();
                compare_reply::Part::Groups(wire::GroupSums { sums, rows: u64::MAX })
            }
            Part::Buckets(request) => {
                let sums = vec![0xee; request.groups.len() * 256 * 16].into();
                compare_reply::Part::Buckets(wire::BucketSums { sums })
            }
            Part::Ranges(_) => {
                let rest = Some(vec![0xee; 16].into());
                compare_reply::Part::Ranges(wire::RangeSums { range: Vec::new(), rest })
            }
            // An endless list of rows that are nowhere.
            Part::List(_) => {
                let key = |n: u64| wire::Key { table: 60_000, id: n.to_be_bytes().to_vec().into() };
                let row = |n| wire::HashedRow { key: Some(key(n)), hash: vec![7; 16].into() };
                let from = call * 10_000;
                let row = (from..from + 4_000).map(row).collect();
                compare_reply::Part::List(wire::RowList { row, upto: Some(key(from + 4_000)) })
            }
            Part::Rows(request) => {
                let row = request.key.iter().map(|_| wire::Row::default()).collect();
                let prefix = wire::Prefix { origin: vec![9; 16].into(), upto: seen };
                let seen = Some(wire::Vector { prefix: vec![prefix] });
                // It says that it has all there is, and more.
                compare_reply::Part::Rows(wire::Rows { row, report: Some(wire::Report::default()), seen })
            }
        })
    };
    with_peer(Box::new(answer)).await
}

/// The answer of a true peer with this store.
fn answer(store: &Store, part: Part) -> compare_reply::Part {
    let bytes = |sums: Vec<u128>| -> Bytes { sums.into_iter().flat_map(u128::to_be_bytes).collect() };
    let to_wire = |key: &Key| wire::Key { table: key.table.0.into(), id: key.id.clone().into() };
    match part {
        Part::Groups(_) => {
            let (sums, rows) = store.group_sums().unwrap();
            compare_reply::Part::Groups(wire::GroupSums { sums: bytes(sums), rows })
        }
        Part::Buckets(request) => {
            let sums = request.groups.iter().flat_map(|group| store.bucket_sums(*group).unwrap()).collect();
            compare_reply::Part::Buckets(wire::BucketSums { sums: bytes(sums) })
        }
        Part::Ranges(_) => {
            let list = store.range_sums(None, 4_096).unwrap();
            let range =
                |(end, sum): (Key, u128)| wire::RangeSum { upto: Some(to_wire(&end)), sum: bytes(vec![sum]) };
            let range = list.ends.into_iter().map(range).collect();
            compare_reply::Part::Ranges(wire::RangeSums { range, rest: list.rest.map(|sum| bytes(vec![sum])) })
        }
        Part::List(request) => {
            let buckets = BucketSet::from_bytes(&request.buckets).unwrap();
            let (after, upto) = (request.after.map(from_wire), request.upto.map(from_wire));
            let page = store.rows_of_buckets(&buckets, after.as_ref(), upto.as_ref()).unwrap();
            let row = |(key, hash)| wire::HashedRow { key: Some(to_wire(&key)), hash: bytes(vec![hash]) };
            let row = page.rows.into_iter().map(row).collect();
            compare_reply::Part::List(wire::RowList { row, upto: page.upto.as_ref().map(to_wire) })
        }
        Part::Rows(request) => {
            let record = |key| store.get(&from_wire(key)).unwrap();
            let row = |key| wire::Row {
                record: record(key).map(|record| codec::record_to_bytes(&record).into()),
                unreadable: false,
            };
            let row = request.key.into_iter().map(row).collect();
            let vector = Some(codec::vector_to_wire(&store.vector()));
            let report = Some(wire::Report { vector, ..wire::Report::default() });
            compare_reply::Part::Rows(wire::Rows { row, report, seen: None })
        }
    }
}

fn from_wire(key: wire::Key) -> Key {
    Key::new(Table(key.table.try_into().unwrap()), key.id)
}

/// The rows that differ are found among few, whatever the number of rows; of a peer of an earlier release among all.
#[tokio::test]
async fn rows_are_listed_in_the_ranges_and_buckets_that_differ() {
    for knows_ranges in [true, false] {
        let dir = TempDir::new().unwrap();
        let config = StoreConfig { dir: dir.path().to_owned(), node: name("b"), reserve_bytes: 0 };
        let (b, lists) = (Store::open(config).unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (store, noted) = (b.clone(), lists.clone());
        let (_cluster, a) = with_peer(Box::new(move |part: Part| {
            match &part {
                Part::Ranges(_) if !knows_ranges => return Err(Status::invalid_argument("an empty request")),
                Part::List(request) => noted.lock().unwrap().push(request.clone()),
                _ => {}
            }
            Ok(answer(&store, part))
        }))
        .await;
        for part in 0..12 {
            a.write_many(&format!("row{part:03}"), 1_000).await;
            b.apply(a.store.changes_after(&b.vector(), 1_000).unwrap()).await.unwrap();
        }
        let record = a.store.get(&key("row000000000")).unwrap().unwrap();
        let lost = [3_000, 9_000].map(|n| key(&format!("row{n:06} lost")));
        let copies = lost.iter().map(|key| (key.clone(), record.clone())).collect();
        assert_eq!(b.repair(copies, Vector::new()).await.unwrap().len(), 2);
        while !b.sum_step().await.unwrap() {}

        let report = compare(&a, "b", AudioCheck::None).await;
        let repaired = |key| (key, name("a"), RowFault::Missing, DifferenceOutcome::Repaired);
        assert_eq!(found(&report), lost.map(repaired), "{report:?}");
        let lists = lists.lock().unwrap();
        if !knows_ranges {
            assert!(lists.len() == 1 && lists[0].buckets.len() == BucketSet::BYTES, "{lists:?}");
            continue;
        }
        assert!(lists.iter().all(|list| list.buckets.len() == 4), "{lists:?}");
        let is_in = |key: &Key, list: &wire::RowListRequest| {
            let (after, upto) = (list.after.clone().map(from_wire), list.upto.clone().map(from_wire));
            after.is_none_or(|after| *key > after) && upto.is_none_or(|upto| *key <= upto)
        };
        let rows = a.store.all_rows().map(|row| row.unwrap().0);
        let listed = rows.filter(|key| lists.iter().any(|list| is_in(key, list))).count();
        assert!((2..8_000).contains(&listed), "{listed} rows");
    }
}

#[tokio::test]
async fn peer_of_an_earlier_release_is_not_compared() {
    let (_cluster, a) = with_peer(Box::new(|_| Err(Status::unimplemented("")))).await;
    let report = compare(&a, "b", AudioCheck::None).await;
    assert_eq!(report.problem.as_deref(), Some("not possible with b: it runs an earlier release; upgrade it"));
    assert_eq!(a.peers.comparison_counts().failed, 1);
}

#[tokio::test]
async fn endless_lists_and_wrong_sums_end_and_change_nothing() {
    let (_cluster, a) = with_liar(7).await;
    let report = compare(&a, "b", AudioCheck::None).await;
    assert_eq!(report.problem.as_deref(), Some("the sums of b do not agree with its rows"), "{report:?}");
    assert!(a.records().is_empty());
    assert!(a.store.scan(Table(60_000), b"").unwrap().is_empty());
}

/// A mark with such a number would stay, and make every other node refuse this one as a source.
#[tokio::test]
async fn mark_that_no_store_reaches_is_refused() {
    let (_cluster, a) = with_liar(u64::MAX).await;
    let report = compare(&a, "b", AudioCheck::None).await;
    let problem = report.problem.as_deref().unwrap_or_default();
    assert!(problem.contains("a number of a change that no store has reached"), "{problem}");
    assert_eq!(a.store.scanned().unwrap(), Vector::new());
}
