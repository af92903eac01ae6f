//! The follower's side: one stream to each peer, renewed when lost; received frames go to the lanes of the applier.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prost::Message;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, info};
use twinbox_clock::BootInstant;
use twinbox_ids::{Backoff, Origin};
use twinbox_wire::replication::{
    FollowerFrame, SourceFrame, follower_frame, replication_client::ReplicationClient, source_frame::Frame,
};

use crate::{
    applier::{Applier, FromHistory, Live},
    config::limits,
    error::StreamError,
    fill::Source,
    frames::{self, Welcome},
    link::Link,
    peers::Inner,
    state_fill,
};

/// Timeout of a connection attempt, shorter than the kernel's.
const CONNECT: Duration = Duration::from_secs(2);

/// Pauses between attempts to reach a peer.
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Follows one peer until this future is dropped.
pub(crate) async fn follow(inner: Arc<Inner>, link: Arc<Link>) {
    let mut retry = RETRY;
    let mut reported = String::new();
    let mut addresses = link.watch_address();
    loop {
        let began = BootInstant::now();
        let address = addresses.borrow_and_update().clone();
        let Err(end) = tokio::select! {
            end = Session { inner: &inner, link: &link, address: &address }.run() => end,
            _ = addresses.changed() => Err(StreamError::Moved),
        };
        link.following.store(false, Relaxed);
        link.end_source(matches!(end, StreamError::Reached | StreamError::BecameSource));
        // A stream that repeatedly ends immediately, as on a full disk, is not logged again and not retried
        // faster.
        if began.elapsed() > limits::SETTLED {
            retry.reset();
            reported.clear();
        }
        // An absent peer is reported once, not at every attempt.
        let text = end.to_string();
        if text != reported {
            inner.report(&link.name, &end, "stream from peer ended");
            reported = text;
        }
        let pause = retry.failed();
        let pause = if end.is_refusal() { limits::RETRY_REFUSED } else { pause };
        // Sooner when the peer connects to this node, or has another address.
        let _ = timeout(pause, link.back.notified()).await;
    }
}

/// One stream.
struct Session<'a> {
    inner: &'a Arc<Inner>,
    link: &'a Arc<Link>,
    address: &'a str,
}

impl Session<'_> {
    async fn run(self) -> Result<Infallible, StreamError> {
        let Self { inner, link, address } = self;
        let endpoint = inner.config.tls.endpoint(&link.name, address)?.connect_timeout(CONNECT);
        let mut client = ReplicationClient::new(endpoint.connect().await?)
            .max_decoding_message_size(limits::MESSAGE)
            .max_encoding_message_size(limits::MESSAGE);

        let (out, outgoing) = mpsc::channel(limits::OUTGOING);
        let hello = frames::hello(inner);
        let asked_with = frames::read_prefixes(hello.vector.as_ref())?;
        let hello = FollowerFrame { frame: Some(follower_frame::Frame::Hello(hello)) };
        out.send(hello).await.map_err(|_| StreamError::Closed)?;
        let stream = client.follow(ReceiverStream::new(outgoing));
        let mut stream = timeout(limits::SILENCE, stream).await.map_err(|_| StreamError::Silent)??.into_inner();
        let first = timeout(limits::SILENCE, stream.message()).await.map_err(|_| StreamError::Silent)??;
        let Some(SourceFrame { frame: Some(Frame::Welcome(welcome)) }) = first else {
            return Err(frames::bad("it does not begin with a welcome"));
        };
        let welcome = frames::read_welcome(inner, &link.name, &welcome)?;
        link.following.store(true, Relaxed);
        let Welcome { origin, vector, lacks_records, log_begins } = welcome;
        link.welcomed(origin);
        let newest = vector.get(origin);
        link.has_made(origin, newest);
        let (opened, begins) = (BootInstant::now(), log_begins.clone());
        link.set_source(Source { lacks_records, vector, sent_all: false, log_begins, opened });
        inner.filling.notify_one();
        inner.state_filling.notify_one();
        inner.lost_audio.ask_soon();
        info!(peer = %link.name, "stream from peer open");

        let (live, live_items) = mpsc::channel(limits::INCOMING);
        let (history, batches) = mpsc::channel(limits::INCOMING);
        let applier = Applier::new(inner.clone(), link.clone(), (origin, newest), live_items, batches, out);
        let reopen = async { Err::<Infallible, _>(state_fill::reopen(&inner.store, &begins, &asked_with).await) };
        let (never, ..) = tokio::try_join!(self.read(stream, origin, live, history), applier.run(), reopen)?;
        match never {}
    }

    /// Sorts received frames. Waits when the applier is behind, and so makes the source wait.
    async fn read(
        &self,
        mut stream: Streaming<SourceFrame>,
        origin: Origin,
        live: mpsc::Sender<Live>,
        history: mpsc::Sender<FromHistory>,
    ) -> Result<Infallible, StreamError> {
        let Self { inner, link, .. } = self;
        let recordings = inner.store.recordings();
        loop {
            let frame = stream.message().await?.ok_or(StreamError::Closed)?;
            link.received(frame.encoded_len(), BootInstant::now());
            match frame.frame {
                Some(Frame::Live(frame)) => {
                    let changes = frames::changes(inner, &link.name, frame.change)?;
                    live.send(Live::Changes(changes)).await.map_err(|_| StreamError::Closed)?;
                }
                Some(Frame::Probe(probe)) => {
                    frames::check_number(probe.head)?;
                    link.has_made(origin, probe.head);
                    // The peer has become a source meanwhile: request the changes that it has now.
                    let became = !probe.lacks_records && link.source().is_some_and(|source| source.lacks_records);
                    if became && frames::lacks_records(&inner.store) {
                        return Err(StreamError::BecameSource);
                    }
                    let probe = Live::Probe { number: probe.number, report: probe.report };
                    live.send(probe).await.map_err(|_| StreamError::Closed)?;
                }
                Some(Frame::History(frame)) => {
                    let changes = frames::changes(inner, &link.name, frame.change)?;
                    let batch = FromHistory { batch: frame.batch, changes, all: frame.all };
                    history.send(batch).await.map_err(|_| StreamError::Closed)?;
                }
                Some(Frame::Chunk(chunk)) => {
                    let ((id, take), offset, data) = frames::read_chunk(chunk)?;
                    // A refused chunk (no space, a slow disk) is replaced by the blob later.
                    if let Err(error) = recordings.insert(id, take, offset, data) {
                        debug!(recording = %id, take, %error, "live chunk refused");
                    }
                }
                Some(Frame::Discarded(discarded)) => {
                    let (id, take) = frames::read_take(&discarded.recording, discarded.take)?;
                    if let Err(error) = recordings.discard(id, take).await {
                        debug!(recording = %id, take, %error, "nothing to discard");
                    }
                }
                // A later release may send other frames; those that must be understood raise its protocol number.
                Some(Frame::Welcome(_)) | None => {}
            }
        }
    }
}
