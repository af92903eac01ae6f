//! Mailboxes, messages and settings for the tests.
#![allow(unused, reason = "each test file uses its part")]

use twinbox_conversation::{ConversationSettings, GreetingKind, Limits, MailboxView, MessageView};
use twinbox_ids::{BlobHash, MailboxId, MessageId, Pii, Timestamp};

/// 2026-11-20, a Friday, 14:05 UTC; an hour later in Berlin, where the mailboxes are.
pub const NOW: Timestamp = Timestamp(1_795_183_500_000);

/// The greetings and their names in the dialogues. The index gives the hash of the audio.
pub const GREETINGS: [(GreetingKind, &str); 4] = [
    (GreetingKind::Standard, "standard"),
    (GreetingKind::Busy, "busy"),
    (GreetingKind::Temporary, "temporary"),
    (GreetingKind::Name, "name"),
];

/// First byte of the hashes of greetings; hashes of messages are lower.
pub const GREETING_HASH: u8 = 200;

/// A mailbox without recorded greetings.
pub fn mailbox(number: &str) -> MailboxView {
    MailboxView {
        id: MailboxId(number.parse().unwrap_or(0)),
        number: number.to_owned(),
        timezone: "Europe/Berlin".to_owned(),
        greetings: Vec::new(),
        full: false,
        unavailable: false,
        operator: None,
        limits: Limits::default(),
    }
}

/// The settings of the dialogues.
pub fn settings(key_map: &str) -> ConversationSettings {
    ConversationSettings {
        key_map: key_map.to_owned(),
        max_message_ms: 180_000,
        min_message_ms: 2_000,
        end_silence_ms: 5_000,
        digit_timeout_ms: 4_000,
        pin_tries: 3,
        min_pin_length: 4,
    }
}

/// Message number `n`; each differs from the others.
pub fn message(n: u8) -> MessageView {
    const HOUR: u64 = 3_600_000;
    let (hours_ago, caller) = [
        (1, Some("1002")),
        (26, Some("+15550100")),
        (75, None),
        (24 * 40, Some("1003")),
        (24 * 400, Some("anonymous")),
    ][usize::from(n.saturating_sub(1)) % 5];
    MessageView {
        id: MessageId(n.into()),
        audio: BlobHash([n; 32]),
        received: Timestamp(NOW.0 - hours_ago * HOUR),
        caller: caller.map(|c| Pii::new(c.to_owned())),
        length_ms: 5_000,
        partial: n == 3,
    }
}
