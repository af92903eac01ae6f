//! New PINs.

use rand::Rng;
use twinbox_mailbox::pin::acceptable;

/// Random PIN with this number of digits that fulfils the rules for PINs (rule S1).
pub fn random(number: &str, digits: u8) -> String {
    let mut rng = rand::rng();
    loop {
        let pin: String = (0..digits).map(|_| char::from(b'0' + rng.random_range(0..10u8))).collect();
        if acceptable(&pin, number, digits).is_ok() {
            return pin;
        }
    }
}
