//! One call: one task that owns its dialog, media session and conversation, and handles their events. Calls share only
//! their [`CallParts`].

mod answer;
mod in_dialog;
mod keys;
mod parts;
mod perform;
mod reason;
mod refresh;
mod self_test;
mod store_queries;
mod take;
mod transfer;

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::{Sleep, sleep},
};
use tracing::Instrument;
use twinbox_clock::{BootInstant, wall};
use twinbox_conversation::{Conversation, Input as ConversationInput, RecordingEnd};
use twinbox_ids::CallId;
use twinbox_mailstore::CallNote;
use twinbox_media::{Clip, MediaEvent, Session, StopCause};
use twinbox_overload::admission::CallPermit;
use twinbox_sip::{
    Method, Request, Response,
    dialog::Dialog,
    identity::Caller,
    sdp::{Local, Stream},
    session::Timer,
    transaction::ServerId,
};
use twinbox_sip_transport::Flow;

use crate::{
    access::{IncomingRequest, Trunk},
    lock,
    outgoing::RequestTerms,
    stats::count,
    transactions::SendError,
};
use keys::{KeyPath, Keys};
use parts::CallEntries;
pub(crate) use parts::CallParts;
use reason::Reason;
use refresh::Refresh;
use store_queries::{Answered, Codecs};
use take::Take;
use transfer::Transfer;

/// Maximum number of pending inputs of a call.
const INBOX: usize = 32;
const MEDIA_INBOX: usize = 64;
/// Timeout of filing after the end of a call. After it the recording stays on disk and is filed at the next start.
const FILING_TIMEOUT: Duration = Duration::from_secs(120);
/// Timeout for the media engine to stop a recording. After it the stored part is filed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Event of the SIP layer for a call.
pub(crate) enum Input {
    /// A request within the call's dialog. Boxed, as the other one: the inbox has the room for 32 of them from the beginning.
    Request(Box<IncomingRequest>),
    /// The `2xx` to an INVITE was acknowledged.
    Acknowledged(Box<Request>),
    /// The `2xx` to an INVITE was never acknowledged.
    Unacknowledged,
    /// The INVITE was cancelled.
    Cancelled,
    /// The SIP server closes.
    Shutdown,
    /// The node is out of service, and the time for calls to end normally is over.
    DrainTimeout,
}

/// A one-shot timer that may be off.
type Timeout = Option<Pin<Box<Sleep>>>;

/// Starts the task of a new call; without a permit it is a self-test call.
pub(crate) fn start(parts: &Arc<CallParts>, invite: IncomingRequest, permit: Option<CallPermit>) {
    let (sender, inputs) = mpsc::channel(INBOX);
    parts.dialogs.begin(&invite, sender.clone());
    match permit {
        Some(permit) => parts.tasks.spawn(run(parts.clone(), invite, permit, sender, inputs)),
        None => parts.tasks.spawn(self_test::run(parts.clone(), invite, sender, inputs)),
    };
}

/// Runs a call from its INVITE to its end.
async fn run(
    parts: Arc<CallParts>,
    invite: IncomingRequest,
    permit: CallPermit,
    sender: Sender<Input>,
    inputs: Receiver<Input>,
) {
    let id = CallId::random();
    let span = tracing::info_span!("call", node = %parts.deps.node, call = %id);
    let mut entries = CallEntries::new(&parts.dialogs, &invite, Some(permit));
    async {
        if let Some(mut call) = answer::begin(&parts, id, invite, sender, inputs, &mut entries.dialog).await {
            call.converse().await;
            call.end();
            answer_late(&parts, &mut call.inputs);
            count(&parts.stats.calls_ended);
            tracing::info!("call ended");
        }
    }
    .instrument(span)
    .await;
}

/// Answers requests still pending for a call that has ended.
fn answer_late(parts: &Arc<CallParts>, inputs: &mut Receiver<Input>) {
    inputs.close();
    while let Ok(input) = inputs.try_recv() {
        if let Input::Request(incoming) = input {
            parts.respond(&incoming.id, too_late(&incoming.request));
        }
    }
}

/// The answer to a request for a call that has ended: the dialog does not exist, which is what a BYE requests.
pub(crate) fn too_late(request: &Request) -> Response {
    request.respond(if request.method == Method::Bye { 200 } else { 481 })
}

struct Call {
    parts: Arc<CallParts>,
    id: CallId,
    trunk: Arc<Trunk>,
    caller: Caller,
    /// Becomes the record of the call when the call is dropped.
    note: CallNote,
    flow: Flow,
    /// Shared with pending requests of this side: a challenge takes another number.
    dialog: Arc<Mutex<Dialog>>,
    /// The ACK of the latest `200` to an INVITE has arrived, or will not arrive: a BYE may be sent.
    confirmed: bool,
    inputs: Receiver<Input>,
    media: Session,
    events: Receiver<MediaEvent>,
    /// The media thread has died: no more media events.
    media_dead: bool,
    local: Local,
    stream: Option<Stream>,
    /// Remote RTP host of the last negotiation.
    media_host: Option<IpAddr>,
    /// Latest local description.
    described: String,
    /// An offer was sent in a `2xx`; its answer comes with the ACK.
    answer_due: bool,
    /// The answer must not move media to another host: no trunk requested the offer.
    answer_stays: bool,
    session: Option<Timer>,
    /// Time of the next session refresh, if this side refreshes.
    refresh_due: Timeout,
    /// Time at which a session without a refresh ends.
    session_due: Timeout,
    /// The caller's minimum interval, after a refresh was refused as too short (`422`).
    session_min: Option<u32>,
    /// The caller supports UPDATE.
    allows_update: bool,
    /// The caller does not listen, after it did, or names the null address: it has put the call on hold.
    held: bool,
    /// Set while the call is on hold: time at which the call ends.
    hold_due: Timeout,
    keys: Keys,
    /// Keys that arrived before the ACK, in their order; the conversation gets them when it starts.
    early_keys: Vec<char>,
    conversation: Option<Conversation>,
    /// Start parameters of the conversation, until the ACK arrives.
    start: Option<Box<twinbox_conversation::Start>>,
    timer: Timeout,
    plays: u64,
    /// Clips being loaded for the next play.
    loading: Option<BoxFuture<'static, Vec<Clip>>>,
    take: Option<Take>,
    /// Set while the media engine has not confirmed the end of a recording.
    stop_due: Timeout,
    /// Set after a recording has ended, while its storage is checked, before the conversation is notified.
    ending: Option<BoxFuture<'static, ConversationInput>>,
    codecs: Codecs,
    question: Option<BoxFuture<'static, Answered>>,
    transfer: Option<Transfer>,
    /// Pending session refresh.
    refresh: Option<Refresh>,
    bye: Option<Bye>,
    bye_due: Timeout,
    ack_due: Timeout,
    /// The caller's message was not filed, or not completely.
    not_filed: bool,
    /// The peer knows that the call is over, or must not be notified: no BYE is sent.
    over: bool,
    /// Reason of the BYE.
    reason: Reason,
    /// The call ends before its conversation started.
    ended_before_start: bool,
}

/// The caller's BYE, waiting for its answer (rule A1).
struct Bye {
    id: ServerId,
    request: Request,
    at: BootInstant,
    answered: bool,
}

impl Call {
    /// Handles events until the conversation has ended.
    async fn converse(&mut self) {
        while !self.finished() {
            tokio::select! {
                biased;
                input = self.inputs.recv() => match input {
                    Some(input) => self.handle_input(input),
                    None => self.stopped(),
                },
                event = self.events.recv(), if !self.media_dead => match event {
                    Some(event) => self.media_event(event),
                    None => self.media_lost(),
                },
                input = done(&mut self.ending) => self.advance(input),
                answered = done(&mut self.question) => self.answered(answered),
                clips = done(&mut self.loading) => self.loaded(clips),
                outcome = refresh::refreshed(&mut self.refresh) => self.refresh_answered(outcome),
                event = transfer::next_event(&mut self.transfer) => self.transfer_event(event),
                () = fired(&mut self.timer) => self.advance(ConversationInput::TimerFired),
                () = fired(&mut self.refresh_due) => self.refresh_session(),
                () = fired(&mut self.session_due) => self.session_expired(),
                () = fired(&mut self.hold_due) => self.held_too_long(),
                () = fired(&mut self.bye_due) => self.bye_overdue(),
                () = fired(&mut self.ack_due), if !self.confirmed => self.handle_input(Input::Unacknowledged),
                () = self.parts.stop.cancelled(), if !self.confirmed => self.stopped(),
                () = fired(&mut self.stop_due) => self.record_cut_off(),
                Some(()) = take::failed(&mut self.take) => self.take_failed(),
            }
        }
    }

    /// Whether the call is done and no work is pending. A BYE waits for the ACK or its timeout (RFC 3261 section 15).
    fn finished(&self) -> bool {
        self.conversation_over() && (self.confirmed || self.over)
    }

    /// Whether the conversation is over.
    fn conversation_over(&self) -> bool {
        match &self.conversation {
            Some(conversation) => conversation.ended(),
            None => self.ended_before_start,
        }
    }

    fn handle_input(&mut self, input: Input) {
        match input {
            Input::Request(incoming) => self.handle_request(*incoming),
            Input::Acknowledged(ack) => self.acknowledged(&ack),
            Input::Unacknowledged => {
                count(&self.parts.stats.calls_unacknowledged);
                tracing::info!("the 200 was not acknowledged; the call ends");
                self.confirmed = true;
                self.hang_up(Reason::NoAck);
            }
            // Too late: the INVITE is already answered.
            Input::Cancelled => {}
            Input::Shutdown | Input::DrainTimeout => self.hang_up(Reason::OutOfService),
        }
    }

    fn media_event(&mut self, event: MediaEvent) {
        match event {
            MediaEvent::Digit(digit) => self.key_pressed(KeyPath::Rtp, digit),
            MediaEvent::PlayFinished(id) if id == self.plays => self.advance(ConversationInput::PlayFinished),
            MediaEvent::PlayFinished(_) => {}
            MediaEvent::RecordStopped { cause, length_bytes, trailing_silence_ms, .. } => {
                let recorded_ms = length_bytes / u64::from(twinbox_rtp::SAMPLES_PER_MS);
                let end = match cause {
                    StopCause::Stopped => RecordingEnd::Stopped,
                    StopCause::Silence => RecordingEnd::Silence,
                    StopCause::Limit => RecordingEnd::Limit,
                };
                self.recorded(end, recorded_ms, trailing_silence_ms);
            }
            // The PBX may take the caller from here while the operator's telephone rings; the conversation bounds that time.
            MediaEvent::MediaTimeout if self.transfer.is_some() => {}
            MediaEvent::MediaTimeout => {
                count(&self.parts.stats.callers_vanished);
                tracing::info!("no media from the caller; the call ends");
                self.hang_up(Reason::NoMedia);
            }
        }
    }

    /// Handles a key.
    fn key_pressed(&mut self, path: KeyPath, key: char) {
        let stats = &self.parts.stats;
        if !self.keys.is_new(path, key, self.parts.deps.clock.now()) {
            return count(&stats.digits_repeated);
        }
        count(match path {
            KeyPath::Rtp => &stats.digits_rtp,
            KeyPath::Info => &stats.digits_info,
        });
        if self.conversation.is_none() && self.early_keys.len() < keys::MAX_KEYS {
            return self.early_keys.push(key);
        }
        self.advance(ConversationInput::Digit(key));
    }

    /// Passes an input to the conversation and executes its outputs.
    fn advance(&mut self, input: ConversationInput) {
        if let Some(conversation) = &mut self.conversation {
            self.note.note_input(&input);
            let outputs = conversation.handle(input, wall());
            self.perform(outputs);
        }
    }

    fn answered(&mut self, answered: Answered) {
        self.codecs.extend(answered.codecs);
        self.not_filed |= answered.not_filed;
        self.advance(ConversationInput::Answer(answered.answer));
    }

    /// Part of the recording cannot be stored: stops the recording.
    fn take_failed(&mut self) {
        let Some(take) = &mut self.take else { return };
        take.broken = true;
        tracing::warn!("recording stopped: it cannot be stored");
        if take.running {
            self.stop_record();
        }
    }

    fn stop_record(&mut self) {
        self.media.stop_record();
        if self.take.as_ref().is_some_and(|take| take.running) {
            self.stop_due = after(STOP_TIMEOUT);
        }
    }

    /// A recording has ended, with this length and this much silence at its end. If the disk lost a part, the caller must not
    /// hear that the message is saved.
    fn recorded(&mut self, end: RecordingEnd, recorded_ms: u64, silence_ms: u64) {
        self.stop_due = None;
        let Some(take) = self.take.as_mut().filter(|take| take.running) else { return };
        let length_ms = take.end(end, recorded_ms, silence_ms);
        let whole = take.whole();
        self.ending = Some(Box::pin(async move {
            let end = if whole.await { end } else { RecordingEnd::Failed };
            ConversationInput::RecordingEnded { end, length_ms }
        }));
    }

    /// The media engine does not confirm the end of a recording: the part received so far is all there is.
    fn record_cut_off(&mut self) {
        let Some(take) = self.take.as_mut().filter(|take| take.running) else { return };
        take.broken = true;
        let length_ms = take.length_ms();
        tracing::error!(length_ms, "media engine did not confirm the end of a recording");
        self.recorded(RecordingEnd::Failed, length_ms, 0);
    }

    /// The media thread has died, and the call's session with it.
    fn media_lost(&mut self) {
        self.media_dead = true;
        tracing::error!("media thread failed; the call ends");
        self.hang_up(Reason::Broken);
        self.record_cut_off();
    }

    /// The hold has lasted too long: the caller, or the PBX, has forgotten the call.
    fn held_too_long(&mut self) {
        count(&self.parts.stats.calls_held_too_long);
        tracing::info!("call was on hold for too long; it ends");
        self.hang_up(Reason::HeldTooLong);
    }

    /// Ends the call from this side.
    fn hang_up(&mut self, reason: Reason) {
        if self.conversation_over() {
            return;
        }
        self.reason = reason;
        self.note.ends(reason != Reason::Done);
        if self.conversation.is_some() {
            self.advance(ConversationInput::HungUp);
        } else {
            self.ended_before_start = true;
        }
    }

    /// Sends a request within the dialog; acknowledges an accepted INVITE.
    fn send(&self, mut request: Request) -> impl Future<Output = Result<Response, SendError>> + Send + use<> {
        let (parts, trunk, near) = (self.parts.clone(), self.trunk.clone(), self.flow.clone());
        let dialog = self.dialog.clone();
        async move {
            let hop = lock(&dialog).next_hop().to_owned();
            let flow = parts.outgoing.route(&hop, Some(&near)).await?;
            if request.method != Method::Bye {
                request.headers.push("Contact", parts.outgoing.contact(&flow));
            }
            let credentials = trunk.credentials_for(&flow);
            let mut renumber = |request: &mut Request| lock(&dialog).renumber(request);
            let terms = RequestTerms { credentials, ..RequestTerms::default() };
            let sent = parts.outgoing.send_request(request, &flow, terms, &mut renumber).await?;
            if sent.response.is_success() {
                lock(&dialog).retarget(&sent.request.method, &sent.response.headers, true);
                if sent.request.method == Method::Invite {
                    let (ack, hop) = {
                        let dialog = lock(&dialog);
                        (dialog.acknowledge(&sent.request), dialog.next_hop().to_owned())
                    };
                    let flow = parts.outgoing.route(&hop, Some(&near)).await?;
                    parts.transactions.acknowledge(sent.id, ack, &flow);
                }
            }
            Ok(sent.response)
        }
    }

    /// Ends the call: answers the caller's BYE or sends one. Pending storage runs to its end.
    fn end(&mut self) {
        if let Some(bye) = self.bye.take() {
            if !bye.answered {
                if self.not_filed {
                    count(&self.parts.stats.byes_unacknowledged);
                }
                let code = if self.not_filed { 500 } else { 200 };
                self.parts.stats.bye_time.record(self.parts.since(bye.at));
                self.parts.respond(&bye.id, bye.request.respond(code));
            }
        } else if !self.over {
            let mut bye = lock(&self.dialog).request(Method::Bye);
            bye.headers.push("Reason", self.reason.header());
            let sending = self.send(bye);
            // A closed server cancels this task: its sockets may be needed immediately.
            self.parts.pending_byes.spawn(self.parts.stop.clone().run_until_cancelled_owned(async move {
                if let Err(error) = sending.await {
                    tracing::info!(%error, "BYE not answered by the peer");
                }
            }));
        }
        if let Some(refresh) = self.refresh.take() {
            // The answer to a pending INVITE must still be acknowledged.
            self.parts.pending_byes.spawn(self.parts.stop.clone().run_until_cancelled_owned(refresh.sending));
        }
        if let Some(question) = self.question.take() {
            self.parts.tasks.spawn(tokio::time::timeout(FILING_TIMEOUT, question));
        }
    }
}

/// The value of an optional future; without one, waits forever.
async fn done<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => {
            let value = future.await;
            *slot = None;
            value
        }
        None => std::future::pending().await,
    }
}

async fn fired(timeout: &mut Timeout) {
    match timeout {
        Some(sleeping) => {
            sleeping.as_mut().await;
            *timeout = None;
        }
        None => std::future::pending().await,
    }
}

fn after(duration: Duration) -> Timeout {
    Some(Box::pin(sleep(duration)))
}

fn channel() -> (mpsc::Sender<MediaEvent>, mpsc::Receiver<MediaEvent>) {
    mpsc::channel(MEDIA_INBOX)
}
