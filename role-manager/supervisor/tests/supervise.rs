//! A supervisor with a real child, a shell script, and a member that gets reports over mutual TLS. Each test is a
//! process of its own: the supervisor takes this process's signals.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, getpid, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tonic::{Request, Response, Status};
use twinbox_clock::BootInstant;
use twinbox_ids::{ClusterId, Incarnation, NodeName};
use twinbox_pki::{CertificateAuthority, MemberKind, NodeIdentity};
use twinbox_supervisor::{ExitNotice, Member, PidFile, ProcessInfo, Spec, SupervisorError, run};
use twinbox_wire::roles::{
    AskRequest, Exit, ReportAnswer, ReportRequest,
    ask_answer::Result as Answer,
    exits_server::{Exits, ExitsServer},
    supervisor_client::SupervisorClient,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Reports its incarnation, writes down its supervisor's message and its own pid, and runs until it is killed; SIGTERM
/// ends it well.
const NODE: &str = r#"
    trap 'exit 0' TERM
    read -t 0.05 before <&0 || true
    n=$(cat lives 2>/dev/null | wc -l)
    echo "$before" >> before
    printf 'life %032d 7 %d ready\n' $((n + 1)) $((n + 1)) >&0
    echo $$ >> lives
    while true; do sleep 0.02; done
"#;

struct Site {
    dir: TempDir,
    a: Arc<NodeIdentity>,
    b: Arc<NodeIdentity>,
    /// Address at which `b` takes reports.
    member: SocketAddr,
    /// Address at which `a`'s supervisor answers.
    supervisor: SocketAddr,
}

fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create(ClusterId::random(), "test").unwrap();
        let [a, b] = ["a", "b"].map(|n| {
            let tls = dir.path().join(n);
            ca.issue(&name(n), MemberKind::Node).unwrap().save(&tls).unwrap();
            Arc::new(NodeIdentity::load(&tls).unwrap())
        });
        Self { dir, a, b, member: free(), supervisor: free() }
    }

    fn data(&self) -> &Path {
        self.dir.path()
    }

    fn spec(&self, script: &str) -> Spec {
        let script = format!("cd {:?}\n{script}", self.data());
        let member = Member { name: name("b"), address: self.member.to_string() };
        Spec {
            node: name("a"),
            data_dir: self.data().to_owned(),
            program: "/bin/bash".into(),
            arguments: ["-c".into(), script.into()].to_vec(),
            tls: self.a.clone(),
            bind: self.supervisor,
            members: Box::new(move || vec![member.clone()]),
            patience: Duration::from_secs(2),
        }
    }

    fn lines(&self, file: &str) -> Vec<String> {
        fs::read_to_string(self.data().join(file)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The pids of the incarnations so far, once there are this many.
    async fn pids(&self, count: usize) -> Vec<Pid> {
        let pids = async {
            loop {
                let pids = self.lines("lives");
                if pids.len() >= count {
                    return pids.iter().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect();
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, pids).await.expect("the node is started")
    }

    /// Member `b`, which passes on the reports that it receives.
    fn member(&self) -> mpsc::UnboundedReceiver<(BootInstant, Vec<Exit>)> {
        let (sender, reports) = mpsc::unbounded_channel();
        let listener = TcpListener::bind(self.member).unwrap();
        listener.set_nonblocking(true).unwrap();
        let incoming = self.b.listen(tokio::net::TcpListener::from_std(listener).unwrap());
        let service = ExitsServer::new(ReportService { tls: self.b.clone(), reports: sender });
        tokio::spawn(self.b.server().add_service(service).serve_with_incoming(incoming));
        reports
    }

    async fn ask(&self, incarnation: Incarnation) -> Answer {
        let channel = self.b.endpoint(&name("a"), &self.supervisor.to_string()).unwrap().connect_lazy();
        let request = AskRequest { incarnation: incarnation.to_bytes().to_vec().into() };
        SupervisorClient::new(channel).ask(request).await.unwrap().into_inner().result.unwrap()
    }

    /// Waits until the supervisor has read the incarnation: an exit before that cannot be reported.
    async fn runs(&self, incarnation: Incarnation) {
        let runs = async {
            while !matches!(self.ask(incarnation).await, Answer::Runs(_)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, runs).await.expect("it is known");
    }
}

/// On a separate thread, for which a failing test need not wait.
fn supervise(spec: Spec) -> oneshot::Receiver<Result<u8, SupervisorError>> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || ended.send(run(spec)));
    end
}

struct ReportService {
    tls: Arc<NodeIdentity>,
    reports: mpsc::UnboundedSender<(BootInstant, Vec<Exit>)>,
}

#[tonic::async_trait]
impl Exits for ReportService {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportAnswer>, Status> {
        assert_eq!(self.tls.admit(&request).unwrap().name, name("a"), "under the node's own certificate");
        let request = request.into_inner();
        assert_eq!(request.node, "a");
        self.reports.send((BootInstant::now(), request.exits)).unwrap();
        Ok(Response::new(ReportAnswer {}))
    }
}

/// The `n`th incarnation of the script.
fn incarnation(n: u128) -> Incarnation {
    format!("{n:032}").parse().unwrap()
}

async fn exit_of(
    reports: &mut mpsc::UnboundedReceiver<(BootInstant, Vec<Exit>)>,
    incarnation: Incarnation,
) -> (BootInstant, Exit) {
    let wanted = async {
        loop {
            let (at, exits) = reports.recv().await.unwrap();
            if let Some(exit) = exits.into_iter().find(|exit| exit.incarnation == incarnation.to_bytes().to_vec()) {
                return (at, exit);
            }
        }
    };
    timeout(PATIENCE, wanted).await.expect("the member gets the report")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_is_reported_immediately_the_node_restarts_and_sigterm_stops_both() {
    let site = Site::new();
    let mut reports = site.member();
    let spec = site.spec(NODE);
    let supervisor = supervise(spec);
    // The greeting: the connection is open.
    timeout(PATIENCE, reports.recv()).await.unwrap().unwrap();
    let first = site.pids(1).await[0];
    site.runs(incarnation(1)).await;

    // A stopped process has not ended.
    kill_process(first, Signal::STOP).unwrap();
    assert!(matches!(site.ask(incarnation(1)).await, Answer::Runs(_)));
    let killed = BootInstant::now();
    kill_process(first, Signal::KILL).unwrap();
    let (at, exit) = exit_of(&mut reports, incarnation(1)).await;
    println!("reported {:?} after the kill", at.since(killed));
    assert!(at.since(killed) < Duration::from_millis(500), "ten times what it takes on a busy machine");
    assert_eq!((exit.raft_id, exit.run, exit.how.as_str()), (7, 1, "signal 9 (SIGKILL)"));
    assert_eq!(site.pids(2).await.len(), 2);
    assert!(matches!(site.ask(incarnation(1)).await, Answer::Exited(_)));
    assert!(matches!(site.ask(incarnation(99)).await, Answer::Unknown(_)), "an unknown incarnation");
    assert_eq!(
        ExitNotice::parse(&site.lines("before")[1]),
        Some(ExitNotice { incarnation: Some(incarnation(1)), cause: "signal 9 (SIGKILL)".to_owned() }),
        "the next incarnation gets the exit notice"
    );

    kill_process(getpid(), Signal::TERM).unwrap();
    assert_eq!(supervisor.await.unwrap().unwrap(), 0);
    assert_eq!(site.pids(2).await.len(), 2, "and no third");
}

/// A member that was unreachable at the exit gets the report when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_unreachable_gets_the_report_later() {
    let site = Site::new();
    let spec = site.spec(NODE);
    let supervisor = supervise(spec);
    let first = site.pids(1).await[0];
    site.runs(incarnation(1)).await;
    kill_process(first, Signal::KILL).unwrap();
    site.pids(2).await;
    let mut reports = site.member();
    exit_of(&mut reports, incarnation(1)).await;
    kill_process(getpid(), Signal::TERM).unwrap();
    supervisor.await.unwrap().unwrap();
}

/// The pause doubles: five quick deaths take at least 0 + 250 + 500 + 1000 ms.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_is_slowed_down() {
    let site = Site::new();
    let spec = site.spec(&NODE.replace("while true; do sleep 0.02; done", "kill -9 $$"));
    let began = BootInstant::now();
    let supervisor = supervise(spec);
    let fifth = site.pids(5).await[4];
    assert!(began.elapsed() >= Duration::from_millis(1_750), "{:?}", began.elapsed());
    // It notes its pid before it dies.
    let is_gone = async {
        while test_kill_process(fifth).is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, is_gone).await.expect("the fifth process dies");
    kill_process(getpid(), Signal::TERM).unwrap();
    assert_eq!(supervisor.await.unwrap().unwrap(), 0, "no process runs between two incarnations");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_first_start_ends_the_supervisor_with_its_exit_code() {
    let site = Site::new();
    for (script, code) in [("echo x >> lives; exit 2", 2), ("echo x >> lives; exit 1", 1), ("exit 0", 0)] {
        let spec = site.spec(script);
        assert_eq!(supervise(spec).await.unwrap().unwrap(), code, "{script}");
    }
    assert_eq!(site.lines("lives").len(), 2, "each was started once");
    let missing = Spec { program: "/nowhere/twinbox".into(), ..site.spec("") };
    let error = supervise(missing).await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("cannot start /nowhere/twinbox: "), "{error}");
}

/// A child that does not stop is killed in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_node_is_killed_and_its_supervisor_ends() {
    let site = Site::new();
    let spec = site.spec(NODE);
    let supervisor = supervise(spec);
    let first = site.pids(1).await[0];
    kill_process(first, Signal::STOP).unwrap();
    kill_process(getpid(), Signal::TERM).unwrap();
    assert_eq!(supervisor.await.unwrap().unwrap(), 137);
}

/// A process left behind by an earlier supervisor, here the test itself: it is watched, and no second one is started.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_left_by_an_earlier_supervisor_is_watched() {
    let site = Site::new();
    let left = ProcessInfo { raft_id: 3, run: 4, ready: true, ..ProcessInfo::begin() };
    let _file = PidFile::take(site.data(), &left).unwrap();
    let mut reports = site.member();
    let spec = site.spec(NODE);
    let _supervisor = supervise(spec);
    timeout(PATIENCE, reports.recv()).await.unwrap().unwrap();
    site.runs(left.incarnation).await;
    assert!(site.lines("lives").is_empty(), "no second one is started");
    // A second supervisor of the same folder is refused.
    let second = site.spec(NODE);
    let refused = supervise(second).await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("a supervisor of this node runs already"), "{refused}");
}

/// A node that has ended left a pid file whose number is another process's now. Its exit is reported, that process is
/// not watched, and the next incarnation starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_a_reused_id_is_not_watched() {
    let site = Site::new();
    let left = ProcessInfo { raft_id: 3, run: 4, ready: true, ..ProcessInfo::begin() };
    let file = PidFile::take(site.data(), &left).unwrap();
    // This process has the number, but started at another time than the file says.
    let path = site.data().join("node.pid");
    let text = fs::read_to_string(&path).unwrap();
    let start = text.split("process ").nth(1).unwrap().split(' ').next().unwrap();
    fs::write(&path, text.replacen(&format!("process {start} "), "process 7 ", 1)).unwrap();
    drop(file);
    let mut reports = site.member();
    let spec = site.spec(NODE);
    let supervisor = supervise(spec);
    let (_, exit) = exit_of(&mut reports, left.incarnation).await;
    assert_eq!(exit.how, "cause unknown");
    site.pids(1).await;
    kill_process(getpid(), Signal::TERM).unwrap();
    assert_eq!(supervisor.await.unwrap().unwrap(), 0);
}
