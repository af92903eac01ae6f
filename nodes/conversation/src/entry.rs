//! Entering digits: a mailbox number, a PIN. And counting how often nothing came.

use serde::{Deserialize, Serialize};
use twinbox_ids::Pii;

use crate::{
    keymap::{Action, Facts, Menu},
    line::Context,
};

/// Digits beyond these are passed over; no number or PIN is that long.
const LONGEST: usize = 64;

/// How often a caller may let a prompt go by before the call ends.
const PATIENCE: u8 = 3;

/// Digits entered so far. Private: they may be a PIN.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Entry(Pii<String>);

/// What a key did to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pressed {
    /// A digit more.
    More,
    /// The entry is complete.
    Submit,
    /// It was emptied, `true`: it was empty already.
    StartOver(bool),
}

impl Entry {
    /// Takes a key. What plays is stopped by a digit, and the timer starts anew.
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
                cx.line.stop_play();
                cx.wait_for_key();
                Pressed::More
            }
        }
    }

    /// Nothing was entered.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.reveal().is_empty()
    }

    /// What was entered; the next begins.
    pub(crate) fn take(&mut self) -> Pii<String> {
        std::mem::take(&mut self.0)
    }
}

/// Counts prompts that went by without a key.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Idle(u8);

impl Idle {
    /// One more went by; true when patience is over.
    pub(crate) fn another(&mut self) -> bool {
        self.0 = self.0.saturating_add(1);
        self.0 >= PATIENCE
    }

    /// There was a key.
    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}
