//! The store of a node takes long to open: the listeners of the node are bound, and none of them serves, and no duty runs. Once the
//! store is open, all of them work.

use std::{fs, io::Read, net::SocketAddr, time::Duration};

use twinbox_clock::BootInstant;
use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, NetPlace, Spec, Transport, g711::Law, http_get, leave_message, slow_disk,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Far longer than the test: a sync ends when the disk goes on.
const SYNC: Duration = Duration::from_secs(600);
/// Time for an answer of a listener that serves, on a busy machine.
const MOMENT: Duration = Duration::from_millis(1_500);
const SMTP: u16 = 2525;

/// The greeting of a mail server, if there is one within a moment.
fn greeting(from: &NetPlace, to: SocketAddr) -> Option<String> {
    let mut stream = from.tcp(to).ok()?;
    stream.set_read_timeout(Some(MOMENT)).ok()?;
    let mut bytes = [0; 512];
    let length = stream.read(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..length]).into_owned()).filter(|text| !text.is_empty())
}

fn runs_notifier(cluster: &Cluster, node: &str) -> bool {
    let list = cluster.cli(node).try_json(&["duty", "list"]).unwrap_or_default();
    let duties = list["duties"].as_array().cloned().unwrap_or_default();
    duties.iter().any(|duty| duty["duty"] == "notifier" && duty["holder"] == node && duty["state"] == "running")
}

#[test]
fn node_serves_nothing_and_runs_no_duty_before_its_store_is_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let switch = folder.path().join("hangs");
    let slow = slow_disk(folder.path(), SYNC, Some(&switch));
    let env = slow.into_iter().map(|(name, value)| ("b", name, value)).collect();
    let mail_in = format!("[mail.in]\nsmtp = [\"{{ip}}:{SMTP}\"]\nnetworks = [\"127.0.0.0/8\"]");
    let mail = vec!["domain = \"voicemail.test\"".to_owned(), mail_in];
    let mut cluster = Cluster::start(&Spec { env, mail, ..Spec::default() });
    let (phones, user) = (cluster.phones().clone(), Cluster::USERS[0].number);
    let (sip, metrics) = (cluster.sip("b"), cluster.member("b").metrics());
    let smtp = cluster.member("b").place.port(SMTP);
    let ready = || http_get(&phones, metrics, "/readyz").map(|(status, _)| status);
    assert!(leave_message(&phones, sip, user, 1.2).acknowledged());
    cluster.wait_for_messages("a", user, 1, PATIENCE);

    // The duties are to be run by b, with the vote of the witness.
    ["a", "b"].iter().for_each(|node| cluster.kill(node));
    let logged = cluster.member("b").log().len();
    fs::write(&switch, "").expect("the disk hangs");
    cluster.start_member("b");
    let log = |cluster: &Cluster| cluster.member("b").log().split_off(logged);
    wait_until("b to bind its listeners", PATIENCE, || phones.tcp(smtp).is_ok());
    let opening = BootInstant::now();
    for transport in [Transport::Udp, Transport::Tcp] {
        let endpoint = Endpoint::open(&phones, Law::Mu);
        let invite = Invite::new(user, "2001", endpoint.address());
        let refused = Call::place_within(&phones, sip, transport, &invite, MOMENT).err().expect("no call is taken");
        assert!([0, 503].contains(&refused.status), "{transport:?}: {refused:?}");
    }
    assert_eq!(greeting(&phones, smtp), None, "no mail is taken");
    assert_ne!(ready(), Some(200));
    let so_far = log(&cluster);
    assert!(!so_far.contains("the node runs") && !so_far.contains("duty"), "{so_far}");
    println!("nothing was served for {:?}", opening.elapsed());

    fs::remove_file(&switch).expect("the disk goes on");
    cluster.wait_in_service();
    println!("in service {:?} after the listeners were bound", opening.elapsed());
    assert!(leave_message(&phones, sip, user, 1.2).acknowledged());
    cluster.wait_for_messages("b", user, 2, PATIENCE);
    wait_until("a mail server", PATIENCE, || greeting(&phones, smtp).is_some_and(|text| text.starts_with("220 ")));
    wait_until("b to be ready", PATIENCE, || ready() == Some(200));
    wait_until("b to run the duties", PATIENCE, || runs_notifier(&cluster, "b"));
    let all = log(&cluster);
    assert!(all.contains("the node runs") && all.contains("duty"), "{all}");
}
