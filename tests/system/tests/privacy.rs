//! Private data never reaches a log, at any level: unique numbers, names and PINs are used for all actions of a caller,
//! and the logs of all members are searched for them.

use std::{thread::sleep, time::Duration};

use twinbox_testkit::{
    Call, Cluster, Endpoint, Invite, Pbx, Spec, Transport, g711::Law, leave_message_with, token,
};

const CALLER: &str = "2075550143";
const CALLER_NAME: &str = "Zygmunt Qwertz";
const REDIRECTED: &str = "2075550188";
const OWNER: &str = "Xanthippe";
const MAILBOX: &str = "70755";
const PIN: &str = "739164";
const WRONG_PIN: &str = "918273";

#[test]
fn nothing_private_is_logged_even_at_debug() {
    let (cluster, pbx) = Cluster::start_with(
        |phones| Spec { log: "debug", mwi: Some(phones.port(5070)), ..Spec::default() },
        |phones| Pbx::open(phones, 5070),
    );
    cluster.cli("a").json(&["user", "add", MAILBOX, "--name", OWNER, "--pin", PIN, "--keep-pin"]);

    for transport in [Transport::Udp, Transport::Tcp] {
        let deposit = leave_message_with(cluster.phones(), cluster.sip("a"), transport, 1.2, |media| {
            let mut invite = Invite::new(MAILBOX, CALLER, media);
            invite.headers = vec![
                format!("P-Asserted-Identity: \"{CALLER_NAME}\" <sip:{CALLER}@pbx.example>"),
                format!("Diversion: <sip:{REDIRECTED}@pbx.example>, <sip:{MAILBOX}@pbx.example>;reason=no-answer"),
            ];
            invite
        });
        assert!(deposit.bye.status > 0);
    }
    // Sign-in: with a wrong PIN, then with the right one, then listening.
    let endpoint = Endpoint::open(cluster.phones(), Law::Mu);
    let invite = Invite::new("*97", MAILBOX, endpoint.address());
    let call = Call::place(cluster.phones(), cluster.sip("b"), Transport::Udp, &invite).expect("answered");
    endpoint.send_to(call.media);
    endpoint.wait_heard(Duration::from_secs(5));
    for keys in [format!("{WRONG_PIN}#"), format!("{PIN}#"), "1".to_owned()] {
        endpoint.press(&keys);
        sleep(Duration::from_secs(2));
    }
    call.bye();
    pbx.subscribe(cluster.sip("a"), MAILBOX, 60);
    cluster.cli("a").json(&["user", "set-pin", MAILBOX, "640219"]);
    // A malformed request, so that an error names its content; and a mailbox that does not exist.
    let socket = cluster.phones().udp(0);
    let broken = format!(
        "INVITE sip:{MAILBOX}@x SIP/2.0\r\nFrom: \"{CALLER_NAME} <sip:{CALLER}\r\nCall-ID: {}\r\n\r\n",
        token()
    );
    socket.send_to(broken.as_bytes(), cluster.sip("a")).expect("it can be sent");
    let nobody = Invite::new("2075550199", CALLER, endpoint.address());
    let _ = Call::place(cluster.phones(), cluster.sip("a"), Transport::Udp, &nobody);
    sleep(Duration::from_millis(500));

    for member in cluster.members() {
        let log = member.log();
        if member.name != "w" {
            assert!(log.lines().count() > 20, "{} logs something at debug", member.name);
        }
        let secrets = [CALLER, CALLER_NAME, "Zygmunt", REDIRECTED, OWNER, PIN, WRONG_PIN, "640219", "2075550199"];
        for secret in secrets {
            // Behind the time: its microseconds may be a PIN.
            let text = |line: &str| line.split_once(' ').is_some_and(|(_, text)| text.contains(secret));
            let lines: Vec<&str> = log.lines().filter(|line| text(line)).take(3).collect();
            assert!(lines.is_empty(), "{} logged '{secret}':\n{}", member.name, lines.join("\n"));
        }
    }
}
