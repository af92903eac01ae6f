//! A follower that does not read: it delays no other node, memory stays bounded, and in the end it misses nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::kit::{
    ACK_TIMEOUT, Cluster, Node, audio, key, name,
    raw::{Raw, hello},
    until,
};
use bytes::Bytes;
use tokio::time::timeout;
use twinbox_clock::BootInstant;
use twinbox_ids::RecordingId;
use twinbox_replication_core::{Edit, Ranges, Value};
use twinbox_replication_peer::Acknowledgement;
use twinbox_replication_store::{Draft, codec};
use twinbox_wire::replication::{
    FetchBlobsRequest, HistoryTaken, ProbeAnswer, follower_frame, replication_client::ReplicationClient,
    source_frame::Frame,
};

fn seq(change: &Bytes) -> u64 {
    codec::change_from_bytes(change).unwrap().seq
}

async fn followed() -> (Node, Raw) {
    let cluster = Cluster::new(&["a", "b"]).await;
    let a = cluster.node("a").await;
    let hello = hello(cluster.authority.cluster(), "b");
    let raw = Raw::follow(&cluster.identity("b"), &cluster, hello).await.unwrap();
    (a, raw)
}

#[tokio::test]
async fn changes_beyond_the_feed_are_read_from_the_log() {
    let (a, mut raw) = followed().await;
    // More bytes than the feed holds.
    for n in 0..160 {
        let large = move |draft: &mut Draft<'_>| {
            (0..10).try_for_each(|row| {
                let value = Value::Bytes(vec![b'v'; 16_000]);
                draft.edit(key(&format!("row{n}-{row}")), vec![Edit::Set(1, value)])
            })
        };
        a.store.commit(large).await.unwrap();
        let committed = a.write("row", Value::Bytes(b"y".into())).await;
        let how = timeout(ACK_TIMEOUT / 2, a.peers.acknowledge(&committed)).await;
        assert_eq!(how, Ok(Acknowledgement::Alone), "a writer waited for a peer that never spoke");
    }
    let total = a.store.vector().get(a.store.origin());
    let mut seen = BTreeSet::new();
    let mut from_the_log = 0;
    let read = async {
        while (seen.len() as u64) < total {
            match raw.next().await.unwrap() {
                Frame::Live(live) => seen.extend(live.change.iter().map(seq)),
                Frame::History(history) => {
                    from_the_log += history.change.len();
                    seen.extend(history.change.iter().map(seq));
                    let taken = HistoryTaken { batch: history.batch };
                    raw.send(follower_frame::Frame::HistoryTaken(taken)).await;
                }
                _ => {}
            }
        }
    };
    let read = timeout(Duration::from_secs(20), read).await;
    assert!(read.is_ok(), "{} of {total} changes arrived", seen.len());
    assert!(from_the_log > 0, "the feed held all of them: the test proves nothing");
}

#[tokio::test]
async fn probe_reports_the_number_of_changes() {
    let (a, mut raw) = followed().await;
    for round in 0..3 {
        a.write_many(&format!("row{round}-"), 5).await;
        let made = a.store.vector().get(a.store.origin());
        let counted = async {
            loop {
                if let Frame::Probe(probe) = raw.next().await.unwrap() {
                    raw.send(follower_frame::Frame::ProbeAnswer(ProbeAnswer {
                        number: probe.number,
                        lacks_data: false,
                        report: None,
                        now_ms: 0,
                    }))
                    .await;
                    if probe.head == made {
                        return;
                    }
                    assert!(probe.head < made, "{} of {made}", probe.head);
                }
            }
        };
        assert!(timeout(Duration::from_secs(20), counted).await.is_ok(), "no probe reported {made} changes");
    }
}

/// Rule A1: the answer to a caller is due, however long the commit here took.
#[tokio::test]
async fn caller_whose_commit_took_long_does_not_wait_for_a_slow_peer() {
    let (a, mut raw) = followed().await;
    while a.peers.counting() == 0 {
        if let Frame::Probe(probe) = raw.next().await.unwrap() {
            let answer = ProbeAnswer { number: probe.number, lacks_data: false, report: None, now_ms: 0 };
            raw.send(follower_frame::Frame::ProbeAnswer(answer)).await;
        }
    }
    let committed = a.write("row", Value::Bytes(b"y".into())).await;
    let hung_up = BootInstant::now() - 2 * ACK_TIMEOUT;
    let how = timeout(ACK_TIMEOUT / 2, a.peers.acknowledge_since(&committed, hung_up)).await;
    assert_eq!((how, a.peers.counting()), (Ok(Acknowledgement::Alone), 1), "the peer has its time nevertheless");
}

#[tokio::test]
async fn audio_beyond_the_feed_is_read_from_the_file() {
    let (a, mut raw) = followed().await;
    let spoken = audio(25_000_000);
    // The chunks of the short one are all dropped before the follower reads, and none comes after them.
    let (long, short) = (RecordingId::random(), RecordingId::random());
    for id in [long, short] {
        a.store.recordings().begin(id, 1).await.unwrap();
    }
    a.append(long, 0, &spoken[..6_000_000]);
    a.append(short, 0, &spoken[..100_000]);
    a.append(long, 6_000_000, &spoken[6_000_000..]);
    let lengths = BTreeMap::from([((long, 1), 25_000_000), ((short, 1), 100_000)]);
    let open = || a.store.recordings().open().into_iter().map(|(id, take, length)| ((id, take), length)).collect();
    until("all is written", || lengths == open()).await;

    let mut here: BTreeMap<_, Ranges> = lengths.keys().map(|take| (*take, Ranges::new())).collect();
    let whole = |here: &BTreeMap<_, Ranges>| lengths.iter().all(|(take, length)| here[take].covers(0..*length));
    let read = async {
        while !whole(&here) {
            if let Frame::Chunk(chunk) = raw.next().await.unwrap() {
                let (from, to) = (chunk.offset as usize, chunk.offset as usize + chunk.data.len());
                assert!(chunk.data == spoken[from..to], "bytes {from}..{to} are not what was spoken");
                let take = (RecordingId::from_slice(&chunk.recording).unwrap(), chunk.take);
                here.get_mut(&take).unwrap().insert(from as u64..to as u64);
            }
        }
    };
    let read = timeout(Duration::from_secs(60), read).await;
    assert!(read.is_ok(), "here: {here:?}");
}

#[tokio::test]
async fn peer_that_reads_no_audio_takes_no_slot_of_another() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let a = cluster.node("a").await;
    let blob = a.store.blobs().put(Bytes::from(audio(300_000))).await.unwrap();
    // Together more than a connection takes without a reader.
    let request = FetchBlobsRequest { hash: vec![Bytes::copy_from_slice(&blob.hash.0); 1_024], offset: 0 };
    // A connection each: on one they would wait for each other.
    let fetch = async |node: &str| {
        let endpoint = cluster.identity(node).endpoint(&name("a"), &cluster.address("a").to_string()).unwrap();
        let mut client = ReplicationClient::new(endpoint.connect().await.unwrap());
        client.fetch_blobs(request.clone()).await.unwrap().into_inner()
    };
    let mut unread = Vec::new();
    for _ in 0..32 {
        let mut answer = fetch("c").await;
        assert!(answer.message().await.unwrap().is_some(), "it has a slot");
        unread.push(answer);
    }
    let mut late = fetch("c").await;
    assert!(timeout(Duration::from_millis(50), late.message()).await.is_err(), "the slots of c are taken");
    let mut other = fetch("b").await;
    let first = timeout(Duration::from_secs(20), other.message()).await;
    assert!(first.is_ok_and(|first| first.unwrap().is_some()), "b waits for c");
}
