//! PINs: rules for new ones, hashes, and limits of attempts (rule S1).

mod attempts;
mod memory;

use std::fmt;

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, Version,
    password_hash::{Error, Output, ParamsString, Salt, SaltString},
};

pub use attempts::{AttemptCounts, AttemptPolicy, TryVerdict, WrongAttempts, begin, right_answer};
pub use memory::HashMemory;
use twinbox_ids::MailboxId;

/// Maximum length of a PIN, in digits.
pub const MAX_LENGTH: usize = 32;
/// Usual length of a random PIN, in digits.
pub const RANDOM_DIGITS: usize = 6;

/// The subject of attempts: the PIN of a mailbox, or a source that tries at any mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The PIN of this mailbox.
    Mailbox(MailboxId),
    /// A source, as a hash of the calling number.
    Source([u8; 16]),
}

/// A PIN is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinRefused {
    /// Fewer digits than the configured minimum.
    #[error("a PIN has at least {min} digits: choose a longer one")]
    TooShort {
        /// The configured minimum.
        min: u8,
    },
    /// More than [`MAX_LENGTH`].
    #[error("a PIN has at most {MAX_LENGTH} digits: choose a shorter one")]
    TooLong,
    /// Other characters than digits.
    #[error("a PIN has digits only")]
    NotDigits,
    /// Like 7777 or 1212.
    #[error("this PIN repeats a pattern: choose one that is harder to guess")]
    Repeated,
    /// Like 1234 or 9876.
    #[error("this PIN is a sequence: choose one that is harder to guess")]
    Sequence,
    /// The mailbox's own number.
    #[error("this PIN is the mailbox's own number: choose another")]
    OwnNumber,
    /// The first PIN, which is to be changed.
    #[error("this is the first PIN, which others may know: choose another")]
    Unchanged,
}

/// Whether a PIN has only digits and enough of them; it may still be easy to guess.
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

/// Whether a new PIN is acceptable for the mailbox of that number.
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

/// A PIN of at least four digits that is not easy to guess (rule S1), made of these random numbers.
pub fn random(number: &str, digits: usize, mut random: impl FnMut() -> u32) -> String {
    // Every shorter one may be a sequence or a repetition.
    let digits = digits.clamp(4, MAX_LENGTH);
    loop {
        let pin: String = (0..digits).filter_map(|_| char::from_digit(random() % 10, 10)).collect();
        if acceptable(&pin, number, 1).is_ok() {
            return pin;
        }
    }
}

/// Every digit equals the one `period` digits before it.
fn repeats(digits: &[u8], period: usize) -> bool {
    digits.iter().zip(digits.iter().skip(period)).all(|(a, b)| a == b)
}

/// Every digit is the one before it plus `step`, modulo ten.
fn steps_by(digits: &[u8], step: u8) -> bool {
    digits.len() > 1 && digits.windows(2).all(|w| matches!(w, [a, b] if (a - b'0' + step) % 10 == b - b'0'))
}

/// The cost of a hash, for the node and so for an attacker: argon2id's parameters (RFC 9106), one lane. Each hash
/// contains its own parameters, so that hashes with other settings still verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
}

impl Default for HashCost {
    /// 19 MiB, two passes: about 20 ms.
    fn default() -> Self {
        Self { memory_kib: Params::DEFAULT_M_COST, passes: Params::DEFAULT_T_COST }
    }
}

impl HashCost {
    /// For first PINs imported by the thousand that must be changed at the first sign-in: 1 MiB, one pass, about a
    /// fortieth of the default.
    pub const FIRST_PINS: Self = Self { memory_kib: 1_024, passes: 1 };

    /// The cheaper of the two.
    pub fn lesser(self, other: Self) -> Self {
        if other.work() < self.work() { other } else { self }
    }

    fn work(self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }

    fn params(self) -> Result<Params, Error> {
        Ok(Params::new(self.memory_kib, self.passes, Params::DEFAULT_P_COST, None)?)
    }
}

fn argon2id(params: Params) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Hashes a PIN with the parameters of a stored hash.
fn compute_as(
    stored: &PasswordHash<'_>,
    length: usize,
    pin: &str,
    memory: &mut HashMemory,
) -> Result<Output, Error> {
    let version = stored.version.map_or(Ok(Version::default()), Version::try_from)?;
    let argon2 = Argon2::new(Algorithm::try_from(stored.algorithm)?, version, Params::try_from(stored)?);
    let mut salt = [0; Salt::MAX_LENGTH];
    let salt = stored
        .salt
        .ok_or(Error::SaltInvalid(argon2::password_hash::errors::InvalidValue::TooShort))?
        .decode_b64(&mut salt)?;
    memory.compute(&argon2, pin, salt, length)
}

/// A PIN as it is stored: one register (rule D4), never the PIN itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PinRecord {
    /// A new PIN is due at the next sign-in.
    pub must_change: bool,
    hash: String,
}

impl fmt::Debug for PinRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinRecord").field("must_change", &self.must_change).finish_non_exhaustive()
    }
}

impl PinRecord {
    /// Hashes a PIN with argon2id at that cost. Takes tens of milliseconds at the default cost: not for a thread that
    /// serves calls.
    pub fn hash_at(
        cost: HashCost,
        pin: &str,
        must_change: bool,
        salt: [u8; 16],
        memory: &mut HashMemory,
    ) -> Result<Self, HashError> {
        let text = SaltString::encode_b64(&salt)?;
        let params = cost.params()?;
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params)?,
            salt: Some(text.as_salt()),
            hash: Some(memory.compute(&argon2id(params), pin, &salt, Params::DEFAULT_OUTPUT_LEN)?),
        };
        Ok(Self { must_change, hash: hash.to_string() })
    }

    /// Whether this is the PIN; takes as long as [`Self::hash_at`] at the cost of the stored hash.
    pub fn verify(&self, pin: &str, memory: &mut HashMemory) -> bool {
        PasswordHash::new(&self.hash).is_ok_and(|stored| {
            // Compared in constant time.
            stored
                .hash
                .is_some_and(|output| compute_as(&stored, output.len(), pin, memory).is_ok_and(|own| own == output))
        })
    }

    /// Whether this is the PIN; takes as long as at `cost` even if the stored hash is cheaper, so that the duration
    /// does not reveal PINs that an administrator gave.
    pub fn verify_at(&self, cost: HashCost, pin: &str, memory: &mut HashMemory) -> bool {
        let right = self.verify(pin, memory);
        if self.cost().is_some_and(|own| own.work() < cost.work()) {
            Self::verify_nothing(cost, pin, memory);
        }
        right
    }

    /// The cost contained in the hash; `None` if it is damaged.
    pub fn cost(&self) -> Option<HashCost> {
        let params = Params::try_from(&PasswordHash::new(&self.hash).ok()?).ok()?;
        Some(HashCost { memory_kib: params.m_cost(), passes: params.t_cost() })
    }

    /// Takes as long as [`Self::verify`] and never succeeds: for a mailbox that is missing or has no PIN, so that the
    /// duration does not reveal it.
    pub fn verify_nothing(cost: HashCost, pin: &str, memory: &mut HashMemory) {
        // The outcome does not matter.
        let _ = cost.params().and_then(|params| {
            memory.compute(&argon2id(params), pin, &[0; Salt::RECOMMENDED_LENGTH], Params::DEFAULT_OUTPUT_LEN)
        });
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

/// Hashing failed because of the parameters or a lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the PIN cannot be hashed ({0}): check the free memory")]
pub struct HashError(Error);

impl From<Error> for HashError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

#[cfg(test)]
mod tests {
    use argon2::{PasswordHasher, PasswordVerifier};

    use super::*;

    fn hash(cost: HashCost, salt: [u8; 16]) -> PinRecord {
        PinRecord::hash_at(cost, "2580", true, salt, &mut HashMemory::default()).unwrap()
    }

    #[test]
    fn hash_memory_is_reused_without_changing_hashes() {
        let mut memory = HashMemory::default();
        let costs = [(2_048, 2), (64, 1), (2_048, 1)].map(|(memory_kib, passes)| HashCost { memory_kib, passes });
        for (cost, salt) in costs.into_iter().zip([[1; 16], [2; 16], [3; 16]]) {
            let ours = PinRecord::hash_at(cost, "2580", false, salt, &mut memory).unwrap();
            // The library's own computation, each time in new memory.
            let text = SaltString::encode_b64(&salt).unwrap();
            let theirs = argon2id(cost.params().unwrap()).hash_password(b"2580", &text).unwrap().to_string();
            assert_eq!(ours.hash, theirs);
            let stored = PasswordHash::new(&ours.hash).unwrap();
            assert!(Argon2::default().verify_password(b"2580", &stored).is_ok());
            assert!(ours.verify("2580", &mut memory) && !ours.verify("2581", &mut memory));
            PinRecord::verify_nothing(cost, "2580", &mut memory);
            assert_eq!(memory.bytes(), 2_048 * 1_024);
        }
    }

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
    fn random_pin_is_long_enough_and_easy_ones_are_left_out() {
        // 111111 comes first.
        let mut digits = [1, 1, 1, 1, 1, 1].into_iter().chain([4, 8, 2, 9, 1, 3]);
        assert_eq!(random("2001", 6, || digits.next().expect("enough")), "482913");
        for (digits, length) in [(1, 4), (9, 9), (99, MAX_LENGTH)] {
            let mut number = 0;
            let sevens = || {
                number += 7;
                number
            };
            assert_eq!(random("2001", digits, sevens).len(), length);
        }
    }

    #[test]
    fn stored_pin_is_a_hash_that_verifies() {
        let record = hash(HashCost::default(), [7; 16]);
        assert!(record.hash.starts_with("$argon2id$v=19$m="), "{}", record.hash);
        let back = PinRecord::from_bytes(&record.to_bytes()).unwrap();
        assert_eq!(back, record);
        let mut memory = HashMemory::default();
        let mut verify = |pin| back.verify(pin, &mut memory);
        assert!(back.must_change && verify("2580") && !verify("2581") && !verify(""));
        assert!(!format!("{back:?}").contains("argon2"));
        assert_ne!(record, hash(HashCost::default(), [8; 16]));
    }

    #[test]
    fn hash_of_a_lower_cost_reports_it_and_verifies() {
        let (first, usual) = (HashCost::FIRST_PINS, HashCost::default());
        assert_eq!((usual.lesser(first), first.lesser(usual)), (first, first));
        let record = hash(first, [7; 16]);
        let back = PinRecord::from_bytes(&record.to_bytes()).unwrap();
        assert_eq!(back.cost(), Some(first));
        let mut memory = HashMemory::default();
        for cost in [first, usual] {
            assert!(
                back.verify_at(cost, "2580", &mut memory) && !back.verify_at(cost, "2581", &mut memory),
                "{cost:?}"
            );
        }
        assert_eq!(hash(HashCost::default(), [7; 16]).cost(), Some(usual));
    }

    #[test]
    fn a_damaged_hash_verifies_nothing() {
        for hash in ["", "$argon2id$", "2580"] {
            let damaged = PinRecord { must_change: false, hash: hash.to_owned() };
            assert!(!damaged.verify("2580", &mut HashMemory::default()) && damaged.cost().is_none());
        }
        assert_eq!(PinRecord::from_bytes(&[]), None);
        assert_eq!(PinRecord::from_bytes(&[0, 0xff]), None);
    }
}
