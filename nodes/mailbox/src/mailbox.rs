//! A mailbox: its settings, greetings and PIN.

use twinbox_ids::{ClassId, DirectoryId, MailboxId, Pii, Timestamp};
use twinbox_replication_core::{Edit, Key, Record};

use crate::{
    GreetingKind, GreetingRef, Number, Quota, UserAddresses, ViewError,
    directory::{EntryId, Supplied},
    pin::PinRecord,
    schema::{self, mailbox as tag},
    value::{Fields, read_byte, read_text, read_u64, set_bytes, set_text, set_u64},
};

/// A mailbox as read from its record.
#[derive(Debug, Clone)]
pub struct Mailbox {
    /// Opaque, never changes.
    pub id: MailboxId,
    /// The number that callers dial, digits only.
    pub number: String,
    /// Another mailbox claimed the number earlier, on the other side of a split (rule D6): this one keeps its data, and
    /// waits for a new number. Set by the reader of the claim.
    pub number_lost: bool,
    /// The owner.
    pub name: Pii<String>,
    /// Hash of its PIN; `None`: sign-in is not possible.
    pub pin: Option<PinRecord>,
    /// Generation of PIN attempts that counts; unlocking starts a new one.
    pub pin_generation: u64,
    /// IANA name of the time zone, such as `Europe/Berlin`; always an existing one (else `UTC`).
    pub timezone: String,
    /// Language of prompts.
    pub language: String,
    /// Capacity.
    pub quota: Quota,
    /// Target of key `0`.
    pub operator: Option<String>,
    /// Its class of service; `None`: the default one.
    pub class: Option<ClassId>,
    /// Mail addresses. Another mailbox may have one of them since a split (rule D6).
    pub addresses: UserAddresses,
    /// Recorded greetings.
    pub greetings: Vec<(GreetingKind, GreetingRef)>,
    /// Time of creation.
    pub created: Timestamp,
    /// Directory and entry that the user comes from; `None`: a local user.
    pub directory: Option<(DirectoryId, EntryId)>,
    /// The directory disabled or dropped the user: sign-in is refused, messages are kept.
    pub disabled: bool,
}

/// The settings of a new mailbox.
#[derive(Debug, Clone)]
pub struct NewMailbox {
    /// The number that callers dial; see [`Number::normalise`].
    pub number: String,
    /// The owner.
    pub name: Pii<String>,
    /// The first PIN; `None`: sign-in is not possible until one is set.
    pub pin: Option<Pii<String>>,
    /// The first sign-in asks for a new PIN.
    pub must_change: bool,
    /// IANA name of the time zone.
    pub timezone: String,
    /// Language of prompts.
    pub language: String,
    /// Capacity.
    pub quota: Quota,
    /// Target of key `0`.
    pub operator: Option<String>,
    /// Its class of service; `None`: the default one.
    pub class: Option<ClassId>,
    /// Mail addresses.
    pub addresses: UserAddresses,
}

impl NewMailbox {
    /// A mailbox with that number and PIN and default settings: UTC, English, the default capacity, and a new PIN due
    /// at the first sign-in.
    pub fn new(number: impl Into<String>, pin: impl Into<String>) -> Self {
        Self {
            number: number.into(),
            name: Pii::default(),
            pin: Some(Pii::new(pin.into())),
            must_change: true,
            timezone: "UTC".to_owned(),
            language: "en".to_owned(),
            quota: Quota::default(),
            operator: None,
            class: None,
            addresses: UserAddresses::default(),
        }
    }

    /// The edits that write the record of the mailbox, without its addresses, which need claims.
    pub fn edits(&self, number: &Number, pin: Option<&PinRecord>, created: Timestamp) -> Vec<Edit> {
        let mut edits = vec![
            set_u64(tag::CREATED, created.0),
            set_text(tag::NUMBER, number.as_str()),
            set_text(tag::NAME, self.name.reveal()),
            set_text(tag::TIMEZONE, &self.timezone),
            set_text(tag::LANGUAGE, &self.language),
            set_u64(tag::MAX_MESSAGES, self.quota.max_messages),
            set_u64(tag::MAX_MESSAGE_MS, self.quota.max_message_ms),
            set_text(tag::OPERATOR, self.operator.as_deref().unwrap_or_default()),
        ];
        edits.extend(self.class.map(|class| set_bytes(tag::CLASS, class.to_bytes().to_vec())));
        edits.extend(pin.map(|pin| set_bytes(tag::PIN, pin.to_bytes())));
        edits
    }
}

/// A change to a mailbox's settings.
#[derive(Debug, Clone)]
pub enum MailboxChange {
    /// The owner's name.
    Name(Pii<String>),
    /// The PIN.
    Pin(PinRecord),
    /// Forget earlier attempts: this generation counts from now on.
    PinGeneration(u64),
    /// IANA name of the time zone.
    Timezone(String),
    /// Language of prompts.
    Language(String),
    /// Capacity.
    Quota(Quota),
    /// Target of key `0`.
    Operator(Option<String>),
    /// Its class of service; `None`: the default one.
    Class(Option<ClassId>),
}

impl MailboxChange {
    /// The edits of the mailbox's record.
    pub fn edits(&self) -> Vec<Edit> {
        match self {
            Self::Name(name) => vec![set_text(tag::NAME, name.reveal())],
            Self::Pin(pin) => vec![set_bytes(tag::PIN, pin.to_bytes())],
            Self::PinGeneration(generation) => vec![set_u64(tag::PIN_GENERATION, *generation)],
            Self::Timezone(name) => vec![set_text(tag::TIMEZONE, name)],
            Self::Language(language) => vec![set_text(tag::LANGUAGE, language)],
            Self::Quota(quota) => {
                vec![
                    set_u64(tag::MAX_MESSAGES, quota.max_messages),
                    set_u64(tag::MAX_MESSAGE_MS, quota.max_message_ms),
                ]
            }
            Self::Operator(operator) => vec![set_text(tag::OPERATOR, operator.as_deref().unwrap_or_default())],
            Self::Class(class) => {
                vec![set_bytes(tag::CLASS, class.map_or_else(Vec::new, |class| class.to_bytes().to_vec()))]
            }
        }
    }
}

impl Mailbox {
    /// Reads a mailbox; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let what = "a mailbox";
        let id = schema::mailbox_of(key).ok_or(ViewError::Key { what })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let fields = Fields { what, record };
        let usual = Quota::default();
        let timezone = fields.optional(tag::TIMEZONE, read_text)?.filter(|name| is_timezone(name));
        let mut mailbox = Self {
            id,
            created: Timestamp(fields.required(tag::CREATED, read_u64)?),
            number: fields.required(tag::NUMBER, read_text)?,
            number_lost: false,
            name: Pii::new(fields.optional(tag::NAME, read_text)?.unwrap_or_default()),
            pin: fields.optional(tag::PIN, PinRecord::from_bytes)?,
            pin_generation: fields.optional(tag::PIN_GENERATION, read_u64)?.unwrap_or_default(),
            timezone: timezone.unwrap_or_else(|| "UTC".to_owned()),
            language: fields.optional(tag::LANGUAGE, read_text)?.unwrap_or_else(|| "en".to_owned()),
            quota: Quota {
                max_messages: fields.optional(tag::MAX_MESSAGES, read_u64)?.unwrap_or(usual.max_messages),
                max_message_ms: fields.optional(tag::MAX_MESSAGE_MS, read_u64)?.unwrap_or(usual.max_message_ms),
            },
            operator: fields.optional(tag::OPERATOR, read_text)?.filter(|text| !text.is_empty()),
            class: fields.bytes(tag::CLASS).and_then(ClassId::from_slice),
            addresses: UserAddresses::read(record),
            greetings: GreetingKind::ALL
                .into_iter()
                .filter_map(|kind| kind.read(record).map(|greeting| (kind, greeting)))
                .collect(),
            directory: None,
            disabled: fields.optional(tag::DISABLED, read_byte)?.is_some_and(|byte| byte == 1),
        };
        if let Some(supplied) = Supplied::read(record)? {
            supplied.lay_over(&mut mailbox);
        }
        Ok(Some(mailbox))
    }

    /// The greeting of a kind, if one was recorded.
    pub fn greeting(&self, kind: GreetingKind) -> Option<&GreetingRef> {
        self.greetings.iter().find(|(k, _)| *k == kind).map(|(_, greeting)| greeting)
    }
}

/// Whether the IANA database of the system, or the one in the program, has that name.
pub fn is_timezone(name: &str) -> bool {
    jiff::tz::TimeZone::get(name).is_ok()
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZoneDatabase};

    use super::*;

    #[test]
    fn time_zones_are_known_without_a_system_database() {
        assert!(is_timezone("Europe/Berlin") && is_timezone("UTC"));
        assert!(!is_timezone("Europe/Nowhere") && !is_timezone(""));
        let own = TimeZoneDatabase::bundled();
        let berlin = own.get("Europe/Berlin").expect("it is in the program");
        let summer: Timestamp = "2026-07-01T12:00:00Z".parse().expect("a time");
        assert_eq!(berlin.to_datetime(summer).to_string(), "2026-07-01T14:00:00");
    }
}
