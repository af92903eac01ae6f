//! The works that come with the crate.

use twinbox_alarms::Code;
use twinbox_mailstore::{NewMailbox, Rule};
use twinbox_timetable::{JobKind, RunState};
use twinbox_timetable_duty::{Works, ageing, quota_warnings};
use twinbox_timetable_store::TimetableStore;

use crate::support::Node;

#[tokio::test]
async fn quota_warnings_list_the_mailboxes_above_their_share_and_raise_an_alarm() {
    let node = Node::alone().await;
    let _duty = node.duty(
        Works::default()
            .with(JobKind::QuotaWarnings, quota_warnings(node.mailstore.clone(), node.alarms.clone()))
            .with(JobKind::Ageing, ageing(node.mailstore.clone())),
    );
    node.hold(1);
    for number in ["1001", "1002"] {
        node.mailstore.create(NewMailbox::new(number, "2580")).await.expect("a mailbox");
    }
    let usual = node.add_kind(JobKind::QuotaWarnings, "usual", &[]).await;
    TimetableStore::of(&node.mailstore).request_job_run(usual).await.expect("requested");
    let run = node.until(usual, RunState::Done).await;
    assert_eq!(run.outcome, "no mailbox is filled to 90 %");
    assert!(node.has_no_alarm());

    let mailbox = node.mailstore.find_by_number("1002").await.expect("readable").expect("a mailbox");
    leave(&node, mailbox.id).await;
    let rules = vec![(Rule::Messages, Some(2)), (Rule::NewDays, Some(1))];
    node.mailstore.change_class("default", rules).await.expect("changed");
    let half = node.add_kind(JobKind::QuotaWarnings, "half", &["share=50"]).await;
    TimetableStore::of(&node.mailstore).request_job_run(half).await.expect("requested");
    let run = node.until(half, RunState::Done).await;
    assert_eq!(run.outcome, "1 mailboxes are filled to 50 % or more: 1002 (50 %)");
    let alarm = node.alarm(Code::MailboxesNearlyFull, "half").await;
    assert!(!alarm.contains("1002"), "the list stays in the history: {alarm}");

    let ageing = node.request("ageing", &[]).await;
    let run = node.until(ageing, RunState::Done).await;
    assert_eq!(run.outcome, "0 messages deleted, 0 deleted ones purged, of 2 mailboxes");
}

async fn leave(node: &Node, mailbox: twinbox_ids::MailboxId) {
    use twinbox_mailstore::{Codec, RecordingMeta};
    let meta = RecordingMeta {
        mailbox,
        caller: None,
        caller_name: None,
        codec: Codec::Pcma,
        call: twinbox_ids::CallId::random(),
    };
    let live = node.mailstore.begin_recording(meta).await.expect("a recording");
    live.append(0, vec![0x55; 16_000].into()).expect("taken");
    live.file().await.expect("filed");
}
