//! Durability behind an acknowledgement: strace shows the fsyncs before the `200` to BYE, on both nodes; a full disk
//! loses no acknowledged message and refuses further ones with a text.

use std::{fs, time::Duration};

use twinbox_system_tests::assert_kept;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Event, Invite, SmallDisk, Spec, Strace, Transport, begin_to_speak, g711::Law, hang_up,
    http_get, leave_message, need, wait_until,
};

/// Limit for a message that waits for room: the longest pause between two attempts, and time for them.
const FILED_WITHIN: Duration = Duration::from_secs(75);

fn is_sync(event: &Event) -> bool {
    (event.text.starts_with("fdatasync(") || event.text.starts_with("fsync(")) && event.text.ends_with("= 0")
}

#[test]
fn both_disks_are_synced_before_bye_is_answered() {
    if !need::all(&[need::STRACE]) {
        return;
    }
    // Traced processes are slow; the peer's acknowledgement must be awaited all the same.
    let cluster = Cluster::start(&Spec { ack_timeout_ms: 5000, ..Spec::default() });
    let phones = cluster.phones().clone();
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let invite = Invite::new(Cluster::USERS[0].number, "2001", endpoint.address());
    let call = Call::place(&phones, cluster.sip("a"), Transport::Udp, &invite).expect("the call is answered");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(3.0);
    let nodes = ["a", "b"].map(|n| (n, cluster.member(n).pid()));
    let calls = "trace=fdatasync,fsync,recvfrom,recvmsg,sendto,sendmsg";
    let strace = Strace::attach(&nodes, &[calls], cluster.dir());
    let deposit = hang_up(call, &endpoint, speech);
    // The caller has the answer before strace has noted the end of the system call that sent it.
    let trace = cluster.dir().join("strace.out");
    wait_until("strace to note the end of all calls under way", Duration::from_secs(10), || {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        let is_sent = text.lines().any(|line| line.contains("send") && line.contains("BYE\\r\\n"));
        is_sent && text.matches(" resumed>").count() >= text.matches("<unfinished ...>").count()
    });
    let events = strace.finish();
    assert!(deposit.acknowledged(), "{:?}", deposit.bye);

    let of_a = |e: &&Event| e.who == "a";
    let at = |what: &str, from: usize, calls: &[&str]| {
        let fits = |e: &Event| of_a(&e) && calls.iter().any(|c| e.text.starts_with(c)) && e.text.contains(what);
        events[from..].iter().position(fits).map(|n| n + from)
    };
    let bye = at("BYE sip:", 0, &["recvfrom(", "recvmsg("]).expect("strace saw the BYE come in");
    let ok = at("BYE\\r\\n", bye + 1, &["sendto(", "sendmsg("]).expect("strace saw the answer to the BYE go out");
    assert!(events[ok].text.contains("SIP/2.0 200"), "{}", events[ok].text);
    for who in ["a", "b"] {
        let syncs: Vec<&str> =
            events[bye..ok].iter().filter(|e| e.who == who && is_sync(e)).map(|e| e.text.as_str()).collect();
        println!("{who}: {} syncs between BYE and its answer: {syncs:?}", syncs.len());
        // The audio and the record that names it.
        assert!(syncs.len() >= 2, "{who} synced {syncs:?} before the BYE was answered");
    }
}

#[test]
fn a_full_disk_loses_nothing_acknowledged_and_refuses_the_rest_in_words() {
    if !need::all(&[need::MOUNT]) {
        return;
    }
    let disk = SmallDisk::new(160);
    let data_dirs = vec![("a".to_owned(), disk.data())];
    let mut cluster = Cluster::start(&Spec { reserve_mb: 32, data_dirs, ..Spec::default() });
    let (phones, mailbox) = (cluster.phones().clone(), Cluster::USERS[0].number);
    let first = leave_message(&phones, cluster.sip("a"), mailbox, 1.5);
    assert!(first.acknowledged(), "{:?}", first.bye);

    // The disk fills up in the middle of a recording: into the reserve, not to the last byte.
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    let call = Call::place(&phones, cluster.sip("a"), Transport::Udp, &invite).expect("the call is answered");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(2.0);
    disk.fill(8 << 20);
    endpoint.wait_spoken(6.0);
    let second = hang_up(call, &endpoint, speech);
    println!("BYE with a full disk: {:?}", second.bye);

    // A new caller is refused: by status, or by a prompt without a recording.
    let endpoint = Endpoint::open(&phones, Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    let third = match Call::place(&phones, cluster.sip("a"), Transport::Udp, &invite) {
        Err(refused) => {
            println!("INVITE with a full disk: {}", refused.status);
            assert!((480..=503).contains(&refused.status), "{refused:?}");
            None
        }
        Ok(mut call) => {
            let speech = begin_to_speak(&endpoint, &call);
            // A caller that hears the refusal and is hung up on is informed. A caller that may speak to the end and
            // whose BYE is answered `200` has left a message.
            let told = call.ends(Duration::from_secs(10));
            assert!(endpoint.heard().len() > 8000, "something is said");
            println!("told so and hung up on: {told}");
            (!told).then(|| hang_up(call, &endpoint, speech))
        }
    };
    let running = cluster.member_mut("a").process.as_mut().is_some_and(twinbox_testkit::Process::runs);
    assert!(running, "the node goes on");

    let acknowledged: Vec<_> = [Some(first), Some(second), third]
        .into_iter()
        .flatten()
        .filter(twinbox_testkit::Deposit::acknowledged)
        .collect();
    let kept = |cluster: &Cluster| {
        for deposit in &acknowledged {
            let found = cluster.find("b", mailbox, &deposit.speech, deposit.spoken);
            let whole = cluster.find("a", mailbox, &deposit.speech, deposit.spoken);
            assert!(found.is_some() || whole.is_some(), "an acknowledged message is somewhere");
        }
    };
    assert_kept(&cluster, "a", mailbox, &acknowledged[0], 1.0, Duration::from_secs(2));
    kept(&cluster);
    let on_b = leave_message(&phones, cluster.sip("b"), mailbox, 1.5);
    assert!(on_b.acknowledged(), "the other node is not touched: {:?}", on_b.bye);

    disk.empty();
    let begun = twinbox_clock::BootInstant::now();
    let metrics = cluster.member("a").metrics();
    let ready = || http_get(&phones, metrics, "/readyz").is_some_and(|(status, _)| status == 200);
    wait_until("node a to take calls again", Duration::from_secs(30), ready);
    wait_until("node a to take messages again", Duration::from_secs(30), || {
        let again = leave_message(&phones, cluster.sip("a"), mailbox, 1.2);
        again.acknowledged() && cluster.find("a", mailbox, &again.speech, again.spoken).is_some()
    });
    println!("takes messages again {:?} after there was room", begun.elapsed());
    kept(&cluster);
    // Its last commits may just have fitted into the reserve: then nothing waited.
    if cluster.member("a").log().contains("messages still cannot be filed") {
        let state = || {
            let list = cluster.cli("b").json(&["alarm", "list", "--all"]);
            let alarms = list["alarms"].as_array().cloned().unwrap_or_default();
            let found = alarms.into_iter().find(|a| a["code"] == "message-unfiled" && a["subject"] == "a");
            found.map(|alarm| alarm["state"].as_str().unwrap_or_default().to_owned())
        };
        wait_until("the alarm to be raised and cleared", FILED_WITHIN, || state().as_deref() == Some("cleared"));
        assert!(cluster.member("a").log().contains("filed messages that waited for the disk"));
        println!("the message of the full disk was filed {:?} after there was room", begun.elapsed());
    }
    assert_kept(&cluster, "a", mailbox, &on_b, 1.0, Duration::from_secs(10));
}
