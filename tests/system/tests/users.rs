//! Users in bulk and their data: tables, an Asterisk spool, classes of service, prompts.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use twinbox_clock::BootInstant;
use twinbox_testkit::{
    Call, Cli, Cluster, Endpoint, Invite, Spec, Speech, Transport, g711::Law, leave_message, parameter, wait_until,
};

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn file(dir: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
    fs::write(&path, content).expect("it can be written");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A µ-law WAV file (RFC 2361, format 7).
fn wav(audio: &[u8]) -> Vec<u8> {
    let length = audio.len() as u32;
    let mut wav = Vec::new();
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(length + 38).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    wav.extend_from_slice(&18_u32.to_le_bytes());
    for half in [7_u16, 1] {
        wav.extend_from_slice(&half.to_le_bytes());
    }
    for word in [8_000_u32, 8_000] {
        wav.extend_from_slice(&word.to_le_bytes());
    }
    for half in [1_u16, 8, 0] {
        wav.extend_from_slice(&half.to_le_bytes());
    }
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&length.to_le_bytes());
    wav.extend_from_slice(audio);
    wav
}

fn summary(reply: &Value) -> (u64, u64, u64) {
    let count = |what: &str| reply["summary"][what].as_u64().unwrap_or(u64::MAX);
    (count("created"), count("changed"), count("unchanged"))
}

#[test]
fn a_table_of_users_is_taken_whole_or_not_at_all_on_either_node() {
    let cluster = Cluster::start(&Spec::default());
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let dir = TempDir::new().expect("a folder");
    let wrong = file(&dir, "wrong.csv", "number,name,pin,timezone\n3001,Ada,1111,\nx,,,\n3002,Bo,284617,Mars\n");
    let refused = a.run(&["user", "import", text(&wrong)]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    for word in ["wrong.csv:3: number", "wrong.csv:4: timezone", "nothing was changed"] {
        assert!(said(&refused).contains(word), "no '{word}' in {}", said(&refused));
    }
    let easy = file(&dir, "easy.csv", "number,name,pin\n3001,Ada,1111\n");
    let refused = said(&a.run(&["user", "import", text(&easy)]));
    assert!(refused.contains("easy.csv:2: pin") && !refused.contains("1111"), "{refused}");
    assert!(a.try_json(&["user", "show", "3001"]).is_err());

    let good =
        file(&dir, "good.csv", "number,name,pin,timezone\n3001,Ada,284617,Europe/Berlin\n3002,\"L, Bo\",,\n");
    let planned = a.run(&["user", "import", text(&good), "--dry-run"]);
    assert!(
        said(&planned).contains("2 users would be new") && said(&planned).contains("3001"),
        "{}",
        said(&planned)
    );
    assert!(a.try_json(&["user", "show", "3001"]).is_err());
    let done = a.json(&["user", "import", text(&good)]);
    assert_eq!(summary(&done), (2, 0, 0), "{done}");
    assert_eq!(done["summary"]["acknowledged"], "on two");
    assert_eq!(summary(&b.json(&["user", "import", text(&good)])), (0, 0, 2));
    assert_eq!(b.json(&["user", "show", "3002"])["name"], "L, Bo");

    // An export imported again changes nothing; a changed value is noticed.
    let table = dir.path().join("all.csv");
    assert!(b.run(&["user", "export", "--output", text(&table)]).status.success());
    assert_eq!(summary(&a.json(&["user", "import", text(&table)])), (0, 0, 4));
    a.json(&["user", "set", "3001", "--name", "Ada \"L\"", "--timezone", "UTC"]);
    let ada = b.json(&["user", "show", "3001"]);
    assert_eq!((ada["name"].as_str(), ada["timezone"].as_str()), (Some("Ada \"L\""), Some("UTC")));
    assert_eq!(a.run(&["user", "set", "3009", "--name", "x"]).status.code(), Some(1));

    // An address belongs to one user.
    a.json(&["user", "set", "3001", "--mail", "Ada@example.com", "--alias", "ada", "--alias", "a.l@old.example"]);
    let ada = b.json(&["user", "show", "3001"]);
    let aliases = serde_json::json!(["ada", "a.l@old.example"]);
    assert_eq!((&ada["mail"], &ada["aliases"]), (&"ada@example.com".into(), &aliases));
    let taken = b.run(&["user", "set", "3002", "--alias", "Ada"]);
    assert!(taken.status.code() == Some(2) && said(&taken).contains("belongs to mailbox 3001"), "{}", said(&taken));
    let taken = b.run(&["user", "add", "3003", "--mail", "ada@example.com"]);
    assert!(taken.status.code() == Some(1) && said(&taken).contains("belongs to mailbox 3001"), "{}", said(&taken));
    assert!(b.run(&["user", "export", "--output", text(&table)]).status.success());
    assert_eq!(summary(&a.json(&["user", "import", text(&table)])), (0, 0, 4));
    a.json(&["user", "set", "3001", "--alias", "-"]);
    b.json(&["user", "add", "3003", "--alias", "ada"]);

    // Another number: everything else stays, also under the id.
    let taken = a.run(&["user", "renumber", "3001", "3003"]);
    assert!(taken.status.code() == Some(1) && said(&taken).contains("3003 is in use"), "{}", said(&taken));
    assert_eq!(a.json(&["user", "renumber", "3001", "3101"])["acknowledged"], "on two");
    let id = ada["id"].as_str().expect("an id");
    for name in ["3101", id] {
        let moved = b.json(&["user", "show", name]);
        assert_eq!((&moved["number"], &moved["mail"], &moved["id"]), (&"3101".into(), &ada["mail"], &ada["id"]));
    }
    assert!(b.try_json(&["user", "show", "3001"]).is_err());
    b.json(&["user", "add", "3001"]);
}

/// `TWINBOX_USERS=20000` sets the full size.
#[test]
fn thousands_of_users_are_imported_in_one_go() {
    let users = parameter("TWINBOX_USERS", 150);
    let pins = parameter("TWINBOX_USERS_WITH_PINS", 1) != 0;
    let cluster = Cluster::start(&Spec::default());
    let dir = TempDir::new().expect("a folder");
    let pin = |n: u64| if pins { (284_617 + 7 * n).to_string() } else { String::new() };
    let row = |n: u64| format!("{},User {n},{},Europe/Berlin\n", 200_000 + n, pin(n));
    let table: String = (0..users).map(row).collect();
    let table = file(&dir, "many.csv", "number,name,pin,timezone\n".to_owned() + &table);
    let began = BootInstant::now();
    let done = cluster.cli("a").json(&["user", "import", text(&table), "--weak-pins", "accept"]);
    let took = began.elapsed();
    println!("{users} users, first PINs {pins}: {took:.1?}");
    assert_eq!(summary(&done), (users, 0, 0));
    let began = BootInstant::now();
    wait_until("the other node knows them", Duration::from_secs(60), || {
        cluster.cli("b").try_json(&["user", "show", &(200_000 + users - 1).to_string()]).is_ok()
    });
    let again = cluster.cli("b").json(&["user", "import", text(&table), "--weak-pins", "accept"]);
    println!("again on the other node: {:.1?}", began.elapsed());
    assert_eq!(summary(&again), (0, 0, users));
    // Ten times the aim: 20,000 in 30 s.
    assert!(took < Duration::from_secs(30) + Duration::from_millis(15 * users), "{took:?}");
}

/// As a spreadsheet of a country with a decimal comma saves it: semicolons, a byte order mark, CRLF, quotes, an empty
/// last line.
#[test]
fn a_spreadsheet_s_table_is_taken_and_its_mistakes_are_named_by_line() {
    let cluster = Cluster::start(&Spec { witness: false, raw: true, ..Spec::default() });
    cluster.wait_in_service();
    let a = cluster.cli("a");
    let dir = TempDir::new().expect("a folder");
    let sheet = |rows: &str| file(&dir, "sheet.csv", format!("\u{feff}{}", rows.replace('\n', "\r\n")));
    let slips = sheet("Number;Nmae;PIN\n3001;Ada;284617\n");
    let refused = a.run(&["user", "import", text(&slips)]);
    assert!(said(&refused).contains("sheet.csv:1: there is no column 'Nmae'"), "{}", said(&refused));
    assert!(said(&refused).contains("did you mean 'name'?"), "{}", said(&refused));
    // A name over two lines counts as two; the last line has a wrong PIN, and its number is there twice.
    let wrong = sheet("Number;Name;PIN;Cos\n3001;\"Lovelace; Ada\";284617;\n3002;\"Bo\nB\";;gold\n3001;;12x4;\n");
    let refused = a.run(&["--json", "user", "import", text(&wrong)]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let problems: Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    let lines: Vec<_> = problems["problems"].as_array().into_iter().flatten().map(|p| p["line"].as_u64()).collect();
    assert_eq!(lines, [Some(3), Some(5), Some(5)], "{problems:#}");
    let good =
        sheet("sep=;\nNumber;Name;PIN;Timezone\n3001;\"Lovelace; Ada\";284617;Europe/London\n3002;;;\n;;;\n");
    assert_eq!(summary(&a.json(&["user", "import", text(&good), "--dry-run"])), (2, 0, 0));
    assert!(a.try_json(&["user", "show", "3001"]).is_err(), "a dry run changes nothing");
    assert_eq!(summary(&a.json(&["user", "import", text(&good)])), (2, 0, 0));
    assert_eq!(a.json(&["user", "show", "3001"])["name"], "Lovelace; Ada");
    assert_eq!(summary(&a.json(&["user", "import", text(&good)])), (0, 0, 2));
}

/// A spool of Asterisk: three mailboxes, greetings, messages in four folders and several formats.
fn spool(dir: &TempDir, speech: &[Speech]) -> (PathBuf, PathBuf) {
    let conf = file(
        dir,
        "voicemail.conf",
        "[general]\nformat=wav49|gsm|wav\nserveremail=pbx@example.com\nemailsubject=Message from ${VM_CIDNAME}\n\
         emailbody=${VM_CONTEXT}\n[zonemessages]\nberlin=Europe/Berlin|'vm-received' Q\n\
         [default]\n4001 => 284617,Ada Lovelace,Ada@example.com,ada@pager.example,tz=berlin|delete=yes\n\
         4002 => 1234,Bo,ada@example.com\n\
         alice => 5555,No digits\n[other]\n4009 => 739528,Else\n",
    );
    let at = |path: &str| format!("spool/default/{path}");
    let told = |seconds: u64, caller: &str| {
        format!(
            ";\n; Message Information file\n;\n[message]\ncallerid={caller}\norigtime={seconds}\nmsg_id={seconds}-00000001\nduration=1\n"
        )
    };
    let audio = |n: usize| speech[n].bytes(0, 8_000);
    file(dir, &at("4001/unavail.wav"), wav(&audio(0)));
    file(dir, &at("4001/greet.gsm"), [0xd2; 33]);
    file(dir, &at("4001/INBOX/msg0000.txt"), told(1_763_625_600, "\"Carol\" <2075550143>"));
    file(dir, &at("4001/INBOX/msg0000.wav"), wav(&audio(1)));
    file(dir, &at("4001/INBOX/msg0000.gsm"), [0xd2; 33]);
    file(dir, &at("4001/Old/msg0000.txt"), told(1_763_539_200, "2002"));
    file(dir, &at("4001/Old/msg0000.ulaw"), audio(2));
    file(dir, &at("4001/Work/msg0000.txt"), told(1_763_452_800, "\"\" <unknown>"));
    file(dir, &at("4001/Work/msg0000.wav"), wav(&audio(3)));
    file(dir, &at("4001/Work/msg0001.txt"), told(1_763_452_801, "2003"));
    file(dir, &at("4001/Work/msg0001.WAV"), [0; 60]);
    file(dir, &at("4002/INBOX/msg0000.txt"), told(1_763_625_601, "2001"));
    file(dir, &at("4002/INBOX/msg0000.wav"), wav(&audio(1)));
    (conf, dir.path().join("spool"))
}

/// Number, name and set settings of all devices.
fn device_settings(cli: &Cli) -> Vec<String> {
    let list = cli.json(&["device", "list"]);
    let shown = |device: &Value| {
        let settings = device["settings"].as_array().into_iter().flatten().filter(|s| s["is_default"] == false);
        let settings: Vec<_> = settings.map(|s| format!("{}={}", plain(&s["word"]), plain(&s["value"]))).collect();
        format!("{} {} {settings:?}", plain(&device["number"]), plain(&device["name"]))
    };
    list["devices"].as_array().into_iter().flatten().map(shown).collect()
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn folders(cli: &Cli, mailbox: &str) -> Vec<(String, String, String)> {
    cli.messages(mailbox).into_iter().map(|m| (m.id, m.state, m.caller)).collect()
}

#[test]
fn an_asterisk_spool_comes_in_once_however_often_it_is_imported() {
    let cluster = Cluster::start(&Spec::default());
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let dir = TempDir::new().expect("a folder");
    let speech: Vec<Speech> = (0..4).map(|_| Speech::unique()).collect();
    let (conf, spool) = spool(&dir, &speech);
    let templates = dir.path().join("templates/en");
    let arguments =
        ["import", "asterisk", "--conf", text(&conf), "--spool", text(&spool), "--templates", text(&templates)];
    let planned = a.json(&[&arguments[..], &["--dry-run"]].concat());
    assert_eq!((&planned["mail"]["messages_taken"], &planned["mail"]["greetings_taken"]), (&4.into(), &1.into()));
    assert!(a.try_json(&["user", "show", "4001"]).is_err());

    let first = a.json(&arguments);
    assert_eq!(summary(&first["users"]), (2, 0, 0), "{first:#}");
    let mail = &first["mail"];
    assert_eq!((&mail["messages_taken"], &mail["greetings_taken"]), (&4.into(), &1.into()), "{mail:#}");
    let not_taken: Vec<&str> =
        mail["not_taken"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for what in ["serveremail", "emailbody", "mailbox 4002 as its own", "alice", "greet", "Work/msg0001"] {
        assert!(not_taken.iter().any(|n| n.contains(what)), "nothing said of {what}: {not_taken:#?}");
    }
    let ada = b.json(&["user", "show", "4001"]);
    assert_eq!((ada["timezone"].as_str(), ada["must_change_pin"].as_bool()), (Some("Europe/Berlin"), Some(false)));
    assert_eq!((&ada["mail"], &b.json(&["user", "show", "4002"])["mail"]), (&"ada@example.com".into(), &"".into()));
    let subject = fs::read_to_string(templates.join("mail.subject")).expect("the text of the mails");
    assert_eq!(subject, "Message from {{ caller_name or \"an unknown caller\" }}\n");
    let mails = vec!["address=Ada@example.com", "audio=yes", "delete-after=yes"];
    let devices = [("4001", "mail", mails), ("4001", "pager", vec!["address=ada@pager.example"])];
    let shared = ("4002", "mail", vec!["address=ada@example.com", "audio=yes"]);
    let devices: Vec<_> = devices.into_iter().chain([shared]).map(|(n, d, s)| format!("{n} {d} {s:?}")).collect();
    assert_eq!(device_settings(&a), devices);
    // 1234 is not acceptable: its owner has no PIN until an administrator sets one.
    assert_eq!(b.json(&["user", "show", "4002"])["must_change_pin"], true);
    let there = folders(&b, "4001");
    let states: Vec<_> = there.iter().map(|(_, state, caller)| (state.as_str(), caller.as_str())).collect();
    assert_eq!(states, [("saved", ""), ("heard", "2002"), ("new", "2075550143")]);
    assert_eq!(b.audio("4001", &there[2].0, Law::Mu).expect("its audio"), speech[1].bytes(0, 8_000));
    assert_eq!(b.audio("4001", &there[1].0, Law::Mu).expect("its audio"), speech[2].bytes(0, 8_000));

    // Meanwhile the owner deletes a message; and in the spool a message moves to another folder.
    assert!(a.run(&["message", "delete", "4001", &there[1].0]).status.success());
    let old = spool.join("default/4001");
    for extension in ["txt", "wav"] {
        let name = format!("msg0000.{extension}");
        fs::rename(old.join("INBOX").join(&name), old.join(format!("Old/msg0005.{extension}"))).expect("moved");
    }
    let before = (folders(&a, "4001"), folders(&a, "4002"));
    let again = b.json(&arguments);
    assert_eq!(summary(&again["users"]), (0, 0, 2));
    assert_eq!((device_settings(&a), &again["templates"]["written"]), (devices, &Value::Array(vec![])));
    let mail = &again["mail"];
    assert_eq!((&mail["messages_taken"], &mail["messages_known"]), (&0.into(), &4.into()), "{mail:#}");
    assert_eq!((&mail["greetings_taken"], &mail["greetings_known"]), (&0.into(), &1.into()));
    assert_eq!((folders(&a, "4001"), folders(&a, "4002")), before);

    // The greeting is Ada's own, on both nodes.
    for node in ["a", "b"] {
        hears(&cluster, node, "4001", &speech[0]);
    }
    let wrong = b.run(&["import", "asterisk", "--conf", text(&conf), "--context", "nobody"]);
    assert!(wrong.status.code() == Some(2) && said(&wrong).contains("default, other"), "{}", said(&wrong));
}

/// Calls a mailbox and waits until that speech is heard.
fn hears(cluster: &Cluster, node: &str, mailbox: &str, speech: &Speech) {
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new(mailbox, "2001", endpoint.address());
    let call = Call::place(cluster.phones(), cluster.sip(node), Transport::Udp, &invite).expect("answered");
    endpoint.send_to(call.media);
    let heard = || speech.find_in(&endpoint.heard(), 8_000).is_some_and(|found| found.seconds() > 0.9);
    wait_until(&format!("node {node} says it"), Duration::from_secs(15), heard);
    call.bye();
}

#[test]
fn a_prompt_of_the_administrator_is_played_by_both_nodes_at_once() {
    let cluster = Cluster::start(&Spec::default());
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    let dir = TempDir::new().expect("a folder");
    let speech = [Speech::unique(), Speech::unique()];
    for (n, (cli, speech)) in [(&a, &speech[0]), (&b, &speech[1])].into_iter().enumerate() {
        let path = file(&dir, &format!("{n}.wav"), wav(&speech.bytes(0, 8_000)));
        assert_eq!(cli.json(&["prompt", "set", "vm-intro", text(&path)])["acknowledged"], "on two");
        wait_until("both play it", Duration::from_secs(5), || {
            [&a, &b].iter().all(|cli| {
                let list = cli.json(&["prompt", "list"]);
                list["prompts"].as_array().is_some_and(|p| p.len() == 1 && p[0]["playing"] == true)
            })
        });
        // Time to load the second of the two files: the first one was playing before.
        sleep(Duration::from_millis(200));
        hears(&cluster, "a", "1001", speech);
        hears(&cluster, "b", "1001", speech);
    }
    let none = file(&dir, "none.wav", b"RIFF this is no WAV file");
    let refused = a.run(&["prompt", "set", "vm-intro", text(&none)]);
    assert!(refused.status.code() == Some(2) && said(&refused).contains("none.wav"), "{}", said(&refused));
    let unknown = a.run(&["prompt", "set", "vm-intr", text(&none)]);
    assert!(unknown.status.code() == Some(2) && said(&unknown).contains("vm-intro"), "{}", said(&unknown));
    b.json(&["prompt", "remove", "vm-intro"]);
    assert_eq!(a.json(&["prompt", "list"])["prompts"], Value::Array(vec![]));
    assert_eq!(a.run(&["prompt", "remove", "vm-intro"]).status.code(), Some(1));
}

#[test]
fn a_class_of_service_rules_calls_on_both_nodes() {
    let cluster = Cluster::start(&Spec::default());
    let (a, b) = (cluster.cli("a"), cluster.cli("b"));
    a.json(&["cos", "add", "brief", "message-seconds=2", "messages=2"]);
    assert_eq!(b.run(&["cos", "add", "Brief"]).status.code(), Some(1));
    assert_eq!(b.run(&["cos", "set", "brief", "message-seconds=soon"]).status.code(), Some(2));
    b.json(&["user", "set", "1001", "--cos", "brief"]);
    assert_eq!(a.json(&["user", "show", "1001"])["cos"], "brief");
    assert_eq!(a.json(&["cos", "show", "brief"])["users"], 1);
    assert_eq!(a.run(&["cos", "remove", "brief"]).status.code(), Some(1));
    // Cut at two seconds on either node; a user of the default class is not.
    for (count, node) in [(1, "a"), (2, "b")] {
        leave_message(cluster.phones(), cluster.sip(node), "1001", 4.0);
        for message in cluster.wait_for_messages(node, "1001", count, Duration::from_secs(5)) {
            assert!((1_500..=2_100).contains(&message.length_ms), "{message:?}");
        }
    }
    leave_message(cluster.phones(), cluster.sip("a"), "1002", 4.0);
    let long = &cluster.wait_for_messages("a", "1002", 1, Duration::from_secs(5))[0];
    assert!(long.length_ms > 3_000, "{long:?}");
    // Two messages fill it; the default class applies to users without another.
    leave_message(cluster.phones(), cluster.sip("a"), "1001", 1.5);
    assert_eq!(a.messages("1001").len(), 2);
    b.json(&["user", "set", "1001", "--cos", "default"]);
    b.json(&["cos", "remove", "brief"]);
    b.json(&["cos", "set", "default", "pin-length=8"]);
    let short = a.run(&["user", "set-pin", "1001", "739528"]);
    assert!(short.status.code() == Some(1) && said(&short).contains('8'), "{}", said(&short));
    a.json(&["cos", "set", "default", "pin-length=-"]);
    assert!(b.run(&["user", "set-pin", "1001", "739528"]).status.success());
}
