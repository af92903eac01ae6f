//! The sections `[mail]`, `[notifications]` and `[sms]`: mail in and out, the texts of notifications, text messages.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, sync::Arc};

use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use twinbox_devices::Templates;
use twinbox_mail::{Address, dkim};
use twinbox_mail_gateway::{Limits, Networks, Protocol, Settings};
use twinbox_mta::{Authorities, MailSender, Mailer, MailerConfig, MxTls, Route, Smarthost, TlsMode};
use twinbox_notifier::SmsGateway;

use super::reader::Section;

/// Languages and files beyond this number in the folder of templates are a mistake.
const MOST_TEMPLATES: usize = 500;

/// Mail in.
#[derive(Debug, Clone)]
pub struct MailInConfig {
    /// Domain of the mailboxes.
    pub domain: String,
    /// Address to which reports of failure come back.
    pub reports: Address,
    /// Addresses on which the node listens, each with its protocol.
    pub listeners: Vec<(SocketAddr, Protocol)>,
    /// Name, networks, and whether strangers may send.
    pub settings: Settings,
    /// Limits.
    pub limits: Limits,
    /// Certificate for STARTTLS.
    pub tls: Option<Arc<ServerConfig>>,
}

/// The sections `[mail]`, `[sms]` and `[notifications]`.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// Mail out; `None`: no mail is sent.
    pub out: Option<MailSender>,
    /// Mail in; `None`: the node listens for no mail.
    pub incoming: Option<MailInConfig>,
    /// Texts of notifications.
    pub templates: Arc<Templates>,
    /// Gateway for text messages.
    pub sms: Option<SmsGateway>,
}

impl MailConfig {
    pub(super) fn read(root: &mut Section) -> Option<Self> {
        let mut section = root.section("mail");
        let identity = read_identity(&mut section);
        let incoming = section.section("in");
        let mut incoming = read_in(incoming, identity.as_ref());
        let out = read_out(&mut section, identity);
        if let Some(incoming) = &mut incoming {
            incoming.settings.reports = out.is_some();
        }
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
        let sms = read_sms(root.section("sms"));
        Some(Self { out, incoming, templates: templates?, sms })
    }
}

/// Names under which the cluster sends and receives.
struct Identity {
    domain: String,
    from: Address,
    hello: String,
}

fn read_identity(section: &mut Section) -> Option<Identity> {
    let (domain, from, hello) = (section.text("domain"), section.text("from"), section.text("hello"));
    let domain = domain?.to_ascii_lowercase();
    let from = from.unwrap_or_else(|| format!("voicemail@{domain}"));
    let from = Address::parse(&from).map_err(|error| section.wrong("from", error.to_string())).ok()?;
    let hello = hello.unwrap_or_else(|| domain.clone());
    Some(Identity { domain, from, hello })
}

fn read_out(section: &mut Section, identity: Option<Identity>) -> Option<MailSender> {
    let from_name = section.text("from_name").unwrap_or_else(|| "Voicemail".to_owned());
    let smarthost = section.text("smarthost");
    let tls = section.text("tls");
    let user = section.text("user");
    let password = section.secret("password", "password_file");
    let authorities = section.path("ca_file").map_or(Authorities::System, Authorities::File);
    let dns_servers = section.list::<SocketAddr>("dns_servers", "ADDRESS:PORT");
    let direct = section.flag("direct", false);
    let dkim = section.section("dkim");
    let key = read_dkim(dkim, identity.as_ref().map(|identity| identity.domain.as_str()));
    if user.is_some() != password.is_some() {
        section.wrong("user", "needs password or password_file beside it, and the other way round");
    }

    let Some(Identity { domain, from, hello }) = identity else {
        if smarthost.is_some() || direct {
            section.wrong(
                "domain",
                "is missing: write the domain of the mailboxes, such as \"voicemail.example.com\"",
            );
        }
        return None;
    };
    let route = match (smarthost, direct) {
        (Some(_), true) => {
            section.wrong("direct", "is given beside smarthost: keep one of them");
            None
        }
        // Only mail in, or none.
        (None, false) => return None,
        (Some(host), false) => {
            read_smarthost(section, &host, tls.as_deref(), user.zip(password)).map(Route::Smarthost)
        }
        (None, true) => Some(Route::mx(read_mx_tls(section, tls.as_deref()))),
    };
    let config = MailerConfig { authorities, dns_servers, ..MailerConfig::new(route?, &hello) };
    let mailer = Mailer::new(config).map_err(|error| section.wrong("smarthost", error.to_string())).ok();
    Some(MailSender { domain, from, from_name, mailer: mailer?, dkim: key })
}

fn read_in(mut section: Section, identity: Option<&Identity>) -> Option<MailInConfig> {
    let mut listeners: Vec<(SocketAddr, Protocol)> = Vec::new();
    let expected = "ADDRESS:PORT";
    listeners.extend(section.list::<SocketAddr>("smtp", expected).into_iter().map(|at| (at, Protocol::Smtp)));
    listeners.extend(section.list::<SocketAddr>("lmtp", expected).into_iter().map(|at| (at, Protocol::Lmtp)));
    let networks = Networks::parse(section.list::<String>("networks", "ADDRESS/BITS"));
    let networks = networks.map_err(|error| section.wrong("networks", error.to_string())).ok();
    let open = section.flag("open", false);
    let mail_mb = section.number("mail_mb", 1..=1_024, 25) as usize;
    let tls = read_certificate(&mut section).ok().flatten();
    let made = match identity {
        _ if listeners.is_empty() => None,
        None => {
            section.wrong("smtp", "needs [mail] domain: write the domain of the mailboxes there");
            None
        }
        Some(identity) => networks.map(|networks| MailInConfig {
            domain: identity.domain.clone(),
            reports: identity.from.clone(),
            listeners,
            settings: Settings { hostname: identity.hello.clone(), networks, open, reports: false },
            limits: Limits { mail: mail_mb << 20, ..Limits::default() },
            tls,
        }),
    };
    section.finish();
    made
}

/// The certificate that clients of a listener see, from `certificate_file` and `key_file`; an error was recorded as a
/// mistake.
pub(super) fn read_certificate(section: &mut Section) -> Result<Option<Arc<ServerConfig>>, ()> {
    match (section.path("certificate_file"), section.path("key_file")) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            server_tls(&certificate, &key).map(Some).map_err(|reason| section.wrong("certificate_file", reason))
        }
        _ => {
            section.wrong("certificate_file", "needs key_file beside it, and the other way round");
            Err(())
        }
    }
}

fn server_tls(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let unusable =
        |path: &Path, error: &dyn std::fmt::Display| format!("{} is not usable: {error}", path.display());
    let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| unusable(certificate, &error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(certificate, &error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
    let made = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret));
    made.map(Arc::new).map_err(|error: rustls::Error| unusable(certificate, &error))
}

fn read_smarthost(
    section: &Section,
    text: &str,
    tls: Option<&str>,
    login: Option<(String, String)>,
) -> Option<Smarthost> {
    let tls = match tls.unwrap_or("starttls") {
        "starttls" => TlsMode::StartTls,
        "tls" => TlsMode::Tls,
        "opportunistic" => TlsMode::Opportunistic,
        "off" => TlsMode::Off,
        other => {
            section.wrong("tls", format!("'{other}' is not one of starttls, tls, opportunistic, off"));
            return None;
        }
    };
    let usual = if tls == TlsMode::Tls { 465 } else { 587 };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
        _ => (text, Some(usual)),
    };
    let Some(port) = port.filter(|port| *port > 0) else {
        section.wrong("smarthost", format!("'{text}' has no valid port: write HOST or HOST:PORT"));
        return None;
    };
    Some(Smarthost { host: host.to_owned(), port, tls, login })
}

fn read_mx_tls(section: &Section, tls: Option<&str>) -> MxTls {
    match tls.unwrap_or("opportunistic") {
        "opportunistic" => MxTls::Opportunistic,
        "required" => MxTls::Required,
        other => {
            section.wrong("tls", format!("'{other}' is not one of opportunistic, required (with direct = true)"));
            MxTls::Opportunistic
        }
    }
}

fn read_dkim(mut section: Section, domain: Option<&str>) -> Option<Arc<dkim::Signer>> {
    let selector = section.text("selector");
    let signing = section.text("domain").or_else(|| domain.map(str::to_owned));
    let key = section.secret("key", "key_file");
    let made = match (selector, key) {
        (None, None) => None,
        (Some(selector), Some(key)) => signing.and_then(|domain| {
            dkim::Key::ed25519(&key)
                .or_else(|_| dkim::Key::rsa(&key))
                .and_then(|key| dkim::Signer::new(&domain, &selector, key, &dkim::HEADERS))
                .map_err(|error| section.wrong("key_file", error.to_string()))
                .ok()
        }),
        (None, Some(_)) => {
            section.wrong("selector", "is missing: write the selector under which DNS has the public key");
            None
        }
        (Some(_), None) => {
            section.wrong("key_file", "is missing: write the file of the private key (PEM, PKCS #8)");
            None
        }
    };
    section.finish();
    made.map(Arc::new)
}

fn read_sms(mut section: Section) -> Option<SmsGateway> {
    let url = section.text("url");
    let authorization = section.secret("authorization", "authorization_file");
    let authorities = section.path("ca_file");
    let made = match url {
        None if authorization.is_some() || authorities.is_some() => {
            section.wrong("url", "is missing: write the URL of the gateway, such as \"https://sms.example/send\"");
            None
        }
        None => None,
        Some(url) => SmsGateway::new(&url, authorization.as_deref(), authorities)
            .map_err(|error| section.wrong("url", error.to_string()))
            .ok(),
    };
    section.finish();
    made
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
