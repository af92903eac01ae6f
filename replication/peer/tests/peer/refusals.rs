//! Clients that are not of the cluster, or send impossible data: refused, counted, and nothing is changed.

use std::ops::RangeInclusive;

use crate::kit::{
    Cluster, Node, name,
    raw::{Raw, hello},
    until,
};
use bytes::Bytes;
use tonic::Code;
use twinbox_ids::{ClusterId, Origin};
use twinbox_replication_core::Value;
use twinbox_replication_store::codec;
use twinbox_wire::replication::{
    Acked, FetchBlobsRequest, Hello, Prefix, Run, Vector, follower_frame, replication_client::ReplicationClient,
    source_frame::Frame,
};

async fn node_a() -> (Cluster, Node) {
    let cluster = Cluster::new(&["a", "b"]).await;
    let a = cluster.node("a").await;
    a.write("row", Value::Bytes(b"x".into())).await;
    (cluster, a)
}

#[tokio::test]
async fn node_of_another_cluster_is_refused_both_ways() {
    let (ours, a) = node_a().await;
    // The same names and addresses, another authority: another cluster, or an impostor of this one.
    let theirs = Cluster::new(&["b"]).await;
    let b = theirs.node("b").await;
    b.write("evil", Value::Bytes(b"y".into())).await;
    let foreign = theirs.identity("b");
    let endpoint = foreign.endpoint(&name("a"), &ours.address("a").to_string()).unwrap();
    assert!(endpoint.connect().await.is_err(), "it must not take our node for one of its own");

    let mut elsewhere = Cluster::new(&["a", "b"]).await;
    elsewhere.authority = ours.authority;
    let deceived = elsewhere.node_via("a", &[("b", theirs.address("b"))]).await;
    deceived.start();
    until("the foreign node has seen the attempt", || b.refused_clients() > 0).await;
    assert!(deceived.records().is_empty() && !deceived.status("b").following);
    assert_eq!((a.records().len(), b.records().len()), (1, 1));
}

#[tokio::test]
async fn invalid_frames_of_a_member_are_refused() {
    let (cluster, a) = node_a().await;
    let id = cluster.authority.cluster();
    let own = codec::origin_to_wire(a.store.origin());
    let too_much = Some(Vector { prefix: vec![Prefix { origin: own, upto: 2 }] });
    let cases = [
        ("another cluster", "b", Hello { ..hello(ClusterId::random(), "b") }, Code::PermissionDenied),
        ("another's name", "b", hello(id, "a"), Code::PermissionDenied),
        ("not configured", "x", hello(id, "x"), Code::PermissionDenied),
        ("another protocol", "b", Hello { protocol: 9, ..hello(id, "b") }, Code::FailedPrecondition),
        ("no origin", "b", Hello { origin: Bytes::new(), ..hello(id, "b") }, Code::InvalidArgument),
        (
            "more than this node has made",
            "b",
            Hello { vector: too_much, ..hello(id, "b") },
            Code::FailedPrecondition,
        ),
    ];
    for (count, (what, certificate, hello, code)) in (1..).zip(cases) {
        let refused = Raw::follow(&cluster.identity(certificate), &cluster, hello).await.err().expect(what);
        assert_eq!(refused.code(), code, "{what}: {refused}");
        assert_eq!(a.peers.counters().refused, count, "{what}");
    }
    assert_eq!(a.peers.counters().own_origin_alarms, 1);
    assert_eq!((a.peers.counting(), a.records().len()), (0, 1));

    let endpoint = cluster.identity("x").endpoint(&name("a"), &cluster.address("a").to_string()).unwrap();
    let mut client = ReplicationClient::new(endpoint.connect().await.unwrap());
    let request = FetchBlobsRequest { hash: vec![Bytes::from(vec![0; 32])], offset: 0 };
    assert_eq!(client.fetch_blobs(request).await.err().unwrap().code(), Code::PermissionDenied);
}

/// Node b acknowledges these changes on a stream of node a, which is to end.
async fn acknowledge_wrongly(cluster: &Cluster, a: &Node, origin: Origin, seqs: RangeInclusive<u64>) {
    let mut raw =
        Raw::follow(&cluster.identity("b"), cluster, hello(cluster.authority.cluster(), "b")).await.unwrap();
    assert!(matches!(raw.next().await, Ok(Frame::Welcome(_))));
    let (first, last) = seqs.into_inner();
    let run = Run { origin: codec::origin_to_wire(origin), first, last };
    raw.send(follower_frame::Frame::Acked(Acked { run: vec![run], vector: None })).await;
    until("the stream is closed", || !a.status("b").connected).await;
    assert_eq!((a.status("b").lag_changes, a.peers.behind()), (1, 0), "nothing of it is believed");
}

#[tokio::test]
async fn acknowledgement_of_unknown_changes_stops_the_stream() {
    let (cluster, a) = node_a().await;
    acknowledge_wrongly(&cluster, &a, a.store.origin(), 1..=7).await;
    until("the alarm", || a.peers.counters().own_origin_alarms == 1).await;
}

#[tokio::test]
async fn acknowledgement_of_changes_of_an_unknown_origin_stops_the_stream() {
    let (cluster, a) = node_a().await;
    acknowledge_wrongly(&cluster, &a, Origin::random(), 2..=2).await;
    assert_eq!(a.peers.counters().own_origin_alarms, 0);
}
