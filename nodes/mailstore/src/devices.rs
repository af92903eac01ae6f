//! Notification devices, and the effects that a filed message causes at them.

use jiff::tz::TimeZone;
use twinbox_clock::wall;
use twinbox_devices::{
    Device, DeviceChange, DeviceError, LinkKey, MessageFacts, NotBefore, check_fallbacks, first, notified_first,
    opens, schema as devices_schema,
};
use twinbox_ids::{DeviceId, MailboxId, Timestamp};
use twinbox_mailbox::{Folder, Mailbox, Message};
use twinbox_outbox::{Cause, Channel, Effect, NewEffect, Transition};
use twinbox_replication_core::{Key, Record};
use twinbox_replication_store::Draft;

use crate::{Acknowledgement, MailError, Mailstore, mailboxes::mailbox_in, outbox::write_effect, work::blocking};

/// Time after which a notification is given up, in milliseconds: by then its user has looked elsewhere.
pub const NOTIFICATION_LIFE_MS: u64 = 3 * 24 * 3_600 * 1_000;

/// A device was not made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceStoreError {
    /// The mailbox has a device of that name.
    #[error("device '{name}' already exists: change it with `twinbox device set`, or choose another name")]
    Taken {
        /// Its name.
        name: String,
    },
    /// There is no such device (any more).
    #[error("device {0} does not exist: list the devices with `twinbox device list`")]
    None(DeviceId),
    /// The settings do not make a device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Any other error.
    #[error(transparent)]
    Mail(#[from] MailError),
}

impl Mailstore {
    /// The devices of a mailbox, by name.
    pub async fn devices(&self, mailbox: MailboxId) -> Result<Vec<Device>, MailError> {
        let store = self.clone();
        blocking(move || {
            let rows = store.store().scan(devices_schema::DEVICE, &devices_schema::devices_prefix(mailbox))?;
            Ok(readable(&rows))
        })
        .await?
    }

    /// A device; `None` when there is none, or it was removed.
    pub fn device(&self, mailbox: MailboxId, id: DeviceId) -> Result<Option<Device>, MailError> {
        let key = devices_schema::device_key(mailbox, id);
        let record = self.store().get(&key)?;
        Ok(record.map(|record| Device::read(&key, &record)).transpose()?.flatten())
    }

    /// The key that signs the links of a device; `None` before its first link, and when there is no such device.
    pub fn link_key(&self, mailbox: MailboxId, id: DeviceId) -> Result<Option<LinkKey>, MailError> {
        let record = self.store().get(&devices_schema::device_key(mailbox, id))?;
        Ok(record.as_ref().and_then(LinkKey::read))
    }

    /// As [`Self::link_key`]; at the first link of a device, its key is made.
    pub async fn link_key_or_new(&self, mailbox: MailboxId, id: DeviceId) -> Result<Option<LinkKey>, MailError> {
        if let Some(known) = self.link_key(mailbox, id)? {
            return Ok(Some(known));
        }
        let new = LinkKey::new(rand::random());
        let (key, _) = self
            .commit(move |draft| {
                let at = devices_schema::device_key(mailbox, id);
                let record = draft.get(&at)?.unwrap_or_default();
                let known = LinkKey::read(&record);
                if known.is_some() || record.is_empty() || record.tombstone().is_some() {
                    return Ok(known);
                }
                draft.edit(at, new.edits())?;
                Ok(Some(new))
            })
            .await?;
        Ok(key)
    }

    /// Adds a device.
    pub async fn add_device(&self, device: Device) -> Result<Acknowledgement, DeviceStoreError> {
        let (fits, acknowledgement) = self
            .commit(move |draft| {
                mailbox_in(draft, device.mailbox)?;
                let fits = fits_in(draft, &device, true)?;
                if fits.is_ok() {
                    draft.edit(devices_schema::device_key(device.mailbox, device.id), device.edits())?;
                }
                Ok(fits)
            })
            .await?;
        fits.map(|()| acknowledgement)
    }

    /// Changes settings of a device.
    pub async fn change_device(
        &self,
        mailbox: MailboxId,
        id: DeviceId,
        changes: Vec<DeviceChange>,
    ) -> Result<Acknowledgement, DeviceStoreError> {
        let mut changed = self.device(mailbox, id)?.ok_or(DeviceStoreError::None(id))?;
        changed.change(&changes)?;
        let falls = changes.iter().any(|change| matches!(change, DeviceChange::Fallback(_)));
        let (fits, acknowledgement) = self
            .commit(move |draft| {
                let fits = fits_in(draft, &changed, falls)?;
                if fits.is_ok() {
                    let edits = changes.iter().flat_map(DeviceChange::edits).collect();
                    draft.edit(devices_schema::device_key(mailbox, id), edits)?;
                }
                Ok(fits)
            })
            .await?;
        fits.map(|()| acknowledgement)
    }

    /// Removes a device. Its effects that wait turn out to be unwanted.
    pub async fn remove_device(
        &self,
        mailbox: MailboxId,
        id: DeviceId,
    ) -> Result<Acknowledgement, DeviceStoreError> {
        self.device(mailbox, id)?.ok_or(DeviceStoreError::None(id))?;
        let ((), acknowledgement) = self
            .commit(move |draft| Ok(draft.edit(devices_schema::device_key(mailbox, id), Device::removal())?))
            .await?;
        Ok(acknowledgement)
    }
}

/// Writes the effects of a message that was filed just now, in the same commit (rule E1). Their ids come from the
/// message, so that a second filing of it adds none. Devices of a disabled user are not notified.
pub(crate) fn notify_of(draft: &mut Draft<'_>, mailbox: &Mailbox, key: &Key) -> Result<(), MailError> {
    let devices = devices_in(draft, mailbox.id)?;
    if devices.is_empty() || mailbox.disabled {
        return Ok(());
    }
    let Some(record) = draft.get(key)? else { return Ok(()) };
    // A partial filing may still be overruled; then the message is not there when the notification is prepared.
    let message = Message::read(key, &record, |_| None)?;
    let (facts, zone) = (facts_of(&message), zone_of(mailbox));
    let now = wall();
    for device in notified_first(&devices) {
        let Some(not_before) = first(device, &facts, time(now), &zone) else { continue };
        let not_before = Timestamp(not_before.ms());
        let effect = NewEffect {
            cause: Cause { mailbox: mailbox.id, message: message.id, transition: Transition::Filed },
            channel: channel_of(device),
            target: device.id,
            repeat: 0,
            retry: 0,
            created: now,
            not_before,
            expires: Timestamp(now.max(not_before).0.saturating_add(NOTIFICATION_LIFE_MS)),
        };
        write_effect(draft, &effect)?;
    }
    Ok(())
}

/// Time from which the device of an effect may be notified; zero for other effects.
pub(crate) fn opens_in(draft: &Draft<'_>, effect: &Effect) -> Result<Timestamp, MailError> {
    let NewEffect { cause: Cause { mailbox, .. }, target, .. } = effect.new;
    let device = devices_in(draft, mailbox)?.into_iter().find(|device| device.id == target);
    let Some((device, mailbox)) = device.zip(mailbox_in(draft, mailbox).ok()) else { return Ok(Timestamp(0)) };
    Ok(Timestamp(opens(&device, time(wall()), &zone_of(&mailbox)).map_or(0, NotBefore::ms)))
}

/// The message as the decisions about its notifications see it.
pub fn facts_of(message: &Message) -> MessageFacts {
    MessageFacts {
        caller: message.caller.clone(),
        length_ms: message.length_ms,
        urgent: message.urgent,
        new: message.folder == Folder::New,
        deleted: message.deleted || message.purged,
    }
}

/// The channel of a device's notifications.
pub fn channel_of(device: &Device) -> Channel {
    use twinbox_devices::KindName;
    match device.kind.name() {
        KindName::Mail => Channel::Mail,
        KindName::Pager => Channel::Pager,
        KindName::SmsMail => Channel::SmsMail,
        KindName::SmsHttp => Channel::SmsHttp,
        KindName::Webhook => Channel::Webhook,
    }
}

/// The mailbox's time zone; UTC for a name that this release does not know.
pub fn zone_of(mailbox: &Mailbox) -> TimeZone {
    TimeZone::get(&mailbox.timezone).unwrap_or(TimeZone::UTC)
}

/// A moment as the decisions take it.
pub fn time(at: Timestamp) -> jiff::Timestamp {
    i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or(jiff::Timestamp::MAX)
}

/// Whether a device fits beside the others of its mailbox; `falls`: its fallback is new.
fn fits_in(draft: &Draft<'_>, device: &Device, falls: bool) -> Result<Result<(), DeviceStoreError>, MailError> {
    let devices = devices_in(draft, device.mailbox)?;
    if devices.iter().any(|other| other.id != device.id && other.name == device.name) {
        return Ok(Err(DeviceStoreError::Taken { name: device.name.clone() }));
    }
    Ok(if falls { check_fallbacks(device, &devices).map_err(DeviceStoreError::from) } else { Ok(()) })
}

pub(crate) fn devices_in(draft: &Draft<'_>, mailbox: MailboxId) -> Result<Vec<Device>, MailError> {
    Ok(readable(&draft.scan(devices_schema::DEVICE, &devices_schema::devices_prefix(mailbox))?))
}

pub(crate) fn readable(rows: &[(Key, Record)]) -> Vec<Device> {
    let mut devices = Vec::new();
    for (key, record) in rows {
        match Device::read(key, record) {
            Ok(device) => devices.extend(device),
            Err(error) => tracing::warn!(%error, "device cannot be read; it is left out"),
        }
    }
    devices.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    devices
}
