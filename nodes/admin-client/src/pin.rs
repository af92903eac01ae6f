//! New PINs.

/// Random PIN with this number of digits that is not easy to guess (rule S1).
pub fn random(number: &str, digits: usize) -> String {
    twinbox_mailbox::pin::random(number, digits, rand::random)
}
