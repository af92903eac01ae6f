//! Calls: from the INVITE to the BYE.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use twinbox_clock::BootInstant;
use twinbox_rtp::{Codec, SAMPLES_PER_MS, dtmf, g711::mean_magnitude, recorder::SILENCE_BELOW};
use twinbox_sip::{Method, Request, Response, sdp::Stream};

use crate::{
    Answer, CallError, CallOptions, CallStats, Digits, Direction, Ended, Handle, Offer, Target,
    api::list,
    core::{ALLOW, Arrived, Core, LegKey, Registration},
    exchange::{self, Exchange, answer_challenge},
    leg::{Leg, ack_refusal},
    line::{Far, Line},
    sdp::{self, Description},
    wire::Flow,
};

const SDP: &str = "application/sdp";

/// Timeout for the answer to a cancelled INVITE.
const AFTER_CANCEL: Duration = Duration::from_secs(32);

/// A pending INVITE: acknowledges refusals and answers challenges automatically.
struct Invite {
    core: Arc<Core>,
    request: Request,
    exchange: Exchange,
    auth: Option<(String, String)>,
}

impl Invite {
    async fn start(core: Arc<Core>, mut request: Request, flow: Flow, auth: Option<(String, String)>) -> Self {
        let exchange = Exchange::start(&core, &mut request, flow).await;
        Self { core, request, exchange, auth }
    }

    /// The next response; hides a challenge that can be answered.
    async fn next(&mut self) -> Option<Arrived<Response>> {
        loop {
            let response = self.exchange.next().await?;
            if response.message.is_provisional() || response.message.is_success() {
                return Some(response);
            }
            let (branch, flow) = (self.exchange.branch().to_owned(), self.exchange.flow.clone());
            let ack = ack_refusal(&self.request, &response.message).to_bytes();
            self.core.acknowledge(&branch, ack, flow.clone()).await;
            let core = Arc::downgrade(&self.core);
            tokio::spawn(async move {
                // For the time in which the refusal can be retransmitted (timer D).
                tokio::time::sleep(Duration::from_secs(32)).await;
                if let Some(core) = core.upgrade() {
                    core.forget_ack(&branch);
                }
            });
            if !answer_challenge(&mut self.request, &response.message, self.auth.as_ref()) {
                return Some(response);
            }
            self.exchange = Exchange::start(&self.core, &mut self.request, flow).await;
        }
    }

    async fn finish(&mut self) -> Option<Arrived<Response>> {
        loop {
            let response = self.next().await?;
            if !response.message.is_provisional() {
                return Some(response);
            }
        }
    }

    fn number(&self) -> u32 {
        self.request.headers.cseq()
    }
}

/// An INVITE that is not answered yet. Dropping it sends nothing; [`Dialing::cancel`] cancels it.
pub struct Dialing {
    handle: Arc<Handle>,
    options: CallOptions,
    leg: Leg,
    line: Line,
    description: Description,
    invite: Invite,
    sent: BootInstant,
    /// The newest response, not processed yet if it is final.
    newest: Option<Arrived<Response>>,
    registration: Registration<LegKey, Request>,
    requests: mpsc::UnboundedReceiver<Arrived<Request>>,
}

impl Dialing {
    pub(crate) async fn start(
        handle: Arc<Handle>,
        target: Target,
        options: CallOptions,
    ) -> Result<Self, CallError> {
        let core = handle.core.clone();
        let to = match target.address {
            Some(address) => address,
            None => core.address(&target.uri).await?,
        };
        let failed = |e: std::io::Error| CallError::new(503, format!("the network failed: {e}"));
        let line = Line::open(core.wire.address().ip(), options.send_silence).await.map_err(failed)?;
        let mut description = Description {
            address: line.address().map_err(failed)?,
            session: rand::random::<u32>() >> 1,
            version: 0,
            codecs: options.codecs.iter().map(|codec| (codec.payload_type(), *codec)).collect(),
            dtmf: Some(options.dtmf_payload_type),
            direction: Direction::SendRecv,
        };
        let from = options.from.clone().unwrap_or_else(|| core.contact("phone"));
        let callee = options.to.clone().unwrap_or_else(|| format!("<{}>", target.uri));
        let mut leg = Leg::new(options.call_id.clone(), &from, &callee, &target.uri, core.contact("phone"));
        let (registration, requests) = core.expect_requests((leg.call_id.clone(), leg.local_tag.clone()));
        let mut request = leg.request(Method::Invite);
        request.headers.push("Allow", ALLOW);
        for (name, value) in &options.headers {
            request.headers.push(name, value.as_str());
        }
        if options.offer == Offer::Early {
            with_sdp(&mut request, &mut description);
        }
        let flow = core.wire.flow(to).await.map_err(failed)?;
        let invite = Invite::start(core, request, flow, options.auth.clone()).await;
        let sent = invite.exchange.sent;
        Ok(Self { handle, options, leg, line, description, invite, sent, newest: None, registration, requests })
    }

    /// Waits for the first provisional answer, such as 180. `None` if a final answer or a timeout came first;
    /// [`Self::answered`] then returns it.
    pub async fn ringing(&mut self) -> Option<u16> {
        if self.newest.is_none() {
            self.newest = self.invite.next().await;
        }
        self.newest.as_ref().map(|response| response.message.code).filter(|code| *code < 200)
    }

    /// Whether any answer arrives within this time.
    pub(crate) async fn heard(&mut self, patience: Duration) -> bool {
        // A timeout loses nothing: a response that has arrived is taken by the next wait.
        let _ = tokio::time::timeout(patience, self.ringing()).await;
        self.newest.is_some()
    }

    /// Cancels the call; hangs up if it is answered after all.
    pub(crate) fn abandon(self) {
        tokio::spawn(async move {
            if let Ok(late) = self.cancel().await {
                // The peer only needs the BYE; its answer is irrelevant.
                let _ = late.bye().await;
            }
        });
    }

    /// Waits for the final answer; cancels after [`CallOptions::answer_timeout`].
    pub async fn answered(mut self) -> Result<Call, CallError> {
        match tokio::time::timeout(self.options.answer_timeout, self.final_answer()).await {
            Ok(response) => self.conclude(response).await,
            Err(_) => match self.cancel().await {
                Ok(call) => Ok(call),
                Err(_) => Err(CallError::new(408, "not answered in time, cancelled")),
            },
        }
    }

    /// Sends CANCEL and waits for the INVITE's final answer: a failure with 487, or a call if the answer came first.
    pub async fn cancel(mut self) -> Result<Call, CallError> {
        // Before a provisional answer CANCEL is not allowed (RFC 3261 section 9.1).
        if self.ringing().await.is_some() {
            let flow = self.invite.exchange.flow.clone();
            let mut cancel = Exchange::cancel(&self.invite.core, &self.invite.request, flow).await;
            let answer = tokio::time::timeout(AFTER_CANCEL, self.final_answer());
            let (_, answer) = tokio::join!(cancel.finish(), answer);
            return self.conclude(answer.unwrap_or_default()).await;
        }
        let answer = self.newest.take();
        self.conclude(answer).await
    }

    async fn final_answer(&mut self) -> Option<Arrived<Response>> {
        loop {
            if let Some(response) = self.newest.take_if(|response| !response.message.is_provisional()) {
                return Some(response);
            }
            // Stored, so that a cancelled wait still shows whether a provisional answer came.
            self.newest = Some(self.invite.next().await?);
        }
    }

    async fn conclude(self, response: Option<Arrived<Response>>) -> Result<Call, CallError> {
        let Some(response) = response else { return Err(CallError::new(408, "nothing answered")) };
        if !response.message.is_success() {
            return Err(CallError::from(&response.message));
        }
        let Self { handle, options, mut leg, line, mut description, invite, sent, registration, requests, .. } =
            self;
        leg.cseq = invite.number();
        leg.established(&response.message);
        let session = sdp::read(&response.message.body);
        let mut ack = leg.request(Method::Ack);
        if let (Ok(stream), Offer::Late) = (&session, options.offer) {
            description.agree(stream);
            with_sdp(&mut ack, &mut description);
        }
        let branch = invite.exchange.branch().to_owned();
        let flow = next_flow(&invite.core, &leg, &invite.exchange.flow).await;
        ack.headers.push_front("Via", invite.core.via().0);
        invite.core.acknowledge(&branch, ack.to_bytes(), flow.clone()).await;
        let (ended, _) = watch::channel(None);
        let inner = Arc::new(Inner {
            core: invite.core.clone(),
            options,
            leg: Mutex::new(leg),
            line,
            description: Mutex::new(description),
            flow: Mutex::new(flow),
            ended,
            branch,
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(inner.clone(), registration, requests)));
        let answer_time = response.at.since(sent);
        let call = Call { inner, answer_time, _handle: handle, _stop: stop.drop_guard() };
        match session {
            Ok(stream) => {
                call.inner.set_far(&stream);
                Ok(call)
            }
            Err(error) => {
                call.bye().await?;
                Err(error)
            }
        }
    }
}

fn with_sdp(request: &mut Request, description: &mut Description) {
    request.headers.set("Content-Type", SDP);
    request.body = description.write().into();
}

/// Flow to the next hop; the current flow if the next hop has no address or cannot be reached.
async fn next_flow(core: &Core, leg: &Leg, current: &Flow) -> Flow {
    match core.address(leg.next_hop()).await {
        Ok(to) if to != current.peer() => core.wire.flow(to).await.unwrap_or_else(|_| current.clone()),
        _ => current.clone(),
    }
}

/// An answered call. Dropping it without [`Call::bye`] simulates a caller whose network failed: no more RTP, no
/// answers.
pub struct Call {
    inner: Arc<Inner>,
    answer_time: Duration,
    _handle: Arc<Handle>,
    _stop: DropGuard,
}

struct Inner {
    core: Arc<Core>,
    options: CallOptions,
    leg: Mutex<Leg>,
    line: Line,
    description: Mutex<Description>,
    flow: Mutex<Flow>,
    ended: watch::Sender<Option<Ended>>,
    /// Branch of the INVITE.
    branch: String,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.forget_ack(&self.branch);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn set_far(&self, stream: &Stream) {
        let description = lock(&self.description);
        self.line.set_far(Far {
            address: stream.remote,
            codec: sdp::codec(stream),
            payload_type: stream.payload_type,
            dtmf: stream.dtmf,
            send: description.direction.sends() && stream.peer_listens(),
        });
    }

    fn end(&self, by: Ended) {
        self.line.stop();
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(by);
            first
        });
    }

    async fn way(&self) -> Flow {
        let (hop, current) = (lock(&self.leg).next_hop().to_owned(), lock(&self.flow).clone());
        let flow = match self.core.address(&hop).await {
            Ok(to) => self.core.wire.flow(to).await.unwrap_or(current),
            Err(_) => current,
        };
        lock(&self.flow).clone_from(&flow);
        flow
    }

    async fn ask(&self, mut request: Request) -> Result<Answer, CallError> {
        let flow = self.way().await;
        let (response, time) = exchange::ask(&self.core, &mut request, flow, self.options.auth.as_ref()).await?;
        let mut leg = lock(&self.leg);
        leg.cseq = leg.cseq.max(request.headers.cseq());
        Ok(answer(response.message, time))
    }

    /// Sends a re-INVITE, with or without an offer.
    async fn invite_again(&self, offer: bool) -> Result<(), CallError> {
        let request = {
            let mut request = lock(&self.leg).request(Method::Invite);
            request.headers.push("Allow", ALLOW);
            if offer {
                with_sdp(&mut request, &mut lock(&self.description));
            }
            request
        };
        let flow = self.way().await;
        let mut invite = Invite::start(self.core.clone(), request, flow.clone(), self.options.auth.clone()).await;
        let response = invite.finish().await.ok_or_else(|| CallError::new(408, "nothing answered"))?.message;
        if !response.is_success() {
            return Err(CallError::from(&response));
        }
        let stream = sdp::read(&response.body);
        let ack = {
            let mut leg = lock(&self.leg);
            leg.cseq = leg.cseq.max(invite.number());
            leg.moved(&response.headers);
            let mut ack = leg.request(Method::Ack);
            ack.headers.set("CSeq", format!("{} ACK", invite.number()));
            if let (Ok(stream), false) = (&stream, offer) {
                let mut description = lock(&self.description);
                description.agree(stream);
                with_sdp(&mut ack, &mut description);
            }
            ack.headers.push_front("Via", self.core.via().0);
            ack
        };
        self.core.acknowledge(invite.exchange.branch(), ack.to_bytes(), flow).await;
        self.set_far(&stream?);
        Ok(())
    }
}

impl Call {
    /// Time from the INVITE to the 200.
    pub fn answer_time(&self) -> Duration {
        self.answer_time
    }

    /// Destination address of the call's requests.
    pub fn peer(&self) -> std::net::SocketAddr {
        lock(&self.inner.flow).peer()
    }

    /// The codec in use.
    pub fn codec(&self) -> Codec {
        self.inner.line.far().map_or(Codec::Pcmu, |far| far.codec)
    }

    /// The peer's RTP address.
    pub fn remote_rtp(&self) -> Option<std::net::SocketAddr> {
        self.inner.line.far()?.address
    }

    /// The call's Call-ID.
    pub fn call_id(&self) -> String {
        lock(&self.inner.leg).call_id.clone()
    }

    /// Sends raw G.711 in [`Self::codec`], 20 ms per packet; the last packet is filled up with silence. Returns when
    /// the last packet is sent; false if the call ended before.
    pub async fn send_audio(&self, audio: impl Into<Bytes>) -> bool {
        self.inner.line.say(audio.into()).await
    }

    /// Presses keys, 100 ms each, followed by a pause of `gap`; a comma is a pause of a second. Returns after the last
    /// pause.
    pub async fn send_digits(&self, digits: &str, gap: Duration) -> Result<(), CallError> {
        for key in digits.chars() {
            if key == ',' {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            let code = dtmf::code(key)
                .ok_or_else(|| CallError::new(400, format!("'{key}' is no key: use 0-9 * # A-D")))?;
            match self.inner.options.digits {
                Digits::Rfc4733 if self.inner.line.far().is_some_and(|far| far.dtmf.is_none()) => {
                    return Err(CallError::new(488, "they take no telephone-events: send digits by INFO"));
                }
                Digits::Rfc4733 => {
                    if !self.inner.line.press(code).await {
                        return Err(CallError::new(481, "the call has ended"));
                    }
                }
                Digits::Info => {
                    let body = format!("Signal={key}\r\nDuration=100\r\n");
                    let answer = self.request("INFO", &[("Content-Type", "application/dtmf-relay")], &body).await?;
                    if answer.status != 200 {
                        return Err(CallError::new(answer.status, answer.reason));
                    }
                }
            }
            tokio::time::sleep(gap).await;
        }
        Ok(())
    }

    /// The audio received so far, in the first codec of the call, placed by RTP timestamp from the first packet on.
    pub fn received(&self) -> Bytes {
        self.inner.line.heard()
    }

    /// Waits until this many bytes of audio are received; false after `timeout` or if the call ended.
    pub async fn wait_received(&self, bytes: usize, timeout: Duration) -> bool {
        self.inner.line.wait(0, timeout, |heard, _| (heard.len() >= bytes).then_some(())).await.is_some()
    }

    /// Waits until the received audio contains `audio`, bit for bit, at or after the offset `from`; returns its offset.
    pub async fn wait_for_audio(&self, audio: &[u8], from: usize, timeout: Duration) -> Option<usize> {
        let mut searched = 0;
        let search = |heard: &[u8], _: Option<BootInstant>| {
            let rest = heard.get(searched..).unwrap_or_default();
            let found =
                rest.windows(audio.len().max(1)).position(|window| window == audio).map(|at| from + searched + at);
            searched = heard.len().saturating_sub(audio.len());
            found
        };
        self.inner.line.wait(from, timeout, search).await
    }

    /// Waits for audio louder than silence at or after the offset `from`, followed by silence or missing packets for
    /// `quiet`. False after `timeout` or if the call ended.
    pub async fn wait_silence(&self, from: usize, quiet: Duration, timeout: Duration) -> bool {
        let codec = self.codec();
        let look = |heard: &[u8], newest: Option<BootInstant>| {
            let loud = |frame: &[u8]| mean_magnitude(codec, frame) >= SILENCE_BELOW;
            let last = heard.chunks(80).rposition(loud)?;
            let trailing = heard.len().saturating_sub((last + 1) * 80) as u64 / u64::from(SAMPLES_PER_MS);
            let missing = newest.map_or(Duration::ZERO, |at| at.elapsed());
            (Duration::from_millis(trailing) + missing >= quiet).then_some(())
        };
        self.inner.line.wait(from, timeout, look).await.is_some()
    }

    /// Puts the peer on hold by a re-INVITE with `a=sendonly`. The phone continues to send, as with music on hold.
    pub async fn hold(&self) -> Result<(), CallError> {
        self.renegotiate(Direction::SendOnly).await
    }

    /// Ends a hold.
    pub async fn resume(&self) -> Result<(), CallError> {
        self.renegotiate(Direction::SendRecv).await
    }

    /// Offers this direction by a re-INVITE.
    pub async fn renegotiate(&self, direction: Direction) -> Result<(), CallError> {
        lock(&self.inner.description).direction = direction;
        self.inner.invite_again(true).await
    }

    /// Sends a re-INVITE without SDP: the peer offers, the phone answers in the ACK.
    pub async fn renegotiate_late(&self) -> Result<(), CallError> {
        self.inner.invite_again(false).await
    }

    /// Sends a request in the dialog, such as UPDATE or INFO.
    pub async fn request(&self, method: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer, CallError> {
        let mut request = lock(&self.inner.leg).request(Method::parse(method));
        fill(&mut request, headers, body);
        self.inner.ask(request).await
    }

    /// Hangs up; returns the final status of the BYE and the time until it arrived.
    pub async fn bye(&self) -> Result<(u16, Duration), CallError> {
        self.inner.end(Ended::ByUs);
        let request = lock(&self.inner.leg).request(Method::Bye);
        let answer = self.inner.ask(request).await?;
        Ok((answer.status, answer.time))
    }

    /// Waits until either side has ended the call.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.inner.ended.subscribe();
        // `self` owns the sender.
        ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended).unwrap_or(Ended::ByUs)
    }

    /// The side that ended the call; `None` while it is active.
    pub fn has_ended(&self) -> Option<Ended> {
        *self.inner.ended.borrow()
    }

    /// RTP statistics so far.
    pub fn stats(&self) -> CallStats {
        self.inner.line.stats()
    }
}

/// Adds headers and a body.
pub(crate) fn fill(request: &mut Request, headers: &[(&str, &str)], body: &str) {
    for (name, value) in headers {
        request.headers.push(name, *value);
    }
    request.body = Bytes::copy_from_slice(body.as_bytes());
}

pub(crate) fn answer(response: Response, time: Duration) -> Answer {
    let headers = list(&response.headers);
    Answer { status: response.code, reason: response.reason, headers, body: response.body, time }
}

/// An answer to a re-INVITE that is not yet acknowledged.
struct Unacknowledged {
    cseq: u32,
    bytes: Bytes,
    flow: Flow,
    again: BootInstant,
    interval: Duration,
    until: BootInstant,
    /// The answer contains the phone's offer.
    offered: bool,
}

/// Answers the peer's requests in the dialog.
async fn serve(
    inner: Arc<Inner>,
    _registration: Registration<LegKey, Request>,
    mut requests: mpsc::UnboundedReceiver<Arrived<Request>>,
) {
    let mut waiting: Option<Unacknowledged> = None;
    loop {
        let request = match &mut waiting {
            None => requests.recv().await,
            Some(unacknowledged) => {
                match tokio::time::timeout(unacknowledged.again.since(BootInstant::now()), requests.recv()).await {
                    Ok(request) => request,
                    Err(_) => {
                        unacknowledged.flow.send(unacknowledged.bytes.clone()).await;
                        unacknowledged.interval = (unacknowledged.interval * 2).min(Duration::from_secs(4));
                        unacknowledged.again = BootInstant::now() + unacknowledged.interval;
                        if BootInstant::now() > unacknowledged.until {
                            waiting = None;
                        }
                        continue;
                    }
                }
            }
        };
        let Some(request) = request else { return };
        match request.message.method {
            Method::Ack => {
                let cseq = request.message.headers.cseq();
                if let Some(acknowledged) = waiting.take_if(|w| w.cseq == cseq)
                    && acknowledged.offered
                    && let Ok(stream) = sdp::read(&request.message.body)
                {
                    inner.set_far(&stream);
                }
            }
            Method::Invite | Method::Update => {
                let (response, offered) = renegotiated(&inner, &request.message);
                let accepted = response.is_success() && request.message.method == Method::Invite;
                if accepted {
                    let (now, interval) = (BootInstant::now(), Duration::from_millis(500));
                    waiting = Some(Unacknowledged {
                        cseq: request.message.headers.cseq(),
                        bytes: response.to_bytes(),
                        flow: request.flow.clone(),
                        again: now + interval,
                        interval,
                        until: now + Duration::from_secs(32),
                        offered,
                    });
                }
                inner.core.reply(&request, response).await;
            }
            Method::Bye => {
                inner.core.reply(&request, request.message.respond(200)).await;
                inner.end(Ended::ByThem);
            }
            Method::Options | Method::Info | Method::Notify | Method::Cancel => {
                inner.core.reply(&request, request.message.respond(200).with("Allow", ALLOW)).await;
            }
            _ => inner.core.reply(&request, request.message.respond(405).with("Allow", ALLOW)).await,
        }
    }
}

/// The answer to the peer's re-INVITE or UPDATE, and whether it contains an offer.
fn renegotiated(inner: &Inner, request: &Request) -> (Response, bool) {
    if inner.ended.borrow().is_some() {
        return (request.respond(481), false);
    }
    let contact = {
        let mut leg = lock(&inner.leg);
        leg.moved(&request.headers);
        leg.contact().to_owned()
    };
    let ok = request.respond(200).with("Contact", contact).with("Allow", ALLOW);
    if request.body.is_empty() {
        if request.method == Method::Update {
            return (ok, false);
        }
        let offer = lock(&inner.description).write();
        return (ok.with_body(SDP, offer), true);
    }
    match sdp::read(&request.body) {
        Ok(stream) => {
            let body = {
                let mut description = lock(&inner.description);
                description.agree(&stream);
                description.write()
            };
            inner.set_far(&stream);
            (ok.with_body(SDP, body), false)
        }
        Err(_) => (request.respond(488), false),
    }
}
