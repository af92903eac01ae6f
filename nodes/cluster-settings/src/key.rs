//! The keys: a table with a row each.

use twinbox_mailbox::nearest;

use crate::{Kind, Register, ValueError};

/// Shortest grace of deleted messages: audio must outlast what may still name it. Builds for tests accept seconds.
const SHORTEST_GRACE_SECONDS: u64 = if cfg!(debug_assertions) { 1 } else { 86_400 };

/// Time at which a change takes effect, on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Immediately.
    Now,
    /// With the next call; calls in progress keep the old value.
    NextCall,
    /// With the next mailbox that is added, or PIN that is set.
    NextNew,
}

impl Effect {
    /// The time as text.
    pub fn text(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::NextCall => "new calls",
            Self::NextNew => "new mailboxes and PINs",
        }
    }
}

/// There is no such key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no setting '{name}'{near}; 'twinbox setting list' shows all, 'twinbox cluster settings' those of roles"
)]
pub struct UnknownKey {
    name: String,
    near: String,
}

/// Properties of a key.
struct Row {
    name: &'static str,
    register: Register,
    kind: Kind,
    default: &'static str,
    /// Default in a cluster with the timing `wan`, if it differs.
    wan: Option<&'static str>,
    effect: Effect,
}

/// Makes [`Key`], with its order, and the row of each key from the table below.
macro_rules! keys {
    ($(
        $(#[$doc:meta])*
        $key:ident: $name:literal, $register:ident, $kind:expr, $default:literal $((wan $wan:literal))?, $effect:ident;
    )*) => {
        /// A setting that all nodes share.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key {
            $($(#[$doc])* $key,)*
        }

        impl Key {
            /// Every key, in the order of the file.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$key),*];

            fn row(self) -> &'static Row {
                match self {
                    $(Self::$key => {
                        static ROW: Row = Row {
                            name: $name,
                            register: Register::$register,
                            kind: $kind,
                            default: $default,
                            wan: keys!(@wan $($wan)?),
                            effect: Effect::$effect,
                        };
                        &ROW
                    })*
                }
            }
        }
    };
    (@wan) => { None };
    (@wan $wan:literal) => { Some($wan) };
}

// Key: name in the file, register, kind of the value, default (empty: none), time at which a change takes effect.
keys! {
    /// Wait of an acknowledgement for the other node's disk, in milliseconds.
    AckTimeoutMs: "cluster.ack_timeout_ms", AckTimeout, Kind::Number(10..=10_000), "250" (wan "1000"), Now;
    /// Refuse messages while no other node takes a copy.
    RequireTwo: "cluster.require_two", RequireTwo, Kind::Flag, "false", Now;
    /// Redirecting party whose mailbox gets a call.
    Redirect: "sip.redirect", Redirect, Kind::Word(&["first", "last"]), "first", NextCall;
    /// Answer to a call for an unknown mailbox.
    UnknownMailbox: "sip.unknown_mailbox", UnknownMailbox, Kind::Word(&["404", "apology"]), "404", NextCall;
    /// Numbers that sign in to the caller's mailbox.
    Pilot: "sip.pilot", Pilots, Kind::List("a number, such as \"*97\""), "*97", NextCall;
    /// Numbers that ask for a mailbox.
    PilotAsk: "sip.pilot_ask", Pilots, Kind::List("a number, such as \"*97\""), "*98", NextCall;
    /// Session interval that is offered, in seconds.
    SessionSeconds: "sip.session_seconds", Session, Kind::Number(90..=86_400), "1800", NextCall;
    /// Shortest session interval that is taken, in seconds.
    MinSessionSeconds: "sip.min_session_seconds", Session, Kind::Number(90..=86_400), "90", NextCall;
    /// Time limit of a call on hold, in seconds; 0: none.
    MaxHoldSeconds: "sip.max_hold_seconds", Hold, Kind::Number(0..=86_400), "300", Now;
    /// Keys of the menus.
    KeyMap: "voicemail.key_map", KeyMap, Kind::Word(&["asterisk", "unity"]), "asterisk", NextCall;
    /// Time zone of new mailboxes.
    Timezone: "voicemail.timezone", Timezone, Kind::Zone, "UTC", NextNew;
    /// Language of prompts and of new mailboxes.
    Language: "voicemail.language", Language, Kind::Word(&["en"]), "en", NextNew;
    /// Longest message, in seconds.
    MaxMessageSeconds: "voicemail.max_message_seconds", MessageLength, Kind::Number(1..=7_200), "300", NextCall;
    /// Shortest message, in milliseconds.
    MinMessageMs: "voicemail.min_message_ms", MessageLength, Kind::Number(0..=60_000), "1000", Now;
    /// Silence that ends a recording, in seconds; 0: none does.
    SilenceSeconds: "voicemail.silence_seconds", Silence, Kind::Number(0..=600), "10", NextCall;
    /// Wait for a digit, in seconds.
    DigitSeconds: "voicemail.digit_seconds", Digit, Kind::Number(1..=60), "5", NextCall;
    /// Wrong PINs before a call ends.
    PinTries: "voicemail.pin_tries", PinTries, Kind::Number(1..=10), "3", NextCall;
    /// Shortest new PIN.
    MinPinLength: "voicemail.min_pin_length", PinLength, Kind::Number(3..=12), "4", NextNew;
    /// Memory of a PIN's hash, in KiB.
    PinHashKib: "voicemail.pin_hash_kib", PinHash, Kind::Number(1_024..=1_048_576), "19456", NextNew;
    /// Passes of a PIN's hash.
    PinHashPasses: "voicemail.pin_hash_passes", PinHash, Kind::Number(1..=20), "2", NextNew;
    /// Messages in a new mailbox before it is full.
    MaxMessages: "voicemail.max_messages", MaxMessages, Kind::Number(1..=100_000), "200", NextNew;
    /// Time for which a deleted message can be undeleted, in seconds.
    DeletedGraceSeconds: "voicemail.deleted_grace_seconds", DeletedGrace,
        Kind::Number(SHORTEST_GRACE_SECONDS..=31_536_000), "2592000", Now;
    /// Receiver of alarms by HTTP.
    WebhookUrl: "alarms.webhook.url", Webhook, Kind::Url, "", Now;
    /// CA certificates that verify it.
    WebhookCaFile: "alarms.webhook.ca_file", Webhook, Kind::Path, "", Now;
    /// Receivers of alarms by SNMP.
    TrapReceivers: "alarms.trap.receivers", Trap, Kind::List("HOST or HOST:PORT"), "", Now;
    /// User of SNMP v3.
    TrapUser: "alarms.trap.user", Trap, Kind::Text, "", Now;
    /// Authentication of SNMP v3.
    TrapAuth: "alarms.trap.auth", Trap, Kind::Word(&["sha1", "sha256", "sha512"]), "sha256", Now;
    /// Domain of the mailboxes, and of Message-IDs.
    MailDomain: "mail.domain", MailIdentity, Kind::Domain, "", Now;
    /// Sender of notifications; none: `voicemail` at the domain.
    MailFrom: "mail.from", MailIdentity, Kind::Text, "", Now;
    /// Display name of that sender.
    MailFromName: "mail.from_name", MailIdentity, Kind::Text, "Voicemail", Now;
    /// Mail server that takes all mails.
    MailSmarthost: "mail.smarthost", MailRoute, Kind::Server, "", Now;
    /// Deliver to the servers of each recipient's domain, in place of a smarthost.
    MailDirect: "mail.direct", MailRoute, Kind::Flag, "false", Now;
    /// Use of TLS; none: `starttls` with a smarthost, else `opportunistic`.
    MailTls: "mail.tls", MailRoute, Kind::Word(&["starttls", "tls", "opportunistic", "required", "off"]), "", Now;
    /// User name at the smarthost.
    MailUser: "mail.user", MailRoute, Kind::Text, "", Now;
    /// File with the password of that user, on every node.
    MailPasswordFile: "mail.password_file", MailRoute, Kind::Path, "", Now;
    /// CA certificates that verify mail servers.
    MailCaFile: "mail.ca_file", MailRoute, Kind::Path, "", Now;
    /// Selector of signatures, under which DNS has the public key.
    DkimSelector: "mail.dkim.selector", MailSignature, Kind::Text, "", Now;
    /// Domain of signatures; none: that of the mailboxes.
    DkimDomain: "mail.dkim.domain", MailSignature, Kind::Domain, "", Now;
    /// File with the private key of signatures, on every node.
    DkimKeyFile: "mail.dkim.key_file", MailSignature, Kind::Path, "", Now;
    /// Gateway for text messages.
    SmsUrl: "sms.url", Sms, Kind::Url, "", Now;
    /// CA certificates that verify it.
    SmsCaFile: "sms.ca_file", Sms, Kind::Path, "", Now;
    /// URL with which links to recordings begin.
    LinksUrl: "links.url", Links, Kind::Url, "", Now;
    /// Days for which call records stay.
    KeepDays: "reports.keep_days", KeepCalls, Kind::Number(1..=3_650), "90", Now;
    /// URL of the store that takes backups; none: that of Amazon in the region.
    S3Endpoint: "backup.s3.endpoint", S3, Kind::Url, "", Now;
    /// Region that requests are signed for.
    S3Region: "backup.s3.region", S3, Kind::Text, "us-east-1", Now;
    /// File with the id of the access key, on every node.
    S3AccessKeyFile: "backup.s3.access_key_file", S3, Kind::Path, "", Now;
    /// File with the secret access key, on every node.
    S3SecretKeyFile: "backup.s3.secret_key_file", S3, Kind::Path, "", Now;
    /// CA certificates that verify the store.
    S3CaFile: "backup.s3.ca_file", S3, Kind::Path, "", Now;
    /// Send recordings in clear text over the network.
    S3AllowHttp: "backup.s3.allow_http", S3, Kind::Flag, "false", Now;
    /// The bucket's name is a part of the host's name.
    S3VirtualHost: "backup.s3.virtual_host", S3, Kind::Flag, "false", Now;
    /// Limit of a request, in seconds.
    S3TimeoutSeconds: "backup.s3.timeout_seconds", S3, Kind::Number(1..=300), "60", Now;
}

impl Key {
    /// Its name, as in the file: sections and key, joined by dots.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The key of a name.
    pub fn named(name: &str) -> Result<Self, UnknownKey> {
        let found = Self::ALL.into_iter().find(|key| key.name() == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            // A name without its section is the most frequent mistake.
            let tail = Self::ALL.into_iter().map(Self::name).find(|known| known.rsplit('.').next() == Some(name));
            let near = tail.or_else(|| nearest(name, &names));
            let near = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            UnknownKey { name: name.to_owned(), near }
        })
    }

    /// The register that holds its value.
    pub fn register(self) -> Register {
        self.row().register
    }

    /// Kind of its value.
    pub fn kind(self) -> Kind {
        self.row().kind.clone()
    }

    /// Its value without any setting; empty: none. `wan`: the cluster has the timing of that profile.
    pub fn default(self, wan: bool) -> &'static str {
        let row = self.row();
        row.wan.filter(|_| wan).unwrap_or(row.default)
    }

    /// Time at which a change of it takes effect.
    pub fn effect(self) -> Effect {
        self.row().effect
    }

    /// The value as it is stored and shown.
    pub fn check(self, text: &str) -> Result<String, ValueError> {
        self.kind().check(text)
    }

    /// A value for people: a URL without its query, which often holds a token.
    pub fn shown(self, value: &str) -> String {
        match (self.kind(), value.split_once('?')) {
            (Kind::Url, Some((before, _))) => format!("{before}?…"),
            _ => value.to_owned(),
        }
    }

    /// Smallest and largest number; of a key that is no number, those of 64 bits.
    pub fn range(self) -> std::ops::RangeInclusive<i64> {
        let as_i64 = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        match self.kind() {
            Kind::Number(range) => as_i64(*range.start())..=as_i64(*range.end()),
            _ => i64::MIN..=i64::MAX,
        }
    }
}
