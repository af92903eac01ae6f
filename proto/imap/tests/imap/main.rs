//! The client against fake servers over loopback, which follow a transcript.

mod changes;
mod folders;
mod hostile;
mod idle;
mod sign_in;
mod support;
mod tls;
