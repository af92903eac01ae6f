//! Referrals of real servers (slapd): references to other parts of the tree, and the referral for a name that the
//! server does not hold.

use std::{collections::BTreeSet, fs, io::ErrorKind, net::TcpListener, time::Duration};

use tempfile::TempDir;
use twinbox_directory_core::{Entry, Flavour, LdapUrl, SearchSettings, ServerSettings};
use twinbox_directory_service::{DirectoryServers, LdapError, Notes};
use twinbox_testkit::{Loopback, NetPlace, Slapd, SlapdSettings, need};

/// Port of strangers.
const STRANGE_PORT: u16 = 4444;

/// Two servers. The tree of the first one refers to the second one, at a port that is not in the settings, and to a
/// stranger.
struct Servers {
    first: Slapd,
    second: Slapd,
    /// Listeners that no settings name: another port of the second server, and another host.
    strangers: [TcpListener; 2],
    folder: TempDir,
    _loopback: Loopback,
}

fn tree(users: &[&str]) -> String {
    let suffix = Slapd::SUFFIX;
    let mut text = format!(
        "dn: {suffix}\nobjectClass: dcObject\nobjectClass: organization\no: Example\n\n\
         dn: ou=people,{suffix}\nobjectClass: organizationalUnit\nou: people\n"
    );
    for user in users {
        text += &format!(
            "\ndn: uid={user},ou=people,{suffix}\nobjectClass: inetOrgPerson\nuid: {user}\ncn: {user}\nsn: {user}\n"
        );
    }
    text
}

fn referral(unit: &str, listener: &TcpListener) -> String {
    let (suffix, address) = (Slapd::SUFFIX, listener.local_addr().expect("an address"));
    format!(
        "\ndn: ou={unit},ou=people,{suffix}\nobjectClass: referral\nobjectClass: extensibleObject\nou: {unit}\n\
         ref: ldap://{address}/ou=people,{suffix}\n"
    )
}

fn stranger(place: &NetPlace) -> TcpListener {
    let listener = place.listen(STRANGE_PORT);
    listener.set_nonblocking(true).expect("a listener that does not wait");
    listener
}

fn url(slapd: &Slapd) -> LdapUrl {
    LdapUrl { host: slapd.ldap().ip().to_string(), port: slapd.ldap().port(), ldaps: false }
}

fn search(base: &str) -> SearchSettings {
    SearchSettings {
        bases: vec![base.to_owned()],
        filter: "(objectClass=inetOrgPerson)".to_owned(),
        page: 2,
        attributes: vec!["cn".to_owned()],
    }
}

impl Servers {
    fn start(settings: &SlapdSettings) -> Self {
        let (loopback, folder) = (Loopback::claim(), tempfile::tempdir().expect("a folder"));
        let [one, two, three] = [40, 41, 42].map(|last| loopback.place(last));
        let strangers = [stranger(&two), stranger(&three)];
        let entries = tree(&["anna", "bert", "carla"])
            + &referral("branch", &strangers[0])
            + &referral("elsewhere", &strangers[1]);
        let first = Slapd::start(&one, settings, &entries);
        let second = Slapd::start(&two, settings, &tree(&["dora", "emil"]));
        fs::write(folder.path().join("password"), Slapd::PASSWORD).expect("a password file");
        Self { first, second, strangers, folder, _loopback: loopback }
    }

    fn settings(&self, referrals: bool, urls: Vec<LdapUrl>) -> ServerSettings {
        ServerSettings {
            urls,
            start_tls: false,
            ca_file: None,
            insecure: false,
            bind_dn: Slapd::ADMIN.to_owned(),
            password_file: Some(self.folder.path().join("password").to_string_lossy().into_owned()),
            timeout: Duration::from_secs(20),
            referrals,
            flavour: Flavour::Auto,
        }
    }

    /// Names of the people that a full search finds, and what it left out.
    async fn found(&self, referrals: bool, urls: Vec<LdapUrl>) -> (BTreeSet<String>, Notes) {
        let servers = DirectoryServers::new(self.settings(referrals, urls));
        let mut connection = servers.connect().await.expect("slapd takes the sign-in");
        let mut names = BTreeSet::new();
        let each = |entry: Entry| {
            names.extend(entry.attributes.texts("cn"));
            Ok(())
        };
        connection.full(&search(&format!("ou=people,{}", Slapd::SUFFIX)), each).await.expect("the search succeeds");
        (names, connection.notes())
    }

    /// No client connected to a listener that the settings do not name.
    fn assert_unknown(&self) {
        for listener in &self.strangers {
            let met = listener.accept().map(|(_, from)| from);
            assert!(met.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{met:?}");
        }
    }
}

fn names(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_reference_is_followed_only_if_allowed_and_to_a_server_of_the_settings_as_they_name_it() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    for syncprov in [false, true] {
        let servers = Servers::start(&SlapdSettings { syncprov, ..SlapdSettings::default() });
        let (first, second) = (url(&servers.first), url(&servers.second));
        let own = names(&["anna", "bert", "carla"]);
        let all = names(&["anna", "bert", "carla", "dora", "emil"]);
        let both = || vec![first.clone(), second.clone()];
        for (referrals, urls, expected, left_out) in [
            (false, both(), &own, 2),
            (true, vec![first.clone()], &own, 2),
            // The port of the settings counts, not that of the reference.
            (true, both(), &all, 1),
        ] {
            let (found, notes) = servers.found(referrals, urls).await;
            assert_eq!((&found, notes.referrals), (expected, left_out), "syncprov {syncprov}, allowed {referrals}");
        }
        servers.assert_unknown();
    }
}

#[tokio::test]
async fn a_base_that_the_server_does_not_hold_is_refused_by_name_and_its_referral_is_not_followed() {
    if !need::all(&[need::SLAPD]) {
        return;
    }
    let loopback = Loopback::claim();
    let other = stranger(&loopback.place(41));
    let address = other.local_addr().expect("an address");
    let lines = vec![format!("referral ldap://{address}")];
    let slapd =
        Slapd::start(&loopback.place(40), &SlapdSettings { lines, ..SlapdSettings::default() }, &tree(&["anna"]));
    let settings = ServerSettings {
        urls: vec![url(&slapd)],
        start_tls: false,
        ca_file: None,
        insecure: false,
        bind_dn: String::new(),
        password_file: None,
        timeout: Duration::from_secs(20),
        referrals: true,
        flavour: Flavour::Auto,
    };
    let mut connection = DirectoryServers::new(settings).connect().await.expect("a connection");
    let error = connection.full(&search("dc=elsewhere,dc=org"), |_| Ok(())).await.expect_err("it is elsewhere");
    assert!(matches!(error, LdapError::Refused { code: 10, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("dc=elsewhere,dc=org") && text.contains("name that server"), "{text}");
    assert!(other.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "it was not asked");
}
