//! The data of a node that does not run.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, chown},
    path::Path,
    sync::Arc,
};

use tempfile::TempDir;
use twinbox_backup::{Observer, Progress};
use twinbox_config::NodeConfig;
use twinbox_pki::{CertificateAuthority, MemberKind};
use twinbox_stopped_node::{StoppedNodeError, back_up_stopped, open_bucket, overwrite_data};
use twinbox_store_kit::{Node, audio, name};

/// The configuration of a node with this data folder.
fn config(dir: &Path) -> NodeConfig {
    let cluster = "00112233445566778899aabbccddeeff".parse().expect("an id");
    let authority = CertificateAuthority::create(cluster, "example").expect("an authority");
    let tls = dir.join("tls");
    fs::create_dir(&tls).expect("a folder");
    authority.issue(&name("a"), MemberKind::Node).expect("a certificate").save(&tls).expect("saved");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/node.example.toml");
    let text = fs::read_to_string(example).expect("the example");
    let text = text.replace("/var/lib/twinbox/tls", &tls.display().to_string());
    let text = text.replace("\"/var/lib/twinbox\"", &format!("{dir:?}"));
    let file = dir.join("node.toml");
    fs::write(&file, text).expect("written");
    NodeConfig::load(&file).unwrap_or_else(|error| panic!("{error}"))
}

/// Damages the index so that it cannot be opened: every opening reads its newest snapshot.
fn spoil(index: &Path) {
    let files = fs::read_dir(index).expect("a folder").map(|entry| entry.expect("an entry").path());
    let snapshot = files.filter(|path| path.to_string_lossy().contains("/snap.")).max().expect("a snapshot");
    let file = File::options().read(true).write(true).open(snapshot).expect("a file");
    let (middle, mut byte) = (file.metadata().expect("a file").len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).expect("a byte");
    file.write_all_at(&[!byte[0]], middle).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_index_is_set_aside_and_what_it_still_has_is_backed_up() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path());
    let store = dir.path().join("store");
    {
        let node = Node::alone(&store, "a");
        node.store.set_cluster_id(config.cluster.id).await.expect("a cluster");
        let mailbox = node.mailbox().await;
        node.leave(mailbox.id, &audio(2_000)).await;
    }
    // Each opening writes a snapshot.
    drop(Node::alone(&store, "a"));
    spoil(&store.join("db/index"));
    let silent: Observer = Arc::new(|_: Progress| {});
    let other = TempDir::new().expect("a folder");
    let made = back_up_stopped(&config, other.path(), "test", &silent).await.expect("a backup");
    let [salvaged] = &made.salvaged[..] else { panic!("{:?}", made.salvaged) };
    assert!(salvaged.contains("db.unreadable-") && salvaged.contains("changes taken over"), "{salvaged}");
    let manifest = &made.created.manifest;
    assert_eq!((manifest.messages(), manifest.audio.count, manifest.has_all_records), (1, 1, false));
    // The next one finds the new index.
    let again = back_up_stopped(&config, other.path(), "test", &silent).await.expect("a backup");
    assert_eq!(again.salvaged, Vec::<String>::new());
    let within = back_up_stopped(&config, &dir.path().join("backups"), "test", &silent).await;
    let refused = within.map(drop).expect_err("inside the data folder").to_string();
    assert!(refused.contains("give a folder outside of it"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_a_node_that_runs_is_refused_with_the_way_to_make_a_backup() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path());
    let node = Node::alone(&dir.path().join("store"), "a");
    let (silent, other): (Observer, _) = (Arc::new(|_: Progress| {}), TempDir::new().expect("a folder"));
    let backup = back_up_stopped(&config, other.path(), "test", &silent).await;
    let refused = backup.map(drop).expect_err("its node runs");
    assert!(matches!(refused, StoppedNodeError::BackupInUse(_)), "{refused}");
    assert!(refused.to_string().contains("leave --config out"), "{refused}");
    let refused = overwrite_data(&config).await.map(drop).expect_err("its node runs");
    assert!(matches!(refused, StoppedNodeError::InUse(_)), "{refused}");
    assert!(!refused.to_string().contains("backup"), "{refused}");
    drop(node);
    back_up_stopped(&config, other.path(), "test", &silent).await.expect("a backup");
}

/// The node could not open what root leaves in its store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_of_another_user_is_refused_before_it_is_opened() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path());
    let store = dir.path().join("store");
    drop(Node::alone(&store, "a"));
    if chown(&store, Some(4_242), None).is_err() {
        println!("not run: needs root (store_of_another_user_is_refused_before_it_is_opened)");
        return;
    }
    let silent: Observer = Arc::new(|_: Progress| {});
    let backup = back_up_stopped(&config, &dir.path().join("backups"), "test", &silent).await;
    let refused = backup.map(drop).expect_err("another user's");
    assert!(matches!(refused, StoppedNodeError::OtherUser { owner: 4_242, .. }), "{refused}");
    let file = dir.path().join("node.toml");
    let opened = tokio::task::spawn_blocking(move || open_bucket("s3://backups", &file).map(drop)).await;
    let refused = opened.expect("it ends").expect_err("another user's").to_string();
    assert!(refused.contains("belongs to the user with the id 4242") && refused.contains("sudo -u"), "{refused}");
}
