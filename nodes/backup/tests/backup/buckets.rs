//! Backups in a bucket of an S3 server of this process.

use std::{fs, num::NonZeroU32, path::Path, time::Duration};

use tempfile::TempDir;
use twinbox_backup::{
    BackupError, EntryState, MailboxRestore, S3FailureKind, Verified, prune, restore_mailbox, verify,
};
use twinbox_mailstore::Mark;
use twinbox_peer_kit::S3Server;
use twinbox_replication_core::{Edit, Key, Table, Value};
use twinbox_store_kit::{Node, audio};

use crate::support::{Bucket, Fixture, NEW, aside, heard, silent};

/// A table of no release so far.
const UNKNOWN: Table = Table(50_000);

/// Writes rows of this many KiB.
pub async fn write_rows(node: &Node, rows: u32, kib: usize) {
    for first in (0..rows).step_by(100) {
        let write = move |draft: &mut twinbox_replication_store::Draft<'_>| {
            for row in first..rows.min(first + 100) {
                let value = Value::Bytes(vec![row.to_be_bytes()[3]; kib << 10]);
                draft.edit(Key::new(UNKNOWN, row.to_be_bytes()), vec![Edit::Set(9, value)])?;
            }
            Ok::<_, twinbox_replication_store::StoreError>(())
        };
        node.store.commit(write).await.expect("written");
    }
}

/// Verifies all backups of the fixture.
pub async fn verified(fixture: &Fixture) -> Result<Vec<Verified>, BackupError> {
    let folder = fixture.folder.clone();
    aside(move || verify(&folder, &folder.backups_by_age()?, &silent())).await
}

/// Names of the complete backups.
pub async fn complete(fixture: &Fixture) -> Vec<String> {
    let folder = fixture.folder.clone();
    let backups = aside(move || folder.backups_by_age()).await.expect("backups");
    backups.into_iter().map(|backup| backup.name).collect()
}

/// Flips a byte in the middle of a file.
fn flip(file: &Path) {
    let mut bytes = fs::read(file).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).expect("written");
}

#[tokio::test]
async fn backups_in_a_bucket_share_audio_and_are_verified_restored_and_pruned() {
    let server = S3Server::start();
    let fixture = Fixture::with(server.folder());
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    let first = fixture.create().await;
    assert_eq!((first.manifest.audio.count, first.manifest.audio.copied), (1, 1));
    assert_eq!(first.location, format!("s3://voicemail/of/twinbox/backups/{}", first.name));
    fixture.node.leave(mailbox.id, &audio(3_000)).await;
    let second = fixture.create().await;
    assert_eq!((second.manifest.audio.count, second.manifest.audio.copied), (2, 1), "only what is new");
    let third = fixture.create().await;
    assert_eq!((third.manifest.audio.count, third.manifest.audio.copied), (2, 0));
    assert_eq!(server.below("audio").len(), 2);
    assert_eq!(complete(&fixture).await, [&first.name, &second.name, &third.name].map(String::clone));
    let found = verified(&fixture).await.expect("verified");
    assert!(found.len() == 3 && found.iter().all(Verified::is_whole), "{found:?}");

    // A deleted message comes back from the bucket.
    let before = heard(&fixture.node, mailbox.id).await;
    fixture.node.mailstore.mark(mailbox.id, before[0].0.id, Mark::Deleted).await.expect("deleted");
    let from = fixture.folder.clone();
    let backup = aside(move || from.find(None, None)).await.expect("a backup");
    let order = MailboxRestore { number: "1001".to_owned(), to: None };
    let restored = restore_mailbox(&fixture.node.mailstore, &fixture.folder, &backup, &order, &silent()).await;
    assert_eq!(restored.expect("restored").restored.len(), 1);

    let dir = TempDir::new().expect("a directory");
    let restored = fixture.restore(dir.path(), NEW).await.expect("restored");
    assert_eq!((restored.audio, restored.missing.len()), (2, 0));
    let node = Node::alone(&dir.path().join("store"), "a");
    assert_eq!(format!("{:?}", heard(&node, mailbox.id).await), format!("{before:?}"));

    let folder = fixture.folder.clone();
    let pruned = aside(move || prune(&folder, NonZeroU32::MIN, None)).await.expect("pruned");
    assert_eq!((pruned.removed, pruned.audio), (vec![first.name, second.name], 0));
    assert_eq!(complete(&fixture).await, std::slice::from_ref(&third.name));
    assert_eq!(server.below("backups").len(), 3, "the files of one backup");
    let found = verified(&fixture).await.expect("verified");
    assert!(found.len() == 1 && found[0].is_whole(), "{found:?}");
    assert_eq!(server.upload_files(), 0);
}

#[tokio::test]
async fn objects_are_the_files_of_a_backup_in_a_folder() {
    let server = S3Server::start();
    let fixture = Fixture::with(server.folder());
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    let made = fixture.create().await;
    let copy = twinbox_backup::BackupFolder::at(server.objects());
    let found = verify(&copy, &copy.backups_by_age().expect("backups"), &silent()).expect("verified");
    assert!(found.len() == 1 && found[0].name == made.name && found[0].is_whole(), "{found:?}");
}

#[tokio::test]
async fn verify_names_each_damaged_or_lost_object() {
    let server = S3Server::start();
    let fixture = Fixture::with(server.folder());
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(2_000)).await;
    let made = fixture.create().await;
    let backup = server.objects().join("backups").join(&made.name);
    let files = [server.below("audio").remove(0), backup.join("rows"), backup.join("audio.list")];
    for file in files {
        let right = fs::read(&file).expect("a file");
        let named = file.strip_prefix(server.objects()).expect("an object").display().to_string();
        flip(&file);
        let faults = verified(&fixture).await.expect("verified").remove(0).faults;
        assert!(faults.iter().any(|fault| fault.contains(&format!("of/twinbox/{named}"))), "{named}: {faults:?}");
        fs::remove_file(&file).expect("removed");
        let faults = verified(&fixture).await.expect("verified").remove(0).faults;
        assert!(faults.iter().any(|fault| fault.contains(&named)), "{named}: {faults:?}");
        fs::write(&file, &right).expect("written");
        assert_eq!(verified(&fixture).await.expect("verified").remove(0).faults, Vec::<String>::new());
    }
    fs::write(backup.join("manifest.json"), b"{").expect("written");
    let folder = fixture.folder.clone();
    let entry = aside(move || folder.entries()).await.expect("entries").remove(0);
    assert!(matches!(entry.state, EntryState::Unreadable(_)), "{:?}", entry.state);
}

#[tokio::test]
async fn large_file_of_records_is_sent_in_parts_and_read_in_ranges() {
    let server = S3Server::start();
    let fixture = Fixture::with(server.folder());
    write_rows(&fixture.node, 1_100, 16).await;
    let made = fixture.create().await;
    assert!(made.manifest.rows.bytes > 17_000_000, "{}", made.manifest.rows.bytes);
    assert_eq!(server.upload_files(), 0, "all parts are one object");
    let found = verified(&fixture).await.expect("verified");
    assert!(found[0].is_whole() && found[0].records == made.manifest.records(), "{found:?}");
    let dir = TempDir::new().expect("a directory");
    let restored = fixture.restore(dir.path(), NEW).await.expect("restored");
    assert_eq!(restored.records, made.manifest.records());
}

#[tokio::test]
async fn prune_removes_what_is_ours_alone() {
    let server = S3Server::start();
    let fixture = Fixture::with(server.folder());
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(1_000)).await;
    let made = fixture.create().await;
    let objects = server.objects();
    let hash = "ab".repeat(32);
    let put = |path: String| {
        let file = objects.join(path);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, b"other").expect("written");
        file
    };
    let foreign = [
        put("backups/mysql/dump".to_owned()),
        put("other".to_owned()),
        put(format!("audio/{hash}")),
        put(format!("audio/music/{hash}")),
        put(format!("audio/ab/{hash}.wav")),
        put(format!("audio/ab/deep/{hash}")),
    ];
    let ours = [put(format!("audio/ab/{hash}")), put("backups/20260101T000000.000Z-a/rows".to_owned())];
    let folder = fixture.folder.clone();
    let pruned = aside(move || prune(&folder, NonZeroU32::MIN, None)).await.expect("pruned");
    assert_eq!((pruned.kept, pruned.audio, pruned.bytes), (vec![made.name], 1, 5));
    assert_eq!(pruned.unfinished, ["20260101T000000.000Z-a"]);
    assert!(foreign.iter().all(|file| file.exists()) && !ours.iter().any(|file| file.exists()));
}

#[tokio::test]
async fn commands_that_do_not_go_together_are_refused_until_the_mark_is_old() {
    let server = S3Server::start();
    let fixture = Fixture::with(server.folder());
    let made = fixture.create().await;
    let locks = server.objects().join("locks");
    fs::create_dir_all(&locks).expect("a folder");
    let attempt = |keep: bool| {
        let folder = fixture.folder.clone();
        aside(move || match keep {
            true => prune(&folder, NonZeroU32::MIN, None).map(|_| ()),
            false => verify(&folder, &folder.backups_by_age()?, &silent()).map(|_| ()),
        })
    };
    let (using, pruning) = (locks.join("use-0123456789abcdef"), locks.join("prune-0123456789abcdef"));
    fs::write(&using, b"a backup").expect("written");
    let refused = attempt(true).await;
    assert!(matches!(refused, Err(BackupError::BusyBucket(_))), "{refused:?}");
    attempt(false).await.expect("readers go together with a backup");
    fs::rename(&using, &pruning).expect("renamed");
    for keep in [true, false] {
        let refused = attempt(keep).await;
        assert!(matches!(refused, Err(BackupError::BusyBucket(_))), "{refused:?}");
        assert_eq!(fs::read_dir(&locks).expect("a folder").count(), 1, "a refused command leaves no mark");
    }
    // Written for the last time more than half an hour ago: its command was killed.
    let file = fs::File::options().write(true).open(&pruning).expect("a file");
    let written = file.metadata().expect("a file").modified().expect("a time");
    file.set_modified(written - Duration::from_secs(31 * 60)).expect("set");
    attempt(false).await.expect("verified");
    attempt(true).await.expect("pruned");
    assert!(!pruning.exists(), "an old mark is removed");
    assert_eq!(complete(&fixture).await, [made.name]);
    assert_eq!(server.below("locks"), Vec::<std::path::PathBuf>::new(), "each command removes its mark");
}

#[tokio::test]
async fn prune_is_refused_while_a_backup_is_made() {
    let server = S3Server::start();
    let fixture = Fixture::with(server.folder());
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(1_000)).await;
    fixture.create().await;
    let (reached, waits) = std::sync::mpsc::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    // Stands still before the last step.
    let observer: twinbox_backup::Observer = std::sync::Arc::new(move |progress: twinbox_backup::Progress| {
        if progress.phase == twinbox_backup::Phase::Sync {
            reached.send(()).expect("awaited");
            gate.lock().expect("a gate").recv().expect("opened");
        }
    });
    let (mailstore, folder) = (fixture.node.mailstore.clone(), fixture.folder.clone());
    let making = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(twinbox_backup::create(&mailstore, &folder, "test", &observer))
    });
    aside(move || waits.recv()).await.expect("it is made");
    let folder = fixture.folder.clone();
    let refused = aside(move || prune(&folder, NonZeroU32::MIN, None)).await;
    assert!(matches!(refused, Err(BackupError::BusyBucket(_))), "{refused:?}");
    go.send(()).expect("it waits");
    let made = aside(move || making.join().expect("it ends")).await.expect("a backup");
    let folder = fixture.folder.clone();
    let pruned = aside(move || prune(&folder, NonZeroU32::MIN, None)).await.expect("pruned");
    assert_eq!(pruned.kept, [made.name]);
    assert!(verified(&fixture).await.expect("verified")[0].is_whole());
}

#[tokio::test]
async fn audio_that_was_removed_while_a_backup_was_made_fails_it() {
    let server = S3Server::start();
    let fixture = Fixture::with(server.folder());
    let mailbox = fixture.node.mailbox().await;
    fixture.node.leave(mailbox.id, &audio(1_000)).await;
    let first = fixture.create().await;
    let audio = server.below("audio").remove(0);
    let observer: twinbox_backup::Observer = std::sync::Arc::new(move |progress: twinbox_backup::Progress| {
        if progress.phase == twinbox_backup::Phase::Sync {
            fs::remove_file(&audio).expect("removed");
        }
    });
    let failed = twinbox_backup::create(&fixture.node.mailstore, &fixture.folder, "test", &observer).await;
    assert!(matches!(failed, Err(BackupError::Vanished(_))), "{failed:?}");
    assert_eq!(server.below("locks"), Vec::<std::path::PathBuf>::new(), "its mark is removed when it returns");
    assert_eq!(server.below("backups").len(), 3, "so is what it wrote");
    assert_eq!(complete(&fixture).await, [first.name]);
    assert_eq!(fixture.create().await.manifest.audio.copied, 1, "the next one copies it again");
}

#[tokio::test]
async fn server_with_another_authority_is_refused_and_with_its_own_accepted() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let chain = vec![key.cert.der().clone()];
    let secret = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret.expect("a key")))
        .expect("TLS");
    let server = S3Server::start_tls(std::sync::Arc::new(tls).into());
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let dir = TempDir::new().expect("a directory");
    let open = |file: &str, pem: String| {
        let path = dir.path().join(file);
        fs::write(&path, pem).expect("written");
        let settings = twinbox_backup::S3Settings { ca_file: Some(path), ..server.settings() };
        twinbox_backup::BackupFolder::open("s3://voicemail/of/twinbox", Some(&settings)).expect("a destination")
    };
    let wrong = open("other.pem", other.cert.pem());
    match aside(move || wrong.entries()).await {
        Err(BackupError::S3(failure)) => {
            assert_eq!(failure.kind, S3FailureKind::Certificate, "{failure}");
            assert!(failure.to_string().contains("backup.s3.ca_file"), "{failure}");
        }
        found => panic!("{found:?}"),
    }
    let fixture = Fixture::with(open("own.pem", key.cert.pem()));
    let made = fixture.create().await;
    assert_eq!(complete(&fixture).await, [made.name]);
}
