//! Mail out: sends one message to one recipient by SMTP (RFC 5321), to a smarthost or to the hosts of the recipient's
//! domain. One call is one attempt; queueing and retry times belong to the caller.
//!
//! ```text
//! Outgoing ─► envelope (checked) ─► route (pure order of hosts) ─► connection ─► dialogue (pure) ─► Delivered, SendFailure
//!                                      ▲ lookup                       ▲ tls         ▲ reply (pure)
//! ```
//!
//! The connection belongs to the holder of the duty: see [`SocketOwner`].

mod audio_room;
mod channels;
mod config;
mod connection;
mod dialogue;
mod encoding;
mod envelope;
mod extensions;
mod failure;
mod lookup;
mod mailer;
mod probe;
mod reply;
mod report;
mod route;
mod session;
mod system;
mod tls;
mod voice;

pub use channels::{CurrentMailOut, MailChannels, MailOut, MailSender, MailWork};
pub use config::{Authorities, MailerConfig, MailerError, MxTls, Route, Smarthost, Timeouts, TlsMode};
pub use envelope::{Notify, Outgoing};
pub use failure::{Delivered, Problem, SendFailure, SendStep};
pub use mailer::Mailer;
pub use probe::{ProbeReport, ProbeStep};
pub use reply::EnhancedStatus;
pub use twinbox_gate::SocketOwner;
