//! A node's copy of one record, like the store's but without disk and network, and generators of devices.

use proptest::{option, prelude::*, sample::select};
use twinbox_devices::{CallerPattern, Device, DeviceChange, DeviceId, Filter, Kind, KindName, Repeat, schema};
use twinbox_ids::{MailboxId, NodeName, Origin, Pii, Stamp};
use twinbox_replication_core::{Edit, Record};

pub const MAILBOX: MailboxId = MailboxId(1);
pub const ID: DeviceId = DeviceId(2);

/// One node with one record.
#[derive(Clone)]
pub struct Replica {
    pub record: Record,
    node: NodeName,
    origin: Origin,
    wall: u64,
}

impl Replica {
    pub fn new(name: &str, wall: u64) -> Self {
        let origin = Origin(u128::from(name.bytes().next().unwrap_or_default()));
        Self { record: Record::new(), node: name.parse().expect("a node name"), origin, wall }
    }

    /// Another node with the same state.
    pub fn fork(&self, name: &str, wall: u64) -> Self {
        Self { record: self.record.clone(), ..Self::new(name, wall) }
    }

    pub fn write(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            self.wall += 1;
            let stamp = Stamp { wall: self.wall, counter: 0, origin: self.origin };
            let delta = edit.delta(&self.record, stamp, &self.node);
            self.record.merge(delta);
        }
    }

    pub fn merged_with(&self, other: &Self) -> Record {
        let mut record = self.record.clone();
        record.merge(other.record.clone());
        record
    }
}

/// Reads the device of a record.
pub fn read(record: &Record) -> Option<Device> {
    Device::read(&schema::device_key(MAILBOX, ID), record).expect("a readable device")
}

/// A device from settings of a command line.
pub fn device(kind: KindName, settings: &[&str]) -> Device {
    let parse = |text: &&str| DeviceChange::parse(text, kind, &[("next", DeviceId(7))]).expect(text);
    let changes: Vec<_> = settings.iter().map(parse).collect();
    Device::new(MAILBOX, ID, "own", kind, &changes).expect("a device")
}

/// A mail device from settings in addition to its address.
pub fn mail(settings: &[&str]) -> Device {
    device(KindName::Mail, &[&["address=anna@example.com"][..], settings].concat())
}

fn kind() -> impl Strategy<Value = Kind> {
    let text = || "[a-z]{1,20}".prop_map(Pii::new);
    prop_oneof![
        (text(), any::<bool>()).prop_map(|(address, audio)| Kind::Mail { address, audio }),
        text().prop_map(|address| Kind::Pager { address }),
        text().prop_map(|address| Kind::SmsMail { address }),
        text().prop_map(|number| Kind::SmsHttp { number }),
        (text(), text(), any::<bool>(), 1..721_u32).prop_map(|(url, secret, link, link_hours)| Kind::Webhook {
            url,
            secret,
            link,
            link_hours
        }),
    ]
}

/// Devices with any settings.
pub fn devices() -> impl Strategy<Value = Device> {
    let schedules = select(vec!["mon-fri 08:00-18:00", "mon-sun 22:00-06:00, sat,sun 08:00-24:00"]);
    let callers = select(vec!["2*", "2*,0151*,5550100", "+49*", "*"]);
    let switches = (any::<bool>(), any::<bool>(), any::<bool>());
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>());
    let repeat = (60..86_400_u32, 1..100_u32).prop_map(|(every_s, most)| Repeat { every_s, most });
    (
        ("[a-z]{1,9}", kind(), option::of("[a-z]{2}")),
        option::of(schedules),
        option::of(callers),
        switches,
        numbers,
        option::of(repeat),
        option::of(any::<u128>()),
    )
        .prop_map(|((name, kind, language), schedule, callers, switches, numbers, repeat, fallback)| Device {
            id: ID,
            mailbox: MAILBOX,
            name,
            kind,
            enabled: switches.0,
            language,
            schedule: schedule.map(|text| text.parse().expect("a schedule")),
            filter: Filter {
                urgent_only: switches.1,
                callers: callers.map(|text| CallerPattern::list(text).expect("patterns")).unwrap_or_default(),
                min_seconds: numbers.0,
            },
            delay_s: numbers.1,
            repeat,
            fallback: fallback.map(DeviceId),
            per_hour: numbers.2,
            delete_after: switches.2,
        })
}
