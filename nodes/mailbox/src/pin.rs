//! PINs: which are taken, how they are kept, and how often they may be tried (rule S1).

mod attempts;

use std::{fmt, sync::OnceLock};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::{Error, SaltString},
};

pub use attempts::{AttemptPolicy, Tally, Verdict, Wrong, begin, right_answer};
use twinbox_ids::MailboxId;

/// The longest PIN.
pub const MAX_LENGTH: usize = 32;

/// Who tries: a mailbox's PIN is tried, or one source tries (at any mailbox).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The PIN of this mailbox.
    Mailbox(MailboxId),
    /// Somebody, by a hash of where the call comes from.
    Source([u8; 16]),
}

/// Why a PIN is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinRefused {
    /// Fewer digits than the setting asks for.
    #[error("a PIN has at least {min} digits: choose a longer one")]
    TooShort {
        /// The setting.
        min: u8,
    },
    /// More than [`MAX_LENGTH`].
    #[error("a PIN has at most {MAX_LENGTH} digits: choose a shorter one")]
    TooLong,
    /// Keys cannot type it.
    #[error("a PIN has digits only")]
    NotDigits,
    /// Like 7777 or 1212.
    #[error("this PIN repeats itself: choose one that is harder to guess")]
    Repeated,
    /// Like 1234 or 9876.
    #[error("this PIN is a sequence: choose one that is harder to guess")]
    Sequence,
    /// The mailbox's own number.
    #[error("this PIN is the mailbox's own number: choose another")]
    OwnNumber,
}

/// Whether keys can type a PIN and it is long enough; it may still be easy to guess.
pub fn typable(pin: &str, min_length: u8) -> Result<(), PinRefused> {
    let digits = pin.as_bytes();
    if digits.len() < usize::from(min_length.max(1)) {
        return Err(PinRefused::TooShort { min: min_length });
    }
    if digits.len() > MAX_LENGTH {
        return Err(PinRefused::TooLong);
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(PinRefused::NotDigits);
    }
    Ok(())
}

/// Whether a new PIN may be used for the mailbox of that number.
pub fn acceptable(pin: &str, number: &str, min_length: u8) -> Result<(), PinRefused> {
    typable(pin, min_length)?;
    let digits = pin.as_bytes();
    if repeats(digits, 1) || (digits.len() >= 4 && repeats(digits, 2)) {
        return Err(PinRefused::Repeated);
    }
    if steps_by(digits, 1) || steps_by(digits, 9) {
        return Err(PinRefused::Sequence);
    }
    if pin == number {
        return Err(PinRefused::OwnNumber);
    }
    Ok(())
}

/// Every digit equals the one `period` before it.
fn repeats(digits: &[u8], period: usize) -> bool {
    digits.iter().zip(digits.iter().skip(period)).all(|(a, b)| a == b)
}

/// Every digit is the one before it plus `step`, modulo ten.
fn steps_by(digits: &[u8], step: u8) -> bool {
    digits.len() > 1 && digits.windows(2).all(|w| matches!(w, [a, b] if (a - b'0' + step) % 10 == b - b'0'))
}

/// What a hash costs whoever computes it, and so whoever guesses: argon2id's parameters (RFC 9106), one lane.
/// Each hash says its own, so that those of other settings still verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for HashCost {
    /// 19 MiB, two passes: about 20 ms.
    fn default() -> Self {
        Self { memory_kib: Params::DEFAULT_M_COST, passes: Params::DEFAULT_T_COST }
    }
}

impl HashCost {
    /// For first PINs that come by the thousand and are to be changed at the first sign-in: 1 MiB, one pass, about a
    /// fortieth of the default.
    pub const FIRST_PINS: Self = Self { memory_kib: 1_024, passes: 1 };

    /// The one of the two that costs less.
    pub fn lesser(self, other: Self) -> Self {
        if other.work() < self.work() { other } else { self }
    }

    fn work(self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }
}

/// A PIN as it is kept: one register (rule D4), never the PIN itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PinRecord {
    /// A new one is due at the next sign-in.
    pub must_change: bool,
    hash: String,
}

impl fmt::Debug for PinRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinRecord").field("must_change", &self.must_change).finish_non_exhaustive()
    }
}

impl PinRecord {
    /// Hashes a PIN with argon2id at the usual cost. Takes tens of milliseconds and 19 MiB: not for a thread that serves
    /// others.
    pub fn hash(pin: &str, must_change: bool, salt: [u8; 16]) -> Result<Self, HashError> {
        Self::hash_at(HashCost::default(), pin, must_change, salt)
    }

    /// Hashes a PIN with argon2id at that cost.
    pub fn hash_at(cost: HashCost, pin: &str, must_change: bool, salt: [u8; 16]) -> Result<Self, HashError> {
        let salt = SaltString::encode_b64(&salt)?;
        let params =
            Params::new(cost.memory_kib, cost.passes, Params::DEFAULT_P_COST, None).map_err(Error::from)?;
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        Ok(Self { must_change, hash: hasher.hash_password(pin.as_bytes(), &salt)?.to_string() })
    }

    /// Whether this is the PIN; takes as long as [`Self::hash`].
    pub fn verify(&self, pin: &str) -> bool {
        PasswordHash::new(&self.hash)
            .is_ok_and(|hash| Argon2::default().verify_password(pin.as_bytes(), &hash).is_ok())
    }

    /// Whether this is the PIN; takes as long as at that cost even where the hash is of a lesser one, so that the time
    /// does not tell whose PIN is still the one that an administrator gave.
    pub fn verify_at(&self, cost: HashCost, pin: &str) -> bool {
        let right = self.verify(pin);
        if self.cost().is_some_and(|own| own.work() < cost.work()) {
            Self::verify_nothing(cost, pin);
        }
        right
    }

    /// What the hash cost, as it says itself; `None` for one that is damaged.
    pub fn cost(&self) -> Option<HashCost> {
        let params = Params::try_from(&PasswordHash::new(&self.hash).ok()?).ok()?;
        Some(HashCost { memory_kib: params.m_cost(), passes: params.t_cost() })
    }

    /// Takes as long as [`Self::verify`] and is never right: for a mailbox that is not there or has no PIN, so that
    /// the time does not tell.
    pub fn verify_nothing(cost: HashCost, pin: &str) {
        // The cost is a setting of the process: it does not change.
        static NOTHING: OnceLock<Option<PinRecord>> = OnceLock::new();
        let nothing = NOTHING.get_or_init(|| Self::hash_at(cost, "", false, [0; 16]).ok());
        let _ = nothing.as_ref().map(|nothing| nothing.verify(pin));
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.must_change)];
        bytes.extend_from_slice(self.hash.as_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (must_change, hash) = bytes.split_first()?;
        let hash = std::str::from_utf8(hash).ok()?.to_owned();
        Some(Self { must_change: *must_change != 0, hash })
    }
}

/// Hashing failed: the parameters or the memory for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the PIN cannot be hashed ({0}): is there memory left?")]
pub struct HashError(Error);

impl From<Error> for HashError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trivial_pins_are_refused() {
        for (pin, expected) in [
            ("2580", Ok(())),
            ("1001", Err(PinRefused::OwnNumber)),
            ("123", Err(PinRefused::TooShort { min: 4 })),
            ("", Err(PinRefused::TooShort { min: 4 })),
            ("7777", Err(PinRefused::Repeated)),
            ("1212", Err(PinRefused::Repeated)),
            ("121213", Ok(())),
            ("1234", Err(PinRefused::Sequence)),
            ("7890", Err(PinRefused::Sequence)),
            ("3210", Err(PinRefused::Sequence)),
            ("1098", Err(PinRefused::Sequence)),
            ("12a4", Err(PinRefused::NotDigits)),
            ("١٢٣٤", Err(PinRefused::NotDigits)),
            ("12345678901234567890123456789012345", Err(PinRefused::TooLong)),
        ] {
            assert_eq!(acceptable(pin, "1001", 4), expected, "{pin}");
        }
    }

    #[test]
    fn a_pin_is_kept_as_a_hash_that_verifies() {
        let record = PinRecord::hash("2580", true, [7; 16]).unwrap();
        assert!(record.hash.starts_with("$argon2id$v=19$m="), "{}", record.hash);
        let back = PinRecord::from_bytes(&record.to_bytes()).unwrap();
        assert_eq!(back, record);
        assert!(back.must_change && back.verify("2580") && !back.verify("2581") && !back.verify(""));
        assert!(!format!("{back:?}").contains("argon2"));
        assert_ne!(record, PinRecord::hash("2580", true, [8; 16]).unwrap());
    }

    #[test]
    fn a_hash_of_a_lesser_cost_says_so_and_verifies_as_any_other() {
        let (first, usual) = (HashCost::FIRST_PINS, HashCost::default());
        assert_eq!((usual.lesser(first), first.lesser(usual)), (first, first));
        let record = PinRecord::hash_at(first, "2580", true, [7; 16]).unwrap();
        let back = PinRecord::from_bytes(&record.to_bytes()).unwrap();
        assert_eq!(back.cost(), Some(first));
        for cost in [first, usual] {
            assert!(back.verify_at(cost, "2580") && !back.verify_at(cost, "2581"), "{cost:?}");
        }
        assert_eq!(PinRecord::hash("2580", true, [7; 16]).unwrap().cost(), Some(usual));
    }

    #[test]
    fn a_damaged_hash_verifies_nothing() {
        for hash in ["", "$argon2id$", "2580"] {
            let damaged = PinRecord { must_change: false, hash: hash.to_owned() };
            assert!(!damaged.verify("2580") && damaged.cost().is_none());
        }
        assert_eq!(PinRecord::from_bytes(&[]), None);
        assert_eq!(PinRecord::from_bytes(&[0, 0xff]), None);
    }
}
