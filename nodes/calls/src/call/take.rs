//! Recordings of a call: a message goes to the store, and so to the peers, during the recording. A greeting stays in
//! memory until its owner accepts it.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, watch};
use twinbox_conversation::RecordingEnd;
use twinbox_mailstore::{Audio, LiveRecording, Mailstore, RecordingMeta};
use twinbox_media::{ChunkSink, Codec};

use super::CallParts;
use crate::lock;

/// Maximum number of chunks buffered until the store is ready: 250 ms each, so 30 s.
const MAX_WAITING: usize = 120;
/// Maximum size of a greeting in memory, in bytes (ten minutes).
const MAX_GREETING: usize = 8_000 * 600;
/// Silence that stays after a greeting, in milliseconds.
const TAIL_MS: u64 = 300;
/// Shortest speech, in milliseconds: less is a click on the line.
const LEAST_SPEECH_MS: u64 = 300;

/// A recording of a call.
pub(super) struct Take {
    /// The media engine is recording.
    pub(super) running: bool,
    /// Part of the recording could not be stored.
    pub(super) broken: bool,
    /// Silence may end the recording.
    detects_silence: bool,
    kind: Kind,
    failed: mpsc::Receiver<()>,
}

enum Kind {
    Message(Started),
    Greeting(Arc<Memory>),
}

/// The recording in the store, once started there; inner `None` if that failed.
type Started = watch::Receiver<Option<Option<LiveRecording>>>;

impl Take {
    /// A take of a message. The store first makes its record durable; audio is buffered meanwhile.
    pub(super) fn message(
        parts: &CallParts,
        meta: RecordingMeta,
        detects_silence: bool,
    ) -> (Self, Arc<dyn ChunkSink>) {
        let (failed_sender, failed) = mpsc::channel(1);
        let (started_sender, started) = watch::channel(None);
        let sink = Arc::new(Live { state: Mutex::new(State::Waiting(Vec::new())), failed: failed_sender });
        let mailstore = parts.deps.mailstore.clone();
        parts.tasks.spawn(begin(mailstore, meta, sink.clone(), started_sender));
        (Self { running: true, broken: false, detects_silence, kind: Kind::Message(started), failed }, sink)
    }

    /// A take of a greeting.
    pub(super) fn greeting(codec: Codec, detects_silence: bool) -> (Self, Arc<dyn ChunkSink>) {
        let (failed_sender, failed) = mpsc::channel(1);
        let memory = Arc::new(Memory { codec, audio: Mutex::default(), failed: failed_sender });
        (
            Self { running: true, broken: false, detects_silence, kind: Kind::Greeting(memory.clone()), failed },
            memory,
        )
    }

    /// The message's recording in the store.
    pub(super) fn live(&self) -> BoxFuture<'static, Option<LiveRecording>> {
        match &self.kind {
            Kind::Message(started) => {
                let mut started = started.clone();
                async move { started.wait_for(Option::is_some).await.ok()?.clone().flatten() }.boxed()
            }
            Kind::Greeting(_) => async { None }.boxed(),
        }
    }

    /// The recorded audio, for playback or storage.
    pub(super) fn audio(&self) -> BoxFuture<'static, Option<Audio>> {
        match &self.kind {
            Kind::Message(_) => {
                let live = self.live();
                async move { live.await?.audio().await.ok() }.boxed()
            }
            Kind::Greeting(memory) => {
                let bytes = lock(&memory.audio).clone().freeze();
                let audio = Audio { codec: memory.codec, bytes };
                async move { Some(audio) }.boxed()
            }
        }
    }

    /// Whether the audio so far is stored completely; waits for pending writes.
    pub(super) fn whole(&mut self) -> BoxFuture<'static, bool> {
        self.broken |= self.failed.try_recv().is_ok();
        let (broken, live) = (self.broken, self.live());
        match &self.kind {
            Kind::Message(_) => async move {
                let Some(live) = live.await else { return false };
                if broken {
                    live.mark_cut();
                }
                live.whole().await
            }
            .boxed(),
            Kind::Greeting(_) => std::future::ready(!broken).boxed(),
        }
    }

    /// Recorded length, in milliseconds.
    pub(super) fn length_ms(&self) -> u64 {
        match &self.kind {
            Kind::Message(started) => started.borrow().iter().flatten().map(LiveRecording::length_ms).sum(),
            Kind::Greeting(memory) => lock(&memory.audio).len() as u64 / u64::from(twinbox_rtp::SAMPLES_PER_MS),
        }
    }

    /// Ends the take. The result is the length that counts, in milliseconds.
    ///
    /// A greeting is cut off shortly behind the speech: each caller would wait through the silence. A message stays whole, and
    /// silence at its end counts, unless it ended the recording or nothing was said: a caller who says nothing and hangs up
    /// leaves no message. On a line on which silence is not to be detected, it is part of everything.
    pub(super) fn end(&mut self, end: RecordingEnd, recorded_ms: u64, silence_ms: u64) -> u64 {
        self.running = false;
        if !self.detects_silence {
            return recorded_ms;
        }
        let speech_ms = recorded_ms.saturating_sub(silence_ms);
        match &self.kind {
            Kind::Greeting(memory) => {
                let kept = speech_ms.saturating_add(TAIL_MS) * u64::from(twinbox_rtp::SAMPLES_PER_MS);
                lock(&memory.audio).truncate(usize::try_from(kept).unwrap_or(usize::MAX));
                speech_ms
            }
            Kind::Message(_) if end == RecordingEnd::Silence || speech_ms < LEAST_SPEECH_MS => speech_ms,
            Kind::Message(_) => recorded_ms,
        }
    }

    /// Discards the recording, also in the store.
    pub(super) async fn discard(self) {
        if let Some(live) = self.live().await
            && let Err(error) = live.discard().await
        {
            tracing::warn!(%error, "discarded recording cannot be deleted");
        }
    }
}

/// Waits until a part of the recording cannot be stored.
pub(super) async fn failed(take: &mut Option<Take>) -> Option<()> {
    match take {
        Some(take) if !take.broken => take.failed.recv().await,
        _ => std::future::pending().await,
    }
}

async fn begin(
    mailstore: Mailstore,
    meta: RecordingMeta,
    sink: Arc<Live>,
    started: watch::Sender<Option<Option<LiveRecording>>>,
) {
    let live = match mailstore.begin_recording(meta).await {
        Ok(live) => {
            let mut state = lock(&sink.state);
            let waiting = std::mem::replace(&mut *state, State::Live(live.clone()));
            if let State::Waiting(chunks) = waiting {
                for (offset, bytes) in chunks {
                    if live.append(offset, bytes).is_err() {
                        let _ = sink.failed.try_send(());
                        break;
                    }
                }
            }
            Some(live)
        }
        Err(error) => {
            tracing::error!(%error, "recording cannot start: the store refused it");
            *lock(&sink.state) = State::Failed;
            let _ = sink.failed.try_send(());
            None
        }
    };
    let _ = started.send(Some(live));
}

struct Live {
    state: Mutex<State>,
    failed: mpsc::Sender<()>,
}

enum State {
    Waiting(Vec<(u64, Bytes)>),
    Live(LiveRecording),
    Failed,
}

impl ChunkSink for Live {
    fn chunk(&self, offset: u64, bytes: Bytes) {
        let mut state = lock(&self.state);
        let stored = match &mut *state {
            State::Waiting(chunks) if chunks.len() < MAX_WAITING => {
                chunks.push((offset, bytes));
                true
            }
            State::Waiting(_) => false,
            State::Live(live) => live.append(offset, bytes).is_ok(),
            State::Failed => true,
        };
        if !stored {
            let _ = self.failed.try_send(());
        }
    }
}

struct Memory {
    codec: Codec,
    audio: Mutex<BytesMut>,
    failed: mpsc::Sender<()>,
}

impl ChunkSink for Memory {
    fn chunk(&self, _: u64, bytes: Bytes) {
        let mut audio = lock(&self.audio);
        if audio.len() + bytes.len() > MAX_GREETING {
            let _ = self.failed.try_send(());
        } else {
            audio.extend_from_slice(&bytes);
        }
    }
}
