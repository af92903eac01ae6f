//! Test hook: writes data that only a later release would know. Only in builds with debug assertions, never in a release.

use twinbox_mailbox::schema;
use twinbox_replication_core::{Edit, Key, Table, Tag, Value};

use crate::{MailError, Mailstore};

/// A table that this release does not use.
const TABLE: Table = Table(60_000);
/// Fields that this release does not know, of mailboxes and of that table: a register, sets of both kinds, a counter.
const REGISTER: Tag = 60_001;
const ADD_WINS: Tag = 60_002;
const REMOVE_WINS: Tag = 60_003;
const COUNTER: Tag = 60_004;

impl Mailstore {
    /// Gives every mailbox without them a field of each kind, and the unknown table a row named after this node. Only
    /// once each, so that later callers find the data of the first. Returns whether anything was written.
    pub async fn write_as_a_later_release(&self) -> Result<bool, MailError> {
        let node = self.settings().node.to_string().into_bytes();
        let write = move |draft: &mut twinbox_replication_store::Draft<'_>| {
            let mailboxes = draft.scan(schema::MAILBOX, b"")?.into_iter().map(|(key, _)| key);
            let mut written = false;
            for key in mailboxes.chain([Key::new(TABLE, node.clone())]) {
                if draft.get(&key)?.is_some_and(|record| record.field(REGISTER).is_some()) {
                    continue;
                }
                let edits = vec![
                    Edit::Set(REGISTER, Value::Bytes(node.clone())),
                    Edit::Add(ADD_WINS, node.clone()),
                    Edit::Grant(REMOVE_WINS, node.clone()),
                    Edit::Count(COUNTER, 1),
                ];
                draft.edit(key, edits)?;
                written = true;
            }
            Ok(written)
        };
        self.commit(write).await.map(|(written, _)| written)
    }
}
