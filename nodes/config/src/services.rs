//! Services to the outside, as the settings that all nodes share and this node's own secrets make them.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use twinbox_backup::S3Settings;
use twinbox_cluster_settings::{Key, Values, host_and_port};
use twinbox_devices::{LinkBase, LinkBaseError};
use twinbox_ids::{NodeName, Pii};
use twinbox_mail::{Address, dkim};
use twinbox_mail_gateway::MailIdentity;
use twinbox_mta::{
    Authorities, MailOut, MailSender, Mailer, MailerConfig, MailerError, MxTls, Route, Smarthost, TlsMode,
};
use twinbox_notifier::{SmsGateway, SmsOut, TargetError};

use super::{backup::OwnS3, reader::Section};

#[cfg(test)]
mod tests;

/// Reason why this node cannot use a setting that all nodes share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}")]
pub struct SettingMistake {
    /// The key to which it belongs, as in the file.
    pub key: String,
    /// The mistake and its remedy.
    pub what: String,
    /// Something is absent that a file may leave to the cluster.
    absent: bool,
}

impl SettingMistake {
    pub(super) fn new(key: &str, what: impl Into<String>) -> Self {
        Self { key: key.to_owned(), what: what.into(), absent: false }
    }

    fn absent(key: &str, what: impl Into<String>) -> Self {
        Self { absent: true, ..Self::new(key, what) }
    }

    fn of(key: Key, what: impl Into<String>) -> Self {
        Self::new(key.name(), what)
    }
}

/// The part of this node's file about services to the outside: its secrets, and its listeners.
#[derive(Debug, Clone, Default)]
pub struct OwnServices {
    /// Mail.
    pub(super) mail: OwnMail,
    /// Value of the header for the gateway for text messages.
    pub(super) sms_authorization: Option<Pii<String>>,
    /// The node answers links to recordings.
    pub(super) serves_links: bool,
    /// Keys of the store that takes backups.
    pub(super) s3: OwnS3,
}

/// The part of this node's file about mail.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnMail {
    /// Name of this node to mail servers; `None`: the domain.
    pub(super) hello: Option<String>,
    /// Password at the smarthost.
    pub(super) password: Option<Pii<String>>,
    /// Private key of signatures.
    pub(super) dkim_key: Option<Pii<String>>,
    /// Name servers; none: those of the system.
    pub(super) dns_servers: Vec<SocketAddr>,
    /// The node listens for mail.
    pub(super) listens: bool,
}

/// Services to the outside of a node, by the settings in force.
#[derive(Debug, Clone)]
pub struct Services {
    /// Domain of the mailboxes and sender of notifications; `None`: mail has no domain.
    pub identity: Option<Arc<MailIdentity>>,
    /// Name of this node to mail servers and their clients.
    pub hello: String,
    /// Mail out.
    pub mail_out: MailOut,
    /// Gateway for text messages.
    pub sms: SmsOut,
    /// URL with which links to recordings begin; `None`: there are none.
    pub links: Option<LinkBase>,
    /// Access to the store that takes backups; `None`: nothing tells where it is.
    pub(super) s3: Result<Option<S3Settings>, SettingMistake>,
}

impl OwnServices {
    /// The services by these settings, and the mistakes of those that this node cannot use.
    pub fn in_force(&self, values: &Values, node: &NodeName) -> (Services, Vec<SettingMistake>) {
        let mut mistakes = Vec::new();
        let identity = identity(values);
        let domain = identity.as_ref().ok().and_then(Option::as_ref).map(|identity| identity.domain.clone());
        let hello = self.mail.hello.clone().or(domain).unwrap_or_else(|| node.to_string());
        let made = match &identity {
            Ok(identity) => self.mail.out(values, identity.as_deref(), &hello),
            Err(mistake) => Err(mistake.clone()),
        };
        let mail_out = match made {
            Ok(None) => MailOut::Off,
            Ok(Some(sender)) => MailOut::Ready(Arc::new(sender)),
            Err(mistake) => {
                let reason = mistake.to_string();
                mistakes.push(mistake);
                MailOut::Unusable(reason)
            }
        };
        if mistakes.is_empty() && self.mail.listens && matches!(identity, Ok(None)) {
            let what = "is missing, and this node takes no mail without it ([mail.in]): set the domain of the mailboxes, \
                        such as voicemail.example.com";
            mistakes.push(SettingMistake::absent(Key::MailDomain.name(), what));
        }
        let sms = match self.sms(values) {
            Ok(None) => SmsOut::Off,
            Ok(Some(gateway)) => SmsOut::Ready(gateway),
            Err(mistake) => {
                let reason = mistake.to_string();
                mistakes.push(mistake);
                SmsOut::Unusable(reason)
            }
        };
        let links = self.links(values).unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            None
        });
        let s3 = self.s3.settings(values);
        mistakes.extend(s3.as_ref().err().cloned());
        (Services { identity: identity.ok().flatten(), hello, mail_out, sms, links, s3 }, mistakes)
    }

    fn sms(&self, values: &Values) -> Result<Option<SmsGateway>, SettingMistake> {
        let Some(url) = values.given(Key::SmsUrl) else { return Ok(None) };
        let authorization = self.sms_authorization.as_ref().map(|value| value.reveal().as_str());
        let authorities = values.given(Key::SmsCaFile).map(PathBuf::from);
        SmsGateway::new(url, authorization, authorities).map(Some).map_err(|error| match &error {
            // The text of the error has the URL, which may hold a secret.
            TargetError::Url(_) => SettingMistake::of(Key::SmsUrl, "is not the URL of a gateway"),
            TargetError::Authorization => SettingMistake::new("sms.authorization", error.to_string()),
            TargetError::Authorities { .. } | TargetError::NoAuthorities => {
                SettingMistake::of(Key::SmsCaFile, error.to_string())
            }
        })
    }

    fn links(&self, values: &Values) -> Result<Option<LinkBase>, SettingMistake> {
        let Some(url) = values.given(Key::LinksUrl) else { return Ok(None) };
        let base =
            url.parse().map_err(|error: LinkBaseError| SettingMistake::of(Key::LinksUrl, error.to_string()))?;
        if !self.serves_links {
            let what = "is missing in this node's file: links lead to every node, and this one does not answer them; write \
                        [links] with bind and a certificate";
            return Err(SettingMistake::new("links.bind", what));
        }
        Ok(Some(base))
    }

    /// Records the mistakes of a file with these values: not what it may leave to the cluster.
    pub(super) fn check(&self, root: &Section, values: &Values, node: &NodeName) {
        let mistakes = self.in_force(values, node).1;
        for mistake in mistakes.into_iter().filter(|mistake| !mistake.absent) {
            root.wrong(&mistake.key, mistake.what);
        }
        for (own, key, file) in [
            (&self.mail.password, "mail.password", Key::MailPasswordFile),
            (&self.mail.dkim_key, "mail.dkim.key", Key::DkimKeyFile),
            (&self.s3.access_key, "backup.s3.access_key", Key::S3AccessKeyFile),
            (&self.s3.secret_key, "backup.s3.secret_key", Key::S3SecretKeyFile),
        ] {
            if own.is_some() && values.given(file).is_some() {
                root.wrong(key, format!("is given twice: keep either {key} or {}", file.name()));
            }
        }
    }
}

fn identity(values: &Values) -> Result<Option<Arc<MailIdentity>>, SettingMistake> {
    let Some(domain) = values.given(Key::MailDomain).map(str::to_owned) else { return Ok(None) };
    let from = values.given(Key::MailFrom).map_or_else(|| format!("voicemail@{domain}"), str::to_owned);
    let from = Address::parse(&from).map_err(|error| SettingMistake::of(Key::MailFrom, error.to_string()))?;
    Ok(Some(Arc::new(MailIdentity { domain, from })))
}

impl OwnMail {
    /// Mail out; `None`: it is not configured.
    fn out(
        &self,
        values: &Values,
        identity: Option<&MailIdentity>,
        hello: &str,
    ) -> Result<Option<MailSender>, SettingMistake> {
        let route = match (values.given(Key::MailSmarthost), values.flag(Key::MailDirect)) {
            (None, false) => return Ok(None),
            (Some(server), _) => Route::Smarthost(self.smarthost(values, server)?),
            (None, true) => Route::mx(match values.text(Key::MailTls) {
                "required" => MxTls::Required,
                _ => MxTls::Opportunistic,
            }),
        };
        let Some(MailIdentity { domain, from }) = identity else {
            let what = "is missing, and no mail is sent without it: set the domain of the mailboxes, such as \
                        voicemail.example.com, or unset mail.smarthost and mail.direct";
            return Err(SettingMistake::absent(Key::MailDomain.name(), what));
        };
        let authorities =
            values.given(Key::MailCaFile).map_or(Authorities::System, |path| Authorities::File(path.into()));
        let dns_servers = self.dns_servers.clone();
        let config = MailerConfig { authorities, dns_servers, ..MailerConfig::new(route, hello) };
        let mailer = Mailer::new(config).map_err(|error| {
            let key = match &error {
                MailerError::Helo(_) => "mail.hello",
                MailerError::Host(_) => Key::MailSmarthost.name(),
                MailerError::Login(_) => Key::MailUser.name(),
                MailerError::Authorities { .. } | MailerError::NoAuthorities => Key::MailCaFile.name(),
                MailerError::Tls(_) => Key::MailTls.name(),
                MailerError::NameServers(_) => "mail.dns_servers",
            };
            SettingMistake::new(key, error.to_string())
        })?;
        Ok(Some(MailSender {
            domain: domain.clone(),
            from: from.clone(),
            from_name: values.text(Key::MailFromName).to_owned(),
            mailer,
            dkim: self.signer(values, domain)?.map(Arc::new),
        }))
    }

    fn smarthost(&self, values: &Values, server: &str) -> Result<Smarthost, SettingMistake> {
        let tls = match values.text(Key::MailTls) {
            "tls" => TlsMode::Tls,
            "opportunistic" => TlsMode::Opportunistic,
            "off" => TlsMode::Off,
            _ => TlsMode::StartTls,
        };
        let usual = if tls == TlsMode::Tls { 465 } else { 587 };
        let wrong = || SettingMistake::of(Key::MailSmarthost, format!("'{server}' is no server: write HOST:PORT"));
        let (host, port) = host_and_port(server).ok_or_else(wrong)?;
        let login = values.given(Key::MailUser).map(|user| {
            let password = secret(&self.password, values, Key::MailPasswordFile, "a password for mail.user")?;
            Ok::<_, SettingMistake>((user.to_owned(), password))
        });
        Ok(Smarthost { host: host.to_owned(), port: port.unwrap_or(usual), tls, login: login.transpose()? })
    }

    /// The signer of mails; `None`: they are not signed.
    fn signer(&self, values: &Values, domain: &str) -> Result<Option<dkim::Signer>, SettingMistake> {
        let Some(selector) = values.given(Key::DkimSelector) else { return Ok(None) };
        let key = secret(&self.dkim_key, values, Key::DkimKeyFile, "a private key for signatures")?;
        let domain = values.given(Key::DkimDomain).unwrap_or(domain);
        let made = dkim::Key::ed25519(&key)
            .or_else(|_| dkim::Key::rsa(&key))
            .and_then(|key| dkim::Signer::new(domain, selector, key, &dkim::HEADERS));
        made.map(Some).map_err(|error| SettingMistake::of(Key::DkimKeyFile, error.to_string()))
    }
}

/// A secret: of this node's file, else the content of the file that a setting of the cluster names. `what` it is.
pub(super) fn secret(
    own: &Option<Pii<String>>,
    values: &Values,
    file: Key,
    what: &str,
) -> Result<String, SettingMistake> {
    if let Some(own) = own {
        return Ok(own.reveal().clone());
    }
    let Some(path) = values.given(file) else {
        let what = format!("is missing: write {what} to a file on every node, and set {}=/PATH", file.name());
        return Err(SettingMistake::absent(file.name(), what));
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => {
            let what = format!("'{path}' cannot be read on this node: {error}; write {what} there on every node");
            Err(SettingMistake::of(file, what))
        }
    }
}
