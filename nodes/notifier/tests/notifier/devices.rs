//! Text messages and webhooks, from a device to its receiver.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use twinbox_clock::{BootInstant, wall};
use twinbox_devices::{Device, DeviceChange, KindName, Templates};
use twinbox_duty::{ActOutcome, Channels, Notifications, Prepared};
use twinbox_ids::{DeviceId, Epoch, MessageId, Pii, Timestamp};
use twinbox_mailstore::NewMailbox;
use twinbox_notifier::{HttpChannels, HttpSettings, SmsGateway, SmsOut};
use twinbox_outbox::{Cause, Channel, NewEffect, Transition};
use twinbox_roles::{Duty, Gate};

use crate::duty::{mailstore, name};

/// The gateway's host drops packets, and the duty moves meanwhile: the next holder must be able to send the text.
#[tokio::test]
async fn text_message_whose_connection_hangs_when_the_duty_moves_was_not_sent() {
    let dir = TempDir::new().unwrap();
    let (_store, mailstore) = mailstore(dir.path()).await;
    let mailbox = mailstore.create(NewMailbox { pin: None, ..NewMailbox::new("1001", "") }).await.unwrap().0.id;
    let number = [DeviceChange::Number(Pii::new("+4915112345".to_owned()))];
    let device = Device::new(mailbox, DeviceId::random(), "mobile", KindName::SmsHttp, &number).unwrap();
    mailstore.add_device(device.clone()).await.unwrap();
    let now = wall();
    let new = NewEffect {
        cause: Cause { mailbox, message: MessageId(0), transition: Transition::Test },
        channel: Channel::SmsHttp,
        target: device.id,
        repeat: 1,
        retry: 0,
        created: now,
        not_before: now,
        expires: Timestamp(now.0 + 60_000),
    };
    mailstore.add_effects(vec![new]).await.unwrap();
    let effect = mailstore.effect(new.id()).unwrap().unwrap();

    // Its queue of connections is full.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let silent = socket.listen(1).unwrap();
    let address = silent.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream);
    }
    let gateway = SmsGateway::new(&format!("http://{address}/"), None, None).unwrap();
    let settings = HttpSettings { sms: Arc::new(move || SmsOut::Ready(gateway.clone())), links: Arc::new(|| None) };
    let templates = Arc::new(Templates::with_overrides(&BTreeMap::new()).unwrap());
    let channels = HttpChannels::new(Notifications::new(mailstore, templates), settings);
    let gate = Gate::new(Duty::Notifier);
    let epoch = Epoch { generation: 0, number: 1, node: name() };
    gate.open(&epoch, BootInstant::now() + Duration::from_secs(3_600));
    let permit = Arc::new(gate.enter(&epoch).unwrap());
    let Prepared::Act(work) = channels.prepare(&effect).await else { panic!("it is due") };
    let move_of_the_duty = async {
        tokio::task::yield_now().await;
        gate.close();
    };
    let (outcome, ()) = tokio::join!(channels.act(&effect, work, permit), move_of_the_duty);
    assert!(matches!(outcome, ActOutcome::NotHolder), "{outcome:?}");
    assert!(!gate.is_busy(), "the duty is released");
}
