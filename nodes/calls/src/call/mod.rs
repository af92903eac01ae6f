//! One call: one task that owns its dialog, its media session and its conversation, and waits for whichever has
//! something to say. Nothing is shared with any other call but the door.

mod answer;
mod inside;
mod perform;
mod questions;
pub(crate) mod self_test;
mod take;
mod transfer;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::{Sleep, sleep},
};
use tracing::Instrument;
use twinbox_clock::{BootInstant, wall};
use twinbox_conversation::{Conversation, Input as Heard, RecordingEnd};
use twinbox_ids::CallId;
use twinbox_media::{Clip, MediaEvent, Session, StopCause};
use twinbox_sip::{
    Method, Request, Response,
    dialog::Dialog,
    identity::Caller,
    sdp::{Local, Stream},
    session::{Refresher, Timer},
    transaction::ServerId,
};

use crate::{
    access::Trunk,
    admission::Place,
    door::{Arrival, DialogKey, Door, MergeKey},
    outgoing::SendError,
    stats::count,
    wire::Flow,
};
use questions::{Answered, Codecs};
use take::Take;
use transfer::Transfer;

/// What may wait for a call at once.
pub(crate) const INBOX: usize = 32;
const MEDIA_INBOX: usize = 64;
/// A filing that takes longer is left to itself: the recording is on disk and is filed at the next start.
const FILING_AT_MOST: Duration = Duration::from_secs(120);
/// A recording that was told to stop and has not by then never will: what is stored of it is all there is.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// What SIP tells a call.
pub(crate) enum Input {
    /// A request within its dialog.
    Request(Arrival),
    /// Its `2xx` to an INVITE was acknowledged.
    Acknowledged(Request),
    /// It never was.
    Unacknowledged,
    /// The INVITE was cancelled.
    Cancelled,
    /// The door closes.
    Shutdown,
    /// The node is out of service, and calls have had their time to end by themselves.
    TimeIsUp,
}

/// Why we hang up on a caller who would have gone on (RFC 3326).
const OUT_OF_SERVICE: &str = "SIP;cause=503;text=\"Out of service\"";

/// A one-shot timer that may be off.
type Timeout = Option<Pin<Box<Sleep>>>;

/// Runs a call from its INVITE to its end.
pub(crate) async fn run(
    door: Arc<Door>,
    invite: Arrival,
    place: Place,
    sender: Sender<Input>,
    inputs: Receiver<Input>,
) {
    let id = CallId::random();
    let span = tracing::info_span!("call", node = %door.deps.node, call = %id);
    let mut traces = Traces::new(&door, &invite, Some(place));
    async {
        if let Some(mut call) = answer::begin(&door, id, invite, sender, inputs, &mut traces.dialog).await {
            call.converse().await;
            call.end();
            count(&door.stats.calls_ended);
            tracing::info!("call ended");
        }
    }
    .instrument(span)
    .await;
}

/// What the door keeps for a call: gone when the call is, however it ends.
struct Traces {
    door: Arc<Door>,
    invite: ServerId,
    merge: MergeKey,
    dialog: Option<DialogKey>,
    #[expect(dead_code, reason = "given back when it is dropped")]
    place: Option<Place>,
}

impl Traces {
    fn new(door: &Arc<Door>, invite: &Arrival, place: Option<Place>) -> Self {
        let merge = crate::door::merge_key(&invite.request);
        Self { door: door.clone(), invite: invite.id.clone(), merge, dialog: None, place }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.door.close_call(self.dialog.as_ref(), &self.invite, &self.merge);
    }
}

struct Call {
    door: Arc<Door>,
    id: CallId,
    trunk: Arc<Trunk>,
    caller: Caller,
    flow: Flow,
    dialog: Dialog,
    inputs: Receiver<Input>,
    media: Session,
    events: Receiver<MediaEvent>,
    /// The media thread has died: nothing more is heard or said.
    deaf: bool,
    local: Local,
    stream: Option<Stream>,
    /// Our offer went out in a `2xx`; its answer comes with the ACK.
    answer_due: bool,
    session: Option<Timer>,
    session_due: Timeout,
    conversation: Option<Conversation>,
    /// How the conversation begins once the call is acknowledged.
    start: Option<Box<twinbox_conversation::Start>>,
    timer: Timeout,
    plays: u64,
    /// What is being fetched to be played.
    loading: Option<BoxFuture<'static, Vec<Clip>>>,
    take: Option<Take>,
    /// The media engine was told to stop recording, and has not said that it has.
    stop_due: Timeout,
    /// The recording is over; whether all of it is stored is being found out, before the conversation is told.
    ending: Option<BoxFuture<'static, Heard>>,
    codecs: Codecs,
    question: Option<BoxFuture<'static, Answered>>,
    transfer: Option<Transfer>,
    /// A refresh of the session on its way.
    refresh: Option<BoxFuture<'static, Result<Response, SendError>>>,
    bye: Option<Bye>,
    bye_due: Timeout,
    /// The message that the caller left could not be filed, or not all of it.
    not_filed: bool,
    /// The peer knows that the call is over, or is not to be told: no BYE of ours.
    over: bool,
    /// Why our BYE goes out, where the caller could wonder.
    reason: Option<&'static str>,
    /// It ends before there was a conversation.
    stillborn: bool,
}

/// The caller hung up and waits for our answer (rule A1).
struct Bye {
    id: ServerId,
    request: Request,
    at: BootInstant,
    answered: bool,
}

impl Call {
    /// Until the conversation has ended.
    async fn converse(&mut self) {
        while !self.finished() {
            tokio::select! {
                biased;
                input = self.inputs.recv() => match input {
                    Some(input) => self.told(input),
                    None => self.hang_up(),
                },
                event = self.events.recv(), if !self.deaf => match event {
                    Some(event) => self.media_event(event),
                    None => self.media_lost(),
                },
                heard = done(&mut self.ending) => self.hear(heard),
                answered = done(&mut self.question) => self.answered(answered),
                clips = done(&mut self.loading) => self.play_now(clips),
                outcome = done(&mut self.refresh) => self.refreshed(outcome),
                outcome = transfer::referred(&mut self.transfer) => self.referred(outcome),
                () = fired(&mut self.timer) => self.hear(Heard::TimerFired),
                () = fired(&mut self.session_due) => self.session_ran_out(),
                () = fired(&mut self.bye_due) => self.bye_overdue(),
                () = fired(&mut self.stop_due) => self.record_cut_off(),
                Some(()) = take::failed(&mut self.take) => self.take_failed(),
            }
        }
    }

    /// There is nothing more to do: the conversation is over, and nobody waits for what is still in work.
    fn finished(&self) -> bool {
        match &self.conversation {
            Some(conversation) => conversation.ended(),
            None => self.stillborn,
        }
    }

    fn told(&mut self, input: Input) {
        match input {
            Input::Request(arrival) => self.request(arrival),
            Input::Acknowledged(ack) => self.acknowledged(&ack),
            Input::Unacknowledged => {
                count(&self.door.stats.calls_unacknowledged);
                tracing::info!("the answer was never acknowledged");
                self.hang_up();
            }
            // Too late: it is answered.
            Input::Cancelled => {}
            Input::Shutdown | Input::TimeIsUp => {
                self.reason = Some(OUT_OF_SERVICE);
                self.hang_up();
            }
        }
    }

    fn media_event(&mut self, event: MediaEvent) {
        match event {
            MediaEvent::Digit(digit) => {
                count(&self.door.stats.digits_rtp);
                self.hear(Heard::Digit(digit));
            }
            MediaEvent::PlayFinished(id) if id == self.plays => self.hear(Heard::PlayFinished),
            MediaEvent::PlayFinished(_) => {}
            MediaEvent::RecordStopped { cause, length_bytes, trailing_silence_ms, .. } => {
                let silence = if cause == StopCause::Silence { trailing_silence_ms } else { 0 };
                let length_ms = (length_bytes / u64::from(twinbox_rtp::SAMPLES_PER_MS)).saturating_sub(silence);
                let end = match cause {
                    StopCause::Stopped => RecordingEnd::Stopped,
                    StopCause::Silence => RecordingEnd::Silence,
                    StopCause::Limit => RecordingEnd::Limit,
                };
                self.recorded(end, length_ms);
            }
            MediaEvent::MediaTimeout => {
                count(&self.door.stats.callers_vanished);
                tracing::info!("nothing is heard of the caller any more");
                self.hang_up();
            }
        }
    }

    /// Tells the conversation something and does what it says.
    fn hear(&mut self, heard: Heard) {
        if let Some(conversation) = &mut self.conversation {
            let outputs = conversation.handle(heard, wall());
            self.perform(outputs);
        }
    }

    fn answered(&mut self, answered: Answered) {
        self.codecs.extend(answered.codecs);
        self.not_filed |= answered.not_filed;
        self.hear(Heard::Answer(answered.answer));
    }

    /// Some of what is said cannot be stored: better to stop than to go on as if.
    fn take_failed(&mut self) {
        let Some(take) = &mut self.take else { return };
        take.broken = true;
        tracing::warn!("the recording cannot be stored and is stopped");
        if take.running {
            self.stop_record();
        }
    }

    fn stop_record(&mut self) {
        self.media.stop_record();
        if self.take.as_ref().is_some_and(|take| take.running) {
            self.stop_due = after(STOPS_WITHIN);
        }
    }

    /// A recording is over. A caller whose words the disk lost must not hear that they are kept.
    fn recorded(&mut self, end: RecordingEnd, length_ms: u64) {
        self.stop_due = None;
        let Some(take) = self.take.as_mut().filter(|take| take.running) else { return };
        take.running = false;
        let whole = take.whole();
        self.ending = Some(Box::pin(async move {
            let end = if whole.await { end } else { RecordingEnd::Failed };
            Heard::RecordingEnded { end, length_ms }
        }));
    }

    /// The media engine does not say that a recording has ended: what was taken is all there is.
    fn record_cut_off(&mut self) {
        let Some(take) = self.take.as_mut().filter(|take| take.running) else { return };
        take.broken = true;
        let length_ms = take.length_ms();
        tracing::error!(length_ms, "the media engine does not end a recording");
        self.recorded(RecordingEnd::Failed, length_ms);
    }

    /// The media thread has died, and our line with it.
    fn media_lost(&mut self) {
        self.deaf = true;
        tracing::error!("the media of this call is gone");
        self.hang_up();
        self.record_cut_off();
    }

    /// We end the call.
    fn hang_up(&mut self) {
        if self.conversation.is_some() {
            self.hear(Heard::HungUp);
        } else {
            self.stillborn = true;
        }
    }

    /// The caller hung up while we still had to store what was said.
    fn bye_overdue(&mut self) {
        let Some(bye) = &mut self.bye else { return };
        if std::mem::replace(&mut bye.answered, true) {
            return;
        }
        count(&self.door.stats.byes_unacknowledged);
        tracing::warn!("the message is not stored in time: BYE is answered 500, filing goes on");
        self.door.stats.bye_time.record(bye.at.elapsed());
        self.door.respond(&bye.id, bye.request.respond(500));
    }

    /// The caller stopped refreshing, or it is our turn to.
    fn session_ran_out(&mut self) {
        let Some(timer) = self.session else { return };
        match timer.refresher {
            Refresher::Us => self.refresh_session(timer),
            Refresher::Caller => {
                count(&self.door.stats.callers_vanished);
                tracing::info!("the session was not refreshed");
                self.hang_up();
            }
        }
    }

    fn refresh_session(&mut self, timer: Timer) {
        let mut update = self.dialog.request(Method::Update);
        update.headers.push("Session-Expires", format!("{};refresher=uac", timer.interval));
        update.headers.push("Supported", "timer");
        self.refresh = Some(Box::pin(self.send(update)));
        self.session_due = after(Duration::from_secs(u64::from(timer.due())));
    }

    fn refreshed(&mut self, outcome: Result<Response, SendError>) {
        match outcome {
            // Rule C5: whoever does not know the dialog gets no BYE for it.
            Ok(response) if matches!(response.code, 481 | 408) => {
                self.over = true;
                self.hang_up();
            }
            Err(SendError::TimedOut) => self.hang_up(),
            _ => {}
        }
    }

    /// Sends a request within the dialog.
    fn send(&self, mut request: Request) -> impl Future<Output = Result<Response, SendError>> + Send + use<> {
        let (door, trunk, near) = (self.door.clone(), self.trunk.clone(), self.flow.clone());
        let hop = self.dialog.next_hop().to_owned();
        let mut dialog = self.dialog.clone();
        async move {
            let flow = door.route(&hop, Some(&near)).await?;
            if request.method != Method::Bye {
                request.headers.push("Contact", door.contact(&flow));
            }
            let credentials = trunk.credentials_for(&flow);
            door.send_request(request, &flow, credentials, None, &mut |r| dialog.renumber(r)).await
        }
    }

    /// The end: answers the caller's BYE or sends ours. What is still being stored is stored to the end.
    fn end(&mut self) {
        if let Some(bye) = self.bye.take() {
            if !bye.answered {
                if self.not_filed {
                    count(&self.door.stats.byes_unacknowledged);
                }
                let code = if self.not_filed { 500 } else { 200 };
                self.door.stats.bye_time.record(bye.at.elapsed());
                self.door.respond(&bye.id, bye.request.respond(code));
            }
        } else if !self.over {
            let mut bye = self.dialog.request(Method::Bye);
            if let Some(reason) = self.reason {
                bye.headers.push("Reason", reason);
            }
            let sending = self.send(bye);
            // A door that is shut is held open by nothing: its sockets may be wanted at once.
            self.door.farewells.spawn(self.door.stop.clone().run_until_cancelled_owned(async move {
                if let Err(error) = sending.await {
                    tracing::info!(%error, "our BYE was not answered");
                }
            }));
        }
        if let Some(question) = self.question.take() {
            self.door.tasks.spawn(tokio::time::timeout(FILING_AT_MOST, question));
        }
    }
}

/// The value of a future that may not be there; then never.
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
