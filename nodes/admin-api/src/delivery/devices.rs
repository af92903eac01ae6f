//! Devices of mailboxes: list, add, change, remove, test.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;
use tracing::info;
use twinbox_admin_kit::{Part, part};
use twinbox_clock::wall;
use twinbox_config::nearest;
use twinbox_devices::{CallerPattern, DEFAULT_LINK_HOURS, Device, DeviceChange, KindName, Setting};
use twinbox_ids::{DeviceId, MessageId, Timestamp};
use twinbox_mailstore::{DeviceStoreError, Mailbox, channel_of};
use twinbox_outbox::{Cause, Channel, NewEffect, Transition};
use twinbox_roles::Duty;
use twinbox_wire::delivery::{self, Changed, DeviceListReply, DeviceListRequest, DeviceRequest, DeviceSetting};

use super::{changed, unknown};
use crate::{
    AdminHandles,
    admin::{all_records, internal, mail, mailbox},
};

/// Time after which a test is given up, in milliseconds: later its outcome says nothing about the present settings.
const TEST_LIFE_MS: u64 = 15 * 60 * 1_000;

/// Time for the feature level to be raised.
const LEVEL_WITHIN: Duration = Duration::from_secs(3);

/// Value that restores the default of a setting, and stands for it in lists.
const UNSET: &str = "-";

/// Devices of one mailbox, or of all.
pub async fn list(node: &AdminHandles, request: DeviceListRequest) -> Result<DeviceListReply, Status> {
    let DeviceListRequest { number, limit, after } = request;
    let mailboxes = if number.is_empty() {
        all_records(node)?;
        node.mailstore.mailboxes().await.map_err(internal)?
    } else {
        vec![mailbox(node, &number).await?]
    };
    let mut rows = Vec::new();
    for Mailbox { id, number, .. } in mailboxes {
        let devices = node.mailstore.devices(id).await.map_err(internal)?;
        // By mailbox number, short ones first, then by name.
        let cursor = |device: &Device| format!("{:03}{number}.{}.{}", number.len(), device.name, device.id);
        rows.extend(devices.iter().map(|device| (cursor(device), shown(&number, device, &devices))));
    }
    let Part { items, next } = part(limit, &after, rows, Ok::<_, Status>)?;
    Ok(DeviceListReply { devices: items, next })
}

/// Adds a device.
pub async fn add(node: &AdminHandles, request: DeviceRequest) -> Result<Changed, Status> {
    let DeviceRequest { number, name, kind, settings } = request;
    let mailbox = mailbox(node, &number).await?;
    let kind = KindName::from_word(&kind)
        .ok_or_else(|| unknown("kind of device", &kind, &KindName::ALL.map(KindName::word)))?;
    let devices = node.mailstore.devices(mailbox.id).await.map_err(internal)?;
    let changes = read(&settings, kind, &devices)?;
    let id = DeviceId::random();
    let device = Device::new(mailbox.id, id, &name, kind, &changes)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    served(node, channel_of(&device)).await?;
    let acknowledgement = node.mailstore.add_device(device).await.map_err(refused)?;
    info!(mailbox = %mailbox.id, device = %id, kind = kind.word(), "administrator adds device");
    Ok(changed(id, &acknowledgement))
}

/// Changes settings of a device.
pub async fn set(node: &AdminHandles, request: DeviceRequest) -> Result<Changed, Status> {
    let (mailbox, devices) = of_mailbox(node, &request.number).await?;
    let device = find(&mailbox.number, &devices, &request.name)?;
    let changes = read(&request.settings, device.kind.name(), &devices)?;
    if changes.is_empty() {
        return Err(Status::invalid_argument("no setting was named: write word=value, such as delay=60"));
    }
    served(node, channel_of(device)).await?;
    let acknowledgement = node.mailstore.change_device(mailbox.id, device.id, changes).await.map_err(refused)?;
    info!(mailbox = %mailbox.id, device = %device.id, "administrator changes device");
    Ok(changed(device.id, &acknowledgement))
}

/// Removes a device.
pub async fn remove(node: &AdminHandles, request: DeviceRequest) -> Result<Changed, Status> {
    let (mailbox, devices) = of_mailbox(node, &request.number).await?;
    let device = find(&mailbox.number, &devices, &request.name)?;
    let acknowledgement = node.mailstore.remove_device(mailbox.id, device.id).await.map_err(refused)?;
    info!(mailbox = %mailbox.id, device = %device.id, "administrator removes device");
    Ok(changed(device.id, &acknowledgement))
}

/// Writes the effect that tests a device; returns its id.
pub async fn test(node: &AdminHandles, request: DeviceRequest) -> Result<Changed, Status> {
    let (mailbox, devices) = of_mailbox(node, &request.number).await?;
    let device = find(&mailbox.number, &devices, &request.name)?;
    let now = wall();
    let effect = NewEffect {
        cause: Cause { mailbox: mailbox.id, message: MessageId(0), transition: Transition::Test },
        channel: channel_of(device),
        target: device.id,
        // Part of the id, which receivers see: a later test is another notification.
        repeat: u32::try_from(now.0 / 1_000).unwrap_or(u32::MAX),
        retry: 0,
        created: now,
        not_before: now,
        expires: Timestamp(now.0.saturating_add(TEST_LIFE_MS)),
    };
    let acknowledgement = node.mailstore.add_effects(vec![effect]).await.map_err(mail)?;
    info!(mailbox = %mailbox.id, device = %device.id, effect = %effect.id(), "administrator tests device");
    Ok(changed(effect.id(), &acknowledgement))
}

/// A mailbox with its devices.
pub async fn of_mailbox(node: &AdminHandles, number: &str) -> Result<(Mailbox, Vec<Device>), Status> {
    let mailbox = mailbox(node, number).await?;
    let devices = node.mailstore.devices(mailbox.id).await.map_err(internal)?;
    Ok((mailbox, devices))
}

/// The device of a mailbox with that name, or that id.
pub fn find<'a>(number: &str, devices: &'a [Device], name: &str) -> Result<&'a Device, Status> {
    let is_it = |device: &&Device| device.name.eq_ignore_ascii_case(name) || device.id.to_string() == name;
    devices.iter().find(is_it).ok_or_else(|| {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        let near = nearest(name, &names).map(|near| format!(" (did you mean '{near}'?)")).unwrap_or_default();
        let known = match names.is_empty() {
            true => {
                format!("it has no devices: add one with 'twinbox device add {number} NAME KIND SETTING=VALUE'")
            }
            false => format!("its devices are {}", names.join(", ")),
        };
        Status::not_found(format!("mailbox {number} has no device '{name}'{near}; {known}"))
    })
}

/// Refuses a device whose notifications no member can send yet, because the cluster does not assign their duty before all
/// members know it. A cluster that was formed just now gets its feature level within moments.
pub async fn served(node: &AdminHandles, channel: Channel) -> Result<(), Status> {
    let duty = duty_of(channel);
    let mut view = node.roles.watch();
    let raised = view.wait_for(|view| view.feature_level >= duty.level());
    if matches!(timeout(LEVEL_WITHIN, raised).await, Ok(Ok(_))) {
        return Ok(());
    }
    Err(not_served(channel, view.borrow().feature_level))
}

/// The duty that sends the notifications of a channel.
fn duty_of(channel: Channel) -> Duty {
    if channel.is_mail() { Duty::Mta } else { Duty::Notifier }
}

fn not_served(channel: Channel, level: u32) -> Status {
    let duty = duty_of(channel);
    Status::failed_precondition(format!(
        "no member sends notifications by '{channel}' yet: the duty '{duty}' needs feature level {}, and the cluster is at \
         {level}; upgrade all members, then give the command again",
        duty.level()
    ))
}

fn read(settings: &[String], kind: KindName, devices: &[Device]) -> Result<Vec<DeviceChange>, Status> {
    let names: Vec<_> = devices.iter().map(|device| (device.name.as_str(), device.id)).collect();
    let change = |text: &String| DeviceChange::parse(text, kind, &names);
    let changes: Result<Vec<_>, _> = settings.iter().map(change).collect();
    changes.map_err(|error| Status::invalid_argument(error.to_string()))
}

fn refused(error: DeviceStoreError) -> Status {
    match error {
        DeviceStoreError::Mail(error) => mail(error),
        DeviceStoreError::None(_) => Status::not_found(error.to_string()),
        error => Status::failed_precondition(error.to_string()),
    }
}

fn shown(number: &str, device: &Device, devices: &[Device]) -> delivery::Device {
    let settings = device.settings();
    let settings = settings.iter().filter(|change| !matches!(change, DeviceChange::Name(_)));
    delivery::Device {
        id: device.id.to_string(),
        number: number.to_owned(),
        name: device.name.clone(),
        kind: device.kind.name().word().to_owned(),
        settings: settings.map(|change| setting(change, devices)).collect(),
    }
}

/// A setting as the command line takes it; a secret is not shown.
fn setting(change: &DeviceChange, devices: &[Device]) -> DeviceSetting {
    let switch = |on: &bool| if *on { "yes" } else { "no" }.to_owned();
    let number = |number: &u32| if *number == 0 { UNSET.to_owned() } else { number.to_string() };
    let or_unset = |text: Option<String>| text.unwrap_or_else(|| UNSET.to_owned());
    let (setting, value) = match change {
        DeviceChange::Name(name) => (Setting::Name, name.clone()),
        DeviceChange::Address(address) => (Setting::Address, address.reveal().clone()),
        DeviceChange::Number(number) => (Setting::Number, number.reveal().clone()),
        DeviceChange::Url(url) => (Setting::Url, url.reveal().clone()),
        DeviceChange::Secret(secret) => {
            (Setting::Secret, if secret.reveal().is_empty() { UNSET } else { "set" }.to_owned())
        }
        DeviceChange::Link(on) => (Setting::Link, switch(on)),
        DeviceChange::LinkHours(hours) => (Setting::LinkHours, hours.to_string()),
        DeviceChange::Audio(on) => (Setting::Audio, switch(on)),
        DeviceChange::Enabled(on) => (Setting::Enabled, switch(on)),
        DeviceChange::Language(language) => (Setting::Language, or_unset(language.clone())),
        DeviceChange::When(schedule) => (Setting::When, or_unset(schedule.as_ref().map(ToString::to_string))),
        DeviceChange::UrgentOnly(on) => (Setting::UrgentOnly, switch(on)),
        DeviceChange::From(callers) => {
            (Setting::From, or_unset((!callers.is_empty()).then(|| CallerPattern::show(callers))))
        }
        DeviceChange::MinSeconds(seconds) => (Setting::MinSeconds, number(seconds)),
        DeviceChange::Delay(seconds) => (Setting::Delay, number(seconds)),
        DeviceChange::Repeat(repeat) => {
            (Setting::Repeat, or_unset(repeat.map(|repeat| format!("{}x{}", repeat.every_s, repeat.most))))
        }
        DeviceChange::Fallback(fallback) => (
            Setting::Fallback,
            or_unset(fallback.map(|id| {
                let named = devices.iter().find(|device| device.id == id);
                named.map_or_else(|| "(removed)".to_owned(), |device| device.name.clone())
            })),
        ),
        DeviceChange::PerHour(most) => (Setting::PerHour, number(most)),
        DeviceChange::DeleteAfter(on) => (Setting::DeleteAfter, switch(on)),
    };
    let default = match change {
        DeviceChange::Enabled(_) => "yes".to_owned(),
        DeviceChange::LinkHours(_) => DEFAULT_LINK_HOURS.to_string(),
        _ => "no".to_owned(),
    };
    DeviceSetting { word: setting.word().to_owned(), is_default: value == UNSET || value == default, value }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::MailboxId;

    use super::*;

    fn device(name: &str, kind: KindName, settings: &[&str], others: &[Device]) -> Device {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let changes = read(&settings, kind, others).expect("valid settings");
        Device::new(MailboxId(1), DeviceId::random(), name, kind, &changes).expect("a device")
    }

    fn words(device: &delivery::Device) -> Vec<String> {
        let set = device.settings.iter().filter(|setting| !setting.is_default);
        set.map(|setting| format!("{}={}", setting.word, setting.value)).collect()
    }

    #[test]
    fn shown_settings_are_read_again_to_the_same_device() {
        let pager = device("pager", KindName::Pager, &["address=1@pager.example"], &[]);
        let given = [
            "address=anna@example.com",
            "audio=yes",
            "enabled=no",
            "language=de",
            "when=mon-fri 08:00-18:00",
            "urgent-only=yes",
            "from=2*,0151*",
            "min-seconds=3",
            "delay=60",
            "repeat=900x3",
            "fallback=pager",
            "per-hour=10",
            "delete-after=yes",
        ];
        let devices = [pager];
        let mut mail = device("mail", KindName::Mail, &given, &devices);
        let shown = shown("1001", &mail, &devices);
        assert_eq!(words(&shown).len(), given.len(), "{shown:?}");
        let changes = read(&words(&shown), KindName::Mail, &devices).expect("as on the command line");
        let before = mail.clone();
        mail.change(&changes).expect("valid");
        assert_eq!(mail, before);
    }

    #[test]
    fn secret_of_a_webhook_is_not_shown() {
        let given = ["url=https://example.com/hook", "secret=0123456789abcdef"];
        let hook = device("hook", KindName::Webhook, &given, &[]);
        let shown = shown("1001", &hook, &[]);
        assert_eq!(words(&shown), ["url=https://example.com/hook", "secret=set"]);
        assert!(!format!("{shown:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn device_is_found_by_name_or_id_and_a_mistyped_name_gets_a_hint() {
        let devices = [device("pager", KindName::Pager, &["address=1@pager.example"], &[])];
        let id = devices[0].id.to_string();
        for name in ["pager", "Pager", id.as_str()] {
            assert!(find("1001", &devices, name).is_ok(), "{name}");
        }
        let missing = find("1001", &devices, "pagr").expect_err("no such device");
        assert_eq!(
            missing.message(),
            "mailbox 1001 has no device 'pagr' (did you mean 'pager'?); its devices are pager"
        );
        assert!(find("1001", &[], "pager").expect_err("none").message().contains("twinbox device add 1001"));
    }

    #[test]
    fn device_without_a_member_that_serves_it_is_refused_with_the_level_that_is_needed() {
        let duties = Channel::ALL.map(|channel| (channel, duty_of(channel)));
        assert!(duties.contains(&(Channel::Pager, Duty::Mta)));
        assert!(duties.contains(&(Channel::Webhook, Duty::Notifier)));
        let refused = not_served(Channel::Mail, Duty::Mta.level() - 1);
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        let level = Duty::Mta.level();
        let needs = format!("'mta' needs feature level {level}, and the cluster is at {}", level - 1);
        assert!(refused.message().contains(&needs), "{}", refused.message());
    }

    #[test]
    fn wrong_settings_are_refused_with_the_input() {
        for (setting, part) in [("delay", "'delay'"), ("dely=3", "did you mean 'delay'"), ("secret=x", "'secret'")]
        {
            let refused = read(&[setting.to_owned()], KindName::Mail, &[]).expect_err(setting);
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(part), "{}", refused.message());
        }
    }
}
