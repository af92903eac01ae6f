//! Random faults while callers leave messages: processes killed, hosts lost, the witness lost, machines paused. Callers
//! try the other node when one does not take the call, as a proxy does. In the end every acknowledged message is on
//! both nodes, and no two nodes ever acted at the same time. `TWINBOX_SEED` replays the choice of faults.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use twinbox_clock::BootInstant;
use twinbox_system_tests::{acts, assert_all_kept};
use twinbox_testkit::{
    Call, Cluster, Deposit, Endpoint, Invite, NetPlace, Pbx, Spec, Transport, begin_to_speak, g711::Law, hang_up,
    holds, parameter,
};

/// Concurrent calls.
const CALLERS: usize = 5;

/// Length of a caller's speech, in seconds: more than greeting, beep and two pauses of a node, during which `#` is not
/// processed. A caller that hangs up before the beep leaves no message, and gets `200` as well.
const SPOKEN: f64 = 5.5;

/// A fault of a member.
#[derive(Debug, Clone, Copy)]
enum Blow {
    /// `kill -9` of a node's process; its supervisor starts the next.
    Process(&'static str),
    /// `kill -9` of process and supervisor; both started again a second later.
    Host(&'static str),
    /// The process is stopped for a second and a half: longer than a lease.
    Pause(&'static str),
}

const BLOWS: [Blow; 7] = [
    Blow::Process("a"),
    Blow::Process("b"),
    Blow::Host("a"),
    Blow::Host("b"),
    Blow::Host("w"),
    Blow::Pause("a"),
    Blow::Pause("b"),
];

fn strike(cluster: &mut Cluster, blow: Blow) {
    match blow {
        Blow::Process(name) => drop(cluster.kill_child(name)),
        Blow::Host(name) => {
            cluster.kill(name);
            thread::sleep(Duration::from_secs(1));
            cluster.start_member(name);
        }
        Blow::Pause(name) => {
            let signal = |signal| {
                cluster.member(name).process.iter().for_each(|process| process.signal_child(signal));
            };
            signal(libc::SIGSTOP);
            thread::sleep(Duration::from_millis(1_500));
            signal(libc::SIGCONT);
        }
    }
}

/// One try: `None` when the node does not answer, sends no audio, or its answer to BYE is no acknowledgement.
fn leave(phones: &NetPlace, node: std::net::SocketAddr, mailbox: &str) -> Option<Deposit> {
    let endpoint = Endpoint::open(phones, Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    let call = Call::place(phones, node, Transport::Udp, &invite).ok()?;
    endpoint.send_to(call.media);
    holds(Duration::from_secs(2), || (endpoint.packets() > 0).then_some(()))?;
    let speech = begin_to_speak(&endpoint, &call);
    endpoint.wait_spoken(SPOKEN);
    Some(hang_up(call, &endpoint, speech)).filter(Deposit::acknowledged)
}

#[test]
fn acknowledged_messages_survive_random_faults() {
    let (mut cluster, pbx) = Cluster::start_with(
        // A full mailbox takes no message, and a caller that hangs up on that prompt gets `200`.
        |phones| Spec {
            mwi: Some(phones.port(5070)),
            voicemail: vec!["max_messages = 10000".to_owned()],
            ..Spec::default()
        },
        |phones| Pbx::open(phones, 5070),
    );
    let seed = parameter("TWINBOX_SEED", u64::from(std::process::id()));
    println!("TWINBOX_SEED={seed}");
    let mailbox = Cluster::USERS[0].number;
    let (phones, nodes) = (cluster.phones().clone(), [cluster.sip("a"), cluster.sip("b")]);
    let began = BootInstant::now();
    let (kept, over, tries) = (Mutex::new(Vec::new()), AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let node = nodes[tries.fetch_add(1, Ordering::Relaxed) % nodes.len()];
                    if let Some(deposit) = leave(&phones, node, mailbox) {
                        let (at, bye) = (deposit.at.since(began), &deposit.bye);
                        println!("{at:8.3?} {node} acknowledges after {:?}: {:x?}", bye.after, deposit.speech);
                        kept.lock().expect("no caller panics").push(deposit);
                    }
                }
            });
        }
        let mut chance = seed | 1;
        for _ in 0..parameter("TWINBOX_BLOWS", 6) {
            // xorshift64
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            let blow = BLOWS[(chance % BLOWS.len() as u64) as usize];
            println!("{:8.3?} {blow:?}", began.elapsed());
            strike(&mut cluster, blow);
            // Often the cluster has not recovered yet: the next fault does not wait for all to be in service.
            thread::sleep(Duration::from_millis(chance % 3_000));
        }
        over.store(true, Ordering::Relaxed);
    });
    let back = cluster.wait_in_service();
    let kept = kept.into_inner().expect("no caller panicked");
    println!("{} acknowledged of {} tries; in service {back:?} after the last", kept.len(), tries.into_inner());
    assert!(!kept.is_empty());
    for node in ["a", "b"] {
        assert_all_kept(&cluster, node, mailbox, &kept, 0.5, Duration::from_secs(30));
    }
    acts::judge(&cluster, &pbx.notifies());
}
