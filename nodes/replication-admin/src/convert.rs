//! Results of comparisons for the wire.

use std::fmt::Write;

use twinbox_mailbox::schema;
use twinbox_replication_core::Key;
use twinbox_replication_peer::{ComparisonReport, Difference, DifferenceOutcome, Subject};
use twinbox_replication_store::RowFault;
use twinbox_wire::storage as wire;

use crate::table_name;

/// The id of a row: as text if it is printable, else hexadecimal behind `0x`.
fn id_text(id: &[u8]) -> String {
    match std::str::from_utf8(id) {
        Ok(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => text.to_owned(),
        _ => id.iter().fold("0x".to_owned(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

/// Table and id of a row.
pub fn row_text(key: &Key) -> String {
    format!("{} {}", table_name(key.table), id_text(&key.id))
}

/// The row that names a recording, with the ids that commands take.
pub(crate) fn owner_text(key: &Key) -> String {
    match (schema::message_of(key), schema::mailbox_of(key)) {
        (Some((mailbox, message)), _) => format!("message {message} of mailbox {mailbox}"),
        (None, Some(mailbox)) => format!("mailbox {mailbox} (greeting or name)"),
        (None, None) => row_text(key),
    }
}

pub(crate) fn comparison(report: &ComparisonReport, with_differences: bool) -> wire::Comparison {
    let listed = if with_differences { &report.differences[..] } else { &[] };
    wire::Comparison {
        peer: report.peer.to_string(),
        began_ms: report.began.0,
        took_ms: report.took_ms,
        rows: report.rows,
        equal: report.is_equal(),
        differences: listed.iter().map(difference).collect(),
        more: report.more + (report.differences.len() - listed.len()) as u64,
        problem: report.problem.clone().unwrap_or_default(),
        repaired: report.repaired(),
        by: String::new(),
    }
}

fn difference(difference: &Difference) -> wire::Difference {
    let (table, id, audio) = match &difference.subject {
        Subject::Row(key) => (table_name(key.table).into_owned(), id_text(&key.id), String::new()),
        Subject::Audio(hash) => (String::new(), String::new(), hash.to_string()),
    };
    wire::Difference {
        table,
        id,
        audio,
        node: difference.node.to_string(),
        fault: match difference.fault {
            RowFault::Missing => "missing",
            RowFault::Unreadable => "unreadable",
            RowFault::Incomplete => "incomplete",
        }
        .to_owned(),
        fields: difference.lacked.fields.iter().map(|tag| u32::from(*tag)).collect(),
        deletion: difference.lacked.deletion,
        outcome: match difference.outcome {
            DifferenceOutcome::Repaired => "repaired",
            DifferenceOutcome::Undecided => "undecided",
            DifferenceOutcome::NotRepaired => "not-repaired",
        }
        .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use twinbox_replication_core::Table;

    use super::*;

    #[test]
    fn ids_are_text_where_they_can_be_read() {
        for (id, text) in [
            (&b"1001"[..], "number 1001"),
            (&b"\x01\xff"[..], "number 0x01ff"),
            (&b"a b"[..], "number 0x612062"),
            (&b""[..], "number 0x"),
        ] {
            assert_eq!(row_text(&Key::new(Table(4), id)), text);
        }
    }
}
