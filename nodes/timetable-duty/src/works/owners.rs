//! Count of the owners that a run warned.

use twinbox_system_mail::{SystemMails, Warned};

/// Owners that a run warned, or could not warn.
#[derive(Debug, Default)]
pub(crate) struct WarnedOwners {
    looked: bool,
    queued: u64,
    without_address: u64,
}

impl WarnedOwners {
    /// Notes that owners are to be warned.
    pub(crate) fn look(&mut self) {
        self.looked = true;
    }

    /// Adds the result for one mailbox.
    pub(crate) fn add(&mut self, warned: Warned) {
        self.queued += u64::from(warned == Warned::Queued);
        self.without_address += u64::from(warned == Warned::NoAddress);
    }

    /// The end of the outcome's text: empty if no owner was to be warned.
    pub(crate) fn text(&self, mails: &SystemMails) -> String {
        match mails.ready() {
            _ if !self.looked => String::new(),
            Err(error) => format!("; no owner is warned: {error}"),
            Ok(()) if self.without_address == 0 => format!("; {} owners warned", self.queued),
            Ok(()) => {
                format!("; {} owners warned, {} have no mail address", self.queued, self.without_address)
            }
        }
    }
}
