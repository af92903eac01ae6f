//! The sections `[mail]`, `[notifications]` and `[sms]`: mail in, the texts of notifications, and a node's own part of mail
//! out and of text messages.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, sync::Arc};

use twinbox_devices::Templates;
use twinbox_ids::Pii;
use twinbox_mail_gateway::{Limits, Networks, Protocol};
use twinbox_tls::ServedCertificate;

use super::{
    reader::Section,
    services::{OwnMail, OwnServices},
};

/// Languages and files beyond this number in the folder of templates are a mistake.
const MOST_TEMPLATES: usize = 500;

/// Mail in.
#[derive(Debug, Clone)]
pub struct MailInConfig {
    /// Addresses on which the node listens, each with its protocol.
    pub listeners: Vec<(SocketAddr, Protocol)>,
    /// Networks whose hosts may send without a password.
    pub networks: Networks,
    /// Hosts outside these networks may send to the mailboxes as well.
    pub open: bool,
    /// Limits.
    pub limits: Limits,
    /// Certificate for STARTTLS.
    pub tls: Option<ServedCertificate>,
}

/// The part of the sections `[mail]`, `[sms]` and `[notifications]` that is not shared by all nodes.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// Mail in; `None`: the node listens for no mail.
    pub incoming: Option<MailInConfig>,
    /// Texts of notifications.
    pub templates: Arc<Templates>,
}

impl MailConfig {
    /// Reads the sections, and what this node's file alone says about mail and text messages.
    pub(super) fn read(root: &mut Section) -> (Option<Self>, OwnServices) {
        let mut section = root.section("mail");
        let incoming = read_in(section.section("in"));
        let mut dkim = section.section("dkim");
        let mail = OwnMail {
            hello: section.text("hello"),
            password: section.text("password").map(Pii::new),
            dkim_key: dkim.text("key").map(Pii::new),
            dns_servers: section.list::<SocketAddr>("dns_servers", "ADDRESS:PORT"),
            listens: incoming.is_some(),
        };
        dkim.finish();
        section.finish();
        let mut section = root.section("notifications");
        let templates = match read_templates(section.path("templates").as_deref()) {
            Ok(templates) => Some(Arc::new(templates)),
            Err(reason) => {
                section.wrong("templates", reason);
                None
            }
        };
        section.finish();
        let sms_authorization = read_sms(root.section("sms"));
        let own = OwnServices { mail, sms_authorization, ..OwnServices::default() };
        (templates.map(|templates| Self { incoming, templates }), own)
    }
}

/// A larger mail, with this node's header, is not read ([`twinbox_mail`]).
const LARGEST_MB: i64 = 31;

fn read_in(mut section: Section) -> Option<MailInConfig> {
    let mut listeners: Vec<(SocketAddr, Protocol)> = Vec::new();
    let expected = "ADDRESS:PORT";
    listeners.extend(section.list::<SocketAddr>("smtp", expected).into_iter().map(|at| (at, Protocol::Smtp)));
    listeners.extend(section.list::<SocketAddr>("lmtp", expected).into_iter().map(|at| (at, Protocol::Lmtp)));
    let networks = Networks::parse(section.list::<String>("networks", "ADDRESS/BITS"));
    let networks = networks.map_err(|error| section.wrong("networks", error.to_string())).ok();
    let open = section.flag("open", false);
    let mail_mb = section.number("mail_mb", 1..=1_024, 25).min(LARGEST_MB) as usize;
    let tls = read_certificate(&mut section).ok().flatten();
    section.finish();
    let limits = Limits { mail: mail_mb << 20, ..Limits::default() };
    let networks = networks.filter(|_| !listeners.is_empty())?;
    Some(MailInConfig { listeners, networks, open, limits, tls })
}

/// The certificate that clients of a listener see, from `certificate_file` and `key_file`; an error was recorded as a
/// mistake.
pub(super) fn read_certificate(section: &mut Section) -> Result<Option<ServedCertificate>, ()> {
    match (section.path("certificate_file"), section.path("key_file")) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            let read = ServedCertificate::read(&certificate, &key);
            read.map(Some).map_err(|error| section.wrong("certificate_file", error.to_string()))
        }
        _ => {
            section.wrong("certificate_file", "needs key_file beside it, and the other way round");
            Err(())
        }
    }
}

fn read_sms(mut section: Section) -> Option<Pii<String>> {
    let authorization = section.secret("authorization", "authorization_file").map(Pii::new);
    section.finish();
    authorization
}

/// The built-in texts, with those of the folder in their place: `LANGUAGE/FILE`.
fn read_templates(folder: Option<&Path>) -> Result<Templates, String> {
    let mut overrides = BTreeMap::new();
    if let Some(folder) = folder {
        let unreadable = |path: &Path, error: std::io::Error| format!("{} cannot be read: {error}", path.display());
        let list = |path: &Path| -> Result<Vec<_>, String> {
            let entries = fs::read_dir(path).map_err(|error| unreadable(path, error))?;
            entries.map(|entry| entry.map(|e| e.path()).map_err(|error| unreadable(path, error))).collect()
        };
        for language in list(folder)?.iter().filter(|path| path.is_dir()) {
            for file in list(language)?.iter().filter(|path| path.is_file()) {
                let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let text = fs::read_to_string(file).map_err(|error| unreadable(file, error))?;
                overrides.insert((name(language), name(file)), text);
                if overrides.len() > MOST_TEMPLATES {
                    return Err(format!("{} has more than {MOST_TEMPLATES} files", folder.display()));
                }
            }
        }
    }
    Templates::with_overrides(&overrides).map_err(|error| error.to_string())
}
