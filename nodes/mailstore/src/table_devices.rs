//! The columns of a users' table for notification devices: the first mail device and the first pager of a user. Other
//! devices, and the other settings of these two, are not in a table and stay as they are.

use std::collections::HashMap;

use twinbox_devices::{Device, DeviceChange, DeviceError, Kind, KindName, schema as devices_schema};
use twinbox_ids::{DeviceId, MailboxId, Pii};
use twinbox_mailbox::NotifyColumns;
use twinbox_replication_store::Draft;

use crate::{
    MailError, Mailstore,
    devices::{devices_in, readable},
    work::blocking,
};

/// A step towards the devices of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeviceStep {
    /// A new device. Its id is that of a mailbox's first device from a table.
    Add(Device),
    /// Changes of a device.
    Change { id: DeviceId, name: String, changes: Vec<DeviceChange> },
}

impl Mailstore {
    /// The columns of all users that have devices.
    pub async fn notify_columns(&self) -> Result<HashMap<MailboxId, NotifyColumns>, MailError> {
        let store = self.clone();
        blocking(move || {
            let mut devices = HashMap::<MailboxId, Vec<Device>>::new();
            for device in readable(&store.store().scan(devices_schema::DEVICE, &[])?) {
                devices.entry(device.mailbox).or_default().push(device);
            }
            Ok(devices.into_iter().map(|(mailbox, devices)| (mailbox, columns_of(&devices))).collect())
        })
        .await?
    }

    /// The devices of a mailbox, by name.
    pub(crate) fn devices_now(&self, mailbox: MailboxId) -> Result<Vec<Device>, MailError> {
        let rows = self.store().scan(devices_schema::DEVICE, &devices_schema::devices_prefix(mailbox))?;
        Ok(readable(&rows))
    }
}

/// The columns that describe these devices of one mailbox.
fn columns_of(devices: &[Device]) -> NotifyColumns {
    let address = |device: Option<&Device>| {
        Some(device.filter(|device| device.enabled).map(|device| device.kind.target().clone()))
    };
    let mail = first(devices, KindName::Mail);
    let audio = mail.and_then(|device| match device.kind {
        Kind::Mail { audio, .. } => Some(audio),
        _ => None,
    });
    NotifyColumns {
        mail: address(mail),
        audio,
        delete: mail.map(|device| device.delete_after),
        pager: address(first(devices, KindName::Pager)),
    }
}

/// The device of a kind that a table is about: the one named like the kind, as tables name theirs, else the first by
/// name.
fn first(devices: &[Device], kind: KindName) -> Option<&Device> {
    let of_kind = || devices.iter().filter(|device| device.kind.name() == kind);
    let named = of_kind().find(|device| device.name == kind.word());
    named.or_else(|| of_kind().min_by_key(|device| (&device.name, device.id)))
}

/// Steps that make the devices of a mailbox those of a table. None removes a device: without an address it is disabled.
pub(crate) fn steps(
    mailbox: MailboxId,
    devices: &[Device],
    columns: &NotifyColumns,
) -> Result<Vec<DeviceStep>, DeviceError> {
    let switches = [columns.audio.map(DeviceChange::Audio), columns.delete.map(DeviceChange::DeleteAfter)];
    let mail = step(mailbox, devices, KindName::Mail, columns.mail.as_ref(), switches.into_iter().flatten())?;
    let pager = step(mailbox, devices, KindName::Pager, columns.pager.as_ref(), std::iter::empty())?;
    Ok(mail.into_iter().chain(pager).collect())
}

fn step(
    mailbox: MailboxId,
    devices: &[Device],
    kind: KindName,
    address: Option<&Option<Pii<String>>>,
    switches: impl Iterator<Item = DeviceChange>,
) -> Result<Option<DeviceStep>, DeviceError> {
    let mut wanted = match address {
        Some(Some(address)) => vec![DeviceChange::Address(address.clone()), DeviceChange::Enabled(true)],
        Some(None) => vec![DeviceChange::Enabled(false)],
        None => Vec::new(),
    };
    wanted.extend(switches);
    match first(devices, kind) {
        Some(device) => {
            let mut after = device.clone();
            after.change(&wanted)?;
            let changes = after.changes_since(device);
            let change = DeviceStep::Change { id: device.id, name: device.name.clone(), changes };
            Ok(Some(change).filter(|change| !change.is_empty()))
        }
        None if matches!(address, Some(Some(_))) => {
            let name = free_name(devices, kind);
            Device::new(mailbox, device_id(mailbox, kind, 0), &name, kind, &wanted).map(DeviceStep::Add).map(Some)
        }
        None => Ok(None),
    }
}

impl DeviceStep {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Change { changes, .. } if changes.is_empty())
    }

    /// The step for an administrator. It contains addresses.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Add(device) => {
                let on = |on: bool, words| if on { words } else { "" };
                let audio = matches!(device.kind, Kind::Mail { audio: true, .. });
                format!(
                    "new device {} to {}{}{}",
                    device.name,
                    device.kind.target().reveal(),
                    on(audio, " with the recording"),
                    on(device.delete_after, ", deletes the message")
                )
            }
            Self::Change { name, changes, .. } => {
                let words = changes.iter().map(|change| match change {
                    DeviceChange::Address(address) => format!("address {}", address.reveal()),
                    DeviceChange::Enabled(on) => if *on { "enabled" } else { "disabled" }.to_owned(),
                    DeviceChange::Audio(on) => {
                        if *on { "with the recording" } else { "without recording" }.to_owned()
                    }
                    DeviceChange::DeleteAfter(on) => {
                        if *on { "deletes the message" } else { "deletes no message" }.to_owned()
                    }
                    _ => "another setting".to_owned(),
                });
                format!("device {name}: {}", words.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Takes the steps, in the same commit as the other changes of the user.
pub(crate) fn write_steps(
    draft: &mut Draft<'_>,
    mailbox: MailboxId,
    steps: Vec<DeviceStep>,
) -> Result<(), MailError> {
    for step in steps {
        match step {
            DeviceStep::Add(device) => {
                let id = unused_id(draft, mailbox, device.kind.name())?;
                draft.edit(devices_schema::device_key(mailbox, id), device.edits())?;
            }
            DeviceStep::Change { id, changes, .. } => {
                let edits = changes.iter().flat_map(DeviceChange::edits).collect();
                draft.edit(devices_schema::device_key(mailbox, id), edits)?;
            }
        }
    }
    Ok(())
}

/// The steps for the devices as the committer sees them.
pub(crate) fn steps_in(
    draft: &Draft<'_>,
    mailbox: MailboxId,
    columns: &NotifyColumns,
) -> Result<Result<Vec<DeviceStep>, DeviceError>, MailError> {
    if *columns == NotifyColumns::default() {
        return Ok(Ok(Vec::new()));
    }
    Ok(steps(mailbox, &devices_in(draft, mailbox)?, columns))
}

/// A name that no device of the mailbox has: the kind, else with a number.
fn free_name(devices: &[Device], kind: KindName) -> String {
    let is_free = |name: &String| devices.iter().all(|device| device.name != *name);
    let numbered = (2..).map(|n: usize| format!("{}-{n}", kind.word()));
    // Of more names than devices one is free.
    let mut names = std::iter::once(kind.word().to_owned()).chain(numbered);
    names.find(is_free).unwrap_or_else(|| kind.word().to_owned())
}

/// The id of a device that a table makes. It comes from the mailbox and the kind, so that two nodes which import one
/// table make one device. A removed record never returns: the device that follows it has the next generation.
fn device_id(mailbox: MailboxId, kind: KindName, generation: u32) -> DeviceId {
    let mut hasher = blake3::Hasher::new_derive_key("twinbox 2026 device of a users' table");
    hasher.update(&mailbox.to_bytes());
    hasher.update(&generation.to_be_bytes());
    hasher.update(kind.word().as_bytes());
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    DeviceId(u128::from_be_bytes(id))
}

/// The first id of a table's device whose record was not removed.
fn unused_id(draft: &Draft<'_>, mailbox: MailboxId, kind: KindName) -> Result<DeviceId, MailError> {
    for generation in 0..10_000 {
        let id = device_id(mailbox, kind, generation);
        let record = draft.get(&devices_schema::device_key(mailbox, id))?;
        if record.is_none_or(|record| record.tombstone().is_none()) {
            return Ok(id);
        }
    }
    Ok(DeviceId::random())
}

#[cfg(test)]
#[path = "../tests/unit/table_devices.rs"]
mod tests;
