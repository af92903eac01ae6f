//! Entry of digits (mailbox number, PIN), and the count of unanswered prompts.

use serde::{Deserialize, Serialize};
use twinbox_ids::Pii;

use crate::{
    keymap::{Action, Facts, Menu},
    pending_requests::Context,
};

/// Maximum number of digits; further digits are ignored. No number or PIN is that long.
const LONGEST: usize = 64;

/// Number of prompts without a key after which the call ends.
const PATIENCE: u8 = 3;

/// Digits entered so far. Private: may be a PIN.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Entry(Pii<String>);

/// Effect of a key on an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pressed {
    /// One more digit.
    More,
    /// The entry is complete.
    Submit,
    /// The entry was cleared; `true`: it was already empty.
    StartOver(bool),
}

impl Entry {
    /// Takes a key. A digit stops the play and restarts the timer.
    pub(crate) fn press(&mut self, key: char, cx: &mut Context<'_>) -> Pressed {
        match cx.map().action(Menu::Entry, key, &Facts::default()) {
            Some(Action::Submit) => Pressed::Submit,
            Some(_) => Pressed::StartOver(self.take().reveal().is_empty()),
            None => {
                let mut digits = std::mem::take(&mut self.0).into_revealed();
                if digits.len() < LONGEST {
                    digits.push(key);
                }
                self.0 = Pii::new(digits);
                cx.requests.stop_play();
                cx.wait_for_key();
                Pressed::More
            }
        }
    }

    /// Whether no digit was entered.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.reveal().is_empty()
    }

    /// Takes the digits and starts a new entry.
    pub(crate) fn take(&mut self) -> Pii<String> {
        std::mem::take(&mut self.0)
    }
}

/// Counter of prompts without a key.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Idle(u8);

impl Idle {
    /// Counts one more prompt; true when the limit is reached.
    pub(crate) fn another(&mut self) -> bool {
        self.0 = self.0.saturating_add(1);
        self.0 >= PATIENCE
    }

    /// Resets the counter after a key.
    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}
