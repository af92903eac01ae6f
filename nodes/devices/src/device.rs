//! A device as read from its record.

use twinbox_ids::{MailboxId, Pii};
use twinbox_mailbox::ViewError;
use twinbox_replication_core::{Edit, Key, Record};

use crate::{
    CallerPattern, DEFAULT_LINK_HOURS, DeviceChange, DeviceId, Filter, Kind, KindName, Schedule, Setting,
    schema::{self, device as tag},
    value::{Fields, WHAT, read_byte, read_parsed, read_repeat, read_text, set_byte},
};

/// Repeats until the message was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// Time between two notifications, in seconds.
    pub every_s: u32,
    /// Maximum number of repeats, the first notification not counted.
    pub most: u32,
}

/// A notification device of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Opaque, never changes.
    pub id: DeviceId,
    /// The mailbox that it belongs to.
    pub mailbox: MailboxId,
    /// Name in lists, by convention unique in the mailbox.
    pub name: String,
    /// Kind and target. The kind never changes.
    pub kind: Kind,
    /// Notifications are sent.
    pub enabled: bool,
    /// Language of the texts; `None`: that of the mailbox.
    pub language: Option<String>,
    /// Times of notifications in the user's zone; `None`: always.
    pub schedule: Option<Schedule>,
    /// Conditions on the message.
    pub filter: Filter,
    /// Delay of the first notification, in seconds.
    pub delay_s: u32,
    /// Repeats until the message was heard; `None`: no repeats.
    pub repeat: Option<Repeat>,
    /// The next device, used when this one fails for good or after its repeats.
    pub fallback: Option<DeviceId>,
    /// Maximum number of notifications in an hour, beyond which messages are gathered; 0: no limit.
    pub per_hour: u32,
    /// The message is to be deleted once the mail is delivered; see [`Self::deletes_after`].
    pub delete_after: bool,
}

impl Device {
    /// A device with these settings and defaults for the others.
    pub fn new(
        mailbox: MailboxId,
        id: DeviceId,
        name: &str,
        kind: KindName,
        changes: &[DeviceChange],
    ) -> Result<Self, DeviceError> {
        let mut device = Self {
            id,
            mailbox,
            name: twinbox_mailbox::class_name(name).map_err(|_| DeviceError::Name { name: name.to_owned() })?,
            kind: kind.blank(),
            enabled: true,
            language: None,
            schedule: None,
            filter: Filter::default(),
            delay_s: 0,
            repeat: None,
            fallback: None,
            per_hour: 0,
            delete_after: false,
        };
        device.change(changes)?;
        Ok(device)
    }

    /// Applies changes; refuses a combination that makes no sense.
    pub fn change(&mut self, changes: &[DeviceChange]) -> Result<(), DeviceError> {
        changes.iter().for_each(|change| change.apply(self));
        self.check()
    }

    fn check(&self) -> Result<(), DeviceError> {
        let kind = self.kind.name();
        let missing = |setting: &&Setting| match (setting, &self.kind) {
            (Setting::Secret, Kind::Webhook { secret, .. }) => secret.reveal().is_empty(),
            _ => self.kind.target().reveal().is_empty(),
        };
        if let Some(setting) = kind.required().iter().find(missing) {
            let expected = setting.expected();
            return Err(DeviceError::Missing { word: setting.word(), kind: kind.word(), expected });
        }
        match self {
            Self { delete_after: true, .. } if !self.deletes_after() => Err(DeviceError::DeleteWithoutAudio),
            Self { fallback: Some(fallback), .. } if *fallback == self.id => Err(DeviceError::OwnFallback),
            _ => Ok(()),
        }
    }

    /// Whether the message is deleted once the notification is delivered: only after a mail that has the recording.
    /// Two administrators' edits may merge to `delete_after` without audio; then the message stays.
    pub fn deletes_after(&self) -> bool {
        self.delete_after && matches!(self.kind, Kind::Mail { audio: true, .. })
    }

    /// Reads a device; `Ok(None)` when it was removed.
    pub fn read(key: &Key, record: &Record) -> Result<Option<Self>, ViewError> {
        let (mailbox, id) = schema::device_of(key).ok_or(ViewError::Key { what: WHAT })?;
        if record.tombstone().is_some() {
            return Ok(None);
        }
        let fields = Fields(record);
        let private = |tag| fields.required(tag, read_text).map(Pii::new);
        let kind = match fields.required(tag::KIND, |bytes| read_byte(bytes).and_then(KindName::from_byte))? {
            KindName::Mail => {
                Kind::Mail { address: private(tag::ADDRESS)?, audio: fields.switch(tag::AUDIO, false)? }
            }
            KindName::Pager => Kind::Pager { address: private(tag::ADDRESS)? },
            KindName::SmsMail => Kind::SmsMail { address: private(tag::ADDRESS)? },
            KindName::SmsHttp => Kind::SmsHttp { number: private(tag::NUMBER)? },
            KindName::Webhook => Kind::Webhook {
                url: private(tag::URL)?,
                secret: private(tag::SECRET)?,
                link: fields.switch(tag::LINK, false)?,
                link_hours: match fields.number(tag::LINK_HOURS)? {
                    0 => DEFAULT_LINK_HOURS,
                    hours => hours,
                },
            },
        };
        let patterns = |bytes| CallerPattern::list(std::str::from_utf8(bytes).ok()?);
        Ok(Some(Self {
            id,
            mailbox,
            name: fields.required(tag::NAME, read_text)?,
            kind,
            enabled: fields.switch(tag::ENABLED, true)?,
            language: fields.optional(tag::LANGUAGE, read_text)?,
            schedule: fields.optional(tag::SCHEDULE, read_parsed)?,
            filter: Filter {
                urgent_only: fields.switch(tag::URGENT_ONLY, false)?,
                callers: fields.optional(tag::CALLERS, patterns)?.unwrap_or_default(),
                min_seconds: fields.number(tag::MIN_SECONDS)?,
            },
            delay_s: fields.number(tag::DELAY)?,
            repeat: fields.optional(tag::REPEAT, read_repeat)?,
            fallback: fields.optional(tag::FALLBACK, DeviceId::from_slice)?,
            per_hour: fields.number(tag::PER_HOUR)?,
            delete_after: fields.switch(tag::DELETE_AFTER, false)?,
        }))
    }

    /// The edits that write the record of a new device.
    pub fn edits(&self) -> Vec<Edit> {
        let mut edits = vec![set_byte(tag::KIND, self.kind.name().to_byte())];
        edits.extend(self.settings().iter().flat_map(DeviceChange::edits));
        edits
    }

    /// The settings that differ from those before, for forms that show all settings at the same time.
    pub fn changes_since(&self, before: &Self) -> Vec<DeviceChange> {
        let before = before.settings();
        self.settings().into_iter().filter(|setting| !before.contains(setting)).collect()
    }

    /// The edits that remove the device.
    pub fn removal() -> Vec<Edit> {
        vec![Edit::Delete]
    }

    /// All settings with their values, as changes.
    pub fn settings(&self) -> Vec<DeviceChange> {
        let mut settings = vec![DeviceChange::Name(self.name.clone())];
        match &self.kind {
            Kind::Mail { address, audio } => {
                settings.extend([DeviceChange::Address(address.clone()), DeviceChange::Audio(*audio)]);
            }
            Kind::Pager { address } | Kind::SmsMail { address } => {
                settings.push(DeviceChange::Address(address.clone()));
            }
            Kind::SmsHttp { number } => settings.push(DeviceChange::Number(number.clone())),
            Kind::Webhook { url, secret, link, link_hours } => settings.extend([
                DeviceChange::Url(url.clone()),
                DeviceChange::Secret(secret.clone()),
                DeviceChange::Link(*link),
                DeviceChange::LinkHours(*link_hours),
            ]),
        }
        settings.extend([
            DeviceChange::Enabled(self.enabled),
            DeviceChange::Language(self.language.clone()),
            DeviceChange::When(self.schedule.clone()),
            DeviceChange::UrgentOnly(self.filter.urgent_only),
            DeviceChange::From(self.filter.callers.clone()),
            DeviceChange::MinSeconds(self.filter.min_seconds),
            DeviceChange::Delay(self.delay_s),
            DeviceChange::Repeat(self.repeat),
            DeviceChange::Fallback(self.fallback),
            DeviceChange::PerHour(self.per_hour),
            DeviceChange::DeleteAfter(self.delete_after),
        ]);
        settings
    }
}

/// Settings do not make a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The name is not valid.
    #[error("'{name}' is not a name of a device: use 1 to 63 of a-z, A-Z, 0-9, '-' and '_'")]
    Name {
        /// The given name.
        name: String,
    },
    /// A setting that the kind needs is not set.
    #[error("a device of kind {kind} needs {word}=…: give {expected}")]
    Missing {
        /// Word of the setting.
        word: &'static str,
        /// Word of the kind.
        kind: &'static str,
        /// The expected values.
        expected: &'static str,
    },
    /// The message would be deleted although the mail does not have its recording.
    #[error("delete-after=yes would lose the recording: set audio=yes as well, or delete-after=no")]
    DeleteWithoutAudio,
    /// The device names itself as its fallback.
    #[error("a device cannot be its own fallback: name another one, or set fallback=-")]
    OwnFallback,
    /// The fallbacks of several devices lead back to the first.
    #[error("the fallbacks {names} would go in a circle: name another fallback, or set fallback=- for one of them")]
    FallbackCycle {
        /// Names of the devices, from the first back to it.
        names: String,
    },
}
