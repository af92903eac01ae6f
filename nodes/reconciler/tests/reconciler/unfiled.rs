//! Recordings that could not be filed are filed when the disk returns, and an alarm lasts until then (rule A1).

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use twinbox_alarms::{Alarms, Code, State};
use twinbox_mailstore::FileError;
use twinbox_reconciler::retry_unfiled;
use twinbox_store_kit::{Away, Node, audio, eventually, name, speak};

/// State of the alarm about node `a`, if it was ever raised.
fn state(alarms: &Alarms) -> Option<State> {
    let all = alarms.list().expect("a list");
    let unfiled = all.iter().find(|alarm| alarm.code == Some(Code::MessageUnfiled) && alarm.subject == "a");
    unfiled.map(|alarm| alarm.state())
}

#[tokio::test]
async fn unfiled_recording_raises_an_alarm_until_it_is_filed_without_another_call() {
    let dir = TempDir::new().expect("a folder");
    let home = dir.path().join("a");
    let node = Node::alone(&home, "a");
    // The alarms are in a store of their own, whose disk stays.
    let kept = Node::alone(&dir.path().join("alarms"), "a");
    let alarms = Alarms::open(kept.store.clone(), kept.peers.clone()).await.expect("alarms");
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (alarms, stop) = (alarms.clone(), stop.clone());
        async move { alarms.serve(None, stop).await }
    });
    let retrying = tokio::spawn(retry_unfiled(name("a"), node.mailstore.clone(), alarms.clone(), stop.clone()));

    let mailbox = node.mailbox().await.id;
    let spoken = audio(3_000);
    let live = node.begin(mailbox).await;
    speak(&live, 0, &spoken);
    assert!(live.whole().await);
    assert_eq!(state(&alarms), None);
    // Commits fail while the free space of the disk cannot be measured.
    let away = Away::take(&home).await;
    let error = live.file().await.expect_err("the disk is away");
    assert!(matches!(error, FileError::Full | FileError::Mail(_)), "{error}");
    eventually("the alarm is raised", async || state(&alarms) == Some(State::Raised)).await;
    assert_eq!(*node.mailstore.unfiled().borrow(), 1);

    away.put_back();
    eventually("the message is filed", async || *node.mailstore.unfiled().borrow() == 0).await;
    let messages = node.mailstore.messages(mailbox).await.expect("a list");
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((message.id, message.is_partial()), (live.message(), false));
    assert_eq!(node.mailstore.audio(message).await.expect("audio").bytes, spoken);
    eventually("the alarm is cleared", async || state(&alarms) == Some(State::Cleared)).await;

    stop.cancel();
    retrying.await.expect("it ends");
    serving.await.expect("it ends");
}
