//! Names of the replicated tables, for administrators.

use std::borrow::Cow;

use twinbox_replication_core::Table;

/// Names by number, from 1. The crates that own the tables define the numbers in their `schema.rs`.
const NAMES: [&str; 26] = [
    "mailbox",
    "message",
    "recording",
    "number",
    "pin-attempts",
    "counters",
    "class",
    "class-name",
    "prompt",
    "outbox",
    "device",
    "location",
    "outgoing",
    "hold",
    "address",
    "directory",
    "binding",
    "directory-run",
    "job",
    "job-run",
    "call-record",
    "mail-server",
    "sync-account",
    "sync-message",
    "owner-warning",
    "setting",
];
/// The tables of alarms and events.
const ALARMS: [(u16, &str); 3] = [(256, "alarm"), (257, "event"), (258, "origins")];

/// The name of a table; `table-N` for one that this release does not know.
pub fn table_name(table: Table) -> Cow<'static, str> {
    let of_alarms = ALARMS.iter().find(|(number, _)| *number == table.0).map(|(_, name)| *name);
    let name = usize::from(table.0).checked_sub(1).and_then(|index| NAMES.get(index).copied());
    name.or(of_alarms).map_or_else(|| Cow::Owned(format!("table-{}", table.0)), Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_names_and_unknown_ones_their_number() {
        for (table, name) in [
            (0, "table-0"),
            (1, "mailbox"),
            (15, "address"),
            (25, "owner-warning"),
            (26, "setting"),
            (257, "event"),
        ] {
            assert_eq!(table_name(Table(table)), name);
        }
        assert_eq!(table_name(Table(60_000)), "table-60000");
    }
}
