//! An event, read from and written to its record, and the origins of a node's store. Pure.

use twinbox_ids::{NodeName, Origin, Timestamp};
use twinbox_replication_core::{Edit, Key, Record};
use twinbox_wire::events as wire;

use crate::{
    Code, Kind,
    alarm::{AlarmId, read, set},
    schema,
};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Node that reports the event.
    pub node: NodeName,
    /// Origin (run of that node's store) in which the event was written.
    pub origin: Origin,
    /// Number of the event in that origin: from 1, without gaps.
    pub number: u64,
    /// Number of the event over all origins; it determines the record.
    pub sequence: u64,
    /// Time of the event.
    pub at: Timestamp,
    /// Kind of the event as text.
    pub kind: String,
    /// Object of the event.
    pub subject: String,
    /// Detail as text.
    pub detail: String,
    /// For an event about an alarm: the alarm and its code as text.
    pub alarm: Option<(AlarmId, String)>,
}

impl Event {
    /// Reads an event; `None` if the record is empty (erased) or not readable.
    pub fn read(key: &Key, record: &Record) -> Option<Self> {
        let (node, _) = schema::slot_of(key)?;
        if record.bytes(schema::event::EVENT)?.is_empty() {
            return None;
        }
        let event: wire::EventRecord = read(record, schema::event::EVENT)?;
        Some(Self {
            node,
            origin: Origin::from_slice(&event.origin)?,
            number: event.number,
            sequence: event.place,
            at: Timestamp(event.at_ms),
            kind: event.kind,
            subject: event.subject,
            detail: event.detail,
            alarm: AlarmId::from_slice(&event.alarm).map(|id| (id, event.code)),
        })
    }

    /// Key of the event's record.
    pub fn key(&self) -> Key {
        let slot = self.sequence % u64::from(schema::EVENTS_OF_A_NODE);
        schema::slot_key(schema::EVENT, &self.node, u16::try_from(slot).unwrap_or(0))
    }

    /// Edit that writes the event.
    pub fn edit(&self) -> Edit {
        let (alarm, code) = match &self.alarm {
            Some((id, code)) => (id.to_vec(), code.clone()),
            None => (Vec::new(), String::new()),
        };
        let event = wire::EventRecord {
            origin: self.origin.to_bytes().to_vec().into(),
            number: self.number,
            place: self.sequence,
            at_ms: self.at.0,
            kind: self.kind.clone(),
            subject: self.subject.clone(),
            detail: self.detail.clone(),
            code,
            alarm: alarm.into(),
        };
        set(schema::event::EVENT, &event)
    }

    /// Edit that erases the event.
    pub fn erase() -> Edit {
        Edit::Set(schema::event::EVENT, Vec::new().into())
    }

    /// The event as sent to readers.
    pub fn show(&self) -> wire::Event {
        let (alarm, code) = match &self.alarm {
            Some((id, code)) => (id.to_string(), code.clone()),
            None => (String::new(), String::new()),
        };
        let severity = code.parse::<Code>().map(|code| code.severity().word());
        wire::Event {
            at_ms: self.at.0,
            node: self.node.to_string(),
            kind: self.kind.clone(),
            subject: self.subject.clone(),
            detail: self.detail.clone(),
            severity: severity.unwrap_or_default().to_owned(),
            code,
            alarm,
            origin: self.origin.to_string(),
            number: self.number,
        }
    }
}

/// Assigns numbers and records to a node's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbering {
    node: NodeName,
    origin: Origin,
    last: u64,
    next_sequence: u64,
}

impl Numbering {
    /// Numbering for a new origin, after the stored events of earlier origins.
    pub fn new(node: NodeName, origin: Origin, events: &[Event]) -> Self {
        let next_sequence = events.iter().map(|event| event.sequence.saturating_add(1)).max().unwrap_or(0);
        Self { node, origin, last: 0, next_sequence }
    }

    /// Creates the next event.
    pub fn next(&mut self, kind: Kind, subject: &str, detail: &str, at: Timestamp) -> Event {
        let sequence = self.next_sequence;
        self.last = self.last.saturating_add(1);
        self.next_sequence = self.next_sequence.saturating_add(1);
        Event {
            node: self.node.clone(),
            origin: self.origin,
            number: self.last,
            sequence,
            at,
            kind: kind.word().to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_owned(),
            alarm: None,
        }
    }
}

/// One origin of a node's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginSummary {
    /// Identifier of the origin.
    pub origin: Origin,
    /// Number of its last event; meaningless for the present origin.
    pub last: u64,
    /// Number of its last change: a node with that change has all events of the origin that are still stored.
    pub changes: u64,
}

/// Reads a node's origins, the present one last.
pub fn read_origins(record: &Record) -> Vec<OriginSummary> {
    let stored: wire::NodeLives = read(record, schema::origins::ORIGINS).unwrap_or_default();
    let summary = |life: wire::Life| {
        let origin = Origin::from_slice(&life.origin)?;
        Some(OriginSummary { origin, last: life.last, changes: life.changes })
    };
    stored.lives.into_iter().filter_map(summary).collect()
}

/// Edit that writes a node's origins; the oldest are left out when there are too many.
pub fn write_origins(origins: &[OriginSummary]) -> Edit {
    let surplus = origins.len().saturating_sub(schema::ORIGINS_OF_A_NODE);
    let summary = |summary: &OriginSummary| wire::Life {
        origin: summary.origin.to_bytes().to_vec().into(),
        last: summary.last,
        changes: summary.changes,
    };
    set(schema::origins::ORIGINS, &wire::NodeLives { lives: origins.iter().skip(surplus).map(summary).collect() })
}
