//! Blobs from other nodes, over real connections.

mod kit;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kit::{Others, all_absent, audio, blob, full_store, hashes, name, piece, store};
use tonic::{Code, Status};
use twinbox_ids::BlobHash;
use twinbox_replication_fetch::{BlobsRequest, Got, MAX_ASKED};
use twinbox_wire::replication::{Absence, BlobPiece, BlobPieces, FetchBlobsRequest};

#[tokio::test]
async fn many_blobs_come_by_few_requests_each_from_a_node_that_has_it() {
    let ((here, _a), (first, _b), (second, _c)) = (store("here"), store("first"), store("second"));
    // Short ones, none, one that fills a message, and some long ones.
    let lengths = (0..2_000).map(|n| n % 400).chain([0, 256 * 1024, 256 * 1024 + 1, 3_000_000]);
    let all: Vec<Bytes> = lengths.enumerate().map(|(number, length)| audio(number, length)).collect();
    let mut blobs = Vec::new();
    for (number, audio) in all.iter().enumerate() {
        let holder = if number % 3 == 0 { &second } else { &first };
        blobs.push(holder.blobs().put(audio.clone()).await.expect("a blob"));
    }
    let nowhere = blob(&audio(5_000, 700)).await;
    blobs.push(nowhere);
    // The same audio may be that of several messages.
    blobs.push(blobs[7]);
    let others = Others::default().with_store("first", &first).await.with_store("second", &second).await;
    let asked = others.asked.clone();
    let fetcher = others.fetcher(&here);

    let got: BTreeMap<BlobHash, Got> =
        fetcher.get_all(blobs.clone(), None).await.into_iter().map(|(blob, got)| (blob.hash, got)).collect();
    for (hash, got) in &got {
        assert_eq!(*got, if *hash == nowhere.hash { Got::Denied } else { Got::Here }, "{hash}");
    }
    for (audio, blob) in all.iter().zip(&blobs) {
        assert_eq!(here.blobs().read(&blob.hash).await.as_ref(), Ok(audio), "{} bytes", audio.len());
    }
    let asked = asked.lock().expect("the requests").clone();
    let wanted = got.len();
    assert_eq!(asked["first"], [(MAX_ASKED, 0), (wanted - MAX_ASKED, 0)]);
    assert_eq!(asked["second"].len(), 1, "only what the first one lacked: {asked:?}");
    assert_eq!(fetcher.counts(), (0, wanted as u64 - 1));
}

#[tokio::test]
async fn next_node_continues_a_blob_that_was_cut_off_and_sends_all_of_it_if_the_beginning_was_wrong() {
    for is_right in [true, false] {
        let ((here, _a), (whole, _b)) = (store("here"), store("whole"));
        let (long, short) = (audio(1, 900_000), audio(2, 100));
        let mut blobs = vec![whole.blobs().put(long.clone()).await.expect("a blob")];
        blobs.push(whole.blobs().put(short.clone()).await.expect("a blob"));
        let beginning = if is_right { long.slice(..500_000) } else { audio(3, 500_000) };
        let hash = blobs[0].hash;
        let cut: kit::Script = Arc::new(move |request| {
            let at = hashes(request).iter().position(|asked| *asked == hash).expect("the long one");
            vec![piece(at as u32, beginning.clone(), false), Err(Status::data_loss("the disk is broken"))]
        });
        let others = Others::default().with_script("cut", cut).await.with_store("whole", &whole).await;
        let asked = others.asked.clone();
        let got = others.fetcher(&here).get_all(blobs.clone(), None).await;
        assert!(got.iter().all(|(_, got)| *got == Got::Here), "{got:?}");
        assert_eq!(here.blobs().read(&hash).await, Ok(long));
        assert_eq!(here.blobs().read(&blobs[1].hash).await, Ok(short));
        let again: &[(usize, u64)] = if is_right { &[(2, 500_000)] } else { &[(2, 500_000), (1, 0)] };
        assert_eq!(asked.lock().expect("the requests")["whole"], again);
    }
}

/// The outcome of all nodes' answers together, for a change that `first` has sent and for one without a first node to ask.
#[tokio::test]
async fn answers_of_all_nodes_decide_the_outcome() {
    let (here, _a) = store("here");
    let wanted = blob(&audio(1, 1_000)).await;
    let lie: kit::Script = Arc::new(|request| {
        let other = |number| BlobPiece { number, data: audio(2, 1_000), last: true, ..BlobPiece::default() };
        vec![Ok(BlobPieces { piece: (0..request.hash.len() as u32).map(other).collect() })]
    });
    let endless: kit::Script = Arc::new(|_| (0..50).map(|_| Ok(BlobPieces::default())).collect());
    let long: kit::Script = Arc::new(|_| vec![piece(0, audio(1, 1_001), false)]);
    use Absence::{Changing, GivenUp, NotHere, Unreadable};
    for (first, second, with_first, from_any) in [
        (Some(all_absent(NotHere)), Some(all_absent(NotHere)), Got::Denied, Got::Denied),
        (Some(all_absent(GivenUp)), Some(all_absent(NotHere)), Got::GivenUp, Got::GivenUp),
        (Some(all_absent(NotHere)), Some(all_absent(GivenUp)), Got::Denied, Got::GivenUp),
        (Some(all_absent(NotHere)), Some(all_absent(Changing)), Got::Failed, Got::Failed),
        // A node whose copy is damaged has none.
        (Some(all_absent(Unreadable)), Some(all_absent(NotHere)), Got::Denied, Got::Denied),
        (Some(all_absent(NotHere)), None, Got::Failed, Got::Failed),
        (None, Some(all_absent(NotHere)), Got::Failed, Got::Failed),
        (Some(lie), Some(all_absent(NotHere)), Got::Denied, Got::Denied),
        (Some(endless), Some(all_absent(NotHere)), Got::Failed, Got::Failed),
        (Some(long), Some(all_absent(NotHere)), Got::Failed, Got::Failed),
    ] {
        let mut others = Others::default();
        for (node, script) in [("first", first), ("second", second)] {
            others = match script {
                Some(script) => others.with_script(node, script).await,
                None => others.with_dead(node).await,
            };
        }
        let fetcher = others.fetcher(&here);
        let first = name("first");
        assert_eq!(fetcher.get_all(vec![wanted], Some(&first)).await, [(wanted, with_first)]);
        assert_eq!(fetcher.get_from_any(&wanted).await, from_any);
        assert!(!here.blobs().has(&wanted.hash) && !fetcher.get_now(wanted.hash).await);
    }
    // Without another node there is no denial.
    assert_eq!(Others::default().fetcher(&here).get_from_any(&wanted).await, Got::Failed);
}

#[tokio::test]
async fn node_without_space_asks_no_further_node_for_a_copy() {
    let ((here, _a), (first, _b), (second, _c)) = (full_store("here"), store("first"), store("second"));
    let blob = first.blobs().put(audio(1, 1_000)).await.expect("a blob");
    second.blobs().put(audio(1, 1_000)).await.expect("a blob");
    let others = Others::default().with_store("first", &first).await.with_store("second", &second).await;
    let asked = others.asked.clone();
    let fetcher = others.fetcher(&here);
    for attempt in 1..=2 {
        assert_eq!(fetcher.get_from_any(&blob).await, Got::Failed);
        let asked = asked.lock().expect("the requests").clone();
        assert_eq!(asked.get("first").map(Vec::len), Some(attempt));
        assert_eq!(asked.get("second"), None);
    }
}

#[tokio::test]
async fn blob_of_which_only_the_hash_is_known_comes_and_replaces_a_damaged_one() {
    let ((here, _a), (other, _b)) = (store("here"), store("other"));
    let blob = other.blobs().put(audio(1, 300_000)).await.expect("a blob");
    let fetcher = Others::default().with_store("other", &other).await.fetcher(&here);
    assert!(fetcher.get_now(blob.hash).await && fetcher.get_now(blob.hash).await);
    assert!(fetcher.replace(&blob).await);
    assert_eq!(here.blobs().read(&blob.hash).await, Ok(audio(1, 300_000)));
    assert_eq!(fetcher.counts(), (0, 2));
}

#[tokio::test]
async fn node_that_moves_is_asked_at_its_new_address_and_a_removed_node_is_not_asked() {
    let ((here, _a), (old, _b), (new, _c)) = (store("here"), store("old"), store("new"));
    let mut blobs = Vec::new();
    for (number, holder) in [&old, &new, &new].into_iter().enumerate() {
        blobs.push(holder.blobs().put(audio(number, 1_000)).await.expect("a blob"));
    }
    let others = Others::default().with_store("b", &old).await;
    let moved = Others::default().with_store("b", &new).await;
    let addresses = others.addresses.clone();
    let fetcher = others.fetcher(&here);
    assert_eq!(fetcher.get_from_any(&blobs[0]).await, Got::Here);
    let at_new = moved.addresses.lock().expect("the addresses").clone();
    *addresses.lock().expect("the addresses") = at_new;
    assert_eq!(fetcher.get_from_any(&blobs[1]).await, Got::Here, "only the node at the new address has it");
    addresses.lock().expect("the addresses").clear();
    let b = name("b");
    assert_eq!(fetcher.get_all(vec![blobs[2]], Some(&b)).await, [(blobs[2], Got::Failed)]);
    assert_eq!(moved.asked.lock().expect("the requests")["b"], [(1, 0)], "not asked after its removal");
}

#[test]
fn requests_out_of_bounds_are_refused() {
    let hash = || Bytes::from(vec![1; 32]);
    for (hash, is_right) in [
        (vec![], false),
        (vec![hash()], true),
        (vec![Bytes::from(vec![1; 31])], false),
        (vec![hash(); MAX_ASKED], true),
        (vec![hash(); MAX_ASKED + 1], false),
    ] {
        let read = BlobsRequest::read(&FetchBlobsRequest { hash, offset: u64::MAX });
        assert_eq!(read.is_ok(), is_right);
        assert!(read.err().is_none_or(|status| status.code() == Code::InvalidArgument));
    }
}
