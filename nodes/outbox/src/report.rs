//! A report of delivery that the sender of a mail wants (RFC 3461): stored with the effect that sends it.

use twinbox_ids::{DeviceId, Pii, Timestamp};
use twinbox_replication_core::{Edit, Record};

use crate::{
    effect::{read_u64, set},
    schema,
};

/// A report that a mail was delivered to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Envelope sender of the mail: the address of the report.
    pub to: Pii<String>,
    /// Address of the recipient, as it was given.
    pub recipient: Pii<String>,
    /// Type and address of the original recipient, separated by a semicolon; empty for none.
    pub original: Pii<String>,
    /// Identification of the envelope; empty for none.
    pub envelope_id: Pii<String>,
    /// Header of the mail, or its beginning.
    pub header: Pii<String>,
    /// Time of the mail's arrival.
    pub arrived: Timestamp,
}

impl Report {
    /// Target of its effect: the same for each delivery of one mail to one address.
    pub fn target(&self) -> DeviceId {
        let mut hasher = blake3::Hasher::new_derive_key("twinbox 2026 reported address");
        hasher.update(self.recipient.reveal().as_bytes());
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        DeviceId(u128::from_be_bytes(id))
    }

    /// The edits that add it to the record of its effect.
    pub fn edits(&self) -> Vec<Edit> {
        let mut bytes = self.arrived.0.to_be_bytes().to_vec();
        for text in [&self.to, &self.recipient, &self.original, &self.envelope_id, &self.header] {
            let text = text.reveal().as_bytes();
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(text);
        }
        vec![set(schema::REPORT, bytes)]
    }

    /// The report in the record of an effect; `None` if there is none that this release can read.
    pub fn read(record: &Record) -> Option<Self> {
        let (arrived, mut rest) = record.bytes(schema::REPORT)?.split_at_checked(8)?;
        let mut text = || {
            let (length, after) = rest.split_at_checked(4)?;
            let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
            let (text, after) = after.split_at_checked(length)?;
            rest = after;
            Some(Pii::new(str::from_utf8(text).ok()?.to_owned()))
        };
        Some(Self {
            to: text()?,
            recipient: text()?,
            original: text()?,
            envelope_id: text()?,
            header: text()?,
            arrived: Timestamp(read_u64(arrived)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{Origin, Stamp};
    use twinbox_replication_core::Value;

    use super::*;

    fn record(edits: Vec<Edit>) -> Record {
        let mut record = Record::new();
        for (n, edit) in (1..).zip(edits) {
            let stamp = Stamp { wall: n, counter: 0, origin: Origin(1) };
            record.merge(edit.delta(&record, stamp, &"a".parse().expect("a name")));
        }
        record
    }

    #[test]
    fn report_is_read_back_and_a_cut_one_is_none() {
        let text = |text: &str| Pii::new(text.to_owned());
        let report = Report {
            to: text("s@example.org"),
            recipient: text("1001@voicemail.example"),
            original: text(""),
            envelope_id: text("QQ 1"),
            header: text("Subject: J\u{f6}rg\r\n"),
            arrived: Timestamp(7),
        };
        let written = record(report.edits());
        assert_eq!(Report::read(&written), Some(report.clone()));
        assert_ne!(report.target(), Report { recipient: text("1002@voicemail.example"), ..report }.target());
        assert_eq!(Report::read(&Record::new()), None);
        let bytes = written.bytes(schema::REPORT).expect("written");
        for length in 0..bytes.len() {
            let cut = Edit::Set(schema::REPORT, Value::Bytes(bytes[..length].to_vec()));
            assert_eq!(Report::read(&record(vec![cut])), None, "{length}");
        }
    }
}
