//! The works that come with the crate.

use twinbox_alarms::Code;
use twinbox_mailstore::{NewMailbox, Rule, SystemContent, UserAddress, UserAddresses};
use twinbox_system_mail::SystemMails;
use twinbox_timetable::{JobKind, RunState};
use twinbox_timetable_duty::{Works, ageing, quota_warnings};
use twinbox_timetable_store::TimetableStore;

use crate::support::Node;

#[tokio::test]
async fn quota_warnings_list_the_mailboxes_above_their_share_and_raise_an_alarm() {
    let node = Node::alone().await;
    let _duty = node.duty(works(&node));
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
    assert_eq!(run.outcome, "0 messages deleted, of 2 mailboxes");
}

fn works(node: &Node) -> Works {
    let quota = quota_warnings(node.mailstore.clone(), node.alarms.clone(), mails(node, true));
    let ageing = ageing(node.mailstore.clone(), mails(node, true));
    Works::default().with(JobKind::QuotaWarnings, quota).with(JobKind::Ageing, ageing)
}

fn mails(node: &Node, mail_out: bool) -> SystemMails {
    SystemMails::new(node.mailstore.clone(), move || mail_out)
}

#[tokio::test]
async fn owners_are_warned_once_and_those_without_an_address_are_counted() {
    let node = Node::alone().await;
    let _duty = node.duty(works(&node));
    node.hold(1);
    let store = &node.mailstore;
    for (number, mail) in [("1001", Some("anna@example.test")), ("1002", None)] {
        let mail = mail.map(|mail| UserAddress::address(mail).expect("an address"));
        let addresses = UserAddresses { mail, ..UserAddresses::default() };
        let new = NewMailbox { addresses, ..NewMailbox::new(number, "2580") };
        leave(&node, store.create(new).await.expect("a mailbox").0.id).await;
    }
    store.change_class("default", vec![(Rule::Messages, Some(1))]).await.expect("changed");
    let quota = node.add_kind(JobKind::QuotaWarnings, "quota", &["owners=yes"]).await;
    let timetable = TimetableStore::of(store);
    timetable.request_job_run(quota).await.expect("requested");
    let first = node.until(quota, RunState::Done).await;
    assert!(first.outcome.contains("1 owners warned, 1 have no mail address"), "{}", first.outcome);
    // Two days for the message: it is told of at once.
    let rules = vec![(Rule::NewDays, Some(2)), (Rule::WarnDays, Some(3))];
    store.change_class("default", rules).await.expect("changed");
    let ageing = node.request("ageing", &[]).await;
    let aged = node.until(ageing, RunState::Done).await;
    assert!(aged.outcome.ends_with("; 1 owners warned, 1 have no mail address"), "{}", aged.outcome);

    let effects = store.effects().await.expect("effects");
    let of = |effect| store.system_mail_of(effect).expect("readable").expect("a mail").content;
    let contents: Vec<_> = effects.iter().map(of).collect();
    let count = |wanted: fn(&SystemContent) -> bool| contents.iter().filter(|content| wanted(content)).count();
    let quota = count(|content| matches!(content, SystemContent::Quota { percent: 100, .. }));
    let ageing = count(|content| matches!(content, SystemContent::Ageing { messages: 1, .. }));
    assert_eq!((quota, ageing, contents.len()), (1, 1, 2), "{contents:?}");
}

#[tokio::test]
async fn no_owner_is_warned_without_mail_out_and_the_outcome_says_so() {
    let node = Node::alone().await;
    let work = quota_warnings(node.mailstore.clone(), node.alarms.clone(), mails(&node, false));
    let _duty = node.duty(Works::default().with(JobKind::QuotaWarnings, work));
    node.hold(1);
    let mailbox = node.mailstore.create(NewMailbox::new("1001", "2580")).await.expect("a mailbox").0;
    leave(&node, mailbox.id).await;
    node.mailstore.change_class("default", vec![(Rule::Messages, Some(1))]).await.expect("changed");
    let quota = node.add_kind(JobKind::QuotaWarnings, "quota", &["owners=yes"]).await;
    TimetableStore::of(&node.mailstore).request_job_run(quota).await.expect("requested");
    let run = node.until(quota, RunState::Done).await;
    assert!(run.outcome.contains("mail out is not configured"), "{}", run.outcome);
    assert!(node.mailstore.effects().await.expect("effects").is_empty());
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
