//! Notifications over HTTP: signed webhooks with links to recordings, text messages, limits, fallbacks and repeats.

use std::{thread, time::Duration};

use twinbox_system_tests::leave;
use twinbox_testkit::{
    Authority, Cli, Cluster, FetchedRecording, HookReceiver, NetPlace, Spec, StoredEffect, Validity,
    fetch_recording,
    g711::{self, Law},
    listen, need, sign_recording_link, wait_for, wait_until,
};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(40);
/// Ports of the receiver of webhooks, and of the nodes' links.
const HOOKS: u16 = 8080;
const LINKS: u16 = 8443;
/// Secret of the devices.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A cluster and a receiver of its webhooks and text messages, with these lines more in the nodes' files.
fn with_receiver(more: &[String]) -> (Cluster, HookReceiver) {
    let spec = |phones: &NetPlace| {
        let url = format!("http://{}/sms", phones.port(HOOKS));
        let gateway = format!("[sms]\nurl = {url:?}\nauthorization = \"Bearer test\"");
        Spec { mail: [&[gateway][..], more].concat(), ..Spec::default() }
    };
    Cluster::start_with(spec, |phones| HookReceiver::start(phones, HOOKS, SECRET))
}

/// Adds a webhook to the path of its name.
fn add_webhook(cli: &Cli, hooks: &HookReceiver, mailbox: &str, name: &str, settings: &[&str]) {
    let (url, secret) = (format!("url={}", hooks.url(&format!("/{name}"))), format!("secret={SECRET}"));
    cli.json(&[&["device", "add", mailbox, name, "webhook", &url, &secret], settings].concat());
}

/// The only message of a mailbox on a node is in this state.
fn is_in_state(cluster: &Cluster, node: &str, mailbox: &str, state: &str) -> bool {
    cluster.cli(node).messages(mailbox).iter().all(|message| message.state == state)
}

#[test]
fn a_webhook_is_signed_and_its_link_gives_the_recording_on_each_node_until_it_ends() {
    if !need::all(&[need::PYTHON3, need::OPENSSL]) {
        return;
    }
    let authority = Authority::new();
    authority.certify("links.test", Validity::Valid);
    let links = [
        format!("[links]\nbind = \"{{ip}}:{LINKS}\"\nurl = \"https://links.test:{LINKS}\""),
        format!("certificate_file = {:?}", authority.server_certificate()),
        format!("key_file = {:?}", authority.server_key()),
    ];
    let (mut cluster, hooks) = with_receiver(&links);
    let (publisher, other) = cluster.publisher_and_other();
    let user = Cluster::USERS[0].number;
    let cli = cluster.cli(&other);
    add_webhook(&cli, &hooks, user, "hook", &["link=yes", "link-hours=2"]);
    let deposit = leave(&cluster, &other, user);

    let request = hooks.wait_for_requests("/hook", 1, SOON).remove(0);
    println!("the webhook arrived {:?} after the BYE was answered", request.at.since(deposit.at));
    assert!(request.signed, "Python's hmac verifies it: {request:?}");
    let message = cluster.wait_for_messages(&other, user, 1, SOON).remove(0);
    let body = &request.body;
    assert_eq!((&body["event"], &body["number"]), (&"message.new".into(), &user.into()), "{body}");
    assert_eq!((&body["message"], &body["caller"]), (&message.id.as_str().into(), &"2001".into()), "{body}");
    assert_eq!(body["id"], request.key(), "{body}");

    // The link, on each node, with the certificate verified for the common name.
    let url = body["audio_url"].as_str().unwrap_or_else(|| panic!("no link: {body}")).to_owned();
    let fetch = |cluster: &Cluster, node: &str, url: &str| -> FetchedRecording {
        fetch_recording(&cluster.member(node).place, &authority.certificate(), url)
    };
    for node in [&publisher, &other] {
        let fetched = fetch(&cluster, node, &url);
        assert_eq!((fetched.status, &fetched.headers["content-type"]), (200, &"audio/wav".into()), "{node}");
        assert_eq!(fetched.headers["cache-control"], "no-store", "{:?}", fetched.headers);
        let audio = g711::from_wav(&fetched.bytes, Law::Mu).unwrap_or_else(|e| panic!("{e}"));
        let piece = deposit.speech.find_in(&audio, deposit.spoken).expect("it is what was said");
        assert!(piece.length == audio.len() && piece.seconds() > 1.0, "{piece:?}");
    }
    let status = |node: &str, url: &str| fetch(&cluster, node, url).status;
    let (start, last) = url.split_at(url.len() - 1);
    let forged = format!("{start}{}", if last == "0" { "1" } else { "0" });
    assert_eq!(status(&other, &forged), 404);
    // Its receiver knows the secret of the device, and can sign no other link with it.
    assert_eq!(status(&other, &sign_recording_link(SECRET, &url, 60)), 404);

    cluster.cli(&publisher).json(&["cos", "set", "default", "audio-out=no"]);
    wait_until("audio to stay in the cluster", SOON, || status(&other, &url) == 404);
    cluster.cli(&publisher).json(&["cos", "set", "default", "audio-out=yes"]);
    wait_until("audio to leave the cluster again", SOON, || status(&other, &url) == 200);
    assert!(cli.run(&["message", "delete", user, &message.id]).status.success());
    wait_until("the link to end with its message", SOON, || status(&publisher, &url) == 404);

    // The publisher dies between delivery and outcome: the receiver can tell the repeat.
    hooks.hold("/hook");
    leave(&cluster, &other, user);
    let first = hooks.wait_for_requests("/hook", 2, SOON).remove(1);
    cluster.kill(&publisher);
    hooks.answer("/hook", 204);
    let second = hooks.wait_for_requests("/hook", 3, SOON).remove(2);
    assert_eq!((second.key(), &second.body["id"]), (first.key(), &first.body["id"]));
    assert!(second.signed && second.key() != request.key(), "{second:?}");
    let done = cli.wait_for_effect("done", SOON, |effect| effect.id == second.key());
    assert_eq!(done.attempts, 2, "{done:?}");
    let url = second.body["audio_url"].as_str().unwrap_or_else(|| panic!("no link: {second:?}"));
    assert_eq!(fetch(&cluster, &other, url).status, 200);
    for member in cluster.members() {
        assert!(!member.log().contains("signature="), "{} has a link in its log", member.name);
    }
}

#[test]
fn text_messages_reach_the_gateway_and_a_limit_gathers_webhooks_into_one() {
    if !need::all(&[need::PYTHON3]) {
        return;
    }
    let (cluster, hooks) = with_receiver(&[]);
    let (publisher, other) = cluster.publisher_and_other();
    let (cli, user) = (cluster.cli(&other), Cluster::USERS[0].number);
    cli.json(&["device", "add", user, "mobile", "sms-http", "number=+4915550100"]);
    add_webhook(&cli, &hooks, user, "team", &["per-hour=1"]);
    leave(&cluster, &publisher, user);
    let new = hooks.wait_for_requests("/team", 1, SOON).remove(0);
    assert_eq!(new.body["event"], "message.new");
    thread::scope(|scope| {
        let there = scope.spawn(|| leave(&cluster, &other, user));
        leave(&cluster, &publisher, user);
        there.join().expect("the other caller leaves a message");
    });

    let texts = hooks.wait_for_requests("/sms", 3, SOON);
    for text in &texts {
        let body = &text.body;
        assert_eq!((&body["to"], &body["id"]), (&"+4915550100".into(), &text.key().into()), "{text:?}");
        assert!(body["text"].as_str().is_some_and(|text| text.contains("2001")), "{text:?}");
        assert_eq!(text.headers["authorization"], "Bearer test", "{text:?}");
    }
    assert!(texts[0].key() != texts[1].key() && texts[1].key() != texts[2].key(), "{texts:?}");

    // Two wait for the end of the hour, until an administrator raises the limit.
    let of_team = |state: &str| -> Vec<StoredEffect> {
        cli.effects(state).into_iter().filter(|effect| effect.device == "team").collect()
    };
    wait_until("two to wait", SOON, || of_team("pending").len() == 2);
    assert_eq!(hooks.requests("/team").len(), 1);
    let waiting = of_team("pending");
    cli.json(&["device", "set", user, "team", "per-hour=2"]);
    cli.json(&["outbox", "retry", &waiting[0].id]);
    wait_until("all to be done", SOON, || of_team("done").len() == 3);
    let gathered = of_team("done").iter().filter(|effect| effect.reason.starts_with("gathered into")).count();
    let requests = hooks.requests("/team");
    assert_eq!((gathered, requests.len()), (1, 2), "{requests:#?}");
    assert_eq!(requests[1].body["event"], "message.digest", "{requests:#?}");
    assert_eq!(hooks.requests("/sms").len(), 3);
}

#[test]
fn a_refused_webhook_falls_back_and_repeats_end_when_the_message_is_heard() {
    if !need::all(&[need::PYTHON3]) {
        return;
    }
    let (cluster, hooks) = with_receiver(&[]);
    let (a, b, user) = (cluster.cli("a"), cluster.cli("b"), Cluster::USERS[0]);
    hooks.answer("/first", 400);
    add_webhook(&a, &hooks, user.number, "second", &["repeat=60x3"]);
    add_webhook(&a, &hooks, user.number, "first", &["fallback=second"]);
    let deposit = leave(&cluster, "b", user.number);
    let refused = hooks.wait_for_requests("/first", 1, SOON).remove(0);
    let new = hooks.wait_for_requests("/second", 1, SOON).remove(0);
    assert_eq!((&new.body["event"], &new.body["message"]), (&"message.new".into(), &refused.body["message"]));
    let dead = b.wait_for_effect("dead", SOON, |effect| effect.device == "first");
    assert!(dead.id == refused.key() && dead.reason.contains("400"), "{dead:?}");

    // A repeat comes after a minute at the earliest; an administrator does not wait for it.
    let repeat = a.wait_for_effect("pending", SOON, |effect| effect.device == "second");
    a.json(&["outbox", "retry", &repeat.id]);
    let reminder = hooks.wait_for_requests("/second", 2, SOON).remove(1);
    assert_eq!(reminder.body["event"], "message.reminder", "{reminder:?}");
    assert!(reminder.signed && reminder.key() == repeat.id && reminder.key() != new.key(), "{reminder:?}");

    let last = b.wait_for_effect("pending", SOON, |effect| effect.device == "second");
    let pieces = listen(cluster.phones(), cluster.sip("b"), user, &[deposit], 0.8, Duration::from_secs(30));
    assert!(pieces[0].is_some(), "it is heard");
    let heard = |node| is_in_state(&cluster, node, user.number, "heard");
    wait_until("it to count as heard", SOON, || heard("a") && heard("b"));
    a.json(&["outbox", "retry", &last.id]);
    let done = b.wait_for_effect("done", SOON, |effect| effect.id == last.id);
    assert_eq!((done.attempts, done.reason.as_str()), (0, "the message was heard"), "{done:?}");
    for (path, count) in [("/first", 1), ("/second", 2)] {
        assert_eq!(hooks.requests(path).len(), count, "{:#?}", hooks.requests(path));
    }
    assert!(b.effects("pending").is_empty(), "{:#?}", b.effects("pending"));
}

/// Uses the test hook of debug builds that shortens the time until the alarm (`TWINBOX_TEST_SILENCE`).
#[test]
fn receiver_that_never_answers_is_an_alarm_and_holds_up_neither_other_users_nor_what_comes_after_its_answer() {
    const TESTS: usize = 6;
    if !need::all(&[need::PYTHON3]) {
        return;
    }
    let spec = |_: &NetPlace| {
        let env = ["a", "b"].map(|node| (node, "TWINBOX_TEST_SILENCE", "3".to_owned())).to_vec();
        Spec { env, ..Spec::default() }
    };
    let (cluster, hooks) = Cluster::start_with(spec, |phones| HookReceiver::start(phones, HOOKS, SECRET));
    let place = &cluster.member("w").place;
    let silent = HookReceiver::start(place, HOOKS, SECRET);
    silent.hold("/silent");
    let (_, other) = cluster.publisher_and_other();
    let cli = cluster.cli(&other);
    let [user, neighbour] = Cluster::USERS.map(|user| user.number);
    add_webhook(&cli, &silent, user, "silent", &[]);
    add_webhook(&cli, &hooks, neighbour, "good", &[]);
    for _ in 0..TESTS {
        let tested = cli.run(&["device", "test", user, "silent", "--timeout", "1"]);
        assert!(!tested.status.success(), "{tested:?}");
    }
    let subject = format!("webhook {}", place.ip);
    let alarm = || {
        let list = cli.try_json(&["alarm", "list"]).ok()?;
        let is = |alarm: &&serde_json::Value| alarm["code"] == "destination-silent" && alarm["subject"] == subject;
        list["alarms"].as_array()?.iter().find(is).cloned()
    };
    let raised = wait_for("an alarm", SOON, alarm);
    assert!(raised["detail"].as_str().is_some_and(|detail| detail.contains("no answer")), "{raised}");

    // The others of the mailbox wait for one of the four attempts under way to end, which takes ten seconds.
    let requests = silent.wait_for_requests("/silent", 5, SOON);
    let fifth = requests[4].at.since(requests[0].at);
    assert!(fifth >= Duration::from_secs(8), "five requests within {fifth:?}: {requests:#?}");
    leave(&cluster, &other, neighbour);
    hooks.wait_for_requests("/good", 1, SOON);

    silent.answer("/silent", 200);
    wait_until("the end of the alarm", SOON, || alarm().is_none());
    let done = || cli.effects("done").iter().filter(|effect| effect.device == "silent").count();
    wait_until("all of them to be done", SOON, || done() == TESTS);
}
