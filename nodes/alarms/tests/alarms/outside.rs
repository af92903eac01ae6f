//! Outside receivers: real sockets, real HTTP and SNMP; a duty that is gained, moved and held by no node.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_snmp::{
    Value,
    notification::{Notification, NotificationAcceptance, NotificationReceiver},
    oid,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UdpSocket, UnixDatagram},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};
use tokio_util::sync::CancellationToken;
use twinbox_alarms::{
    Alarm, Channel, Code, Facility, Outbound, Syslog, SyslogTarget, TrapReceivers, TrapSecurity, Webhook,
};
use twinbox_clock::BootInstant;
use twinbox_gate::Gate;
use twinbox_ids::Epoch;
use twinbox_roles_core::Duty;
use twinbox_testkit::{NetPlace, Snmptrapd, need};

use crate::common::{Node, name, wait_for};

/// Gate of the duty, which this node does not hold.
fn unheld() -> Gate {
    Gate::new(Duty::Notifier)
}

/// This node holds the duty in the epoch of this number, until the gate is closed.
fn give(gate: &Gate, number: u64) {
    gate.open(&Epoch { generation: 0, number, node: name("a") }, BootInstant::now() + Duration::from_secs(3_600));
}

/// An HTTP receiver that answers with the given statuses, then with 204.
struct Web {
    url: String,
    got: Arc<Mutex<Vec<String>>>,
}

impl Web {
    async fn listen(mut statuses: Vec<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/alarms", listener.local_addr().expect("bound"));
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = got.clone();
        statuses.reverse();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let request = take(stream, statuses.pop().unwrap_or("204 No Content")).await;
                kept.lock().expect("whole").push(request);
            }
        });
        Self { url, got }
    }

    /// Like `listen`, over TLS with a self-signed certificate; also returns the certificate in PEM.
    async fn listen_securely() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}/alarms", listener.local_addr().expect("bound"));
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a key");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = got.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust the certificate ends the handshake.
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let request = take(stream, "204 No Content").await;
                kept.lock().expect("whole").push(request);
            }
        });
        (Self { url, got }, cert.pem())
    }

    fn got(&self) -> Vec<String> {
        self.got.lock().expect("whole").clone()
    }

    /// Key and transition of each request.
    fn delivered(&self) -> Vec<(String, String)> {
        self.got()
            .iter()
            .map(|request| {
                let (head, body) = request.split_once("\r\n\r\n").expect("a request");
                let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
                let key = body["key"].as_str().expect("a key").to_owned();
                assert!(head.contains(&format!("idempotency-key: {key}")), "{head}");
                (
                    body["alarm"]["code"].as_str().expect("a code").to_owned(),
                    body["what"].as_str().expect("what").to_owned(),
                )
            })
            .collect()
    }
}

/// Reads and answers one request.
async fn take(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str) -> String {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    let text = loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length =
                head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            length.is_none_or(|length| length.parse() == Ok(body.len()))
        });
        if whole || read == 0 {
            break text;
        }
    };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes()).await;
    text
}

fn outbound(node: &Node, duty: &Gate, webhook: Option<Webhook>, traps: Option<TrapReceivers>) -> CancellationToken {
    let stop = CancellationToken::new();
    let outbound = Outbound::new("example", node.alarms.clone(), duty.clone());
    let stopping = stop.clone();
    tokio::spawn(async move { outbound.run(webhook, traps, stopping).await });
    stop
}

fn delivered(alarm: &Alarm) -> bool {
    alarm.due(Channel::Webhook).is_empty()
}

#[tokio::test]
async fn webhook_is_notified_once_by_the_duty_holder_and_waits_without_a_holder() {
    let dir = TempDir::new().expect("a folder");
    let (a, b) = (Node::start(dir.path(), "a").await, Node::start(dir.path(), "b").await);
    let web = Web::listen(vec![]).await;
    let (duty_a, duty_b) = (unheld(), unheld());
    let webhook = || Webhook::new(&web.url, Some("Bearer s3cret"), None).expect("a URL");
    outbound(&a, &duty_a, Some(webhook()), None);
    outbound(&b, &duty_b, Some(webhook()), None);
    a.alarms.raise(Code::Space, "a", "5 MB are left");
    a.wait("a", |_| true).await;
    a.hand_over(&b).await;
    assert_eq!(web.got(), Vec::<String>::new(), "no node holds the duty");

    give(&duty_b, 1);
    b.wait("a", delivered).await;
    assert_eq!(web.delivered(), [("space".to_owned(), "raised".to_owned())]);
    assert!(web.got()[0].contains("authorization: Bearer s3cret"), "{}", web.got()[0]);
    // The duty moves to the other node, which knows the delivery state.
    duty_b.close();
    b.hand_over(&a).await;
    a.alarms.clear(Code::Space, "a");
    a.wait("a", |alarm| alarm.cleared.is_some()).await;
    give(&duty_a, 2);
    a.wait("a", |alarm| alarm.cleared.is_some() && delivered(alarm)).await;
    let expected =
        [("space", "raised"), ("space", "cleared")].map(|(code, what)| (code.to_owned(), what.to_owned()));
    assert_eq!(web.delivered(), expected);
}

#[tokio::test]
async fn failed_delivery_is_retried_with_the_same_key() {
    let dir = TempDir::new().expect("a folder");
    let a = Node::start(dir.path(), "a").await;
    let duty = unheld();
    give(&duty, 1);
    let web = Web::listen(vec!["503 Service Unavailable", "204 No Content", "400 Bad Request"]).await;
    let stop = outbound(&a, &duty, Some(Webhook::new(&web.url, None, None).expect("a URL")), None);
    a.alarms.raise(Code::Space, "a", "");
    a.wait("a", delivered).await;
    assert_eq!(web.delivered().len(), 2, "once in vain");
    a.alarms.clear(Code::Space, "a");
    a.wait("a", |alarm| alarm.cleared.is_some() && delivered(alarm)).await;
    let keys: Vec<String> = web
        .got()
        .iter()
        .map(|r| r.lines().find(|l| l.starts_with("idempotency-key")).expect("a key").to_owned())
        .collect();
    assert_eq!(keys.len(), 4);
    assert!(keys[0] == keys[1] && keys[2] == keys[3] && keys[0] != keys[2], "a retry has the same key: {keys:?}");
    stop.cancel();
    let counters = a.alarms.counters();
    assert_eq!((counters.delivered, counters.failed, counters.given_up), (2, 2, 0));
}

#[tokio::test]
async fn alarm_at_which_the_receiver_fails_holds_up_no_other() {
    let dir = TempDir::new().expect("a folder");
    let a = Node::start(dir.path(), "a").await;
    let duty = unheld();
    give(&duty, 1);
    let web = Web::listen(vec!["500 Internal Server Error"; 3]).await;
    a.alarms.raise(Code::Space, "a", "");
    a.wait("a", |_| true).await;
    let stop = outbound(&a, &duty, Some(Webhook::new(&web.url, None, None).expect("a URL")), None);
    wait_for("an attempt", || (a.alarms.counters().failed > 0).then_some(())).await;
    a.alarms.raise(Code::ServiceFailed, "a", "");
    wait_for("both alarms", || (a.alarms.counters().delivered == 2).then_some(())).await;
    let codes: Vec<_> = web.delivered().into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes[..3], ["space"; 3]);
    assert_eq!(codes[4..], ["space"], "{codes:?}");
    stop.cancel();
}

/// The client accepts only receivers whose certificate is signed by an authority of the file.
#[tokio::test]
async fn webhook_over_tls_is_used_only_if_its_certificate_is_trusted() {
    let dir = TempDir::new().expect("a folder");
    let ((web, own), (untrusted, _)) = (Web::listen_securely().await, Web::listen_securely().await);
    let file = dir.path().join("authorities.pem");
    std::fs::write(&file, own).expect("written");
    for (to, trusted) in [(&untrusted, false), (&web, true)] {
        let node = Node::start(dir.path(), if trusted { "a" } else { "b" }).await;
        let duty = unheld();
        give(&duty, 1);
        let webhook = Webhook::new(&to.url, None, Some(file.clone())).expect("a receiver");
        let stop = outbound(&node, &duty, Some(webhook), None);
        node.alarms.raise(Code::Space, "a", "5 MB are left");
        if trusted {
            node.wait("a", delivered).await;
            assert_eq!(to.delivered(), [("space".to_owned(), "raised".to_owned())]);
        } else {
            wait_for("an attempt", || (node.alarms.counters().failed > 0).then_some(())).await;
            assert!(to.got().is_empty(), "an untrusted receiver gets no notice: {:?}", to.got());
        }
        stop.cancel();
    }
}

/// Debian's snmptrapd accepts the trap.
#[tokio::test]
async fn snmptrapd_accepts_a_v2c_trap() {
    if !need::all(&[need::SNMPTRAPD]) {
        return;
    }
    let dir = TempDir::new().expect("a folder");
    let free = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let here = NetPlace::here([127, 0, 0, 1].into());
    let receiver = Snmptrapd::start(&here, free.port(), dir.path(), &["authCommunity log secret".to_owned()]);
    let a = Node::start(dir.path(), "a").await;
    let duty = unheld();
    give(&duty, 1);
    let security = TrapSecurity::Community("secret".to_owned());
    let traps = TrapReceivers::new(&name("a"), &[free.to_string()], &security).expect("receivers");
    outbound(&a, &duty, None, Some(traps));
    a.alarms.raise(Code::ServiceFailed, "calls", "the port is taken");
    let traps = || receiver.got().into_iter().find(|trap| trap.contains("\"service-failed\""));
    let trap = wait_for("a trap", traps).await;
    // Raised; severity; detail: numbers as in deploy/snmp/TWINBOX-MIB.txt.
    for part in [".2177.1.0.1", ".2177.1.1.5.0 = INTEGER: 3", ".2177.1.1.7.0 = STRING: \"the port is taken\""] {
        assert!(trap.contains(part), "no {part} in {trap}");
    }
}

#[tokio::test]
async fn trap_has_code_severity_subject_and_detail() {
    let dir = TempDir::new().expect("a folder");
    let a = Node::start(dir.path(), "a").await;
    let receiver = NotificationReceiver::builder()
        .bind("127.0.0.1:0")
        .acceptance_policy(|_| NotificationAcceptance::Accept)
        .build()
        .await
        .expect("a receiver");
    // A receiver that cannot be reached keeps nothing from the other.
    let receivers = ["nowhere.invalid".to_owned(), receiver.local_addr().to_string()];
    let traps = TrapReceivers::new(&name("a"), &receivers, &TrapSecurity::Community("secret".to_owned()));
    let duty = unheld();
    give(&duty, 1);
    outbound(&a, &duty, None, Some(traps.expect("receivers")));
    a.alarms.raise(Code::ServiceFailed, "calls", "the port is taken");
    let received = receiver.recv().await.expect("a trap");
    let Notification::TrapV2c { community, varbinds, .. } = &received.notification else {
        panic!("{:?}", received.notification)
    };
    assert_eq!(community.as_bytes(), b"secret");
    let value = |n: u32| {
        let wanted = oid!(1, 3, 6, 1, 4, 1, 8072, 9999, 9999, 2177, 1, 1).child(n).child(0);
        varbinds.iter().find(|v| v.oid == wanted).map(|v| v.value.clone()).expect("a binding")
    };
    assert_eq!(value(4), Value::from("service-failed"));
    assert_eq!(value(5), Value::Integer(3));
    assert_eq!((value(6), value(7)), (Value::from("calls"), Value::from("the port is taken")));
    a.wait("calls", |alarm| alarm.due(Channel::Trap).is_empty()).await;
    a.alarms.raise(Code::Space, "a", "5 MB are left");
    receiver.recv().await.expect("the next trap");
}

#[tokio::test]
async fn syslog_gets_only_the_alarms_of_its_own_node() {
    let dir = TempDir::new().expect("a folder");
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let to = |scheme: &str, address: String| {
        let target: SyslogTarget = format!("{scheme}://{address}").parse().expect("a target");
        Some(Syslog::start(target, Facility::named("local0")))
    };
    let a = Node::start_with(dir.path(), "a", to("udp", udp.local_addr().expect("bound").to_string())).await;
    let b = Node::start_with(dir.path(), "b", to("tcp", tcp.local_addr().expect("bound").to_string())).await;
    a.alarms.raise(Code::Space, "a", "5 MB are left");
    a.wait("a", |_| true).await;
    a.hand_over(&b).await;
    b.alarms.raise(Code::Clock, "b", "an hour ahead");
    let mut line = [0; 2_048];
    let length = udp.recv(&mut line).await.expect("a line");
    let line = String::from_utf8_lossy(&line[..length]).into_owned();
    assert!(
        line.starts_with("<131>1 20") && line.contains(" a twinbox ") && line.contains("code=\"space\""),
        "{line}"
    );
    let (mut stream, _) = tcp.accept().await.expect("a connection");
    let mut framed = vec![0; 2_048];
    let length = stream.read(&mut framed).await.expect("a line");
    let framed = String::from_utf8_lossy(&framed[..length]).into_owned();
    let (octets, line) = framed.split_once(' ').expect("counted");
    assert_eq!(octets.parse(), Ok(line.len()), "{framed}");
    assert!(line.contains("code=\"clock\"") && !framed.contains("space"), "{framed}");
    wait_for("no more", || Some(())).await;
    assert!(udp.try_recv(&mut [0; 64]).is_err(), "node a must not report alarms of node b");
}

/// Format of syslog(3) to `/dev/log`; a restarted syslog has a new socket there.
#[tokio::test]
async fn local_syslog_gets_lines_also_after_its_socket_was_replaced() {
    let dir = TempDir::new().expect("a folder");
    let path = dir.path().join("log");
    let mut socket = UnixDatagram::bind(&path).expect("a socket");
    let syslog = Syslog::start(SyslogTarget::Local(path.clone()), Facility::named("local3"));
    let a = Node::start_with(dir.path(), "a", Some(syslog)).await;
    for (subject, replaced) in [("first", false), ("second", true)] {
        if replaced {
            drop(socket);
            std::fs::remove_file(&path).expect("removed");
            socket = UnixDatagram::bind(&path).expect("a socket");
        }
        a.alarms.raise(Code::Clock, subject, "an hour ahead");
        let mut line = [0; 2_048];
        let length = socket.recv(&mut line).await.expect("a line");
        let line = String::from_utf8_lossy(&line[..length]).into_owned();
        // Facility 19, warning: RFC 3164 without host name, as local programs write it.
        assert!(line.starts_with("<156>") && line.contains("twinbox["), "{line}");
        assert!(line.contains(&format!("raised clock ({subject}): an hour ahead")), "{line}");
    }
}
