//! Alarms as an administrator sees them.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use twinbox_alarms::Code;
use twinbox_wire::events::{AlarmListRequest, events_client::EventsClient};

use crate::node::AdminNode;

/// Longest wait for an alarm; the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarm_about_a_mailbox_is_shown_with_its_number() {
    let node = AdminNode::formed().await;
    let mailbox = node.node.mailbox().await;
    let alarms = node.alarms.clone();
    tokio::spawn(async move { alarms.serve(None, CancellationToken::new()).await });
    node.alarms.raise(Code::MailboxSyncHeldBack, &mailbox.id.to_string(), "two are missing");
    let mut events = EventsClient::new(node.channel.clone());
    let shown = async {
        loop {
            let listed = events.alarm_list(AlarmListRequest::default()).await.expect("a list").into_inner();
            if let Some(alarm) = listed.alarms.into_iter().find(|alarm| alarm.code == "mailbox-sync-held-back") {
                return alarm;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let alarm = timeout(PATIENCE, shown).await.expect("the alarm is listed in time");
    assert_eq!(alarm.subject, mailbox.id.to_string(), "alarms reach logs, which have no numbers");
    assert_eq!(alarm.detail, "mailbox 1001: two are missing");
}
