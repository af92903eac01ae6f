//! Mail in: SMTP (RFC 5321) and LMTP (RFC 2033) on every node.
//!
//! ```text
//! socket ─► Connection ─► Session: lines and answers in, actions out (pure)
//!                │            └─ DataReader: content of a mail in chunks of any size (pure)
//!                └─► MailHandler: recipients, passwords, delivery
//! ```
//!
//! A mail is acknowledged (`250`) only after [`MailHandler::deliver`] has answered. A client is trusted if it is in a
//! network of the settings or has signed in over TLS; its name and its envelope sender prove nothing. The gateway
//! relays no mail: the handler names the recipients that it knows.
//!
//! Lines end with CR LF and nothing else. A bare CR or LF, in a command or in a mail, closes the connection.

mod command;
mod connection;
mod counts;
pub mod data;
mod dsn;
mod filing;
mod handler;
mod limits;
mod lines;
mod listener;
mod lookup;
mod networks;
mod received;
mod reply;
pub mod session;
mod slots;
mod sounds;
mod tls;

pub use counts::{Counter, GatewayCounts};
pub use filing::{CurrentIdentity, FilingRecipient, MailFiling, MailIdentity};
pub use handler::{Delivery, Mail, MailHandler, PasswordCheck, RecipientError, Sender, SuccessReport};
pub use limits::Limits;
pub use lines::LineError;
pub use listener::{Gateway, GatewayError, MailListener};
pub use lookup::find_postmaster;
pub use networks::Networks;
pub use reply::Reply;
pub use session::{GatewaySettings, Protocol};
