//! Verifiers of directory passwords: for the time in which no server of the directory answers.

use twinbox_ids::{Pii, Timestamp};
use twinbox_replication_core::{Edit, Record};

use super::schema::binding::VERIFIER;
use crate::{
    pin::{HashCost, HashError, HashMemory, PinRecord},
    value::set_bytes,
};

/// Maximum length of a password that is remembered, in bytes. Longer ones are checked by the directory alone.
pub const LONGEST_PASSWORD: usize = 256;

/// Cost of a verifier: the second choice of RFC 9106 section 4 with half its memory, 32 MiB and three passes. A
/// password is worth more than a PIN: it opens other systems too.
const COST: HashCost = HashCost { memory_kib: 32_768, passes: 3 };

/// A password that the directory confirmed, as argon2id: never the password itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordVerifier {
    /// Time of the confirmation.
    pub at: Timestamp,
    hash: PinRecord,
}

impl PasswordVerifier {
    /// Hashes a password that the directory confirmed at `at`. Takes about 100 ms.
    pub fn hash(
        password: &Pii<String>,
        at: Timestamp,
        salt: [u8; 16],
        memory: &mut HashMemory,
    ) -> Result<Self, HashError> {
        Ok(Self { at, hash: PinRecord::hash_at(COST, password.reveal(), false, salt, memory)? })
    }

    /// Whether it may serve at `now`: it is not older than `max_age_ms`. A time in the future by more than that is not
    /// believed either.
    pub fn is_fresh(&self, max_age_ms: u64, now: Timestamp) -> bool {
        now.0.abs_diff(self.at.0) <= max_age_ms
    }

    /// Whether this is the password; takes as long as [`Self::hash`].
    pub fn verify(&self, password: &Pii<String>, memory: &mut HashMemory) -> bool {
        self.hash.verify_at(COST, password.reveal(), memory)
    }

    /// Takes as long as [`Self::verify`] and never succeeds, so that the duration does not reveal who has a verifier.
    pub fn verify_nothing(password: &Pii<String>, memory: &mut HashMemory) {
        PinRecord::verify_nothing(COST, password.reveal(), memory);
    }

    /// The edits of the binding's record that remember it.
    pub fn edits(&self) -> Vec<Edit> {
        let bytes = [&self.at.0.to_be_bytes()[..], &self.hash.to_bytes()].concat();
        vec![set_bytes(VERIFIER, bytes)]
    }

    /// The edits of the binding's record that forget it.
    pub fn removal() -> Vec<Edit> {
        vec![set_bytes(VERIFIER, Vec::new())]
    }

    /// Reads it from a binding's record; `None` if there is none.
    pub fn read(record: &Record) -> Option<Self> {
        let (at, hash) = record.bytes(VERIFIER)?.split_first_chunk::<8>()?;
        Some(Self { at: Timestamp(u64::from_be_bytes(*at)), hash: PinRecord::from_bytes(hash)? })
    }
}
