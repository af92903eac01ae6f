//! NOTIFYs for MWI: in the dialog of a subscription, and unsolicited to a trunk. Their content and the right to send
//! them are decided elsewhere (rules E2, R6).

use std::{fmt, sync::Arc};

use twinbox_sip::{
    Headers, Method, Request, mwi,
    transaction::Guard,
    uri::{HostPort, Uri},
};
use twinbox_sip_transport::Flow;

use crate::{
    Transport, TrunkConfig,
    access::CallsSettings,
    outgoing::Outgoing,
    stats::{Stats, count},
    transactions::SendError,
};

/// Header with the epoch of the decision to send a NOTIFY, so that a receiver recognizes one of an old epoch.
pub(crate) const EPOCH_HEADER: &str = "X-Twinbox-Epoch";

/// A subscription held by this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubscriptionId(pub u64);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Error: a NOTIFY was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// The trunk does not exist, or has no `mwi` and `proxy`.
    #[error("trunk '{0}' takes no unsolicited NOTIFYs: set its mwi and proxy")]
    NoTrunk(String),
    /// The subscription has ended.
    #[error("subscription {0} has ended")]
    Ended(SubscriptionId),
    /// The store cannot count the messages of the mailbox.
    #[error("the messages of the mailbox cannot be counted")]
    Uncounted,
    /// The guard refused; no further datagram is sent.
    #[error("not sent: this node does not hold the duty any more")]
    NotHolder,
    /// No answer arrived.
    #[error("no answer")]
    Timeout,
    /// Refused with this status.
    #[error("refused with {0}")]
    Refused(u16),
    /// The address cannot be resolved or reached.
    #[error("cannot be sent: {0}")]
    Unreachable(String),
}

impl From<SendError> for NotifyError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::TimedOut => Self::Timeout,
            SendError::Withdrawn => Self::NotHolder,
            SendError::Unreachable(what) => Self::Unreachable(what),
        }
    }
}

impl TrunkConfig {
    /// Whether the trunk takes unsolicited NOTIFYs: `mwi` and `proxy` are set.
    pub fn takes_mwi(&self) -> bool {
        self.mwi.is_some() && self.proxy.is_some()
    }
}

/// Sender of MWI to trunks: NOTIFYs without a subscription, as many PBXs expect them.
pub(crate) struct TrunkMwi {
    pub(crate) settings: Arc<CallsSettings>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) stats: Arc<Stats>,
}

impl TrunkMwi {
    /// Sends a NOTIFY to the trunk of this name.
    pub(crate) async fn notify(
        &self,
        trunk: &str,
        number: &str,
        body: &str,
        epoch: &str,
        guard: Guard,
    ) -> Result<(), NotifyError> {
        let none = || NotifyError::NoTrunk(trunk.to_owned());
        let trunk = self.settings.access().named(trunk).ok_or_else(none)?.clone();
        let (template, proxy) = trunk.config.mwi.as_ref().zip(trunk.config.proxy.as_ref()).ok_or_else(none)?;
        let proxy = HostPort::parse(proxy).ok_or_else(none)?;
        let uri = template.replace("{mailbox}", number);
        let transport = trunk.config.transport.or_else(|| {
            let wanted = Uri::parse(&uri)?.param("transport")?.to_ascii_lowercase();
            [Transport::Udp, Transport::Tcp].into_iter().find(|t| t.label() == wanted)
        });
        let targets = self.outgoing.targets(proxy.host, proxy.port, transport).await?;
        let (tag, call_id) =
            (format!("{:016x}", rand::random::<u64>()), format!("{:032x}", rand::random::<u128>()));
        let make = |flow: &Flow| {
            let mut headers = Headers::default();
            headers.push("Max-Forwards", "70");
            headers.push("From", format!("<sip:{number}@{}>;tag={tag}", flow.advertised()));
            headers.push("To", format!("<{uri}>"));
            headers.push("Call-ID", call_id.as_str());
            headers.push("CSeq", "1 NOTIFY");
            headers.push("Contact", self.outgoing.contact(flow));
            headers.push("Subscription-State", "active");
            let request = Request { method: Method::Notify, uri: uri.clone(), headers, body: Default::default() };
            with_summary(request, mwi::EVENT, body, epoch)
        };
        // The proxy is the addressed host, whatever the trunk's source addresses are.
        let credentials = trunk.credentials.as_ref();
        let sent = self.outgoing.send_to_any(&targets, &make, credentials, Some(guard)).await;
        note_outcome(&self.stats, sent.map(|response| response.code))
    }
}

/// Counts the outcome of a NOTIFY.
pub(crate) fn note_outcome(stats: &Stats, sent: Result<u16, SendError>) -> Result<(), NotifyError> {
    let outcome = match sent {
        Ok(200..=299) => Ok(()),
        Ok(code) => Err(NotifyError::Refused(code)),
        Err(error) => Err(error.into()),
    };
    count(match outcome {
        Ok(()) => &stats.notifies_sent,
        Err(_) => &stats.notifies_failed,
    });
    outcome
}

/// Puts a message summary into a NOTIFY with this Event header.
pub(crate) fn with_summary(mut notify: Request, event: &str, body: &str, epoch: &str) -> Request {
    notify.headers.push("Event", event);
    if !epoch.is_empty() {
        // Reduces the text to one valid header value.
        let epoch: String = epoch.chars().filter(|c| c.is_ascii_graphic()).collect();
        notify.headers.push(EPOCH_HEADER, epoch);
    }
    notify.headers.push("Content-Type", mwi::CONTENT_TYPE);
    notify.body = bytes::Bytes::copy_from_slice(body.as_bytes());
    notify
}
