//! Receivers outside: real sockets, real HTTP and SNMP; a duty that comes, goes and is nobody's.

mod common;

use std::{
    any::Any,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex},
};

use async_snmp::{
    Value,
    notification::{Notification, NotificationAcceptance, NotificationReceiver},
    oid,
};
use common::{Node, name, wait_for};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use twinbox_alarms::{
    Alarm, Channel, Code, Facility, Outbound, Permission, Syslog, SyslogTarget, TrapReceivers, TrapSecurity,
    Webhook,
};
use twinbox_ids::Epoch;

/// A duty that the test gives and takes.
#[derive(Clone)]
struct Duty(Arc<watch::Sender<Option<Epoch>>>);

impl Duty {
    fn nobodys() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    fn give(&self, number: u64) {
        self.0.send_replace(Some(Epoch { generation: 0, number, node: name("a") }));
    }

    fn take(&self) {
        self.0.send_replace(None);
    }
}

impl Permission for Duty {
    fn holding(&self) -> watch::Receiver<Option<Epoch>> {
        self.0.subscribe()
    }

    fn enter(&self, epoch: &Epoch) -> Option<Box<dyn Any + Send>> {
        (self.0.borrow().as_ref() == Some(epoch)).then(|| Box::new(()) as Box<dyn Any + Send>)
    }

    fn own(&self, epoch: &Epoch, _: BorrowedFd<'_>) -> Option<Box<dyn Any + Send>> {
        self.enter(epoch)
    }
}

/// An HTTP receiver that answers with the statuses it is given, and then with 204.
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
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
                loop {
                    let read = stream.read(&mut buffer).await.unwrap_or(0);
                    request.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                        let length = head
                            .lines()
                            .find_map(|l| l.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
                        length.is_none_or(|length| length.parse() == Ok(body.len()))
                    });
                    if whole || read == 0 {
                        kept.lock().expect("whole").push(text);
                        break;
                    }
                }
                let status = statuses.pop().unwrap_or("204 No Content");
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, got }
    }

    fn got(&self) -> Vec<String> {
        self.got.lock().expect("whole").clone()
    }

    /// Key and what happened, of each request.
    fn told(&self) -> Vec<(String, String)> {
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

fn outbound(node: &Node, duty: &Duty, webhook: Option<Webhook>, traps: Option<TrapReceivers>) -> CancellationToken {
    let stop = CancellationToken::new();
    let outbound = Outbound::new("example", node.alarms.clone(), duty.clone());
    tokio::spawn(outbound.run(webhook, traps, stop.clone()));
    stop
}

fn told(alarm: &Alarm) -> bool {
    alarm.due(Channel::Webhook).is_empty()
}

#[tokio::test]
async fn a_webhook_is_told_once_by_whoever_holds_the_duty_and_waits_while_nobody_does() {
    let dir = TempDir::new().expect("a folder");
    let (a, b) = (Node::start(dir.path(), "a").await, Node::start(dir.path(), "b").await);
    let web = Web::listen(vec![]).await;
    let (duty_a, duty_b) = (Duty::nobodys(), Duty::nobodys());
    let webhook = || Webhook::new(&web.url, Some("Bearer s3cret"), None).expect("a URL");
    outbound(&a, &duty_a, Some(webhook()), None);
    outbound(&b, &duty_b, Some(webhook()), None);
    a.alarms.raise(Code::Space, "a", "5 MB are left");
    a.wait("a", |_| true).await;
    a.hand_over(&b).await;
    assert_eq!(web.got(), Vec::<String>::new(), "nobody holds the duty");

    duty_b.give(1);
    b.wait("a", told).await;
    assert_eq!(web.told(), [("space".to_owned(), "raised".to_owned())]);
    assert!(web.got()[0].contains("authorization: Bearer s3cret"), "{}", web.got()[0]);
    // The duty goes to the other node, which knows what was told.
    duty_b.take();
    b.hand_over(&a).await;
    a.alarms.clear(Code::Space, "a");
    a.wait("a", |alarm| alarm.cleared.is_some()).await;
    duty_a.give(2);
    a.wait("a", |alarm| alarm.cleared.is_some() && told(alarm)).await;
    let expected =
        [("space", "raised"), ("space", "cleared")].map(|(code, what)| (code.to_owned(), what.to_owned()));
    assert_eq!(web.told(), expected);
}

#[tokio::test]
async fn a_receiver_that_fails_is_asked_again_and_one_that_refuses_is_given_up() {
    let dir = TempDir::new().expect("a folder");
    let a = Node::start(dir.path(), "a").await;
    let duty = Duty::nobodys();
    duty.give(1);
    let web = Web::listen(vec!["503 Service Unavailable", "204 No Content", "400 Bad Request"]).await;
    let stop = outbound(&a, &duty, Some(Webhook::new(&web.url, None, None).expect("a URL")), None);
    a.alarms.raise(Code::Space, "a", "");
    a.wait("a", told).await;
    assert_eq!(web.told().len(), 2, "once in vain");
    a.alarms.clear(Code::Space, "a");
    a.wait("a", |alarm| alarm.cleared.is_some() && told(alarm)).await;
    let keys: Vec<String> = web
        .got()
        .iter()
        .map(|r| r.lines().find(|l| l.starts_with("idempotency-key")).expect("a key").to_owned())
        .collect();
    assert_eq!(keys.len(), 4);
    assert!(
        keys[0] == keys[1] && keys[2] == keys[3] && keys[0] != keys[2],
        "the same again has the same key: {keys:?}"
    );
    stop.cancel();
    let counters = a.alarms.counters();
    assert_eq!((counters.told, counters.failed, counters.given_up), (2, 2, 0));
}

#[tokio::test]
async fn a_trap_says_what_happened() {
    let dir = TempDir::new().expect("a folder");
    let a = Node::start(dir.path(), "a").await;
    let receiver = NotificationReceiver::builder()
        .bind("127.0.0.1:0")
        .acceptance_policy(|_| NotificationAcceptance::Accept)
        .build()
        .await
        .expect("a receiver");
    let address = receiver.local_addr().to_string();
    let traps = TrapReceivers::new(&name("a"), &[address], &TrapSecurity::Community("secret".to_owned()));
    let duty = Duty::nobodys();
    duty.give(1);
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
}

#[tokio::test]
async fn syslog_gets_the_alarms_of_its_own_node() {
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
    assert!(udp.try_recv(&mut [0; 64]).is_err(), "b's are b's");
}
