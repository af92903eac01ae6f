//! Devices in a table of users.

use super::*;

const MAILBOX: MailboxId = MailboxId(1);

fn device(name: &str, kind: KindName, address: &str) -> Device {
    let changes = [DeviceChange::Address(Pii::new(address.to_owned()))];
    Device::new(MAILBOX, DeviceId::random(), name, kind, &changes).expect("a device")
}

fn to(address: &str) -> Option<Option<Pii<String>>> {
    Some(Some(Pii::new(address.to_owned())))
}

fn words(devices: &[Device], columns: &NotifyColumns) -> Vec<String> {
    let steps = steps(MAILBOX, devices, columns).expect("steps");
    steps.iter().map(DeviceStep::words).collect()
}

#[test]
fn table_adds_or_changes_the_first_device_of_a_kind_and_leaves_the_others() {
    let both = NotifyColumns { mail: to("a@b.example"), audio: Some(true), pager: to("1@p.example"), delete: None };
    let new = ["new device mail to a@b.example with the recording", "new device pager to 1@p.example"];
    assert_eq!(words(&[], &both), new);
    let none = NotifyColumns { mail: Some(None), audio: Some(true), delete: Some(false), pager: Some(None) };
    assert_eq!(words(&[], &none), [""; 0]);

    let home = device("home", KindName::Mail, "home@b.example");
    let office = device("office", KindName::Mail, "a@b.example");
    let own = device("mail", KindName::Mail, "x@b.example");
    let devices = [home.clone(), office.clone()];
    let mail = |address: &str| NotifyColumns { mail: to(address), ..NotifyColumns::default() };
    // Without a device of the kind's name, the first by name.
    assert_eq!(words(&devices, &mail("home@b.example")), [""; 0]);
    assert_eq!(words(&devices, &mail("z@b.example")), ["device home: address z@b.example"]);
    let devices = [home, own, office];
    assert_eq!(words(&devices, &mail("z@b.example")), ["device mail: address z@b.example"]);
    assert_eq!(words(&devices, &none), ["device mail: with the recording, disabled"]);
    // Another kind has the name of the device.
    let devices = [device("mail", KindName::Pager, "1@p.example")];
    assert_eq!(words(&devices, &mail("a@b.example")), ["new device mail-2 to a@b.example"]);
}

#[test]
fn columns_of_devices_are_no_change_when_they_come_back() {
    let mut mail = device("mail", KindName::Mail, "a@b.example");
    mail.change(&[DeviceChange::Audio(true), DeviceChange::Delay(60)]).expect("valid");
    let mut pager = device("beeper", KindName::Pager, "1@p.example");
    pager.enabled = false;
    for devices in [vec![], vec![mail.clone()], vec![pager.clone()], vec![mail, pager]] {
        let columns = columns_of(&devices);
        assert_eq!(words(&devices, &columns), [""; 0], "{columns:?}");
    }
    let disabled = columns_of(&[]);
    assert_eq!((disabled.mail, disabled.audio, disabled.pager), (Some(None), None, Some(None)));
}

#[test]
fn message_is_not_deleted_after_a_mail_without_its_recording() {
    let columns = NotifyColumns { mail: to("a@b.example"), delete: Some(true), ..NotifyColumns::default() };
    assert_eq!(steps(MAILBOX, &[], &columns), Err(DeviceError::DeleteWithoutAudio));
    let columns = NotifyColumns { audio: Some(true), ..columns };
    assert_eq!(words(&[], &columns), ["new device mail to a@b.example with the recording, deletes the message"]);
}

#[test]
fn ids_differ_by_mailbox_kind_and_generation() {
    let id = device_id(MAILBOX, KindName::Mail, 0);
    assert_eq!(id, device_id(MAILBOX, KindName::Mail, 0));
    for other in [
        device_id(MailboxId(2), KindName::Mail, 0),
        device_id(MAILBOX, KindName::Pager, 0),
        device_id(MAILBOX, KindName::Mail, 1),
    ] {
        assert_ne!(id, other);
    }
}
