//! The duty `notifier`: reports changes of mailboxes to the outside, from one node at a time.
//!
//! [`mwi`] keeps the message-waiting indication (MWI) of every mailbox up to date (rule E2). [`NotifierService`] is
//! the duty as a service of the node: it runs on every node, acts only while its node holds the lease, and can be
//! restarted. [`HttpChannels`] carries notifications of devices that leave by HTTP: webhooks and text messages.

mod devices;
pub mod mwi;
mod service;

pub use devices::{HttpChannels, HttpSettings, SmsGateway, SmsOut};
pub use service::NotifierService;
pub use twinbox_http_post::TargetError;
