use twinbox_wire::storage::Conflict;

use super::*;

fn comparison(equal: bool) -> Comparison {
    Comparison { peer: "b".to_owned(), rows: 7, took_ms: 1_250, equal, ..Comparison::default() }
}

#[test]
fn verification_succeeds_only_when_everything_was_compared_and_equal() {
    assert!(outcome(&[]).is_err() && outcome(&[comparison(true), comparison(false)]).is_err());
    assert!(outcome(&[comparison(true)]).is_ok());
    assert_eq!(verified(&comparison(true)), "b: equal, 7 records (1.250 s)");
    let row = Difference {
        table: "message".to_owned(),
        id: "0x01".to_owned(),
        node: "b".to_owned(),
        fault: "incomplete".to_owned(),
        fields: vec![1, 9],
        deletion: true,
        outcome: "repaired".to_owned(),
        ..Difference::default()
    };
    let differs = Comparison { differences: vec![row], more: 2, repaired: 3, ..comparison(false) };
    let text = verified(&differs);
    assert!(text.starts_with("b: 3 differences, 3 repaired (1.250 s)\n"), "{text}");
    assert!(text.contains("message 0x01: incomplete on b (field 1, field 9, deletion): repaired"), "{text}");
    let problem = Comparison { problem: "not possible with b".to_owned(), ..comparison(false) };
    assert_eq!(verified(&problem), "b: not compared completely: not possible with b");
    let read = Comparison { by: "c".to_owned(), ..comparison(true) };
    assert_eq!(verified(&read), "recordings of c: all there and undamaged (1.250 s)");
    let failed = Comparison { equal: false, problem: "c is away".to_owned(), ..read };
    assert_eq!(verified(&failed), "recordings of c: not compared completely: c is away");
    assert!(outcome(&[comparison(true), failed]).unwrap_err().to_string().contains("recordings of c"));
}

#[test]
fn progress_shows_share_and_time_left() {
    let half = progress(500, 500, 100.0, "records");
    assert!(
        half.starts_with("[###############...............] 50%")
            && half.ends_with("500 records missing, 100/s, 5 s left"),
        "{half}"
    );
    assert!(progress(0, 10, 0.0, "changes").ends_with("none come now"));
    assert!(progress(u64::MAX, 0, 0.0, "changes").starts_with("[##############################] 100%"));
}

#[test]
fn status_shows_the_lag_of_each_peer_in_changes_bytes_and_seconds() {
    let away = PeerReplication {
        name: "b".to_owned(),
        lag_changes: 12,
        lag_bytes: 3_400,
        lag_seconds: Some(90),
        ..PeerReplication::default()
    };
    assert_eq!(peer(&away), ["b", "not connected", "no", "12 changes", "3400", "90 s", "0/s", "-", "0"]);
    let since = 1_700_000_000_000;
    let here = PeerReplication {
        name: "c".to_owned(),
        connected_since_ms: Some(since),
        counts: true,
        rate: 2.4,
        last_comparison: Some(Comparison { began_ms: since, ..comparison(true) }),
        repairs: 1,
        ..PeerReplication::default()
    };
    let (since, compared) = (output::time(since), format!("{}: equal", output::time(since)));
    assert_eq!(peer(&here), ["c", &since, "yes", "0 changes", "0", "-", "2/s", &compared, "1"]);

    let reply = ReplicationStatusReply {
        node: "a".to_owned(),
        filled: "complete".to_owned(),
        on_two: 3,
        alone: 2,
        ..ReplicationStatusReply::default()
    };
    let text = status(&reply);
    assert!(text.contains("since its start 3 writes on two, 2 alone"), "{text}");
}

#[test]
fn conflict_names_the_holder_and_those_that_came_later() {
    assert_eq!(conflicts(ConflictsReply::default()), "no conflicts");
    let [holder, second, third] = ["11", "22", "33"].map(str::to_owned);
    let conflict = Conflict {
        kind: "mail address".to_owned(),
        name: "ada@example.com".to_owned(),
        holder,
        losers: vec![second, third],
    };
    let text = conflicts(ConflictsReply { conflicts: vec![conflict] });
    let row: Vec<_> = text.lines().last().into_iter().flat_map(str::split_whitespace).collect();
    assert_eq!(row, ["mail", "address", "ada@example.com", "11", "22", "33"], "{text}");
}

#[test]
fn node_that_copies_records_shows_records() {
    let of = |of| ReplicationStatusReply {
        filled: "partly".to_owned(),
        missing: 7_000,
        scan: Some(RecordScan { records: 300, of, rate: 50.0 }),
        ..ReplicationStatusReply::default()
    };
    let known = status(&of(400));
    assert!(known.contains("] 75% 100 records missing, 50/s, 2 s left"), "{known}");
    let unknown = status(&of(0));
    assert!(unknown.contains("300 records came, 50/s"), "{unknown}");
    assert!(!unknown.contains("missing"), "{unknown}");
}
