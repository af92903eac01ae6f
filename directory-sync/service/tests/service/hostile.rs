//! Servers that break the protocol or exceed every bound: each costs its connection, and nothing else.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use twinbox_directory_core::{Flavour, LdapUrl, SearchSettings, ServerSettings};
use twinbox_directory_service::{
    BindVerdict, Bounds, Changes, Cursor, DirectoryServers, FrameChecker, FrameLimits, LdapError,
};

/// The stable id of an entry.
const UUID: &[u8] = b"597ae2f6-16a6-1027-98f4-d28b5365dc14";
const ENTRY: u8 = 0x64;
const DONE: u8 = 0x65;
const REFERENCE: u8 = 0x73;

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag, 0x84];
    out.extend((content.len() as u32).to_be_bytes());
    out.extend(content);
    out
}

fn message(id: u8, operation: u8, content: &[u8]) -> Vec<u8> {
    element(0x30, &[element(2, &[id]), element(operation, content)].concat())
}

fn entry(id: u8, dn: &str, attributes: &[(&str, &[u8])]) -> Vec<u8> {
    let attribute = |(name, value): &(&str, &[u8])| {
        element(0x30, &[element(4, name.as_bytes()), element(0x31, &element(4, value))].concat())
    };
    let attributes: Vec<u8> = attributes.iter().flat_map(attribute).collect();
    message(id, ENTRY, &[element(4, dn.as_bytes()), element(0x30, &attributes)].concat())
}

fn result(id: u8, operation: u8, code: u8) -> Vec<u8> {
    message(id, operation, &[element(0x0a, &[code]), element(4, b""), element(4, b"")].concat())
}

/// A client's connection, read in whole requests.
struct Client {
    stream: TcpStream,
    checker: FrameChecker,
    rest: Vec<u8>,
}

impl Client {
    /// Id and operation of the next request; `None` at the end.
    async fn request(&mut self) -> Option<(u8, u8)> {
        loop {
            let mut input = &self.rest[..];
            let request = self.checker.read(&mut input).expect("the client speaks LDAP");
            self.rest = input.to_vec();
            if let Some(request) = request {
                let header = if request[1] < 0x80 { 2 } else { 2 + usize::from(request[1] - 0x80) };
                return Some((request[header + 2], request[header + 3]));
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).await {
                Ok(read) if read > 0 => self.rest.extend(&buffer[..read]),
                _ => return None,
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Answers the search for the root entry.
    async fn describe(&mut self) {
        let (id, _) = self.request().await.expect("a search for the root entry");
        self.send(&[entry(id, "", &[]), result(id, DONE, 0)].concat()).await;
    }
}

/// Settings of a directory whose only server runs this for each connection.
async fn server<F>(serve: impl Fn(Client) -> F + Send + 'static) -> ServerSettings
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let checker = FrameChecker::new(FrameLimits::default());
            tokio::spawn(serve(Client { stream, checker, rest: Vec::new() }));
        }
    });
    ServerSettings {
        urls: vec![LdapUrl { host: "127.0.0.1".to_owned(), port, ldaps: false }],
        start_tls: false,
        ca_file: None,
        insecure: false,
        bind_dn: String::new(),
        password_file: None,
        timeout: Duration::from_secs(20),
        referrals: false,
        flavour: Flavour::Auto,
    }
}

fn search() -> SearchSettings {
    SearchSettings {
        bases: vec!["dc=example,dc=org".to_owned()],
        filter: "(objectClass=person)".to_owned(),
        page: 100,
        attributes: vec!["cn".to_owned(), "jpegphoto".to_owned()],
    }
}

/// Error of the first operation on a server that sends this in answer to the first request.
async fn first_error(answer: impl Fn(u8) -> Vec<u8> + Send + Sync + Copy + 'static) -> String {
    let settings = server(move |mut client| async move {
        let (id, _) = client.request().await.expect("a request");
        client.send(&answer(id)).await;
        client.request().await;
    })
    .await;
    let connection = DirectoryServers::new(settings).connect().await.expect("a connection");
    connection.describe().await.expect_err("the answer is refused").to_string()
}

#[tokio::test]
async fn nested_elements_end_the_connection_and_not_the_process() {
    let error = first_error(|_| (0..20_000).fold(Vec::new(), |inner, _| element(0x30, &inner))).await;
    assert!(error.contains("32 nested levels"), "{error}");
}

#[tokio::test]
async fn an_announced_attribute_of_100_megabytes_ends_the_connection() {
    let error = first_error(|_| vec![0x30, 0x84, 6, 0, 0, 0, 2, 1, 1, 0x64, 0x84, 5, 0xff, 0xff, 0xf0]).await;
    assert!(error.contains("exceeds the bound of 4194304 bytes"), "{error}");
}

#[tokio::test]
async fn answers_at_which_a_parser_could_panic_end_the_connection() {
    type Answer = fn(u8) -> Vec<u8>;
    let cases: [(&str, Answer); 5] = [
        ("another kind", |id| result(id, 0x61, 0)),
        ("not accepted", |id| message(id, DONE, &[])),
        ("not accepted", |id| {
            message(id, DONE, &[element(0x0a, &[0]), element(4, &[0xff]), element(4, &[])].concat())
        }),
        ("not accepted", |id| message(id, 0x6d, &[])),
        ("malformed", |id| message(id, ENTRY, &[])),
    ];
    for (expected, answer) in cases {
        let error = first_error(answer).await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn a_notice_of_disconnection_is_the_reason_of_the_end() {
    let error = first_error(|_| {
        message(0, 0x78, &[element(0x0a, &[52]), element(4, b""), element(4, b"going down")].concat())
    });
    let error = error.await;
    assert!(error.contains("going down"), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_costs_the_time_limit() {
    let settings = server(|mut client| async move { while client.request().await.is_some() {} }).await;
    let settings = ServerSettings { timeout: Duration::from_millis(200), ..settings };
    let servers = DirectoryServers::new(settings);
    let connection = servers.connect().await.expect("a connection");
    assert!(matches!(connection.describe().await, Err(LdapError::Timeout { .. })));
    assert!(matches!(connection.describe().await, Err(LdapError::Interrupted(_))), "it is of no further use");
    let verdict = servers.check_password("uid=anna,dc=example,dc=org", "secret").await;
    assert!(matches!(verdict, Err(LdapError::Unreachable(_))), "{verdict:?}");
}

#[tokio::test]
async fn an_endless_list_of_entries_ends_at_the_bound() {
    let settings = server(|mut client| async move {
        client.describe().await;
        let (id, _) = client.request().await.expect("a search");
        while client.send(&entry(id, "cn=a", &[("entryUUID", UUID)])).await {}
    })
    .await;
    let bounds = Bounds { entries: 1_000, ..Bounds::default() };
    let mut connection = DirectoryServers::new(settings).with_bounds(bounds).connect().await.expect("a connection");
    let error = connection.full(&search(), |_| Ok(())).await.expect_err("no end");
    assert!(matches!(error, LdapError::TooMany { bound: 1_000, .. }), "{error}");
}

#[tokio::test]
async fn large_attributes_and_referrals_are_left_out_and_noted() {
    let settings = server(|mut client| async move {
        client.describe().await;
        let (id, _) = client.request().await.expect("a search");
        let photo = vec![7; 100_000];
        let attributes: [(&str, &[u8]); 4] = [
            ("entryUUID", UUID),
            ("cn", &b"Anna"[..]),
            ("jpegPhoto", &photo[..]),
            ("memberOf;range=0-1499", &photo[..]),
        ];
        client.send(&entry(id, "cn=anna,dc=example,dc=org", &attributes)).await;
        client.send(&entry(id, "cn=hidden,dc=example,dc=org", &[("cn", &b"no id"[..])])).await;
        client.send(&message(id, REFERENCE, &element(4, b"ldap://192.0.2.1/dc=elsewhere"))).await;
        client.send(&result(id, DONE, 0)).await;
        client.request().await;
    })
    .await;
    // Allowed, but only to servers that the settings name.
    let settings = ServerSettings { referrals: true, ..settings };
    let mut connection = DirectoryServers::new(settings).connect().await.expect("a connection");
    let mut entries = Vec::new();
    let cursor = connection
        .full(&search(), |entry| {
            entries.push(entry);
            Ok(())
        })
        .await
        .expect("the search succeeds");
    let names: Vec<_> = entries.iter().map(|entry| entry.attributes.texts("cn")).collect();
    assert_eq!(names, [["Anna"]]);
    // An absent attribute empties a field; one that was left out does not.
    let attributes = &entries[0].attributes;
    assert!(attributes.values("jpegPhoto").is_empty() && attributes.is_cut("jpegPhoto"));
    assert!(attributes.values("memberOf").is_empty() && attributes.is_cut("memberOf"));
    assert!(!attributes.is_cut("cn") && !attributes.is_cut("mail"));
    let notes = connection.notes();
    assert_eq!((notes.referrals, notes.without_id), (1, 1));
    assert_eq!(notes.large_attributes.into_iter().collect::<Vec<_>>(), ["jpegphoto", "memberof"]);
    assert_eq!(Cursor::from_bytes(&cursor.to_bytes()), Ok(cursor));
}

#[tokio::test]
async fn an_entry_with_too_many_and_too_large_attributes_arrives_with_its_id() {
    let settings = server(|mut client| async move {
        client.describe().await;
        let (id, _) = client.request().await.expect("a search");
        let names: Vec<String> = (0..100).map(|at| format!("attribute{at}")).collect();
        let large = vec![b'x'; 70_000];
        let mut attributes: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
        attributes.extend([("mail", &large[..]), ("entryUUID", UUID)]);
        client.send(&entry(id, "cn=anna,dc=example,dc=org", &attributes)).await;
        client.send(&result(id, DONE, 0)).await;
        client.request().await;
    })
    .await;
    let mut connection = DirectoryServers::new(settings).connect().await.expect("a connection");
    let mut entries = Vec::new();
    let each = |entry| {
        entries.push(entry);
        Ok(())
    };
    connection.full(&search(), each).await.expect("the search succeeds");
    assert_eq!(entries.len(), 1, "a full search counts an absent entry as gone");
    let attributes = &entries[0].attributes;
    assert!(attributes.is_cut("mail") && attributes.is_cut("telephoneNumber"), "neither is absent");
    assert_eq!(connection.notes().without_id, 0);
}

#[tokio::test]
async fn a_search_that_fails_at_the_end_is_no_success() {
    let settings = server(|mut client| async move {
        client.describe().await;
        let (id, _) = client.request().await.expect("a search");
        client.send(&result(id, DONE, 4)).await;
        client.request().await;
    })
    .await;
    let mut connection = DirectoryServers::new(settings).connect().await.expect("a connection");
    let error = connection.ids(&search()).await.expect_err("the size limit of the server");
    assert!(matches!(error, LdapError::Refused { code: 4, .. }), "{error}");
}

#[tokio::test]
async fn a_server_without_changes_needs_a_full_search() {
    let settings = server(|mut client| async move {
        client.describe().await;
        client.request().await;
    })
    .await;
    let mut connection = DirectoryServers::new(settings).connect().await.expect("a connection");
    let cursor = Cursor::from_bytes(&[1, 0]).expect("a cursor");
    let changes = connection.changes(&search(), &cursor, &BTreeSet::new(), |_| panic!("no change is told")).await;
    assert!(matches!(changes, Ok(Changes::NeedFull { .. })), "{changes:?}");
}

#[tokio::test]
async fn text_between_the_answer_to_start_tls_and_the_handshake_is_refused() {
    let settings = server(|mut client| async move {
        let (id, _) = client.request().await.expect("StartTLS");
        client.send(&[result(id, 0x78, 0), result(2, 0x61, 0)].concat()).await;
        client.request().await;
    })
    .await;
    let settings = ServerSettings { start_tls: true, insecure: true, ..settings };
    let error = DirectoryServers::new(settings).connect().await.err().expect("no connection").to_string();
    assert!(error.contains("plain text after StartTLS"), "{error}");
}

#[tokio::test]
async fn a_server_without_start_tls_is_not_used_in_plain_text() {
    let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let settings = server(move |mut client| {
        let report = report.clone();
        async move {
            let (id, _) = client.request().await.expect("StartTLS");
            client.send(&result(id, 0x78, 2)).await;
            report.send(client.request().await).expect("the test waits");
        }
    })
    .await;
    let settings = ServerSettings { start_tls: true, insecure: true, ..settings };
    let verdict = DirectoryServers::new(settings).check_password("cn=anna", "secret").await;
    assert!(matches!(&verdict, Err(LdapError::Unreachable(reason)) if reason.contains("StartTLS")), "{verdict:?}");
    assert_eq!(reports.recv().await, Some(None), "no password in plain text");
}

#[tokio::test]
async fn sign_in_asks_the_next_server_until_one_answers() {
    let busy = server(|mut client| async move {
        let (id, _) = client.request().await.expect("a bind");
        client.send(&result(id, 0x61, 51)).await;
        client.request().await;
    })
    .await;
    let wrong = server(|mut client| async move {
        let (id, _) = client.request().await.expect("a bind");
        client.send(&result(id, 0x61, 49)).await;
        client.request().await;
    })
    .await;
    let urls = [busy.urls.clone(), wrong.urls].concat();
    let servers = DirectoryServers::new(ServerSettings { urls, ..busy.clone() });
    assert_eq!(servers.check_password("cn=anna", "secret").await.ok(), Some(BindVerdict::Wrong));
    assert_eq!(servers.check_password("cn=anna", "").await.ok(), Some(BindVerdict::Wrong), "without a connection");
    let alone = DirectoryServers::new(busy).check_password("cn=anna", "secret").await;
    assert!(matches!(alone, Err(LdapError::Unreachable(_))), "{alone:?}");
}

#[tokio::test]
async fn a_missing_password_file_is_named() {
    let settings = server(|_| async {}).await;
    let name = "/nowhere/directory-password";
    let settings =
        ServerSettings { bind_dn: "cn=reader".to_owned(), password_file: Some(name.to_owned()), ..settings };
    let error = DirectoryServers::new(settings).connect().await.err().expect("no password").to_string();
    assert!(error.contains(name), "{error}");
}
