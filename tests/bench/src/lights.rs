//! MWI of many mailboxes towards a PBX: by `mwi resync`, and after a take-over.
//!
//! Method: a pair with a witness, the publisher pinned to a core, everything else to the other. A PBX in this process takes the NOTIFYs
//! into a queue and answers them `200` in their order, each after a given service time. First every new mailbox is told once. Then `mwi
//! resync` is run repeatedly: the time runs from the start of the command until every mailbox was told again. The queue is the number of
//! NOTIFYs that have arrived and are not answered; repeated ones count. The publisher has also queues for the subscribers at each node:
//! the last column is the time until it is idle again.
//!
//! At the end the publisher is killed, and the other node sends the state of every mailbox. Once the first has come, a caller leaves
//! a message there: its NOTIFY is timed from the hang-up. The command ends with an error if that NOTIFY waited for those of all other
//! mailboxes. Without rounds nothing is pinned.

use std::{
    collections::HashSet,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use serde_json::json;
use twinbox_clock::BootInstant;
use twinbox_testkit::{Cluster, Message, NetPlace, Spec, try_leave_message, wait_for, wait_until};

use crate::{
    machine,
    report::{Report, ms},
    setup,
};

/// Port of the PBX.
const PBX: u16 = 5070;
/// Speech of the message that is left during a take-over.
const MESSAGE_SECONDS: f64 = 1.2;
/// NOTIFYs that a node has under way at once (`MwiPolicy` of `nodes/notifier`), which may come in another order.
const UNDER_WAY: usize = 16;
/// Line of a message summary with new messages (RFC 3842), in lower case.
const WAITING: &str = "messages-waiting: yes";
/// Limit of each wait.
const PATIENCE: Duration = Duration::from_secs(900);
/// Share of a core below which a process counts as idle, and the time over which it is measured.
const IDLE: f64 = 0.05;
const IDLE_OVER: Duration = Duration::from_secs(1);

/// Runs `rounds` resyncs of `count` mailboxes towards a PBX with this service time, and a take-over. The error names what must
/// hold and did not.
pub fn run(report: &mut Report, rounds: usize, count: usize, service: Duration) -> Result<(), String> {
    if rounds > 0 {
        machine::pin(0, machine::ELSEWHERE);
    }
    let (mut cluster, pbx) = Cluster::start_with(
        |phones| Spec { log: "warn", mwi: Some(phones.port(PBX)), ..Spec::default() },
        |phones| QueueingPbx::open(phones, service),
    );
    let mailboxes = setup::mailboxes(&cluster, count).len() + Cluster::USERS.len();
    wait_until("every mailbox to be told once", PATIENCE, || pbx.counts().told.len() >= mailboxes);
    if rounds > 0 {
        resync(report, &cluster, &pbx, rounds, mailboxes);
    }
    take_over(report, &mut cluster, &pbx, mailboxes)
}

/// Sends the states of all mailboxes repeatedly.
fn resync(report: &mut Report, cluster: &Cluster, pbx: &QueueingPbx, rounds: usize, mailboxes: usize) {
    let (publisher, other) = cluster.publisher_and_other();
    let [publisher_pid, other_pid] = [&publisher, &other].map(|name| cluster.member(name).pid());
    machine::pin_process(publisher_pid, machine::UNDER_TEST);
    until_idle(publisher_pid);
    let columns = &[
        "mailboxes",
        "seconds",
        "a second",
        "longest queue",
        "NOTIFYs",
        "publisher %",
        "other node %",
        "idle after s",
    ];
    let mut table = report.table("MWI of all mailboxes resent to a PBX", columns);
    for _ in 0..rounds {
        *pbx.counts() = Counts::default();
        let used = || [publisher_pid, other_pid].map(machine::cpu_of);
        let (before, begun) = (used(), BootInstant::now());
        cluster.cli(&publisher).json(&["mwi", "resync"]);
        let last = wait_for("every mailbox to be told again", PATIENCE, || {
            let counts = pbx.counts();
            counts.last.filter(|_| counts.told.len() >= mailboxes)
        });
        let (after, watched) = (used(), begun.elapsed().as_secs_f64());
        let cores = [0, 1].map(|n| json!((after[n] - before[n]).as_secs_f64() / watched * 100.0));
        let idle = until_idle(publisher_pid).since(begun);
        let seconds = last.since(begun).as_secs_f64();
        let counts = pbx.counts();
        let [publisher, other] = cores;
        table.row(&[
            json!(mailboxes),
            json!(seconds),
            json!(mailboxes as f64 / seconds),
            json!(counts.longest),
            json!(counts.notifies),
            publisher,
            other,
            json!(idle.as_secs_f64()),
        ]);
    }
}

/// Kills the publisher; a caller leaves a message while the other node sends the states of all mailboxes.
fn take_over(
    report: &mut Report,
    cluster: &mut Cluster,
    pbx: &QueueingPbx,
    mailboxes: usize,
) -> Result<(), String> {
    let (publisher, other) = cluster.publisher_and_other();
    *pbx.counts() = Counts::default();
    let killed = BootInstant::now();
    cluster.kill(&publisher);
    let first = wait_for("the other node to tell the PBX", PATIENCE, || pbx.counts().first);
    let (phones, node, mailbox) = (cluster.phones(), cluster.sip(&other), Cluster::USERS[0].number);
    let deposit = wait_for("the other node to take a call", PATIENCE, || {
        try_leave_message(phones, node, mailbox, MESSAGE_SECONDS).ok()
    });
    assert!(deposit.acknowledged(), "the BYE was answered {:?}", deposit.bye);
    let hung_up = deposit.at - deposit.bye.after;
    let left = mailboxes.saturating_sub(pbx.counts().told.len());
    let (message, before) = wait_for("the NOTIFY of the message", PATIENCE, || pbx.counts().message);
    let last = wait_for("every mailbox to be told again", PATIENCE, || {
        let counts = pbx.counts();
        counts.last.filter(|_| counts.told.len() >= mailboxes)
    });
    let after = mailboxes.saturating_sub(before);
    let columns =
        &["mailboxes", "first after s", "all after s", "message after ms", "told before it", "told after it"];
    let mut table = report.table("MWI after the publisher was killed, and of a message left meanwhile", columns);
    table.row(&[
        json!(mailboxes),
        json!(first.since(killed).as_secs_f64()),
        json!(last.since(killed).as_secs_f64()),
        json!(ms(message.since(hung_up))),
        json!(before),
        json!(after),
    ]);
    if left > 10 * UNDER_WAY && after <= UNDER_WAY {
        let seconds = message.since(hung_up).as_secs_f64();
        return Err(format!("lights: a message waited for {seconds:.1} s behind the states of {left} mailboxes"));
    }
    Ok(())
}

/// Waits until a process is idle; returns the time at which it became that.
fn until_idle(pid: u32) -> BootInstant {
    wait_for("an idle node", PATIENCE, || {
        let (used, begun) = (machine::cpu_of(pid), BootInstant::now());
        sleep(IDLE_OVER);
        let share = (machine::cpu_of(pid) - used).as_secs_f64() / begun.elapsed().as_secs_f64();
        (share < IDLE).then_some(begun)
    })
}

/// NOTIFYs since the last reset.
#[derive(Default)]
struct Counts {
    /// Mailboxes of the NOTIFYs.
    told: HashSet<String>,
    /// All NOTIFYs, repeated ones too.
    notifies: usize,
    /// NOTIFYs that wait for their answer.
    queued: usize,
    /// Largest number of these.
    longest: usize,
    /// Arrival of the first NOTIFY.
    first: Option<BootInstant>,
    /// Arrival of the first NOTIFY of the mailbox that was told last.
    last: Option<BootInstant>,
    /// Arrival of the first NOTIFY of a message, and the number of mailboxes told until then: all were empty.
    message: Option<(BootInstant, usize)>,
}

/// A PBX that answers every NOTIFY `200`, one after the other.
struct QueueingPbx {
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl QueueingPbx {
    fn open(place: &NetPlace, service: Duration) -> Self {
        let socket = place.udp(PBX);
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
        let answers = socket.try_clone().expect("a socket can be cloned");
        let (counts, stop) = (Arc::new(Mutex::new(Counts::default())), Arc::new(AtomicBool::new(false)));
        let (queue, queued) = mpsc::channel();
        let (received, answered, stopped) = (counts.clone(), counts.clone(), stop.clone());
        let threads = vec![
            thread::spawn(move || receive(&socket, &received, &queue, &stopped)),
            thread::spawn(move || answer(&answers, &answered, &queued, service)),
        ];
        Self { counts, stop, threads }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }
}

impl Drop for QueueingPbx {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // The end of the first thread ends the second.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn receive(
    socket: &UdpSocket,
    counts: &Mutex<Counts>,
    queue: &mpsc::Sender<(Message, SocketAddr)>,
    stop: &AtomicBool,
) {
    let mut buffer = [0_u8; 65_536];
    while !stop.load(Relaxed) {
        let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
        let at = BootInstant::now();
        let Some((message, _)) = Message::read(&buffer[..length]) else { continue };
        if message.method() != Some("NOTIFY") {
            continue;
        }
        {
            let mut counts = lock(counts);
            counts.first = counts.first.or(Some(at));
            counts.notifies += 1;
            counts.queued += 1;
            counts.longest = counts.longest.max(counts.queued);
            if counts.told.insert(mailbox(&message)) {
                counts.last = Some(at);
            }
            if counts.message.is_none() && message.body.to_ascii_lowercase().contains(WAITING) {
                counts.message = Some((at, counts.told.len()));
            }
        }
        // The other thread lives as long as this one.
        let _ = queue.send((message, source));
    }
}

fn answer(
    socket: &UdpSocket,
    counts: &Mutex<Counts>,
    queued: &mpsc::Receiver<(Message, SocketAddr)>,
    service: Duration,
) {
    for (message, source) in queued {
        if !service.is_zero() {
            sleep(service);
        }
        // A lost answer is asked for again.
        let _ = socket.send_to(message.answer("200 OK", &[], "").as_bytes(), source);
        let mut counts = lock(counts);
        counts.queued = counts.queued.saturating_sub(1);
    }
}

/// The user part of the Request-URI.
fn mailbox(notify: &Message) -> String {
    let uri = notify.start.split(' ').nth(1).unwrap_or_default();
    uri.trim_start_matches("sip:").split('@').next().unwrap_or_default().to_owned()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
