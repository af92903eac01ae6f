//! Whole calls with a real telephone: messages are left and played.

use std::{
    sync::{Arc, Mutex, mpsc::Receiver},
    time::Duration,
};

use bytes::Bytes;
use twinbox_mailstore::{Folder, PinCheck};
use twinbox_media::{ChunkSink, RecordSpec, Remote, Session};
use twinbox_phone::{
    Call, CallOptions, Codec, Digits, Direction, Ended, Offer, Phone, PhoneConfig, Target, Transport,
};
use twinbox_store_kit::Away;

use crate::kit::{Node, PATIENCE, PIN};

pub const GAP: Duration = Duration::from_millis(60);

pub async fn phone(transport: Transport) -> Phone {
    Phone::bind(PhoneConfig::new([127, 0, 0, 1].into(), transport)).await.expect("a phone")
}

/// Unique speech: µ-law noise of this seed, louder than silence.
pub fn speech(seed: u8, ms: usize) -> Bytes {
    let mut state = u32::from(seed).wrapping_mul(2_654_435_761) | 1;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Segments of the louder half of the scale.
        ((state >> 24) as u8 & 0x8f) | 0x10
    });
    noise.take(ms * 8).collect()
}

/// Sends audio. The tone is heard a packet or two before its end, and so is a hold: the first 200 ms are a cough, which
/// may be lost.
async fn say(call: &Call, said: &Bytes) {
    let mut all = speech(200, 200).to_vec();
    all.extend_from_slice(said);
    assert!(call.send_audio(all).await, "the call ended while we spoke");
}

/// The packets of `said`, by number, that are not in `audio`.
fn missing(said: &[u8], audio: &[u8]) -> Vec<usize> {
    let is_there = |packet: &[u8]| audio.windows(packet.len()).any(|window| window == packet);
    let packets = said.chunks(160).enumerate();
    packets.filter(|(_, packet)| !is_there(packet)).map(|(number, _)| number).collect()
}

pub fn target(node: &Node, user: &str, transport: Transport) -> Target {
    let address = if transport == Transport::Udp { node.udp } else { node.tcp };
    Target::user(user, address)
}

/// Whether the end of the tone is heard in time.
pub async fn hears_the_tone(call: &Call, patience: Duration) -> bool {
    let beep = twinbox_prompts::Prompts::load(None, "en").expect("prompts").beep(call.codec());
    let tail = beep.slice(beep.len() - 400..);
    call.wait_for_audio(&tail, 0, patience).await.is_some()
}

/// Presses `#` to skip the greeting and waits until the tone is over, so that all audio is recorded.
pub async fn to_the_tone(call: &Call, digits: &str) {
    call.send_digits(digits, GAP).await.expect("digits");
    assert!(hears_the_tone(call, PATIENCE).await, "no tone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_is_stored_bit_for_bit_when_the_bye_is_answered() {
    let node = Node::start().await;
    for (n, (transport, offer, codec)) in
        [(Transport::Udp, Offer::Early, Codec::Pcma), (Transport::Tcp, Offer::Late, Codec::Pcmu)]
            .into_iter()
            .enumerate()
    {
        let phone = phone(transport).await;
        let from = Some("\"Alice\" <sip:2001@pbx.example>".to_owned());
        let options = CallOptions { offer, codecs: vec![codec], from, ..CallOptions::default() };
        let call = phone.call(target(&node, "1001", transport), options).await.expect("answered");
        to_the_tone(&call, "#").await;
        let said = speech(n as u8 + 1, 1_500);
        say(&call, &said).await;
        let (status, _) = call.bye().await.expect("BYE is answered");
        assert_eq!(status, 200);
        // The 200 to BYE is the acknowledgement (rule A1): the message must be there without waiting.
        let messages = node.mailstore.messages(node.mailbox).await.unwrap();
        assert_eq!(messages.len(), n + 1);
        let message = messages.last().unwrap();
        assert_eq!((message.folder, message.codec), (Folder::New, codec));
        assert_eq!(message.caller.as_ref().map(|c| c.reveal().as_str()), Some("2001"));
        assert!(!message.audio.as_ref().unwrap().partial);
        let audio = node.mailstore.audio(message).await.unwrap().bytes;
        let found = audio.windows(said.len()).any(|window| window == said);
        assert!(found, "{} bytes were kept, and not what was said", audio.len());
    }
    node.idle().await;
    assert_eq!(node.counter("filed_alone"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_ends_by_pound_or_silence_and_the_node_hangs_up() {
    let node = Node::with(|o| o.calls.end_silence_ms = 600).await;
    let phone = phone(Transport::Udp).await;
    let leave = async |digits, end: &str| {
        let options = CallOptions { digits, ..CallOptions::default() };
        let call = phone.call(target(&node, "1001", Transport::Udp), options).await.expect("answered");
        to_the_tone(&call, "#").await;
        call.send_audio(speech(9, 1_000)).await;
        if !end.is_empty() {
            call.send_digits(end, GAP).await.expect("digits");
        }
        let ended = tokio::time::timeout(PATIENCE, call.ended()).await.expect("the call ends");
        assert_eq!(ended, Ended::ByThem);
    };
    tokio::join!(leave(Digits::Rfc4733, "#"), leave(Digits::Info, "#"), leave(Digits::Rfc4733, ""));
    node.idle().await;
    let messages = node.mailstore.messages(node.mailbox).await.unwrap();
    assert_eq!(messages.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_call_leaves_no_message() {
    let node = Node::start().await;
    let phone = phone(Transport::Udp).await;
    let early = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    assert_eq!(early.bye().await.expect("answered").0, 200, "in the greeting");
    let short = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&short, "#").await;
    assert_eq!(short.bye().await.expect("answered").0, 200, "right after the tone");
    let mute = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&mute, "#").await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(mute.bye().await.expect("answered").0, 200, "after silence");
    node.idle().await;
    assert!(node.mailstore.messages(node.mailbox).await.unwrap().is_empty());

    // The silence after the speech is stored with it, and counts: the speech alone would be too short.
    let call = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&call, "#").await;
    say(&call, &speech(15, 600)).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(call.bye().await.expect("answered").0, 200);
    let messages = node.mailstore.messages(node.mailbox).await.unwrap();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].length_ms > 1_300, "{} ms were stored", messages[0].length_ms);
}

/// On a line so quiet that silence is not to be detected, all that is recorded is a message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_stored_where_it_is_not_detected() {
    let node = Node::with(|o| o.calls.end_silence_ms = 0).await;
    let phone = phone(Transport::Udp).await;
    let quiet = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&quiet, "#").await;
    // The length of the message.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(quiet.bye().await.expect("answered").0, 200);
    assert_eq!(node.mailstore.messages(node.mailbox).await.unwrap().len(), 1);
}

/// Hold during a recording: its silence does not end the recording, and later audio belongs to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hold_pauses_a_message_and_does_not_end_it() {
    let node = Node::with(|o| o.calls.end_silence_ms = 500).await;
    let phone = phone(Transport::Udp).await;
    let call = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&call, "#").await;
    let (first, second) = (speech(3, 800), speech(4, 800));
    say(&call, &first).await;
    for direction in [Direction::Inactive, Direction::SendOnly] {
        call.renegotiate(direction).await.expect("held");
        // Longer than the silence that ends a recording.
        assert!(tokio::time::timeout(Duration::from_millis(1_200), call.ended()).await.is_err(), "{direction:?}");
        call.resume().await.expect("resumed");
    }
    say(&call, &second).await;
    assert_eq!(call.bye().await.expect("answered").0, 200);
    let messages = node.mailstore.messages(node.mailbox).await.unwrap();
    assert_eq!(messages.len(), 1);
    let audio = node.mailstore.audio(&messages[0]).await.unwrap().bytes;
    for said in [first, second] {
        assert!(audio.windows(said.len()).any(|window| window == said), "a part is missing");
    }
    assert!(audio.len() < 8 * 5_000, "the hold was recorded: {} ms", audio.len() / 8);
}

/// Different callers with the same Call-ID: two calls, two messages, not mixed (rule C1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_calls_with_one_call_id_are_two_messages() {
    let node = Node::start().await;
    let (one, two) = (phone(Transport::Udp).await, phone(Transport::Udp).await);
    let options = || CallOptions { call_id: Some("same@everywhere".to_owned()), ..CallOptions::default() };
    let first = one.call(target(&node, "1001", Transport::Udp), options()).await.expect("answered");
    let second = two.call(target(&node, "1001", Transport::Udp), options()).await.expect("answered");
    tokio::join!(to_the_tone(&first, "#"), to_the_tone(&second, "#"));
    let (said, other) = (speech(5, 1_000), speech(6, 1_000));
    tokio::join!(say(&first, &said), say(&second, &other));
    assert_eq!(first.bye().await.expect("answered").0, 200);
    assert_eq!(second.has_ended(), None, "the other goes on");
    assert_eq!(second.bye().await.expect("answered").0, 200);
    let mut found = Vec::new();
    for message in node.mailstore.messages(node.mailbox).await.unwrap() {
        let audio = node.mailstore.audio(&message).await.unwrap().bytes;
        let has = |said: &Bytes| audio.windows(said.len()).any(|window| window == *said);
        found.push((has(&said), has(&other)));
    }
    found.sort_unstable();
    assert_eq!(found, [(false, true), (true, false)]);
}

/// The owner signs in by touch tones and hears the caller's message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_hears_the_message_after_the_pin() {
    let node = Node::start().await;
    let phone = phone(Transport::Udp).await;
    let call = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&call, "#").await;
    let said = speech(7, 1_200);
    say(&call, &said).await;
    assert_eq!(call.bye().await.expect("answered").0, 200);
    let messages = node.mailstore.messages(node.mailbox).await.unwrap();
    let stored = node.mailstore.audio(&messages[0]).await.unwrap().bytes;
    let lost = missing(&said, &stored);
    assert!(lost.is_empty(), "packets {lost:?} of the message are not stored");

    let owner = async |digits| {
        let from = Some("<sip:1001@pbx.example>".to_owned());
        let options = CallOptions { digits, from, ..CallOptions::default() };
        let owner = phone.call(target(&node, "*97", Transport::Udp), options).await.expect("answered");
        owner.send_digits(&format!("{PIN}#"), GAP).await.expect("digits");
        // Key 1 of the menu plays the messages.
        owner.send_digits("1", GAP).await.expect("digits");
        let is_heard = owner.wait_for_audio(&said, 0, PATIENCE).await.is_some();
        assert!(
            is_heard,
            "{digits:?}: packets {:?} of the message are not heard",
            missing(&said, &owner.received())
        );
        assert_eq!(owner.bye().await.expect("answered").0, 200);
    };
    tokio::join!(owner(Digits::Rfc4733), owner(Digits::Info));
    // A caller with a wrong PIN is not signed in.
    let stranger =
        phone.call(target(&node, "*98", Transport::Udp), CallOptions::default()).await.expect("answered");
    stranger.send_digits("1001#", GAP).await.expect("digits");
    stranger.send_digits("1111#", GAP).await.expect("digits");
    assert!(stranger.wait_for_audio(&said, 0, Duration::from_secs(2)).await.is_none());
    stranger.bye().await.expect("answered");
    node.idle().await;
}

/// A try at a number without a mailbox is counted like any other, so that no caller finds out which exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_in_at_an_unknown_number_is_counted() {
    let node = Node::start().await;
    let phone = phone(Transport::Udp).await;
    let call = phone.call(target(&node, "*98", Transport::Udp), CallOptions::default()).await.expect("answered");
    call.send_digits("9999#", GAP).await.expect("digits");
    call.send_digits("1111#", GAP).await.expect("digits");
    let prompts = twinbox_prompts::Prompts::load(None, "en").expect("prompts");
    let wrong = prompts.get("vm-incorrect-mailbox", call.codec()).expect("the prompt");
    assert!(call.wait_for_audio(&wrong.slice(wrong.len() - 800..), 0, PATIENCE).await.is_some(), "not refused");
    call.bye().await.expect("answered");
    node.idle().await;
    let checked = async |number: &str| {
        let wrong = twinbox_ids::Pii::new("1111".to_owned());
        let mut tries = 0;
        while node.mailstore.check_pin_of_number(number, &wrong, "").await.unwrap() == PinCheck::Wrong {
            tries += 1;
        }
        tries
    };
    assert_eq!(checked("9999").await + 1, checked("9998").await);
}

/// A name is stored without the silence at its end (before it, the phone may be late), and a silent one not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_name_has_no_silence_at_its_end() {
    let node = Node::with(|o| o.calls.end_silence_ms = 1_500).await;
    let phone = phone(Transport::Udp).await;
    let said = speech(16, 800);
    let record = async |end: &str, said: Option<&Bytes>| {
        let from = Some("<sip:1001@pbx.example>".to_owned());
        let options = CallOptions { from, ..CallOptions::default() };
        let owner = phone.call(target(&node, "*97", Transport::Udp), options).await.expect("answered");
        owner.send_digits(&format!("{PIN}#"), GAP).await.expect("digits");
        // The settings, the name, and past the instruction.
        to_the_tone(&owner, "03#").await;
        if let Some(said) = said {
            say(&owner, said).await;
        }
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        owner.send_digits(end, GAP).await.expect("digits");
        let review = twinbox_prompts::Prompts::load(None, "en").expect("prompts");
        let word = if said.is_some() { "vm-review" } else { "vm-tooshort" };
        let word = review.get(word, owner.codec()).expect("the prompt");
        let heard = owner.wait_for_audio(&word.slice(word.len() - 800..), 0, PATIENCE).await;
        assert!(heard.is_some(), "{end}: the recording is not judged");
        owner.send_digits(if said.is_some() { "1" } else { "*" }, GAP).await.expect("digits");
        let kind = twinbox_mailstore::GreetingKind::Name;
        let stored = async {
            while said.is_some() && node.mailstore.greeting(node.mailbox, kind).await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, stored).await.expect("a stored name");
        assert_eq!(owner.bye().await.expect("answered").0, 200);
        node.idle().await;
        let name = node.mailstore.greeting(node.mailbox, kind).await.unwrap();
        node.mailstore.set_greeting(node.mailbox, kind, None).await.unwrap();
        name
    };
    // By a key, and by silence.
    for end in ["#", ""] {
        let name = record(end, Some(&said)).await.expect("a name").bytes;
        let begun = name.windows(said.len()).position(|window| window == said).expect("the whole name");
        let silence_ms = (name.len() - begun - said.len()) / 8;
        assert!(silence_ms <= 350, "{end}: {silence_ms} ms of silence were stored");
    }
    assert_eq!(record("#", None).await, None);
}

/// `0` in the greeting leads to the operator by REFER; if refused, the caller is informed and may leave a message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_transfer_is_announced_and_the_call_continues() {
    let node = Node::start().await;
    let operator = twinbox_mailstore::MailboxChange::Operator(Some("0".to_owned()));
    node.mailstore.change(node.mailbox, operator).await.unwrap();
    let phone = phone(Transport::Udp).await;
    let call = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    call.send_digits("0", GAP).await.expect("digits");
    // The test phone does not support REFER.
    to_the_tone(&call, "").await;
    call.send_audio(speech(2, 1_000)).await;
    assert_eq!(call.bye().await.expect("answered").0, 200);
    assert_eq!(node.counter("transfers_failed"), 1);
    assert_eq!(node.mailstore.messages(node.mailbox).await.unwrap().len(), 1);
}

/// Rule A1: a disk that hangs does not delay the answer to BYE, and the message is filed as soon as possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_disk_gives_500_to_bye_and_the_message_is_filed_later() {
    let node = Node::with(|o| o.calls.ack_timeout_ms = 250).await;
    let phone = phone(Transport::Udp).await;
    let call = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&call, "#").await;
    let said = speech(11, 1_000);
    say(&call, &said).await;
    // Every later commit waits for this one.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let store = node.store.clone();
    let (hanging_sender, hanging) = tokio::sync::oneshot::channel();
    let hang = tokio::spawn(async move {
        let stuck = move |_: &mut twinbox_replication_store::Draft<'_>| {
            let _ = hanging_sender.send(());
            let _ = held.recv();
            Ok::<(), twinbox_replication_store::StoreError>(())
        };
        store.commit(stuck).await
    });
    hanging.await.expect("the disk hangs");
    let (status, took) = call.bye().await.expect("answered");
    assert_eq!(status, 500);
    assert!(took < Duration::from_secs(2), "the caller waited {took:?}");
    assert_eq!(node.counter("byes_unacknowledged"), 1);
    assert!(node.mailstore.messages(node.mailbox).await.unwrap().is_empty());
    release.send(()).expect("it hung until now");
    hang.await.unwrap().expect("committed");
    node.idle().await;
    let messages = node.mailstore.messages(node.mailbox).await.unwrap();
    assert_eq!(messages.len(), 1);
    let audio = node.mailstore.audio(&messages[0]).await.unwrap().bytes;
    assert!(audio.windows(said.len()).any(|window| window == said));
}

/// Sends audio while the disk fails for a moment, so that one chunk is lost.
async fn say_while_a_chunk_is_lost(node: &Node, call: &Call) {
    let stored = || node.store.recordings().open().first().map_or(0, |(_, _, length)| *length);
    let lose_a_chunk = async {
        // Just after a chunk was written: the next comes 250 ms later.
        let recorded = async {
            while stored() < 6_000 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, recorded).await.expect("it is recorded");
        let away = Away::take(&node.store_dir()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        away.put_back();
    };
    let said = speech(12, 2_500);
    tokio::join!(say(call, &said), lose_a_chunk);
}

/// Rule A1: an incomplete message is stored, and not acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_with_a_lost_chunk_is_not_acknowledged() {
    let node = Node::start().await;
    let phone = phone(Transport::Udp).await;
    let call = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&call, "#").await;
    say_while_a_chunk_is_lost(&node, &call).await;
    let (status, _) = call.bye().await.expect("answered");
    assert_eq!(status, 500);
    node.idle().await;
    assert_eq!(node.counter("byes_unacknowledged"), 1);

    // A caller that ends the message by a key hears an announcement.
    let call = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&call, "#").await;
    say_while_a_chunk_is_lost(&node, &call).await;
    call.send_digits("#", GAP).await.expect("digits");
    let prompts = twinbox_prompts::Prompts::load(None, "en").expect("prompts");
    let cut = prompts.get("twinbox/recording-cut", call.codec()).expect("the prompt");
    assert!(call.wait_for_audio(&cut.slice(cut.len() - 800..), 0, PATIENCE).await.is_some(), "it is not said");
    assert_eq!(call.bye().await.expect("answered").0, 500);
    node.idle().await;
    let messages = node.mailstore.messages(node.mailbox).await.unwrap();
    assert!(messages.len() == 2 && messages.iter().all(|message| message.is_partial()), "{messages:?}");
}

/// A sink that panics in the media thread.
struct Fatal;

impl ChunkSink for Fatal {
    fn chunk(&self, _: u64, _: Bytes) {
        panic!("the media thread is to die in this test");
    }
}

/// A sink that blocks the media thread until the test releases it.
struct Stuck(Mutex<Receiver<()>>);

impl ChunkSink for Stuck {
    fn chunk(&self, _: u64, _: Bytes) {
        let _ = self.0.lock().unwrap().recv();
    }
}

/// Opens another session on the media thread of the calls; its first audio goes to this sink.
async fn session_on_media_thread(node: &Node, sink: Arc<dyn ChunkSink>) -> Session {
    let (events, mut media_events) = tokio::sync::mpsc::channel(4);
    let session = node.media.open(events).expect("a session");
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    session.set_remote(Remote::new(peer.local_addr().ok(), twinbox_media::Codec::Pcmu));
    session.record(RecordSpec { max: PATIENCE, end_silence: None, sink });
    // After the end of an empty play the session is recording.
    session.play(1, vec![]);
    tokio::time::timeout(PATIENCE, media_events.recv()).await.expect("in time").expect("an event");
    let packet = [&[0x80, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0x10; 160]].concat();
    peer.send_to(&packet, ("127.0.0.1", session.local_port())).expect("sent");
    session.stop_record();
    session
}

/// The call ends, its audio is stored, and no call remains.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_ends_and_keeps_its_audio_when_the_media_thread_panics() {
    let node = Node::start().await;
    let phone = phone(Transport::Udp).await;
    let call = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&call, "#").await;
    say(&call, &speech(13, 1_500)).await;
    let _session = session_on_media_thread(&node, Arc::new(Fatal)).await;
    let ended = tokio::time::timeout(PATIENCE, call.ended()).await.expect("the call ends");
    assert_eq!(ended, Ended::ByThem);
    node.idle().await;
    let messages = node.mailstore.messages(node.mailbox).await.unwrap();
    assert!(messages.len() == 1 && messages[0].is_partial(), "{messages:?}");
    // No media thread is left: the next caller is refused.
    let mut raw = node.raw().await;
    let mut dialog = raw.dialog("next");
    assert_eq!(raw.ask(dialog.invite()).await.code, 503);
}

/// A media thread that hangs does not keep a call open forever.
#[tokio::test]
async fn recording_without_end_is_filed_after_a_timeout() {
    let node = Node::start().await;
    let phone = phone(Transport::Udp).await;
    let call = phone.call(target(&node, "1001", Transport::Udp), CallOptions::default()).await.expect("answered");
    to_the_tone(&call, "#").await;
    say(&call, &speech(14, 1_500)).await;
    let (release, held) = std::sync::mpsc::channel();
    let _session = session_on_media_thread(&node, Arc::new(Stuck(Mutex::new(held)))).await;
    assert_eq!(call.bye().await.expect("answered").0, 500);
    node.pass(6).await;
    node.idle().await;
    let messages = node.mailstore.messages(node.mailbox).await.unwrap();
    assert!(messages.len() == 1 && messages[0].is_partial(), "{messages:?}");
    drop(release);
}
