//! The conversation with a caller: prompts and actions, as a pure state machine. It can be stored and continue on
//! another node. It has no SIP, no audio device and no disk.
//!
//! [`Conversation`] is the machine ([`Input`] in, [`Output`] out). [`keymap`] holds the action of each key as data;
//! [`draw`] renders the key maps; [`phrases`] composes sentences from prompts.

pub mod draw;
mod entry;
mod input;
pub mod keymap;
mod leave;
mod listen;
mod machine;
mod menu;
mod names;
mod new_pin;
mod output;
mod pending_requests;
pub mod phrases;
mod record;
mod sign_in;

pub use input::{
    Answer, Caller, ConversationSettings, Entry, GreetingKind, Input, Limits, MailboxView, MessageView,
    RecordingEnd, Start,
};
pub use machine::Conversation;
pub use output::{Mark, Output, Prompt, Purpose, Question};
