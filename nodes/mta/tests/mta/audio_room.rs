//! Preparation of mails: memory for those with recordings, their names, and mail out as administrators change it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use twinbox_alarms::Alarms;
use twinbox_devices::{Device, DeviceChange, KindName, Templates};
use twinbox_duty::{Channels, Notifications, Prepared};
use twinbox_ids::{DeviceId, MailboxId, MessageId, Pii, RecordingId, Timestamp};
use twinbox_mail::{Address, incoming};
use twinbox_mailstore::{Audio, Codec, MailedMessage, NewMessage, Returns};
use twinbox_mta::{
    CurrentMailOut, MailChannels, MailOut, MailSender, MailWork, Mailer, MailerConfig, MxTls, Route,
};
use twinbox_outbox::Effect;
use twinbox_prompts::Prompts;
use twinbox_reports::ReportSource;
use twinbox_store_kit::{Node, audio, eventually, name, speak};

/// Files a message of this length; its only effect.
async fn message(node: &Node, mailbox: MailboxId, id: u128, ms: usize) -> Effect {
    let new = NewMessage {
        received: Timestamp(1),
        caller: None,
        caller_name: None,
        codec: Codec::Pcma,
        urgent: false,
        private: false,
        mail: None,
    };
    let sound = Audio { codec: Codec::Pcma, bytes: audio(ms).into() };
    let mail = MailedMessage { id: MessageId(id), mailbox, new, audio: sound, is_automatic: false };
    node.mailstore.receive_mail(mail).await.expect("filed");
    let mut effects = node.mailstore.effects().await.expect("readable");
    effects.retain(|effect| effect.new.cause.message == MessageId(id));
    effects.pop().expect("an effect")
}

fn sender() -> MailSender {
    let dns_servers = vec!["127.0.0.1:53".parse().expect("an address")];
    let config = MailerConfig::new(Route::mx(MxTls::Opportunistic), "vm.example");
    MailSender {
        domain: "vm.example".to_owned(),
        from: Address::parse("voicemail@vm.example").expect("an address"),
        from_name: "Voicemail".to_owned(),
        mailer: Mailer::new(MailerConfig { dns_servers, ..config }).expect("a mailer"),
        dkim: None,
    }
}

async fn channels(node: &Node, out: CurrentMailOut) -> MailChannels {
    let templates = Templates::with_overrides(&BTreeMap::new()).expect("the built-in texts");
    let notifications = Notifications::new(node.mailstore.clone(), Arc::new(templates));
    let returns =
        Returns::new(node.mailstore.clone(), Arc::new(Prompts::load(None, "en").expect("the embedded prompts")));
    let alarms = Alarms::open(node.store.clone(), node.peers.clone()).await.expect("alarms");
    let reports = ReportSource { mailstore: node.mailstore.clone(), alarms };
    MailChannels::new(notifications, out, returns, reports)
}

/// An administrator changes mail out while the duty runs. Where this node lacks a file that others have, mails wait; they
/// are dead letters only without mail out.
#[tokio::test]
async fn mail_out_of_the_moment_counts() {
    let dir = TempDir::new().expect("a folder");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let settings = [DeviceChange::Address(Pii::new("anna@example.com".to_owned()))];
    let device = Device::new(mailbox, DeviceId::random(), "office", KindName::Mail, &settings).expect("a device");
    node.mailstore.add_device(device).await.expect("added");
    let effect = message(&node, mailbox, 1, 1_000).await;
    let now = Arc::new(Mutex::new(MailOut::Off));
    let current = now.clone();
    let channels = channels(&node, Arc::new(move || current.lock().expect("not poisoned").clone())).await;
    let set = |out: MailOut| *now.lock().expect("not poisoned") = out;

    let Prepared::Impossible(reason, _) = channels.prepare(&effect).await else { panic!("no mail out") };
    assert!(reason.contains("mail.smarthost"), "{reason}");
    set(MailOut::Unusable("mail.password_file: '/x' cannot be read".to_owned()));
    let before = twinbox_clock::wall();
    let Prepared::Later(at, reason) = channels.prepare(&effect).await else { panic!("it waits") };
    assert!(at > before && reason.contains("/x"), "{reason}");
    for domain in ["vm.example", "new.example"] {
        set(MailOut::Ready(Arc::new(MailSender { domain: domain.to_owned(), ..sender() })));
        let Prepared::Act(MailWork::Notification { outgoing, .. }) = channels.prepare(&effect).await else {
            panic!("a mail")
        };
        let mail = String::from_utf8_lossy(&outgoing.bytes).into_owned();
        assert!(mail.contains(&format!("@{domain}>")), "{mail}");
    }
}

#[tokio::test]
async fn mail_with_a_recording_waits_while_others_fill_the_memory_and_one_without_does_not() {
    let dir = TempDir::new().expect("a folder");
    let node = Node::alone(dir.path(), "a");
    let mailbox = node.mailbox().await.id;
    let address = DeviceChange::Address(Pii::new("anna@example.com".to_owned()));
    let settings = [address, DeviceChange::Audio(true)];
    let device = Device::new(mailbox, DeviceId::random(), "office", KindName::Mail, &settings).expect("a device");
    node.mailstore.add_device(device.clone()).await.expect("added");
    // 2 MiB each: three times 480 kB.
    let first = message(&node, mailbox, 1, 60_000).await;
    let second = message(&node, mailbox, 2, 60_000).await;
    let large = message(&node, mailbox, 3, 300_000).await;

    let out = MailOut::Ready(Arc::new(sender()));
    let channels = channels(&node, Arc::new(move || out.clone())).await.with_audio_room(4);

    let Prepared::Act(under_way) = channels.prepare(&first).await else { panic!("room for one") };
    let Prepared::Act(half) = channels.prepare(&large).await else { panic!("it takes half of all") };
    let before = twinbox_clock::wall();
    let Prepared::Later(at, reason) = channels.prepare(&second).await else { panic!("no room") };
    assert!(at > before && reason.contains("memory"), "{reason}");
    let without = vec![DeviceChange::Audio(false)];
    node.mailstore.change_device(mailbox, device.id, without).await.expect("changed");
    assert!(matches!(channels.prepare(&second).await, Prepared::Act(_)), "a text needs no room");
    node.mailstore.change_device(mailbox, device.id, vec![DeviceChange::Audio(true)]).await.expect("changed");

    drop(under_way);
    let Prepared::Act(under_way) = channels.prepare(&second).await else { panic!("room beside the large one") };
    assert!(matches!(channels.prepare(&first).await, Prepared::Later(..)), "both have all the room");
    drop((under_way, half));
    assert!(matches!(channels.prepare(&large).await, Prepared::Act(_)));
}

/// The Message-ID of the mail of an effect, as the next attempt sends it.
async fn message_id(channels: &MailChannels, effect: &Effect) -> String {
    let Prepared::Act(MailWork::Notification { outgoing, .. }) = channels.prepare(effect).await else {
        panic!("a mail")
    };
    incoming::read(&outgoing.bytes).expect("a mail").message_id.expect("a Message-ID")
}

/// A server that has the mail with a part would drop another one of the same name.
#[tokio::test]
async fn mail_with_a_part_of_a_recording_has_another_id_than_the_one_with_more() {
    let dir = TempDir::new().expect("a folder");
    let (a, b) = (Node::alone(&dir.path().join("a"), "a"), Node::alone(&dir.path().join("b"), "b"));
    let mailbox = a.mailbox().await.id;
    let address = DeviceChange::Address(Pii::new("anna@example.com".to_owned()));
    let settings = [address, DeviceChange::Audio(true), DeviceChange::DeleteAfter(true)];
    let device = Device::new(mailbox, DeviceId::random(), "office", KindName::Mail, &settings).expect("a device");
    a.mailstore.add_device(device).await.expect("added");
    let live = a.begin(mailbox).await;
    speak(&live, 0, &audio(4_000));
    a.hand_over(&b).await;
    let out = MailOut::Ready(Arc::new(sender()));
    let channels = channels(&b, Arc::new(move || out.clone())).await;

    let (recording, mut ids) = (RecordingId(live.message().0), Vec::new());
    for (from, to) in [(0, 16_000), (16_000, 24_000), (24_000, 24_000), (24_000, 32_000)] {
        if to == 32_000 {
            // The node that recorded is back.
            live.file().await.expect("filed");
            a.hand_over(&b).await;
        } else if from < to {
            let chunk = live.audio().await.expect("audio").bytes.slice(from..to);
            b.store.recordings().insert(recording, 1, from as u64, chunk).expect("taken");
            eventually("the chunk is there", async || {
                b.store.recordings().coverage(recording, 1).is_some_and(|there| there.end() >= to as u64)
            })
            .await;
            b.mailstore.file_orphans_of(&name("a"), None).await.expect("filed");
        }
        let effects = b.mailstore.effects().await.expect("readable");
        let [effect] = effects.as_slice() else { panic!("{effects:?}") };
        ids.push(message_id(&channels, effect).await);
        assert!(ids.iter().all(|id| id.starts_with(&effect.id.to_string())), "{ids:?}");
    }
    let [first, longer, again, whole] = ids.as_slice() else { panic!("{ids:?}") };
    assert!(first != longer && longer == again, "{ids:?}");
    let is_part = |id: &String| id.contains(".part-");
    assert!(is_part(first) && is_part(longer) && !is_part(whole), "{ids:?}");
}
