//! What Asterisk's app_voicemail keeps: `voicemail.conf`, and its spool of greetings and messages.
//!
//! Read here, on the machine where the files are; what they mean goes to the node.

pub mod conf;
pub mod spool;
