//! Real connections over loopback with a fake handler.

mod tls;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use twinbox_clock::BootInstant;
use twinbox_mail_gateway::{
    Counter, Delivery, Gateway, GatewaySettings, Limits, Mail, MailHandler, MailListener, Networks, PasswordCheck,
    Protocol, RecipientError, Sender,
};

use crate::common;

/// The fake mailboxes.
#[derive(Clone)]
struct Fake {
    mails: Arc<Mutex<Vec<Mail<String>>>>,
    ready: Arc<AtomicBool>,
    /// A delivery needs a permit.
    permits: Arc<Semaphore>,
}

impl MailHandler for Fake {
    type Recipient = String;

    async fn recipient(&self, address: &str, _: &Sender) -> Result<String, RecipientError> {
        common::find(address)
    }

    async fn deliver(&self, mail: Mail<String>) -> Vec<Delivery> {
        self.permits.acquire().await.unwrap().forget();
        let deliveries = common::file(&mail);
        self.mails.lock().unwrap().push(mail);
        deliveries
    }

    async fn check_password(&self, user: &str, password: &str, _: IpAddr) -> PasswordCheck {
        common::check_password(user, password)
    }

    fn ready(&self) -> bool {
        self.ready.load(Relaxed)
    }
}

/// A running gateway.
struct Server {
    fake: Fake,
    gateway: Gateway<Fake>,
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    /// With clients in a trusted network.
    async fn trusting(protocol: Protocol, limits: Limits) -> Self {
        Self::start(protocol, limits, &["127.0.0.0/8"]).await
    }

    async fn start(protocol: Protocol, limits: Limits, networks: &[&str]) -> Self {
        Self::with_tls(protocol, limits, networks, None).await
    }

    async fn with_tls(
        protocol: Protocol,
        limits: Limits,
        networks: &[&str],
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(100));
        let fake = Fake { mails: Arc::default(), ready: Arc::new(AtomicBool::new(true)), permits };
        let networks = Networks::parse(networks).unwrap();
        let settings = GatewaySettings { hostname: "localhost".into(), networks, open: false, reports: true };
        let gateway = Gateway::new(fake.clone(), settings, limits).with_tls(tls);
        let listener = MailListener::bind("127.0.0.1:0".parse().unwrap(), protocol).await.unwrap();
        let (address, stop) = (listener.address(), CancellationToken::new());
        let (serve, stopped) = (gateway.clone(), stop.clone());
        let serving = tokio::spawn(async move { serve.serve(listener, stopped).await });
        Self { fake, gateway, address, stop, serving }
    }

    /// A new connection, before its greeting.
    async fn connect(&self) -> Client<TcpStream> {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// A connection after `EHLO`.
    async fn client(&self) -> Client<TcpStream> {
        let mut client = self.connect().await;
        assert!(client.reply().await.starts_with("220 localhost"));
        assert!(client.say("EHLO c").await.starts_with("250-"));
        client
    }

    /// A connection after `354`.
    async fn in_data(&self) -> Client<TcpStream> {
        let mut client = self.client().await;
        for line in ["MAIL FROM:<s@example.org>", "RCPT TO:<anna@example.net>"] {
            assert!(client.say(line).await.starts_with("250"));
        }
        assert!(client.say("DATA").await.starts_with("354"));
        client
    }

    fn mails(&self) -> Vec<Mail<String>> {
        self.fake.mails.lock().unwrap().clone()
    }

    fn count(&self, counter: Counter) -> u64 {
        self.gateway.counts().get(counter)
    }

    async fn wait_until_closed(&self) {
        let closed = async {
            while self.gateway.connections() > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), closed).await.expect("connections are still open");
    }
}

/// A client that reads reply by reply.
struct Client<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// The next reply with all its lines; empty when the connection is closed.
    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        let mut line = String::new();
        let read = async {
            loop {
                match self.0.read_u8().await {
                    Ok(b'\n') if line.as_bytes().get(3) == Some(&b' ') => return reply + line.trim_end(),
                    Ok(b'\n') => reply += &(std::mem::take(&mut line) + "\n"),
                    Ok(byte) => line.push(char::from(byte)),
                    Err(_) => return reply + &line,
                }
            }
        };
        timeout(Duration::from_secs(20), read).await.expect("no reply")
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    async fn say(&mut self, line: &str) -> String {
        self.send(&format!("{line}\r\n")).await;
        self.reply().await
    }

    async fn expect(&mut self, expected: &[&str]) {
        for start in expected {
            let reply = self.reply().await;
            assert!(reply.starts_with(start), "{reply:?}, not {start:?}");
        }
    }

    async fn expect_end(&mut self) {
        assert_eq!(self.reply().await, "");
    }
}

#[tokio::test]
async fn lmtp_replies_for_each_recipient_of_a_mail() {
    let server = Server::trusting(Protocol::Lmtp, Limits::default()).await;
    let mut client = server.connect().await;
    client.send("LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<anna@example.net>\r\nRCPT TO:<refuse@example.net>\r\n").await;
    client.expect(&["220 localhost LMTP", "250-localhost", "250", "250 2.1.5", "250 2.1.5"]).await;
    assert!(client.say("DATA").await.starts_with("354"));
    client.send("Subject: x\r\n\r\n.\r\nQUIT\r\n").await;
    client.expect(&["250 2.0.0 filed for anna", "550 5.6.1 no audio", "221"]).await;
    client.expect_end().await;
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_order() {
    let server = Server::trusting(Protocol::Smtp, Limits::default()).await;
    let mut client = server.connect().await;
    client
        .send(
            "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<anna@example.net>\r\nRCPT TO:<none@example.net>\r\n\
             RCPT TO:<boris@example.net>\r\nDATA\r\n",
        )
        .await;
    client.expect(&["220", "250-", "250 2.1.0", "250 2.1.5", "550 5.1.1", "250 2.1.5", "354"]).await;
    client.send("Subject: x\r\n\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<anna@example.net>\r\nDATA\r\n.\r\nQUIT\r\n").await;
    client.expect(&["250 2.0.0", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221"]).await;
    client.expect_end().await;
    assert_eq!(server.mails().iter().map(|mail| mail.recipients.len()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((server.count(Counter::MailsAccepted), server.count(Counter::RecipientsRefused)), (2, 1));
}

#[tokio::test]
async fn acknowledgement_waits_for_the_delivery() {
    let server = Server::trusting(Protocol::Smtp, Limits::default()).await;
    server.fake.permits.forget_permits(100);
    let mut client = server.in_data().await;
    client.send("x\r\n.\r\n").await;
    let early = timeout(Duration::from_millis(200), client.0.read_u8()).await;
    assert!(early.is_err(), "{early:?}");
    server.fake.permits.add_permits(1);
    client.expect(&["250 2.0.0"]).await;
}

#[tokio::test]
async fn delivery_beyond_the_time_limit_is_put_off() {
    let limits = Limits { answer: Duration::from_millis(100), ..Limits::default() };
    let server = Server::trusting(Protocol::Smtp, limits).await;
    server.fake.permits.forget_permits(100);
    let mut client = server.in_data().await;
    assert!(client.say("x\r\n.").await.starts_with("451 4.3.0"));
    assert_eq!(server.count(Counter::MailsDeferred), 1);
}

#[tokio::test]
async fn endless_mail_is_refused_while_it_arrives() {
    let limits = Limits { mail: 100_000, overrun: 200_000, ..Limits::default() };
    let server = Server::trusting(Protocol::Smtp, limits).await;
    let client = server.in_data().await;
    let (mut read, mut write) = client.0.into_split();
    let line = format!("{}\r\n", "a".repeat(998)).repeat(64);
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        while sent < 1 << 30 && write.write_all(line.as_bytes()).await.is_ok() {
            sent += line.len();
        }
        sent
    });
    let mut reply = [0; 9];
    read.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"552 5.3.4");
    let sent = sending.await.unwrap();
    // The buffers of the kernel hold the rest.
    assert!(sent < 64 << 20, "{sent} bytes of the mail were taken");
    assert_eq!((server.count(Counter::MailsTooBig), server.mails().len()), (1, 0));
}

#[tokio::test]
async fn mail_slightly_too_big_leaves_the_connection_usable() {
    let server = Server::trusting(Protocol::Smtp, Limits { mail: 50_000, ..Limits::default() }).await;
    let mut client = server.in_data().await;
    let content = format!("{}\r\n", "a".repeat(78)).repeat(1000);
    assert!(client.say(&format!("{content}.")).await.starts_with("552 5.3.4"));
    assert!(client.say("NOOP").await.starts_with("250"));
}

#[tokio::test]
async fn mail_beyond_the_memory_is_put_off() {
    let server = Server::trusting(Protocol::Smtp, Limits { memory: 30_000, ..Limits::default() }).await;
    let mut first = server.in_data().await;
    first.send(&format!("{}\r\n", "a".repeat(20_000))).await;
    let mut second = server.in_data().await;
    sleep(Duration::from_millis(100)).await;
    assert!(second.say(&format!("{}\r\n.", "b".repeat(20_000))).await.starts_with("452 4.3.1"));
    assert!(first.say(".").await.starts_with("250"));
    assert_eq!(server.count(Counter::MailsWithoutRoom), 1);
}

#[tokio::test]
async fn slow_mail_is_cut_off() {
    let limits = Limits { data_grace: Duration::from_millis(300), data_rate: 1000, ..Limits::default() };
    let server = Server::trusting(Protocol::Smtp, limits).await;
    let mut client = server.in_data().await;
    let began = BootInstant::now();
    for _ in 0..100 {
        if client.0.write_all(b"a").await.is_err() {
            break;
        }
        if let Ok(reply) = timeout(Duration::from_millis(30), client.reply()).await {
            assert!(reply.starts_with("421 4.4.2"), "{reply}");
            break;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((server.count(Counter::MailsTooSlow), server.mails().len()), (1, 0));
}

#[tokio::test]
async fn smuggled_mail_closes_the_connection() {
    for end in ["\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r", "\r\n.\r", "\r.\r\n"] {
        let server = Server::trusting(Protocol::Smtp, Limits::default()).await;
        let mut client = server.in_data().await;
        client.send(&format!("x{end}MAIL FROM:<evil@example.org>\r\nRCPT TO:<anna@example.net>\r\n")).await;
        client.expect(&["554 5.6.11"]).await;
        client.expect_end().await;
        assert!(server.mails().is_empty() && server.count(Counter::MailsSmuggled) == 1, "{end:?}");
    }
    let server = Server::trusting(Protocol::Smtp, Limits::default()).await;
    let mut client = server.client().await;
    client.send("MAIL FROM:<>\nRCPT TO:<anna@example.net>\r\n").await;
    client.expect(&["554 5.6.11"]).await;
    client.expect_end().await;
}

#[tokio::test]
async fn command_line_beyond_the_limit_closes_the_connection() {
    let server = Server::trusting(Protocol::Smtp, Limits::default()).await;
    let mut client = server.client().await;
    assert!(client.say(&format!("NOOP {}", "a".repeat(900))).await.starts_with("250"));
    client.send(&"a".repeat(1000)).await;
    client.expect(&["500 5.5.6"]).await;
    client.expect_end().await;
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed() {
    let limits =
        Limits { first_command: Duration::from_millis(500), connections_per_trusted: 1000, ..Limits::default() };
    let server = Server::trusting(Protocol::Smtp, limits).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(server.connect().await);
    }
    for client in &mut clients {
        client.expect(&["220", "421 4.4.2"]).await;
        client.expect_end().await;
    }
    server.wait_until_closed().await;
    assert_eq!(server.count(Counter::ConnectionsExpired), 300);
}

#[tokio::test]
async fn command_sent_byte_by_byte_does_not_extend_its_time() {
    let limits = Limits { command: Duration::from_millis(300), ..Limits::default() };
    let server = Server::trusting(Protocol::Smtp, limits).await;
    let mut client = server.client().await;
    let began = BootInstant::now();
    while client.0.write_all(b"a").await.is_ok() {
        if let Ok(reply) = timeout(Duration::from_millis(50), client.reply()).await {
            assert!(reply.starts_with("421 4.4.2"), "{reply}");
            break;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn connection_beyond_a_limit_is_told_so() {
    let limits = Limits { connections_per_stranger: 2, ..Limits::default() };
    let server = Server::start(Protocol::Smtp, limits, &[]).await;
    let (first, _second) = (server.client().await, server.client().await);
    let mut third = server.connect().await;
    third.expect(&["421 4.7.0"]).await;
    third.expect_end().await;
    drop(first);
    let open = async {
        while server.gateway.connections() > 1 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), open).await.unwrap();
    server.client().await;
    assert_eq!((server.count(Counter::Connections), server.count(Counter::ConnectionsRefused)), (3, 1));
}

#[tokio::test]
async fn handler_that_is_not_ready_takes_no_connection() {
    let server = Server::trusting(Protocol::Smtp, Limits::default()).await;
    server.fake.ready.store(false, Relaxed);
    let mut client = server.connect().await;
    client.expect(&["421 4.3.2"]).await;
    client.expect_end().await;
    server.fake.ready.store(true, Relaxed);
    server.client().await;
}

#[tokio::test]
async fn stop_lets_arriving_mails_finish_and_closes_the_others() {
    let server = Server::trusting(Protocol::Smtp, Limits::default()).await;
    let (mut idle, mut busy) = (server.client().await, server.in_data().await);
    busy.send("x\r\n").await;
    server.stop.cancel();
    idle.expect(&["421 4.3.2"]).await;
    idle.expect_end().await;
    busy.send(".\r\n").await;
    busy.expect(&["250 2.0.0", "421 4.3.2"]).await;
    busy.expect_end().await;
    drop((idle, busy));
    timeout(Duration::from_secs(5), server.serving).await.expect("still serving").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn stop_cuts_mails_off_that_do_not_finish_in_time() {
    let limits = Limits { finish: Duration::from_millis(200), ..Limits::default() };
    let server = Server::trusting(Protocol::Smtp, limits).await;
    let mut client = server.in_data().await;
    server.stop.cancel();
    timeout(Duration::from_secs(5), server.serving).await.expect("still serving").unwrap();
    client.expect_end().await;
    assert_eq!(server.gateway.connections(), 0);
}
