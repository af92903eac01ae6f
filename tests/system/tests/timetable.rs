//! Jobs that run at set times, as administrators add, run and read them on real nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Output,
    time::Duration,
};

use serde_json::Value;
use twinbox_system_tests as _;
use twinbox_testkit::{Cli, Cluster, Spec, wait_for, wait_until};

/// Limit of waits for what takes seconds.
const SOON: Duration = Duration::from_secs(40);
/// Limit of waits for the next minute and the work of a job, also after a take-over.
const NEXT_MINUTE: Duration = Duration::from_secs(100);
const MINUTE_MS: u64 = 60_000;

/// A row of `timetable history`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    job: String,
    due_ms: u64,
    node: String,
    state: String,
    outcome: String,
    attempt: u64,
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn runs(reply: &Value) -> Vec<Run> {
    let field = |run: &Value, word: &str| run[word].as_str().unwrap_or_default().to_owned();
    let number = |run: &Value, word: &str| run[word].as_u64().unwrap_or_default();
    let rows = reply["runs"].as_array().unwrap_or_else(|| panic!("no runs: {reply}"));
    let read = |run: &Value| Run {
        job: field(run, "job"),
        due_ms: number(run, "due_ms"),
        node: field(run, "node"),
        state: field(run, "state"),
        outcome: field(run, "outcome"),
        attempt: number(run, "attempt"),
    };
    rows.iter().map(read).collect()
}

/// The history of a job, newest first.
fn history(cli: &Cli, job: &str) -> Vec<Run> {
    runs(&cli.json(&["timetable", "history", job, "--most", "1000"]))
}

/// The node that holds the duty `timetable`.
fn holder(cli: &Cli) -> Option<String> {
    let duties = cli.try_json(&["duty", "list"]).ok()?;
    let duty = duties["duties"].as_array()?.iter().find(|duty| duty["duty"] == "timetable")?;
    (duty["state"] == "running").then(|| duty["holder"].as_str().unwrap_or_default().to_owned())
}

/// A refused command, with the parts that its text has.
fn refused(cli: &Cli, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = cli.run(arguments);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{arguments:?}: no '{part}' in: {text}");
    }
}

#[test]
fn wrong_settings_are_refused_by_name_and_due_times_are_in_the_zone_of_the_job() {
    let cluster = Cluster::start(&Spec::default());
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let add = ["timetable", "add", "nightly", "--job", "ageing", "--cron"];
    let bad: [(&[&str], &[&str]); 6] = [
        (&["61 3 * * *"], &["'61'", "minute"]),
        (&["0 3 * *"], &["'0 3 * *'", "five fields"]),
        (&["0 3 31 2 *"], &["never"]),
        (&["0 3 * * *", "--zone", "Europe/Berln"], &["'Europe/Berln'"]),
        (&["0 3 * * *", "directory=corp"], &["'directory'", "ageing"]),
        (&["0 3 * * *", "enabled=perhaps"], &["'perhaps'", "enabled"]),
    ];
    for (arguments, parts) in bad {
        refused(&a, &[&add[..], arguments].concat(), 2, parts);
    }
    refused(&a, &["timetable", "add", "x", "--job", "agein", "--cron", "0 3 * * *"], 2, &["ageing"]);
    refused(&a, &["timetable", "add", "x", "--job", "report", "--cron", "0 3 * * *"], 2, &["report=VALUE"]);
    assert!(a.json(&["timetable", "list"])["jobs"].as_array().is_some_and(Vec::is_empty));

    let output = a.run(&[&add[..], &["0 3 * * *", "--zone", "Europe/Berlin", "--missed", "run-once"]].concat());
    let added = text(&output);
    assert!(output.status.success(), "{added}");
    let due: Vec<&str> = added.lines().filter(|line| line.starts_with("due ")).collect();
    assert!(due.len() == 3 && due.iter().all(|line| line.contains(" 03:00:00 CE")), "{added}");
    refused(&b, &[&add[..], &["0 4 * * *"]].concat(), 1, &["nightly"]);

    let list = b.json(&["timetable", "list"]);
    let job = &list["jobs"][0];
    for (word, value) in [
        ("name", "nightly"),
        ("kind", "ageing"),
        ("cron", "0 3 * * *"),
        ("zone", "Europe/Berlin"),
        ("place", "publisher"),
        ("missed", "run-once"),
    ] {
        assert_eq!(job[word], value, "{list}");
    }
    assert_eq!((&job["last"], &job["next_ms"].as_array().map(Vec::len)), (&Value::Null, &Some(3)), "{list}");
    let table = text(&b.run(&["timetable", "list"]));
    assert!(table.contains("nightly") && table.contains(" 03:00:00 CE"), "{table}");

    let set = b.json(&["timetable", "set", "nightly", "--cron", "30 4 * * *", "--zone", "UTC"]);
    let next: Vec<u64> = set["next_ms"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let of_day = |ms: &u64| ms % (24 * 60 * MINUTE_MS);
    assert_eq!(next.iter().map(of_day).collect::<Vec<_>>(), [270 * MINUTE_MS; 3], "{set}");
    refused(&b, &["timetable", "set", "nightly", "--cron", "* 24 * * *"], 2, &["'24'", "hour"]);
    refused(&b, &["timetable", "set", "nightli", "enabled=no"], 1, &["did you mean 'nightly'"]);
    b.json(&["timetable", "set", "nightly", "enabled=no"]);
    let job = a.json(&["timetable", "list"])["jobs"][0].clone();
    assert_eq!((&job["enabled"], &job["cron"]), (&false.into(), &"30 4 * * *".into()), "{job}");
    assert!(job["next_ms"].as_array().is_some_and(Vec::is_empty), "{job}");

    a.json(&["timetable", "remove", "nightly"]);
    assert!(b.json(&["timetable", "list"])["jobs"].as_array().is_some_and(Vec::is_empty));
    refused(&b, &["timetable", "run", "nightly"], 1, &["'nightly'"]);
}

#[test]
fn run_by_hand_has_its_outcome_from_the_holder_of_the_duty_or_from_every_node() {
    let cluster = Cluster::start(&Spec::default());
    let (publisher, other) = cluster.publisher_and_other();
    let (here, there) = (cluster.cli(&publisher), cluster.cli(&other));
    let holder = wait_for("the duty to run", SOON, || holder(&there));
    // Due on one day of the year: only an administrator runs them.
    let yearly = ["--cron", "0 3 1 1 *", "--zone", "UTC"];
    let add = |name: &str, kind: &str, more: &[&str]| {
        there.json(&[&["timetable", "add", name, "--job", kind][..], &yearly, more].concat());
    };
    add("ageing", "ageing", &[]);
    add("everywhere", "ageing", &["--on", "every-node"]);
    add("lights", "mwi-resync", &[]);
    add("nothing", "directory-sync", &["directory=nowhere", "enabled=no"]);
    add("warnings", "quota-warnings", &["share=50"]);
    let folder = cluster.dir().join("reports");
    let into = format!("folder={}", folder.display());
    add("weekly", "report", &["report=traffic", "format=csv", &into]);

    let mut latest = Vec::new();
    for cli in [&there, &here] {
        let ran = runs(&cli.json(&["timetable", "run", "ageing"]));
        assert_eq!(ran.len(), 1, "{ran:#?}");
        let run = &ran[0];
        assert_eq!((&run.node, run.state.as_str(), run.attempt), (&holder, "done", 1), "{run:?}");
        assert!(!run.outcome.is_empty() && latest.iter().all(|before: &Run| before.due_ms < run.due_ms), "{run:?}");
        latest = ran;
    }
    for (job, part) in [("lights", "states"), ("warnings", "no mailbox is filled to 50 %"), ("weekly", "reports")] {
        let ran = runs(&there.json(&["timetable", "run", job]));
        assert!(ran[0].node == holder && ran[0].outcome.contains(part), "{ran:#?}");
    }
    assert_eq!(fs::read_dir(&folder).map(Iterator::count).unwrap_or_default(), 1, "one report in {folder:?}");
    let everywhere = runs(&there.json(&["timetable", "run", "everywhere"]));
    let nodes: BTreeSet<&str> = everywhere.iter().map(|run| run.node.as_str()).collect();
    assert_eq!((everywhere.len(), nodes), (2, BTreeSet::from(["a", "b"])), "{everywhere:#?}");
    assert!(everywhere.iter().all(|run| run.state == "done"), "{everywhere:#?}");
    refused(&there, &["timetable", "run", "nothing"], 1, &["nowhere", "failed", "timetable history nothing"]);

    for cli in [&there, &here] {
        // Of two runs within a second the later may replace the earlier.
        assert_eq!(history(cli, "ageing")[..1], latest);
        let all = runs(&cli.json(&["timetable", "history"]));
        let count = |job: &str| all.iter().filter(|run| run.job == job).count();
        assert!(all.contains(&latest[0]), "{all:#?}");
        assert_eq!((count("everywhere"), count("nothing")), (2, 1), "{all:#?}");
        assert!(all.is_sorted_by(|a, b| a.due_ms >= b.due_ms), "newest first: {all:#?}");
        assert_eq!(runs(&cli.json(&["timetable", "history", "--most", "1"])), all[..1]);
        let last = cli.json(&["timetable", "list"])["jobs"][0]["last"].clone();
        assert_eq!((&last["state"], &last["job"]), (&"done".into(), &"ageing".into()), "{last}");
    }
    let table = text(&there.run(&["timetable", "history", "everywhere"]));
    assert!(table.lines().count() == 3 && table.contains(" UTC"), "{table}");
}

/// Number of runs of a job that any node began, by the nodes' logs.
fn begun(cluster: &Cluster, id: &str) -> usize {
    let is_begin = |line: &&str| line.contains("job begins") && line.contains(id);
    cluster.members().iter().map(|member| member.log().lines().filter(is_begin).count()).sum()
}

/// Runs that ended as they should.
fn done(cli: &Cli, job: &str) -> Vec<Run> {
    history(cli, job).into_iter().filter(|run| run.state == "done").collect()
}

#[test]
fn job_of_each_minute_goes_on_after_its_node_is_killed_and_has_one_run_for_each_due_time() {
    let mut cluster = Cluster::start(&Spec::default());
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    wait_until("the duty to run", SOON, || holder(&a).is_some());
    let each_minute = ["--job", "ageing", "--cron", "* * * * *", "--zone", "UTC"];
    let id = a.json(&[&["timetable", "add", "minutes"][..], &each_minute].concat())["id"].clone();
    let id = id.as_str().unwrap_or_default().to_owned();
    a.json(&[&["timetable", "add", "everywhere"][..], &each_minute, &["--on", "every-node"]].concat());
    let ran = wait_for("runs of both jobs", NEXT_MINUTE, || {
        let (runs, everywhere) = (done(&b, "minutes"), done(&b, "everywhere"));
        let nodes: BTreeSet<&str> = everywhere.iter().map(|run| run.node.as_str()).collect();
        (!runs.is_empty() && nodes.len() == 2).then_some(runs)
    });
    let victim = wait_for("the holder of the duty", SOON, || holder(&b));
    assert!(ran.iter().all(|run| run.node == victim), "{victim} holds the duty: {ran:#?}");

    cluster.kill(&victim);
    let survivor = if victim == "a" { "b" } else { "a" };
    let cli = cluster.cli(survivor);
    let next = wait_for("a run of the survivor", NEXT_MINUTE, || {
        done(&cli, "minutes").into_iter().find(|run| run.node == survivor)
    });
    println!("{victim} was killed; {survivor} ran the job that was due at {}", next.due_ms);
    cluster.start_member(&victim);
    cluster.wait_in_service();
    let newest = history(&cli, "minutes").first().map_or(0, |run| run.due_ms);
    wait_until("a run with both nodes", NEXT_MINUTE, || done(&cli, "minutes")[0].due_ms > newest);

    // Runs under way and their ends reach the other node a moment later.
    wait_until("the same history on both", SOON, || history(&a, "minutes") == history(&b, "minutes"));
    let all = history(&cli, "minutes");
    println!("{all:#?}");
    assert!(all.iter().all(|run| run.due_ms % MINUTE_MS == 0), "at the minute: {all:#?}");
    let mut by_due: BTreeMap<u64, Vec<&Run>> = BTreeMap::new();
    all.iter().for_each(|run| by_due.entry(run.due_ms).or_default().push(run));
    for (due, runs) in &by_due {
        assert!(runs.len() == 1 && runs[0].attempt == 1, "twice for {due}: {runs:#?}");
    }
    let due: Vec<u64> = by_due.keys().copied().collect();
    assert!(due.windows(2).all(|pair| pair[1] - pair[0] == MINUTE_MS), "no due time is left out: {due:?}");
    assert!(all.iter().all(|run| run.state != "skipped"), "{all:#?}");
    // A run that both nodes began would have one row, and two lines.
    wait_until("as many begun runs as due times", SOON, || begun(&cluster, &id) == history(&cli, "minutes").len());
}
