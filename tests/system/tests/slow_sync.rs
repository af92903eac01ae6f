//! A disk on which each sync takes two seconds: nothing but the commits themselves waits for it. Callers and readers of
//! the node are answered meanwhile, and no lease is lost.

use std::{fs, thread, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_system_tests::{assert_kept, longest_goodbye};
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Spec, Transport, begin_to_speak, g711::Law, hang_up, leave_message, slow_disk,
};

/// Time of one sync.
const SYNC: Duration = Duration::from_secs(2);
/// Ten times the aim, for a busy machine; far below one sync.
const SOON: Duration = Duration::from_millis(500);
const ACK_TIMEOUT_MS: u64 = 250;

#[test]
fn callers_and_readers_are_answered_and_no_duty_moves_while_each_sync_takes_two_seconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let switch = folder.path().join("slow");
    let slow = slow_disk(folder.path(), SYNC, Some(&switch));
    let env = slow.into_iter().map(|(name, value)| ("a", name, value)).collect();
    let cluster = Cluster::start(&Spec { env, ack_timeout_ms: ACK_TIMEOUT_MS, ..Spec::default() });
    let (phones, cli) = (cluster.phones(), cluster.cli("a"));
    let [reader, speaker] = [Cluster::USERS[0].number, Cluster::USERS[1].number];
    assert!(leave_message(phones, cluster.sip("a"), reader, 1.2).acknowledged());
    let moves = || cluster.cli("b").json(&["cluster", "moves"]).to_string();
    let before = moves();

    let endpoint = Endpoint::open(phones, Law::Mu);
    let invite = Invite::new(speaker, "2001", endpoint.address());
    let call = Call::place(phones, cluster.sip("a"), Transport::Udp, &invite).expect("the call is answered");
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(2.5);
    fs::write(&switch, "").expect("the disk becomes slow");

    // The first of these commits is in its sync when the others are asked.
    let deposit = hang_up(call, &endpoint, speech);
    println!("BYE of a recording: {:?}", deposit.bye);
    assert!([200, 500].contains(&deposit.bye.status), "{:?}", deposit.bye);
    assert!(deposit.bye.after < longest_goodbye(ACK_TIMEOUT_MS).min(SYNC), "{:?}", deposit.bye);
    let slow = BootInstant::now();
    let (mut invites, mut byes, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    // Raft's log of node a is written, too: none of both stores may wait for the other's sync, nor readers for either.
    let orders = {
        let (cli, holder) = (cluster.cli("b"), cluster.publisher("b"));
        thread::spawn(move || {
            while slow.elapsed() < SYNC * 4 {
                cli.order(&["duty", "pin", "notifier", &holder]);
                cli.order(&["duty", "unpin", "notifier"]);
            }
        })
    };
    while slow.elapsed() < SYNC * 4 {
        let endpoint = Endpoint::open(phones, Law::Mu);
        let invite = Invite::new(reader, "2001", endpoint.address());
        let took = match Call::place_within(phones, cluster.sip("a"), Transport::Udp, &invite, SYNC) {
            Ok(call) => {
                let took = call.answered_in;
                let bye = call.bye();
                assert!(bye.status == 200 && bye.after < SOON, "BYE of a caller who said nothing: {bye:?}");
                byes.push(bye.after);
                took
            }
            Err(refused) => {
                assert_eq!(refused.status, 503, "{refused:?}");
                refused.after
            }
        };
        assert!(took < SOON, "INVITE was answered after {took:?}");
        invites.push(took);
        let asked = BootInstant::now();
        assert_eq!(cli.messages(reader).len(), 1);
        lists.push(asked.elapsed());
        assert!(lists.iter().all(|took| *took < SOON), "messages were listed after {:?}", lists.last());
    }
    orders.join().expect("orders are carried out");
    println!("{} of {} calls answered, the others refused", byes.len(), invites.len());
    for (what, mut times) in [("INVITE", invites), ("BYE", byes), ("list of messages, by a new process", lists)] {
        times.sort();
        let (median, longest) = (times.get(times.len() / 2), times.last());
        println!("{what}: median {median:?}, longest {longest:?}");
        assert!(!times.is_empty(), "{what}: none was answered");
    }
    fs::remove_file(&switch).expect("the disk is quick again");

    assert_kept(&cluster, "b", speaker, &deposit, 1.0, Duration::from_secs(30));
    cluster.wait_in_service();
    assert_eq!(moves(), before, "no duty moved");
}
