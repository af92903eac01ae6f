//! The `[alarms]` section: receivers of alarms in addition to the log and `/metrics`.

use std::path::PathBuf;

use twinbox_alarms::{
    Channel, Facility, SyslogTarget, TrapAuthentication, TrapPrivacy, TrapReceivers, TrapSecurity, Webhook,
    WebhookError,
};
use twinbox_ids::NodeName;

use super::reader::Section;

/// The `[alarms]` section.
#[derive(Debug, Clone, Default)]
pub struct AlarmsConfig {
    /// Receiver of this node's alarms by syslog.
    pub syslog: Option<(SyslogTarget, Facility)>,
    /// Receiver of all alarms by HTTP.
    pub webhook: Option<Webhook>,
    /// Receivers of all alarms by SNMP.
    pub traps: Option<TrapReceivers>,
}

impl AlarmsConfig {
    /// Configured channels to outside receivers.
    pub fn channels(&self) -> Vec<Channel> {
        let webhook = self.webhook.as_ref().map(|_| Channel::Webhook);
        webhook.into_iter().chain(self.traps.as_ref().map(|_| Channel::Trap)).collect()
    }

    pub(super) fn read(mut section: Section, node: Option<&NodeName>) -> Self {
        let target = section.parse("syslog", "\"local\", \"udp://HOST:PORT\" or \"tcp://HOST:PORT\"");
        let facility = Facility::named(section.word("syslog_facility", &Facility::WORDS, "daemon"));
        let webhook = webhook(section.section("webhook"));
        let traps = traps(section.section("trap"), node);
        section.finish();
        Self { syslog: target.map(|target| (target, facility)), webhook, traps }
    }
}

fn webhook(mut section: Section) -> Option<Webhook> {
    let url = section.text("url");
    let authorization = section.secret("authorization", "authorization_file");
    let authorities: Option<PathBuf> = section.path("ca_file");
    let made = match url {
        None if authorization.is_some() || authorities.is_some() => {
            section.wrong(
                "url",
                "is missing: write where alarms are sent, such as \"https://alarms.example/twinbox\"",
            );
            None
        }
        None => None,
        Some(url) => match Webhook::new(&url, authorization.as_deref(), authorities) {
            Ok(made) => Some(made),
            Err(error) => {
                let key = match &error {
                    WebhookError::Url(_) => "url",
                    WebhookError::Authorization => "authorization",
                    WebhookError::Authorities { .. } | WebhookError::NoAuthorities => "ca_file",
                };
                section.wrong(key, error.to_string());
                None
            }
        },
    };
    section.finish();
    made
}

fn traps(mut section: Section, node: Option<&NodeName>) -> Option<TrapReceivers> {
    let receivers: Vec<String> = section.list::<String>("receivers", "HOST or HOST:PORT");
    let community = section.secret("community", "community_file");
    let user = section.text("user");
    let how = TrapAuthentication::named(section.word("auth", &TrapAuthentication::WORDS, "sha256"));
    let password = section.secret("auth_password", "auth_password_file");
    let secret = section.secret("priv_password", "priv_password_file");
    let wanted = !receivers.is_empty();
    let security = match (community, user) {
        (Some(_), Some(_)) => {
            section.wrong("user", "is given beside community: keep community for SNMP v2c, or user for v3");
            None
        }
        (Some(community), None) => Some(TrapSecurity::Community(community)),
        (None, Some(name)) => match password {
            Some(password) => Some(TrapSecurity::User {
                name,
                authentication: (how, password),
                privacy: secret.map(|secret| (TrapPrivacy::Aes128, secret)),
            }),
            None => {
                section.wrong(
                    "auth_password",
                    "is missing: SNMP v3 needs the user's password, of 8 characters or more",
                );
                None
            }
        },
        (None, None) if wanted => {
            section
                .wrong("community", "is missing: write community for SNMP v2c, or user and auth_password for v3");
            None
        }
        (None, None) => None,
    };
    let made = security.zip(node).filter(|_| wanted).and_then(|(security, node)| {
        TrapReceivers::new(node, &receivers, &security)
            .map_err(|error| section.wrong("receivers", error.to_string()))
            .ok()
    });
    section.finish();
    made
}
