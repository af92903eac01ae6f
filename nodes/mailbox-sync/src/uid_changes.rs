//! Servers that repeatedly give new UIDs to the mails of a folder.

use crate::AccountState;

/// Looks in a row that find new UIDs, from which on no message is appended: a server on which no mail is found again
/// would get each message at each look.
pub const MOST_UID_CHANGES: u32 = 3;
/// Maximum of the count, so that a folder is trusted again some time after its UIDs have become stable.
const MOST_COUNTED: u32 = 10;

/// Changes of the UIDs of a folder, from look to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UidChanges {
    /// Number of looks in a row that found new UIDs: another UIDVALIDITY, or UIDs that were given again.
    pub count: u32,
    /// UIDVALIDITY of the latest look, while the account has no position; 0 for none.
    pub latest: u32,
}

impl AccountState {
    /// The changes of UIDs after a full look at a folder of this UIDVALIDITY.
    ///
    /// # Errors
    /// Too many looks in a row found new UIDs: no message is appended, and the state gets the changes in the error, which
    /// count down while the UIDVALIDITY stays.
    pub fn changes_after_full_look(&self, uid_validity: u32) -> Result<UidChanges, UidChanges> {
        let UidChanges { count, latest } = self.uid_changes;
        let before = if self.uid_validity == 0 { latest } else { self.uid_validity };
        let has_changed = before != 0 && before != uid_validity;
        let now = if has_changed { one_more(count) } else { count };
        let with = |count: u32| UidChanges { count, latest: uid_validity };
        if now < MOST_UID_CHANGES {
            return Ok(with(now));
        }
        Err(with(if has_changed { now } else { now.saturating_sub(1) }))
    }

    /// The state without a position, because UIDs were given again under this UIDVALIDITY: the next look is a full one.
    #[must_use]
    pub fn with_uids_given_again(&self, uid_validity: u32) -> Self {
        self.without_position(UidChanges { count: one_more(self.uid_changes.count), latest: uid_validity })
    }

    /// The state without a position, with these changes of UIDs: the next look is a full one.
    #[must_use]
    pub fn without_position(&self, uid_changes: UidChanges) -> Self {
        Self { uid_validity: 0, uid_next: 0, modseq: 0, uid_changes, ..self.clone() }
    }
}

fn one_more(count: u32) -> u32 {
    count.saturating_add(1).min(MOST_COUNTED)
}
