//! The place of an account's messages: a folder of an account on a host.
//!
//! UIDs and flags seen in one folder are not valid in another, and UIDVALIDITY does not distinguish folders: on some
//! servers it is the same in all accounts. So the row of an account names the place of its stored states, and so does
//! each state: a state that the other side of a split wrote for an earlier folder does not count in the present one. When
//! the place changes, by settings of the account or its server, or by another address of the user, the messages are
//! found again by their Message-IDs, and none is deleted.

use twinbox_mailbox_sync::{Account, AccountPlace, ServerSettings};
use twinbox_replication_core::{Edit, Record, Tag, Value};

/// Register of an account's row, 16 bytes or empty for none: the place of the stored states.
pub(crate) const PLACE: Tag = 0x4000;

/// The place of an account.
pub(crate) fn place_of(server: &ServerSettings, account: &Account) -> AccountPlace {
    let mut hasher = blake3::Hasher::new_derive_key("twinbox 2026 place of a synchronised account");
    let host = server.host.to_ascii_lowercase();
    for part in [host.as_str(), account.user.reveal().as_str(), account.folder.as_str()] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    AccountPlace(hash)
}

/// Whether the stored states of an account are of this place.
pub(crate) fn is_in(place: AccountPlace, account: &Record) -> bool {
    account.bytes(PLACE) == Some(&place.0[..])
}

/// The edit of an account's row that names the place; `None`: the stored states do not count.
pub(crate) fn place_edit(place: Option<AccountPlace>) -> Edit {
    Edit::Set(PLACE, Value::Bytes(place.map_or_else(Vec::new, |place| place.0.to_vec())))
}
