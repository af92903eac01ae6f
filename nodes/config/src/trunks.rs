//! `[[trunk]]`: the file's trunks are the first ones of the cluster, and their passwords stay with this node, with the user names
//! beside them: a PBX may have an account for each node.

use std::collections::BTreeMap;

use twinbox_calls::{Registration, Transport, TrunkConfig};
use twinbox_cluster_settings::{Property, Trunk, TrunkRows};
use twinbox_ids::Pii;

use super::reader::Section;

/// Usual duration of a registration, in seconds.
const REGISTER_SECONDS: u32 = 600;

/// The trunks of a node's file, and this node's passwords.
#[derive(Debug, Clone, Default)]
pub struct FileTrunks {
    trunks: Vec<Trunk>,
    /// User name, if the file has one, and password, of trunks that have one in the file.
    credentials: BTreeMap<String, (Option<String>, Pii<String>)>,
}

/// User name and password for a trunk.
type Credentials = (Option<String>, Option<Pii<String>>);

/// The trunks in force on a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrunksInForce {
    /// Trunks that may call.
    pub trunks: Vec<TrunkConfig>,
    /// Names of trunks that are not used here, or not with all that they have, each with the reason and its remedy.
    pub mistakes: BTreeMap<String, String>,
}

impl FileTrunks {
    pub(super) fn read(root: &mut Section) -> Self {
        let mut found = Self::default();
        for section in root.sections("trunk") {
            found.add(section);
        }
        found
    }

    fn add(&mut self, mut section: Section) {
        let name = section.require::<String>("name", "a name for logs and metrics").unwrap_or_default();
        let mut trunk = Trunk::new(&name);
        if let Err(error) = &trunk {
            section.wrong("name", error.to_string());
        }
        let path = section.absolute("password_file");
        let password = section.secret("password", "password_file").map(Pii::new);
        let mut only_secret = password.is_some();
        for property in Property::ALL.into_iter().filter(|property| *property != Property::PasswordFile) {
            let Some(text) = section.plain(property.name()) else { continue };
            only_secret &= property == Property::Username;
            match (property.check_in_file(&text), &mut trunk) {
                (Ok(value), Ok(trunk)) => trunk.set(property, Some(value)),
                (Ok(_), Err(_)) => {}
                (Err(error), _) => section.wrong(property.name(), error.without_name()),
            }
        }
        section.finish();
        let Ok(mut trunk) = trunk else { return };
        if let Some(password) = password {
            let username = trunk.get(Property::Username).map(str::to_owned);
            self.credentials.insert(trunk.name().to_owned(), (username, password));
        }
        // Only the secret is left of a trunk whose other keys are the cluster's.
        if !only_secret {
            trunk.set(Property::PasswordFile, path);
            self.trunks.push(trunk);
        }
    }

    /// The trunks of the file.
    pub fn trunks(&self) -> &[Trunk] {
        &self.trunks
    }

    /// All trunks of the file as the SIP server takes them, mistakes and all.
    pub(super) fn configs(&self) -> Vec<TrunkConfig> {
        self.trunks.iter().map(|trunk| config(trunk, self.credentials(trunk).unwrap_or_default())).collect()
    }

    /// The trunks in force, given those of the cluster.
    pub fn in_force(&self, rows: &TrunkRows) -> TrunksInForce {
        let mut found = TrunksInForce::default();
        for known in rows.known(&self.trunks) {
            let name = known.trunk.name();
            let mut note = |what: String| found.mistakes.insert(name.to_owned(), format!("trunk '{name}': {what}"));
            let credentials = self.credentials(known.trunk).unwrap_or_else(|what| {
                note(what);
                (None, None)
            });
            let config = config(known.trunk, credentials);
            match config.mistakes().into_iter().next() {
                Some((key, what)) => drop(note(format!("{key} {what}"))),
                None => found.trunks.push(config),
            }
        }
        found
    }

    /// The first reason why this node could not use a trunk with all that it has.
    pub fn mistake(&self, trunk: &Trunk) -> Option<String> {
        let mistake = match self.credentials(trunk) {
            Ok(credentials) => {
                let mistakes = config(trunk, credentials).mistakes();
                mistakes.into_iter().next().map(|(key, what)| format!("{key} {what}"))
            }
            Err(what) => Some(what),
        };
        mistake.map(|what| format!("trunk '{}': {what}", trunk.name()))
    }

    /// User name and password for a trunk on this node: those of its file, else those of the cluster.
    fn credentials(&self, trunk: &Trunk) -> Result<Credentials, String> {
        let shared = trunk.get(Property::Username).map(str::to_owned);
        if let Some((username, password)) = self.credentials.get(trunk.name()) {
            return Ok((username.clone().or(shared), Some(password.clone())));
        }
        let (Some(path), Some(username)) = (trunk.get(Property::PasswordFile), &shared) else {
            return match &shared {
                None => Ok((None, None)),
                Some(username) => Err(format!(
                    "username is '{username}', and this node has no password for it: write it to a file on every node, \
                     and set password_file=/PATH; or give it in [[trunk]] of this node's file"
                )),
            };
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok((shared, Some(Pii::new(text.trim_end_matches(['\r', '\n']).to_owned())))),
            Err(error) => Err(format!(
                "password_file '{path}' for {username} cannot be read on this node: {error}; write the password there on \
                 every node"
            )),
        }
    }
}

/// The trunk as the SIP server takes it.
fn config(trunk: &Trunk, (username, password): Credentials) -> TrunkConfig {
    let text = |property| trunk.get(property).map(str::to_owned);
    let proxy = text(Property::Proxy);
    let registration = || {
        let host = proxy.as_deref().unwrap_or_default();
        let usual = || format!("sip:{}@{host}", username.as_deref().unwrap_or("voicemail"));
        let seconds = trunk.get(Property::RegisterSeconds).and_then(|text| text.parse().ok());
        Registration {
            aor: text(Property::RegisterAs).unwrap_or_else(usual),
            seconds: seconds.unwrap_or(REGISTER_SECONDS),
        }
    };
    TrunkConfig {
        name: trunk.name().to_owned(),
        addresses: trunk.networks().collect(),
        transport: trunk.get(Property::Transport).map(|text| match text {
            "tcp" => Transport::Tcp,
            _ => Transport::Udp,
        }),
        password,
        register: trunk.flag(Property::Register).then(registration),
        mwi: text(Property::Mwi),
        transfer: text(Property::Transfer),
        media_from_any_host: trunk.flag(Property::MediaFromAnyHost),
        proxy,
        username,
    }
}
