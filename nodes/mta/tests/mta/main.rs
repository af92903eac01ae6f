//! Preparation of mails, and attempts against fake mail servers and name servers over real sockets.

mod audio_room;
mod delivery;
mod failures;
mod hosts;
mod probe;
mod support;
mod tls;
