//! The `[alarms]` section: receivers of alarms in addition to the log and `/metrics`. Receivers of the whole cluster
//! are settings that all nodes share; their secrets are this node's own.

use std::{fmt, path::PathBuf};

use twinbox_alarms::{
    Channel, Facility, SyslogTarget, TrapAuthentication, TrapPrivacy, TrapReceivers, TrapSecurity, Webhook,
    WebhookError,
};
use twinbox_cluster_settings::{Key, Values};
use twinbox_ids::NodeName;

use super::{reader::Section, services::SettingMistake};

/// The `[alarms]` section.
#[derive(Debug, Clone, Default)]
pub struct AlarmsConfig {
    /// Receiver of this node's alarms by syslog.
    pub syslog: Option<(SyslogTarget, Facility)>,
    /// Secrets for the receivers of all alarms.
    pub secrets: AlarmSecrets,
}

/// Secrets for the receivers of all alarms; each node has its own copy.
#[derive(Clone, Default)]
pub struct AlarmSecrets {
    authorization: Option<String>,
    community: Option<String>,
    auth_password: Option<String>,
    priv_password: Option<String>,
}

impl fmt::Debug for AlarmSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AlarmSecrets(•••)")
    }
}

/// Receivers of all alarms.
#[derive(Debug, Clone, Default)]
pub struct AlarmReceivers {
    /// Receiver by HTTP.
    pub webhook: Option<Webhook>,
    /// Receivers by SNMP.
    pub traps: Option<TrapReceivers>,
}

impl AlarmReceivers {
    /// Channels with a receiver.
    pub fn channels(&self) -> Vec<Channel> {
        let webhook = self.webhook.as_ref().map(|_| Channel::Webhook);
        webhook.into_iter().chain(self.traps.as_ref().map(|_| Channel::Trap)).collect()
    }
}

impl AlarmSecrets {
    /// The receivers by these settings, with this node's secrets, and the mistakes of those that cannot be used.
    pub fn receivers(&self, values: &Values, node: &NodeName) -> (AlarmReceivers, Vec<SettingMistake>) {
        let mut mistakes = Vec::new();
        let webhook = self.webhook(values).unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            None
        });
        let traps = self.traps(values, node).unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            None
        });
        (AlarmReceivers { webhook, traps }, mistakes)
    }

    fn webhook(&self, values: &Values) -> Result<Option<Webhook>, SettingMistake> {
        let Some(url) = values.given(Key::WebhookUrl) else { return Ok(None) };
        let authorities = values.given(Key::WebhookCaFile).map(PathBuf::from);
        Webhook::new(url, self.authorization.as_deref(), authorities).map(Some).map_err(|error| {
            let key = match &error {
                WebhookError::Url(_) => {
                    return SettingMistake::new(Key::WebhookUrl.name(), "is not a URL of a receiver");
                }
                WebhookError::Authorization => "alarms.webhook.authorization",
                WebhookError::Authorities { .. } | WebhookError::NoAuthorities => Key::WebhookCaFile.name(),
            };
            SettingMistake::new(key, error.to_string())
        })
    }

    fn traps(&self, values: &Values, node: &NodeName) -> Result<Option<TrapReceivers>, SettingMistake> {
        let receivers = values.list(Key::TrapReceivers);
        if receivers.is_empty() {
            return Ok(None);
        }
        let security = match (self.community.clone(), values.given(Key::TrapUser)) {
            (Some(_), Some(_)) => {
                let both = "is given beside community: keep community for SNMP v2c, or user for v3";
                return Err(SettingMistake::new(Key::TrapUser.name(), both));
            }
            (Some(community), None) => TrapSecurity::Community(community),
            (None, Some(name)) => {
                let Some(password) = self.auth_password.clone() else {
                    let missing =
                        "is missing in this node's file: SNMP v3 needs a password of 8 characters or more";
                    return Err(SettingMistake::new("alarms.trap.auth_password", missing));
                };
                let how = TrapAuthentication::named(values.text(Key::TrapAuth));
                let privacy = self.priv_password.clone().map(|secret| (TrapPrivacy::Aes128, secret));
                TrapSecurity::User { name: name.to_owned(), authentication: (how, password), privacy }
            }
            (None, None) => {
                let missing = "is missing in this node's file: write community for SNMP v2c, or set alarms.trap.user \
                               and write auth_password for v3";
                return Err(SettingMistake::new("alarms.trap.community", missing));
            }
        };
        TrapReceivers::new(node, &receivers, &security)
            .map(Some)
            .map_err(|error| SettingMistake::new(Key::TrapReceivers.name(), error.to_string()))
    }
}

impl AlarmsConfig {
    /// Reads the section; the receivers of `values`, the file's, are checked as well.
    pub(super) fn read(mut section: Section, values: &Values, node: Option<&NodeName>) -> Self {
        let target = section.parse("syslog", "\"local\", \"udp://HOST:PORT\" or \"tcp://HOST:PORT\"");
        let facility = Facility::named(section.word("syslog_facility", &Facility::WORDS, "daemon"));
        let mut webhook = section.section("webhook");
        let authorization = webhook.secret("authorization", "authorization_file");
        webhook.finish();
        let mut trap = section.section("trap");
        let secrets = AlarmSecrets {
            authorization,
            community: trap.secret("community", "community_file"),
            auth_password: trap.secret("auth_password", "auth_password_file"),
            priv_password: trap.secret("priv_password", "priv_password_file"),
        };
        trap.finish();
        let mistakes = node.map(|node| secrets.receivers(values, node).1).unwrap_or_default();
        for SettingMistake { key, what, .. } in mistakes {
            section.wrong(key.strip_prefix("alarms.").unwrap_or(&key), what);
        }
        section.finish();
        Self { syslog: target.map(|target| (target, facility)), secrets }
    }
}
