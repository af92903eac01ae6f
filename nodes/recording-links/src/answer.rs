//! The answer to a request.

use std::sync::{Arc, OnceLock};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, Uri,
        header::{
            ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, RANGE, REFERRER_POLICY,
            RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;
use twinbox_clock::wall;
use twinbox_devices::RecordingLink;
use twinbox_mailstore::{MailError, Mailstore, Rule, time};

use crate::range::{Part, part};

/// Seconds after which a client may ask again.
const RETRY_AFTER_S: &str = "5";

/// The parts of a node that an answer needs, for one connection.
#[derive(Clone)]
pub(crate) struct ConnectionContext {
    pub mailstore: Mailstore,
    /// Recordings that may be in memory at the same time.
    pub recordings: Arc<Semaphore>,
    /// Place of this connection's recording, which is in memory until the connection ends.
    pub held: Arc<OnceLock<OwnedSemaphorePermit>>,
}

/// Answers a request; with the headers that keep link and recording out of caches and other sites' logs.
pub(crate) async fn answer(
    State(context): State<ConnectionContext>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let mut response = if method == Method::GET || method == Method::HEAD {
        context.find(&uri, &headers).await
    } else {
        let refused = text(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n");
        (with([(ALLOW, HeaderValue::from_static("GET, HEAD"))]), refused).into_response()
    };
    response.headers_mut().extend(with([
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ]));
    response
}

impl ConnectionContext {
    async fn find(&self, uri: &Uri, headers: &HeaderMap) -> Response {
        let Some(link) = RecordingLink::parse(uri.path(), uri.query().unwrap_or_default()) else { return none() };
        // A recording that is not here may exist elsewhere (rule D13).
        if !self.mailstore.has_all_records() {
            return later();
        }
        match self.recording(&link).await {
            Ok(Some(recording)) => sound(recording, headers),
            Ok(None) => none(),
            Err(Unavailable::Busy) => later(),
            Err(Unavailable::Store(error)) => {
                warn!(%error, "recording of a link cannot be read");
                later()
            }
        }
    }

    /// The WAV file of a link's recording; `None` if there is nothing to hear with it.
    async fn recording(&self, link: &RecordingLink) -> Result<Option<Bytes>, Unavailable> {
        let store = &self.mailstore;
        let device = store.device(link.mailbox, link.device)?.zip(store.link_key(link.mailbox, link.device)?);
        if !device.is_some_and(|(device, key)| link.is_valid_for(&device, &key, time(wall()))) {
            return Ok(None);
        }
        let Some(mailbox) = store.get(link.mailbox).await? else { return Ok(None) };
        if !store.rules(&mailbox)?.allows(Rule::AudioOut, true) {
            return Ok(None);
        }
        let message = store.message(link.mailbox, link.message).await?;
        let Some(message) = message.filter(|message| message.is_present()) else { return Ok(None) };
        let place = self.recordings.clone().try_acquire_owned().map_err(|_| Unavailable::Busy)?;
        // Only one request is answered on a connection: the place is empty.
        let _ = self.held.set(place);
        Ok(Some(store.wav(&message).await?.into()))
    }
}

/// Reason why a recording cannot be given now.
enum Unavailable {
    Store(MailError),
    /// Too many recordings are being sent.
    Busy,
}

impl From<MailError> for Unavailable {
    fn from(error: MailError) -> Self {
        Self::Store(error)
    }
}

/// The recording, or the range of it that the request is for. A conditional range is ignored: there is no validator.
fn sound(recording: Bytes, headers: &HeaderMap) -> Response {
    let range = headers.get(RANGE).filter(|_| !headers.contains_key(IF_RANGE));
    let length = recording.len();
    let (status, range, bytes) = match range.and_then(|range| range.to_str().ok()).map(|range| part(range, length))
    {
        None | Some(Part::Whole) => (StatusCode::OK, None, recording),
        Some(Part::Bytes(range)) => {
            let shown = format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1));
            (StatusCode::PARTIAL_CONTENT, Some(shown), recording.slice(range))
        }
        Some(Part::Outside) => (StatusCode::RANGE_NOT_SATISFIABLE, Some(format!("bytes */{length}")), Bytes::new()),
    };
    let mut more = with([
        (CONTENT_TYPE, HeaderValue::from_static("audio/wav")),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    ]);
    more.extend(range.and_then(|range| HeaderValue::try_from(range).ok()).map(|range| (CONTENT_RANGE, range)));
    (status, more, Body::from(bytes)).into_response()
}

/// The answer to every link that gives nothing, whatever the reason.
fn none() -> Response {
    text(StatusCode::NOT_FOUND, "no such recording, or the link has expired\n")
}

fn later() -> Response {
    let refused = text(StatusCode::SERVICE_UNAVAILABLE, "not available now; try again, or another node\n");
    (with([(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S))]), refused).into_response()
}

fn text(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}

fn with<const N: usize>(headers: [(axum::http::HeaderName, HeaderValue); N]) -> HeaderMap {
    headers.into_iter().collect()
}
