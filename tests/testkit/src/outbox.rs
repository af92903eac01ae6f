//! The outbox, as the command line shows it.

use std::time::Duration;

use serde_json::Value;

use crate::{Cli, holds};

/// A notification in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEffect {
    /// Its id.
    pub id: String,
    /// `pending`, `failed`, `dead` or `done`.
    pub state: String,
    /// Number of the mailbox.
    pub number: String,
    /// Name of the device.
    pub device: String,
    /// Number of attempts that have begun.
    pub attempts: u64,
    /// Receipt, or reason of the latest failure.
    pub reason: String,
    /// Id of the message.
    pub message: String,
    /// Number of an administrator's retries.
    pub retries: u64,
}

impl Cli {
    /// The effects in this state.
    pub fn effects(&self, state: &str) -> Vec<StoredEffect> {
        let list = self.json(&["outbox", "list", "--state", state]);
        list["effects"].as_array().into_iter().flatten().map(read).collect()
    }

    /// One effect.
    pub fn effect(&self, id: &str) -> StoredEffect {
        read(&self.json(&["outbox", "show", id]))
    }

    /// Waits until an effect in this state fits.
    pub fn wait_for_effect(
        &self,
        state: &str,
        limit: Duration,
        fits: impl Fn(&StoredEffect) -> bool,
    ) -> StoredEffect {
        let found = holds(limit, || self.effects(state).into_iter().find(&fits));
        found.unwrap_or_else(|| {
            let all: Vec<_> = ["pending", "failed", "dead", "done"].map(|state| self.effects(state)).concat();
            panic!("no such effect is {state} within {limit:?}: {all:#?}")
        })
    }
}

fn read(effect: &Value) -> StoredEffect {
    let text = |field: &str| effect[field].as_str().unwrap_or_default().to_owned();
    let number = |field: &str| effect[field].as_u64().unwrap_or_default();
    StoredEffect {
        id: text("id"),
        state: text("state"),
        number: text("number"),
        device: text("device"),
        attempts: number("attempts"),
        reason: text("reason"),
        message: text("message"),
        retries: number("retries"),
    }
}
