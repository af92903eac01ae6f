//! Two clusters as locations of each other: messages go by VPIM through Postfix, and those that cannot be delivered come
//! back as voice messages.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_system_tests as _;
use twinbox_testkit::{
    Cli, Cluster, NetPlace, Postfix, Spec, StoredMessage,
    g711::{self, Law},
    need, wait_for,
};

const SOON: Duration = Duration::from_secs(60);
/// Port of the mail servers.
const SMTP: u16 = 2525;
const ANNA: &str = Cluster::USERS[0].number;
const BERT: &str = Cluster::USERS[1].number;

/// A cluster with this mail domain, whose mails leave through the Postfix beside these phones.
fn spec(domain: &str, postfix: &NetPlace) -> Spec {
    let smarthost = Postfix::place(postfix).port(SMTP);
    let mail = vec![
        format!("domain = \"{domain}\"\nsmarthost = \"{smarthost}\"\ntls = \"off\""),
        format!("[mail.in]\nsmtp = [\"{{ip}}:{SMTP}\"]\nnetworks = [\"127.0.0.0/8\"]"),
    ];
    Spec { witness: false, mail, ..Spec::default() }
}

/// Postfix that hands mail for `one.test` and `two.test` to a node of each cluster.
fn relay(one: &NetPlace, two: &NetPlace) -> Postfix {
    let node = |phones: &NetPlace, last: u8| {
        let [a, b, c, _] = phones.ip.octets();
        Ipv4Addr::new(a, b, c, last)
    };
    let way = |domain: &str, node: Ipv4Addr| format!("{domain}=smtp:[{node}]:{SMTP}");
    let ways = [way("one.test", node(one, 1)), way("two.test", node(two, 2))].join(", ");
    Postfix::start(&Postfix::place(one), SMTP, &[format!("transport_maps = inline:{{ {ways} }}")])
}

/// A tone of 1.5 seconds in µ-law, which G.726 keeps well.
fn tone() -> Vec<u8> {
    let nearest = |sample: f64| {
        let distance = |byte: &u8| (f64::from(Law::Mu.decode(*byte)) - sample).abs();
        // Of the two zeros the positive one, which a way through linear samples keeps.
        (0..=255_u8).rev().min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("256 bytes")
    };
    (0..12_000).map(|n| nearest(8_000.0 * (f64::from(n) * 0.35).sin())).collect()
}

fn wav(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("hello.wav");
    fs::write(&path, g711::to_wav(bytes, Law::Mu)).expect("written");
    path
}

/// Power of the signal over that of the difference, in dB, without the first 50 ms, in which the codec adapts.
fn distance(signal: &[u8], other: &[u8]) -> f64 {
    let samples = |bytes: &[u8]| bytes.iter().skip(400).map(|b| f64::from(Law::Mu.decode(*b))).collect::<Vec<_>>();
    let (signal, other) = (samples(signal), samples(other));
    let power = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
    let difference: Vec<f64> = signal.iter().zip(&other).map(|(a, b)| a - b).collect();
    10.0 * (power(&signal) / power(&difference).max(1.0)).log10()
}

/// The newest message of a mailbox, once it has this many.
fn newest(cluster: &Cluster, node: &str, mailbox: &str, count: usize) -> StoredMessage {
    cluster.wait_for_messages(node, mailbox, count, SOON).pop().expect("as many as were waited for")
}

/// A message as JSON, with what [`StoredMessage`] leaves out.
fn shown(cli: &Cli, mailbox: &str, id: &str) -> Value {
    let list = cli.json(&["message", "list", mailbox]);
    let found = list["messages"].as_array().into_iter().flatten().find(|message| message["id"] == id);
    found.unwrap_or_else(|| panic!("no message {id}: {list}")).clone()
}

#[test]
fn two_clusters_send_to_each_other_and_what_is_not_delivered_comes_back_spoken() {
    if !need::all(&[need::POSTFIX]) {
        return;
    }
    let (one, (two, postfix)) = Cluster::start_with(
        |phones| spec("one.test", phones),
        |phones| Cluster::start_with(|_| spec("two.test", phones), |others| relay(phones, others)),
    );
    let (dir, tone) = (TempDir::new().expect("a folder"), tone());
    let file = wav(dir.path(), &tone);
    let file = file.to_string_lossy();
    let (cli, other) = (one.cli("a"), two.cli("b"));
    cli.json(&["location", "add", "second", "dial-id=7", "domain=two.test"]);
    other.json(&["location", "add", "first", "dial-id=8", "domain=one.test"]);
    let refused = cli.run(&["location", "add", "third", "dial-id=10", "domain=three.test"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains(ANNA), "{refused:?}");

    // All recipients or none.
    let none = cli.run(&["message", "send", &file, "--from", ANNA, "--to", &format!("{BERT},9999,7{BERT}")]);
    let text = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(!none.status.success() && text.contains("nothing was sent: number 9999 is unknown"), "{none:?}");
    assert!(cli.messages(BERT).is_empty() && cli.effects("pending").is_empty());

    // To a mailbox here, bit for bit, and to one there, by G.726.
    let to = format!("{BERT},7{BERT}");
    let sent = cli.json(&["message", "send", &file, "--from", ANNA, "--to", &to, "--urgent", "--private"]);
    assert_eq!(sent["to"].as_array().map(Vec::len), Some(2), "{sent}");
    let here = newest(&one, "b", BERT, 1);
    assert!(one.cli("b").audio(BERT, &here.id, Law::Mu).expect("its audio") == tone, "bit for bit");
    for node in ["a", "b"] {
        let arrived = newest(&two, node, BERT, 1);
        assert_eq!((arrived.caller.as_str(), arrived.length_ms), ("81001", 1_500), "{}", postfix.log());
        let message = shown(&two.cli(node), BERT, &arrived.id);
        assert!(message["urgent"] == true && message["private"] == true, "{message}");
        let audio = two.cli(node).audio(BERT, &arrived.id, Law::Mu).expect("its audio");
        let distance = distance(&tone, &audio);
        assert!(audio.len() == tone.len() && distance > 25.0, "{distance} dB");
    }

    // The caller's number is what a reply is sent to; a system that does not take VPIM gets the bytes unchanged.
    other.json(&["location", "set", "first", "audio=wav"]);
    other.json(&["message", "send", &file, "--from", BERT, "--to", "81001"]);
    let reply = newest(&one, "a", ANNA, 1);
    assert_eq!(reply.caller, format!("7{BERT}"));
    assert!(cli.audio(ANNA, &reply.id, Law::Mu).expect("its audio") == tone, "bit for bit");

    // An unknown number: Postfix reports it, and the message comes back with the reason before it, once.
    let sent = cli.json(&["message", "send", &file, "--from", ANNA, "--to", "79999"]);
    let back = newest(&one, "b", ANNA, 2);
    assert_eq!(back.caller, "79999", "{}", postfix.log());
    let audio = one.cli("b").audio(ANNA, &back.id, Law::Mu).expect("its audio");
    assert!(audio.ends_with(&tone) && audio.len() > tone.len() + 40_000, "{} bytes", audio.len());
    assert_eq!(shown(&one.cli("b"), ANNA, &back.id)["caller_name"], "second");
    let effect = sent["to"][0]["effect"].as_str().expect("an effect");
    assert_eq!(cli.effect(effect).device, "second");
    wait_for("the alarm", SOON, || {
        let list = cli.try_json(&["alarm", "list"]).ok()?;
        let is_it = |alarm: &&Value| alarm["code"] == "dead-letter" && alarm["subject"] == "vpim";
        list["alarms"].as_array()?.iter().find(is_it).cloned()
    });
    assert_eq!(cli.messages(ANNA).len(), 2);

    // A message that may not leave is refused immediately.
    cli.json(&["location", "set", "second", "enabled=no"]);
    let disabled = cli.run(&["message", "send", &file, "--from", ANNA, "--to", &format!("7{BERT}")]);
    assert!(String::from_utf8_lossy(&disabled.stderr).contains("is disabled"), "{disabled:?}");
    cli.json(&["location", "set", "second", "enabled=yes"]);
    cli.json(&["cos", "set", "default", "audio-out=no"]);
    let kept = cli.run(&["message", "send", &file, "--from", ANNA, "--to", &format!("7{BERT}")]);
    assert!(String::from_utf8_lossy(&kept.stderr).contains("audio-out=no"), "{kept:?}");
    assert_eq!(other.messages(BERT).len(), 1, "nothing more has left");
}

/// A mail in the form of RFC 3801 appendix B, with this G.726 audio in base64.
fn foreign(audio: &str) -> String {
    format!(
        "To: {ANNA}@one.test\nFrom: \"Parsons, Glenn\" <12145551234@vm2.example>\n\
         Date: Mon, 26 Aug 93 10:20:20 -0700 (CDT)\nMIME-Version: 1.0  (Voice 2.0)\n\
         Content-type: Multipart/Voice-Message; Version=2.0;\n Boundary=\"MessageBoundary\"\n\
         Content-Transfer-Encoding: 7bit\nMessage-ID: <123456789@vm2.example>\n\
         Sensitivity: Private\nImportance: High\n\n\
         --MessageBoundary\nContent-type: Audio/32KADPCM\nContent-Transfer-Encoding: Base64\n\
         Content-Disposition: inline; voice=Originator-Spoken-Name\nContent-Language: en-US\n\n{audio}\n\
         --MessageBoundary\nContent-type: Audio/32KADPCM\nContent-Transfer-Encoding: Base64\n\
         Content-Description: Brand X Voice Message\n\
         Content-Disposition: inline; voice=Voice-Message; filename=msg1.726\nContent-Duration: 2\n\n{audio}\n\
         --MessageBoundary\nContent-type: text/directory; charset=us-ascii; profile=vCard\n\n\
         BEGIN:VCARD\nN:Parsons;Glenn\nTEL;TYPE=VOICE:+1-214-555-1234\nVERSION:3.0\nEND:VCARD\n\
         --MessageBoundary--\n"
    )
}

/// The audio as ffmpeg encodes it in G.726-32, in base64.
fn g726(dir: &Path, wav: &Path) -> String {
    let encoded = dir.join("hello.726");
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-i"]).arg(wav).args(["-c:a", "g726le", "-b:a", "32k", "-f", "g726le"]);
    assert!(command.arg(&encoded).status().expect("ffmpeg runs").success());
    let output = Command::new("base64").arg(&encoded).output().expect("base64 runs");
    String::from_utf8(output.stdout).expect("base64")
}

#[test]
fn a_voice_message_of_another_system_arrives_with_its_sound_caller_and_marks() {
    if !need::all(&[need::SWAKS, need::FFMPEG]) {
        return;
    }
    let inbound = format!("[mail.in]\nsmtp = [\"{{ip}}:{SMTP}\"]\nnetworks = [\"127.0.0.0/8\"]");
    let mail = vec!["domain = \"one.test\"".to_owned(), inbound];
    let cluster = Cluster::start(&Spec { witness: false, mail, ..Spec::default() });
    let (dir, tone) = (TempDir::new().expect("a folder"), tone());
    let audio = g726(dir.path(), &wav(dir.path(), &tone));
    let file = dir.path().join("mail");
    fs::write(&file, foreign(&audio)).expect("written");
    let node = cluster.member("a").place.port(SMTP);
    let to = format!("{ANNA}@one.test");
    for _ in 0..2 {
        // The second delivery is a repeat, and makes no second message.
        let mut swaks = Command::new("swaks");
        swaks.args(["--server", &node.ip().to_string(), "--port", &node.port().to_string(), "--to", &to]);
        swaks.args(["--from", "12145551234@vm2.example", "--helo", "vm2.example"]);
        let sent = swaks.arg("--data").arg(format!("@{}", file.display())).output().expect("swaks runs");
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stdout));
    }
    for node in ["a", "b"] {
        let arrived = newest(&cluster, node, ANNA, 1);
        let message = shown(&cluster.cli(node), ANNA, &arrived.id);
        assert!(message["urgent"] == true && message["private"] == true, "{message}");
        assert!(message["caller_name"].as_str().is_some_and(|name| name.contains("Parsons")), "{message}");
        let audio = cluster.cli(node).audio(ANNA, &arrived.id, Law::Mu).expect("its audio");
        let distance = distance(&tone, &audio[..tone.len().min(audio.len())]);
        assert!(audio.len().abs_diff(tone.len()) <= 8 && distance > 25.0, "{} bytes, {distance} dB", audio.len());
    }
}
