//! A real directory server: OpenLDAP's slapd with 500 users.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use tempfile::TempDir;
use twinbox_directory_core::{Entry, Flavour, LdapUrl, SearchSettings, ServerSettings, dn_value, filter_value};
use twinbox_directory_service::{
    BindVerdict, Change, Changes, Cursor, DirectoryConnection, DirectoryServers, Followed, LdapError,
};
use twinbox_mailbox::EntryId;
use twinbox_testkit::{Loopback, NetPlace, Slapd, SlapdSettings, SlapdTls, need};

const USERS: usize = 500;
const PEOPLE: &str = "ou=people,dc=example,dc=org";

/// 500 users: those with even numbers in `ou=staff`, the others in `ou=guests`, both below `ou=people`.
fn entries() -> String {
    let mut text =
        "dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\no: Example\n".to_owned();
    for (name, above) in [("people", ""), ("attic", ""), ("staff", "ou=people,"), ("guests", "ou=people,")] {
        text += &format!("\ndn: ou={name},{above}dc=example,dc=org\nobjectClass: organizationalUnit\nou: {name}\n");
    }
    (0..USERS).for_each(|n| text += &format!("\n{}", user(n, if n % 2 == 0 { "staff" } else { "guests" })));
    text
}

fn dn(n: usize, unit: &str) -> String {
    format!("uid=u{n},ou={unit},{PEOPLE}")
}

fn user(n: usize, unit: &str) -> String {
    format!(
        "dn: {}\nobjectClass: inetOrgPerson\nuid: u{n}\ncn: User {n}\nsn: {n}\ntelephoneNumber: +1 555 {n:04}\n\
         userPassword: secret-{n}\n",
        dn(n, unit)
    )
}

fn added(n: usize, unit: &str) -> String {
    user(n, unit).replacen("\nobjectClass", "\nchangetype: add\nobjectClass", 1)
}

/// A server with its place.
struct Directory {
    slapd: Slapd,
    folder: TempDir,
    _loopback: Loopback,
}

impl Directory {
    fn start(settings: &SlapdSettings) -> Self {
        let (loopback, folder) = (Loopback::claim(), tempfile::tempdir().expect("a folder"));
        let place = loopback.place(40);
        Self::start_in(loopback, &place, folder, settings)
    }

    fn start_in(loopback: Loopback, place: &NetPlace, folder: TempDir, settings: &SlapdSettings) -> Self {
        fs::write(folder.path().join("password"), format!("{}\n", Slapd::PASSWORD)).expect("a password file");
        let slapd = Slapd::start(place, settings, &entries());
        Self { slapd, folder, _loopback: loopback }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn settings(&self) -> ServerSettings {
        ServerSettings {
            urls: vec![url(self.slapd.ldap(), false)],
            start_tls: false,
            ca_file: None,
            insecure: false,
            bind_dn: Slapd::ADMIN.to_owned(),
            password_file: Some(self.file("password")),
            timeout: Duration::from_secs(20),
            referrals: false,
            flavour: Flavour::Auto,
        }
    }

    async fn connect(&self) -> DirectoryConnection {
        DirectoryServers::new(self.settings()).connect().await.expect("slapd takes the sign-in")
    }

    /// All entries and the cursor.
    async fn full(&self) -> (BTreeMap<EntryId, Entry>, Cursor) {
        let mut found = BTreeMap::new();
        let each = |entry: Entry| {
            found.insert(entry.id, entry);
            Ok(())
        };
        let cursor = self.connect().await.full(&search(), each).await.expect("the search succeeds");
        (found, cursor)
    }

    async fn changes(&self, cursor: &Cursor, entries: &BTreeMap<EntryId, Entry>) -> (Difference, Changes) {
        let mut difference = Difference::default();
        let each = |change: Change| {
            match change {
                Change::Entry(entry) => {
                    difference.entries.insert(entry.dn.to_ascii_lowercase(), entry.id);
                }
                Change::Gone(id) => {
                    difference.gone.insert(id);
                }
            }
            Ok(())
        };
        let (search, known) = (search(), entries.keys().copied().collect());
        let changes = self.connect().await.changes(&search, cursor, &known, each).await.expect("changes are told");
        (difference, changes)
    }
}

#[derive(Debug, Default, PartialEq)]
struct Difference {
    entries: BTreeMap<String, EntryId>,
    gone: BTreeSet<EntryId>,
}

fn url(address: SocketAddr, ldaps: bool) -> LdapUrl {
    LdapUrl { host: address.ip().to_string(), port: address.port(), ldaps }
}

fn search() -> SearchSettings {
    SearchSettings {
        bases: vec![PEOPLE.to_owned()],
        filter: "(objectClass=inetOrgPerson)".to_owned(),
        page: 50,
        attributes: vec!["cn".to_owned(), "telephonenumber".to_owned()],
    }
}

fn synchronizing() -> SlapdSettings {
    SlapdSettings { syncprov: true, ..SlapdSettings::default() }
}

fn id_of(entries: &BTreeMap<EntryId, Entry>, dn: &str) -> EntryId {
    entries.values().find(|entry| entry.dn.eq_ignore_ascii_case(dn)).expect("the user exists").id
}

fn ids(entries: &BTreeMap<EntryId, Entry>) -> Vec<EntryId> {
    entries.keys().copied().collect()
}

fn done(changes: Changes) -> Cursor {
    match changes {
        Changes::Done { cursor } => cursor,
        Changes::NeedFull { reason } => panic!("a full search is asked for: {reason}"),
    }
}

#[tokio::test]
async fn five_hundred_users_are_read_with_and_without_synchronization() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    for (settings, flavour) in [(synchronizing(), Flavour::OpenLdap), (SlapdSettings::default(), Flavour::Auto)] {
        let directory = Directory::start(&settings);
        let description = directory.connect().await.describe().await.expect("a description");
        assert_eq!(
            (description.flavour, &description.naming_contexts[..]),
            (flavour, &[Slapd::SUFFIX.to_owned()][..])
        );
        let (entries, cursor) = directory.full().await;
        assert_eq!(entries.len(), USERS);
        let entry = &entries[&id_of(&entries, &dn(7, "guests"))];
        assert_eq!(entry.attributes.texts("telephoneNumber"), ["+1 555 0007"]);
        let paged = directory.connect().await.ids(&search()).await.expect("ten pages");
        assert_eq!(paged.into_iter().collect::<Vec<_>>(), ids(&entries));
        let (difference, changes) = directory.changes(&cursor, &entries).await;
        assert_eq!(difference, Difference::default());
        assert_eq!(matches!(changes, Changes::Done { .. }), settings.syncprov, "{changes:?}");
    }
}

#[tokio::test]
async fn changes_are_told_by_either_kind_of_refresh_also_over_a_restart() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    for session_log in [None, Some(1_000)] {
        let mut directory = Directory::start(&SlapdSettings { session_log, ..synchronizing() });
        let (entries, cursor) = directory.full().await;
        let [renamed, moved, left, deleted] =
            [(2, "staff"), (4, "staff"), (6, "staff"), (8, "staff")].map(|(n, unit)| id_of(&entries, &dn(n, unit)));
        let change = |dn: String, lines: &str| format!("dn: {dn}\n{lines}\n\n");
        let to = |uid: &str, above: &str| {
            format!("changetype: modrdn\nnewrdn: uid={uid}\ndeleteoldrdn: 0\nnewsuperior: {above}")
        };
        directory.slapd.modify(
            &[
                added(900, "staff") + "\n",
                change(dn(1, "guests"), "changetype: modify\nreplace: cn\ncn: Other"),
                change(dn(2, "staff"), "changetype: modrdn\nnewrdn: uid=renamed\ndeleteoldrdn: 1"),
                change(dn(4, "staff"), &to("u4", &format!("ou=guests,{PEOPLE}"))),
                change(dn(6, "staff"), &to("u6", "ou=attic,dc=example,dc=org")),
                change(dn(8, "staff"), "changetype: delete"),
            ]
            .concat(),
        );
        let (difference, changes) = directory.changes(&cursor, &entries).await;
        let names: BTreeSet<&str> = difference.entries.keys().map(String::as_str).collect();
        let renamed_dn = format!("uid=renamed,ou=staff,{PEOPLE}");
        let expected = [dn(900, "staff"), dn(1, "guests"), renamed_dn.clone(), dn(4, "guests")];
        assert_eq!(
            names,
            expected.iter().map(String::as_str).collect::<BTreeSet<_>>(),
            "session log {session_log:?}"
        );
        assert_eq!((difference.entries[&renamed_dn], difference.entries[&dn(4, "guests")]), (renamed, moved));
        // Without the log the server tells what is present; with it, it may leave out what left the base.
        assert!(difference.gone.contains(&deleted), "session log {session_log:?}");
        assert!(session_log.is_some() || difference.gone.contains(&left), "it left the base");
        assert!(difference.gone.is_subset(&BTreeSet::from([left, deleted])), "{:?}", difference.gone);

        let cursor = Cursor::from_bytes(&done(changes).to_bytes()).expect("a cursor");
        directory.slapd.stop();
        directory.slapd.resume();
        let (entries, _) = directory.full().await;
        let (difference, changes) = directory.changes(&cursor, &entries).await;
        assert_eq!((difference, done(changes)), (Difference::default(), cursor));
        assert!(!entries.contains_key(&left) && !entries.contains_key(&deleted) && entries.len() == USERS - 1);
    }
}

#[tokio::test]
async fn users_of_a_second_base_are_not_gone_when_the_first_one_changes() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    let bases = ["staff", "guests"].map(|unit| format!("ou={unit},{PEOPLE}")).to_vec();
    let search = SearchSettings { bases, ..search() };
    for session_log in [None, Some(1_000)] {
        let directory = Directory::start(&SlapdSettings { session_log, ..synchronizing() });
        let mut entries = BTreeMap::new();
        let each = |entry: Entry| {
            entries.insert(entry.id, entry);
            Ok(())
        };
        let cursor = directory.connect().await.full(&search, each).await.expect("the search succeeds");
        let known: BTreeSet<EntryId> = entries.keys().copied().collect();
        assert_eq!(known.len(), USERS);
        assert_eq!(directory.connect().await.ids(&search).await.expect("two bases"), known);

        let [changed, moved, deleted] = [2, 4, 8].map(|n| id_of(&entries, &dn(n, "staff")));
        let to_guests = format!("newrdn: uid=u4\ndeleteoldrdn: 0\nnewsuperior: ou=guests,{PEOPLE}");
        directory.slapd.modify(&format!(
            "dn: {}\nchangetype: modify\nreplace: cn\ncn: Other\n\ndn: {}\nchangetype: modrdn\n{to_guests}\n\n\
             dn: {}\nchangetype: delete\n\n",
            dn(2, "staff"),
            dn(4, "staff"),
            dn(8, "staff")
        ));
        let (mut there, mut gone) = (BTreeSet::new(), BTreeSet::new());
        let each = |change: Change| {
            match change {
                Change::Entry(entry) => there.insert(entry.id),
                Change::Gone(id) => gone.insert(id),
            };
            Ok(())
        };
        let changes = directory.connect().await.changes(&search, &cursor, &known, each).await.expect("an answer");
        done(changes);
        assert_eq!(gone, BTreeSet::from([deleted]), "session log {session_log:?}");
        assert_eq!(there, BTreeSet::from([changed, moved]), "session log {session_log:?}");
        let ids = directory.connect().await.ids(&search).await.expect("two bases");
        assert_eq!(known.difference(&ids).collect::<Vec<_>>(), [&deleted]);
    }
}

#[tokio::test]
async fn a_moved_subtree_and_other_settings_need_a_full_search() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    let directory = Directory::start(&synchronizing());
    let (entries, cursor) = directory.full().await;
    let other = SearchSettings { filter: "(uid=*)".to_owned(), ..search() };
    let mut connection = directory.connect().await;
    let changes = connection.changes(&other, &cursor, &BTreeSet::new(), |_| Ok(())).await.expect("an answer");
    assert!(matches!(&changes, Changes::NeedFull { reason } if reason.contains("filter")), "{changes:?}");

    // The names of 250 users change with it, and no user has changed.
    directory.slapd.modify(&format!(
        "dn: ou=staff,{PEOPLE}\nchangetype: modrdn\nnewrdn: ou=crew\ndeleteoldrdn: 1\nnewsuperior: ou=guests,{PEOPLE}\n"
    ));
    let (_, changes) = directory.changes(&cursor, &entries).await;
    assert!(matches!(&changes, Changes::NeedFull { reason } if reason.contains("container")), "{changes:?}");
    let (after, _) = directory.full().await;
    assert_eq!(ids(&after), ids(&entries), "the ids are stable");
    let id = id_of(&entries, &dn(2, "staff"));
    assert_eq!(after[&id].dn.to_ascii_lowercase(), format!("uid=u2,ou=crew,ou=guests,{PEOPLE}"));
}

#[tokio::test]
async fn a_database_that_was_rolled_back_needs_a_full_search() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    let mut directory = Directory::start(&synchronizing());
    directory.slapd.save("backup");
    directory.slapd.modify(&added(900, "staff"));
    let (entries, cursor) = directory.full().await;
    assert_eq!(entries.len(), USERS + 1);
    directory.slapd.restore("backup");
    let (_, changes) = directory.changes(&cursor, &entries).await;
    assert!(matches!(&changes, Changes::NeedFull { reason } if reason.contains("older")), "{changes:?}");
    assert_eq!(directory.full().await.0.len(), USERS);

    // The user whom it lacks may exist: another server is asked, if there is one.
    let (settings, search) = (directory.settings(), search());
    let alone = DirectoryServers::new(settings.clone()).connect_current(&search, &cursor).await.err();
    assert!(matches!(&alone, Some(LdapError::Behind { .. })), "{alone:?}");
    let other = Directory::start(&synchronizing());
    let urls = [settings.urls.clone(), other.settings().urls].concat();
    let both = DirectoryServers::new(ServerSettings { urls, ..settings });
    let connection = both.connect_current(&search, &cursor).await.expect("the other server has newer data");
    assert_eq!(connection.server(), url(other.slapd.ldap(), false).to_string());

    // Changed beyond the cursor since: the server names what is present, and the lost user is missing there.
    directory.slapd.modify(&added(901, "staff"));
    let (difference, changes) = directory.changes(&cursor, &entries).await;
    if let Changes::Done { .. } = changes {
        assert_eq!(difference.gone, BTreeSet::from([id_of(&entries, &dn(900, "staff"))]));
        assert!(difference.entries.contains_key(&dn(901, "staff")), "{difference:?}");
    }
}

#[tokio::test]
async fn a_followed_server_tells_changes_as_they_happen() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    let directory = Directory::start(&synchronizing());
    let (entries, cursor) = directory.full().await;
    let mut connection = directory.connect().await;
    let mut following = connection.persist(&search(), &cursor, &ids(&entries)).await.expect("slapd is followed");
    directory.slapd.modify(&added(900, "staff"));
    directory.slapd.modify(&format!("dn: {}\nchangetype: delete\n", dn(8, "staff")));
    let (deleted, mut latest, mut events) = (id_of(&entries, &dn(8, "staff")), None, Vec::new());
    while events.len() < 2 || latest.is_none() {
        match following.next().await.expect("an event") {
            Followed::Change(Change::Entry(entry)) => events.push(entry.dn),
            Followed::Change(Change::Gone(id)) => events.push(if id == deleted { "gone" } else { "?" }.to_owned()),
            Followed::Cursor(cursor) if events.len() == 2 => latest = Some(cursor),
            Followed::Cursor(_) => {}
            Followed::NeedFull { reason } => panic!("{reason}"),
        }
    }
    assert_eq!(events, [dn(900, "staff"), "gone".to_owned()]);
    drop(following);
    let (entries, _) = directory.full().await;
    let (difference, changes) = directory.changes(&latest.expect("a cursor"), &entries).await;
    assert_eq!(difference, Difference::default(), "nothing is told twice");
    done(changes);
}

/// A certificate authority, and a server certificate for this address, in files.
fn certify(folder: &TempDir, name: &str, address: &str) -> (PathBuf, SlapdTls) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let write = |kind: &str, text: String| {
        let path = folder.path().join(format!("{name}-{kind}.pem"));
        fs::write(&path, text).expect("a file");
        path
    };
    let mut authority = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, format!("{name} authority"));
    let key = KeyPair::generate().expect("a key");
    let ca = write("ca", authority.self_signed(&key).expect("a certificate").pem());
    let issuer = Issuer::new(authority, key);
    let (key, server) = (KeyPair::generate().expect("a key"), CertificateParams::new(vec![address.to_owned()]));
    let certificate = server.expect("parameters").signed_by(&key, &issuer).expect("a certificate");
    (ca, SlapdTls { certificate: write("server", certificate.pem()), key: write("key", key.serialize_pem()) })
}

#[tokio::test]
async fn certificates_are_checked_with_ldaps_and_start_tls() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    let (loopback, folder) = (Loopback::claim(), tempfile::tempdir().expect("a folder"));
    let place = loopback.place(41);
    let (right, tls) = certify(&folder, "right", &place.ip.to_string());
    let (wrong, _) = certify(&folder, "wrong", &place.ip.to_string());
    let settings = SlapdSettings { tls: Some(tls), ..synchronizing() };
    let directory = Directory::start_in(loopback, &place, folder, &settings);
    let path = |path: &PathBuf| Some(path.to_string_lossy().into_owned());
    let forms = [(url(directory.slapd.ldaps(), true), false), (url(directory.slapd.ldap(), false), true)];
    for (url, start_tls) in forms {
        let settings = ServerSettings { urls: vec![url], start_tls, ..directory.settings() };
        let servers = |ca_file: Option<String>, insecure: bool| {
            DirectoryServers::new(ServerSettings { ca_file, insecure, ..settings.clone() })
        };
        let mut connection = servers(path(&right), false).connect().await.expect("the authority is known");
        assert_eq!(connection.ids(&search()).await.expect("a search").len(), USERS);
        let error = servers(path(&wrong), false).connect().await.err().expect("an unknown authority").to_string();
        assert!(error.contains("unknown authority"), "{error}");
        let verdict = servers(path(&wrong), false).check_password(&dn(1, "guests"), "secret-1").await;
        assert!(matches!(verdict, Err(LdapError::Unreachable(_))), "{verdict:?}");
        servers(None, true).connect().await.expect("the certificate is not checked");
        let error = servers(Some("/nowhere/ca.pem".to_owned()), false).connect().await.err().expect("no file");
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }
}

#[tokio::test]
async fn only_the_right_password_of_an_existing_user_is_right() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    let mut directory = Directory::start(&SlapdSettings::default());
    let servers = DirectoryServers::new(directory.settings());
    let name = dn(1, "guests");
    assert_eq!(servers.check_password(&name, "secret-1").await.expect("an answer"), BindVerdict::Right);
    for (name, password) in [
        (name.as_str(), "secret-2"),
        (name.as_str(), ""),
        (name.as_str(), "*"),
        (name.as_str(), "secret-1\0"),
        ("", "secret-1"),
        ("", ""),
        ("uid=nobody,dc=example,dc=org", "secret-1"),
        ("uid=*,ou=guests,ou=people,dc=example,dc=org", "secret-1"),
        ("*)(uid=*", "secret-1"),
        (")(|(uid=*", "*)"),
    ] {
        let verdict = servers.check_password(name, password).await.expect("an answer");
        assert_eq!(verdict, BindVerdict::Wrong, "{name:?} {password:?}");
    }
    for typed in ["u1,ou=guests", "u1+uid=u3", "*", "u1\0"] {
        let name = format!("uid={},ou=guests,{PEOPLE}", dn_value(typed));
        let verdict = servers.check_password(&name, "secret-1").await.expect("an answer");
        assert_eq!(verdict, BindVerdict::Wrong, "{typed:?}");
        let filter = format!("(&(objectClass=inetOrgPerson)(uid={}))", filter_value(typed.as_bytes()));
        let found = directory.connect().await.ids(&SearchSettings { filter, ..search() }).await.expect("a search");
        assert!(found.is_empty(), "{typed:?} is a value, not a part of the filter");
    }

    fs::write(directory.file("password"), "wrong\n").expect("the file can be written");
    let error = servers.connect().await.err().expect("refused");
    assert!(matches!(error, LdapError::SignIn { .. }), "{error}");

    // The first server is gone: the second decides. Neither is left: there is no verdict.
    let closed = LdapUrl { port: 1, ..url(directory.slapd.ldap(), false) };
    let urls = [vec![closed], directory.settings().urls].concat();
    let both = DirectoryServers::new(ServerSettings { urls, ..directory.settings() });
    assert_eq!(both.check_password(&name, "secret-1").await.expect("the second answers"), BindVerdict::Right);
    directory.slapd.stop();
    let verdict = both.check_password(&name, "secret-1").await;
    assert!(matches!(verdict, Err(LdapError::Unreachable(_))), "{verdict:?}");
}
