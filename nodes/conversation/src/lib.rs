//! The conversation: what a caller hears and may do, as a pure state machine that can be stored and go on
//! elsewhere. It knows no SIP, no sound card and no disk.
//!
//! [`Conversation`] is the machine ([`Input`] in, [`Output`] out); [`keymap`] says what each key does, as data, and [`draw`] draws it;
//! [`phrases`] makes sentences of prompts.

pub mod draw;
mod entry;
mod input;
pub mod keymap;
mod leave;
mod line;
mod listen;
mod machine;
mod menu;
mod names;
mod new_pin;
mod output;
pub mod phrases;
mod record;
mod sign_in;

pub use input::{
    Answer, Caller, Entry, GreetingKind, Input, Limits, MailboxView, MessageView, RecordingEnd, Settings, Start,
};
pub use machine::Conversation;
pub use output::{Mark, Output, Prompt, Purpose, Question};
