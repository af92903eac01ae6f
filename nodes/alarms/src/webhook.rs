//! Delivery by HTTP POST: JSON, one request per transition, over TLS if the URL is `https`.

use std::{os::fd::BorrowedFd, path::PathBuf};

use twinbox_gate::Permit;
use twinbox_http_post::{HttpTarget, Post, PostFailure};

use crate::{notice::Notice, outbound::DeliveryError};

pub use twinbox_http_post::TargetError as WebhookError;

/// Receiver of alarms by HTTP.
#[derive(Debug, Clone)]
pub struct Webhook(HttpTarget);

impl Webhook {
    /// Receiver at this URL. `authorization` is the value of the header, such as `Bearer …`; `authorities` is a PEM
    /// file in place of the system's CA certificates.
    pub fn new(url: &str, authorization: Option<&str>, authorities: Option<PathBuf>) -> Result<Self, WebhookError> {
        HttpTarget::new(url, authorization, authorities).map(Self)
    }

    pub(crate) async fn deliver(&self, notice: &Notice, permit: &Permit) -> Result<(), DeliveryError> {
        let post = Post {
            content_type: "application/json",
            headers: vec![("idempotency-key", notice.key())],
            body: notice.json().to_string().into(),
        };
        let owner = |socket: BorrowedFd<'_>| permit.own_opaque(socket);
        // The caller drops the request when the duty is lost, and the next holder repeats the notice: it has a key.
        self.0.post(&post, &owner, std::future::pending()).await.map_err(|failure| match failure {
            PostFailure::Unreachable(reason)
            | PostFailure::Later(reason)
            | PostFailure::Unanswered(reason)
            | PostFailure::Unclear(reason) => DeliveryError::Later(reason),
            PostFailure::Refused(reason) => DeliveryError::Refused(reason),
            PostFailure::NotHolder => DeliveryError::NotHolder,
        })
    }
}
