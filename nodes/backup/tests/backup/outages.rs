//! Stores that refuse, die or do not answer: each ends with an error that says what to do, and no backup that counts.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use twinbox_backup::{BackupError, BackupFolder, Observer, Progress, S3Failure, S3FailureKind, S3Settings, create};
use twinbox_clock::BootInstant;
use twinbox_peer_kit::S3Server;
use twinbox_store_kit::audio;

use crate::{
    buckets::{complete, verified, write_rows},
    support::{Bucket, Fixture, OLD, aside, silent},
};

/// Limit of waits for what takes a moment.
const SOON: Duration = Duration::from_secs(30);

/// The failure of all commands that use the destination; it names the endpoint and bucket, and no secret.
async fn failure(destination: &str, settings: &S3Settings) -> S3Failure {
    let folder = BackupFolder::open(destination, Some(settings)).expect("a destination");
    let fixture = Fixture::with(folder.clone());
    fixture.node.store.set_cluster_id(OLD).await.expect("a cluster");
    let made = create(&fixture.node.mailstore, &folder, "test", &silent()).await.map(|made| made.name);
    let listed = aside(move || folder.entries()).await.map(|entries| format!("{entries:?}"));
    let mut failures = [made, listed].map(|result| match result {
        Err(BackupError::S3(failure)) => *failure,
        other => panic!("{other:?}"),
    });
    let [made, listed] = &mut failures;
    assert_eq!(made.kind, listed.kind, "{made} / {listed}");
    let text = made.to_string();
    assert!(text.contains(&settings.endpoint_url()) && !text.contains(S3Server::SECRET), "{text}");
    made.clone()
}

#[tokio::test]
async fn wrong_key_missing_bucket_and_no_server_are_told_apart() {
    let server = S3Server::start();
    let right = server.settings();
    let secret = S3Settings { secret_key: "another-secret".to_owned(), ..right.clone() };
    let found = failure("s3://voicemail/x", &secret).await;
    assert_eq!(found.kind, S3FailureKind::WrongKey, "{found}");
    assert!(found.to_string().contains("backup.s3.secret_key"), "{found}");
    let key = S3Settings { access_key: "AKIAOTHER".to_owned(), ..right.clone() };
    let found = failure("s3://voicemail/x", &key).await;
    assert!(matches!(found.kind, S3FailureKind::WrongKey), "{found}");
    let found = failure("s3://other/x", &right).await;
    assert_eq!(found.kind, S3FailureKind::NoBucket, "{found}");
    assert!(found.to_string().contains("'other'"), "{found}");
    // Bound and never listening: no other test gets its port.
    let closed = tokio::net::TcpSocket::new_v4().expect("a socket");
    closed.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let closed_at = closed.local_addr().expect("an address");
    let endpoint = Some(format!("http://{closed_at}"));
    let none = S3Settings { endpoint, timeout: Duration::from_secs(2), ..right.clone() };
    let found = failure("s3://voicemail/x", &none).await;
    assert_eq!(found.kind, S3FailureKind::Unreachable, "{found}");
    assert!(found.to_string().contains("voicemail"), "{found}");
    let nameless = S3Settings { endpoint: Some("https://no-such-host.invalid".to_owned()), ..none };
    if let Ok(folder) = BackupFolder::open("s3://voicemail", Some(&nameless)) {
        let found = aside(move || folder.entries()).await.expect_err("no such host").to_string();
        assert!(found.contains("no-such-host.invalid"), "{found}");
    }
}

#[test]
fn destinations_without_bucket_or_settings_are_refused() {
    let refused = BackupFolder::open("s3://voicemail/x", None).expect_err("no settings");
    assert!(refused.to_string().contains("backup.s3"), "{refused}");
    let server = S3Server::start();
    for destination in ["s3://", "s3:///x", "s3://voicemail/../x", "s3://voice mail", "s3://voicemail//x"] {
        let refused = BackupFolder::open(destination, Some(&server.settings())).expect_err(destination);
        assert!(matches!(refused, BackupError::S3Destination(_)), "{destination}: {refused}");
    }
}

#[tokio::test]
async fn server_that_never_answers_is_given_up() {
    let silent_one = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent_one.local_addr().expect("an address");
    // Accepts and holds connections, and says nothing.
    std::thread::spawn(move || silent_one.incoming().flatten().collect::<Vec<_>>());
    let server = S3Server::start();
    let endpoint = Some(format!("http://{address}"));
    let settings = S3Settings { endpoint, timeout: Duration::from_secs(1), ..server.settings() };
    let began = BootInstant::now();
    let found = failure("s3://voicemail/x", &settings).await;
    assert_eq!(found.kind, S3FailureKind::Silent, "{found}");
    let text = found.to_string();
    assert!(text.contains("'voicemail'") && text.contains("backup.s3.timeout_seconds"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(120), "two commands: {:?}", began.elapsed());
}

#[tokio::test]
async fn server_that_dies_in_an_upload_leaves_no_backup_and_the_next_one_is_whole() {
    let server = S3Server::start();
    let settings = S3Settings { timeout: Duration::from_secs(5), ..server.settings() };
    let folder = BackupFolder::open("s3://voicemail/of/twinbox", Some(&settings)).expect("a destination");
    let fixture = Fixture::with(folder);
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    let first = fixture.create().await;
    write_rows(&fixture.node, 1_100, 16).await;
    fixture.node.leave(mailbox.id, &audio(3_000)).await;
    // In the second part of the records, then in the last one.
    for bytes in [12 << 20, 17 << 20] {
        server.die_after(bytes);
        let failed = create(&fixture.node.mailstore, &fixture.folder, "test", &silent()).await;
        assert!(server.is_dead());
        let Err(BackupError::S3(failure)) = failed else { panic!("{failed:?}") };
        assert!(failure.to_string().contains(&settings.endpoint_url()), "{failure}");
        server.revive();
        assert_eq!(complete(&fixture).await, std::slice::from_ref(&first.name));
        assert!(verified(&fixture).await.expect("verified")[0].is_whole());
    }
    let second = fixture.create().await;
    assert_eq!(complete(&fixture).await, [first.name, second.name]);
    let found = verified(&fixture).await.expect("verified");
    assert!(found.iter().all(|verified| verified.is_whole()), "{found:?}");
}

#[tokio::test]
async fn server_that_dies_while_backups_are_verified_is_no_damage() {
    let server = S3Server::start();
    let settings = S3Settings { timeout: Duration::from_secs(2), ..server.settings() };
    let folder = BackupFolder::open("s3://voicemail/of/twinbox", Some(&settings)).expect("a destination");
    let fixture = Fixture::with(folder);
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    fixture.create().await;
    fixture.create().await;
    let folder = fixture.folder.clone();
    let backups = aside(move || folder.backups_by_age()).await.expect("backups");
    let (server, folder) = (Arc::new(server), fixture.folder.clone());
    let dying = server.clone();
    // Dead when the first backup was read.
    let observer: Observer = Arc::new(move |_: Progress| dying.die_after(-1));
    let failed = aside(move || twinbox_backup::verify(&folder, &backups, &observer)).await;
    assert!(matches!(failed, Err(BackupError::S3(_))), "{failed:?}");
    server.revive();
    assert!(verified(&fixture).await.expect("verified")[0].is_whole());
}

#[tokio::test]
async fn backup_that_is_stopped_aborts_its_upload_and_removes_its_mark() {
    let server = Arc::new(S3Server::start());
    let fixture = Fixture::with(server.folder());
    fixture.node.store.set_cluster_id(OLD).await.expect("a cluster");
    write_rows(&fixture.node, 1_100, 16).await;
    let (reached, waits) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    // Stands still after the first thousand records, of which a part was sent.
    let observer: Observer = Arc::new(move |_: Progress| {
        let _ = reached.send(());
        let _ = gate.lock().expect("a gate").recv();
    });
    let (mailstore, folder) = (fixture.node.mailstore.clone(), fixture.folder.clone());
    let making = tokio::spawn(async move { create(&mailstore, &folder, "test", &observer).await.map(|_| ()) });
    aside(move || waits.recv()).await.expect("it is made");
    assert!(server.upload_files() > 0, "an upload has begun");
    assert_eq!(server.below("locks").len(), 1);
    making.abort();
    let _ = making.await;
    drop(go);
    let looked = server.clone();
    let is_clean = aside(move || {
        let began = BootInstant::now();
        while looked.upload_files() > 0 || !looked.below("locks").is_empty() {
            if began.elapsed() > SOON {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    });
    assert!(is_clean.await, "{} parts, {:?}", server.upload_files(), server.below("locks"));
    assert!(server.below("backups").is_empty());
}
