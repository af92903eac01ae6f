//! The test kit: a cluster of real processes, and the foreign systems that a telephone system meets.
//!
//! Everything here blocks and uses plain threads and sockets, on purpose: it shares no code with the product (its SIP,
//! RTP and G.711 are its own), and a failing test is read from top to bottom.
//!
//! * [`Cluster`]: nodes and a witness as processes, killed, restarted, wiped; each cluster has separate loopback
//!   addresses, or network namespaces ([`Lab`]) that can be cut and healed.
//! * [`Call`] (a plain SIP caller), [`Endpoint`] (its audio), [`Speech`] (its speech, found again bit for bit),
//!   [`sipp`] (a foreign caller), [`Pbx`] (receives MWI).
//! * [`MailReceiver`], [`Postfix`], [`Swaks`]: mail servers and a mail client; [`HookReceiver`]: a receiver of webhooks.
//! * [`Slapd`]: a directory server.
//! * [`need`]: the requirements of a test on the machine; a test that lacks one reports it (rule P7).

mod admin;
mod baresip;
mod call;
mod cluster;
mod compose;
mod config;
mod deposit;
mod dns;
mod endpoint;
pub mod g711;
mod hook_receiver;
mod kamailio;
mod keys;
mod lab;
mod mail_receiver;
mod message;
pub mod need;
mod net_place;
mod outbox;
mod pbx;
mod postfix;
mod probe;
mod process;
mod receivers;
pub mod sipp;
mod slapd;
mod slow_disk;
mod small_disk;
mod speech;
mod strace;
mod swaks;
mod switch;
mod wait;

pub use admin::{Cli, StoredMessage};
pub use baresip::Baresip;
pub use call::{ByeResult, Call, Invite, Refused, Transport, media_of, sdp};
pub use cluster::{Cluster, Member, User};
pub use compose::Compose;
pub use config::Spec;
pub use deposit::{
    Deposit, begin_to_speak, hang_up, leave_message, leave_message_with, listen, sign_in, try_leave_message,
};
pub use dns::{Data, NameServer};
pub use endpoint::Endpoint;
pub use hook_receiver::{FetchedRecording, HookReceiver, HookRequest, fetch_recording, sign_recording_link};
pub use kamailio::Kamailio;
pub use keys::{Authority, DkimKey, Validity};
pub use lab::Lab;
pub use mail_receiver::{MailContent, MailFault, MailLogin, MailReceiver, MailSession, ReceivedMail};
pub use message::{Message, token};
pub use net_place::{Loopback, NetPlace, readable};
pub use outbox::StoredEffect;
pub use pbx::{MwiNotify, Pbx};
pub use postfix::Postfix;
pub use probe::{http_get, metric, peak_bytes, resident_bytes};
pub use process::{Process, binary};
pub use receivers::{Snmptrapd, SyslogReceiver, WebReceiver};
pub use slapd::{Slapd, SlapdSettings, SlapdTls};
pub use slow_disk::slow_disk;
pub use small_disk::SmallDisk;
pub use speech::{Found, Speech};
pub use strace::{Event, Strace};
pub use swaks::{SentMail, Swaks};
pub use switch::Link;
pub use wait::{holds, wait_for, wait_until};

/// A count or duration that `tests/run --long` raises (rule P6): the environment variable `name`, else `small`.
pub fn parameter(name: &str, small: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(small)
}
