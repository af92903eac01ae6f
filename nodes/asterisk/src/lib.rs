//! Files of Asterisk's app_voicemail: `voicemail.conf`, and its spool of greetings and messages.
//!
//! Parsed on the machine that has the files; the node gets the result.

pub mod conf;
pub mod spool;
pub mod texts;
