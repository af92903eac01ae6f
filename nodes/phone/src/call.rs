//! Answered calls: media, requests in the dialog, and the BYE.

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
    Answer, CallError, CallOptions, CallStats, Digits, Direction, Ended, Handle,
    api::list,
    client_transaction,
    core::{ALLOW, Arrived, Core, DialogKey, Registration},
    dialing::{Invite, with_sdp},
    phone_media::{PhoneMedia, RemoteMedia},
    sdp::{self, Description},
    uac_dialog::UacDialog,
    wire::Flow,
};

pub(crate) const SDP: &str = "application/sdp";

/// An answered call. Dropping it without [`Call::bye`] simulates a caller whose network failed: no more RTP, no
/// answers.
pub struct Call {
    inner: Arc<Inner>,
    answer_time: Duration,
    _handle: Arc<Handle>,
    _stop: DropGuard,
}

/// State of a call, shared with the task that answers the peer.
pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    pub(crate) options: CallOptions,
    pub(crate) dialog: Mutex<UacDialog>,
    pub(crate) media: PhoneMedia,
    pub(crate) description: Mutex<Description>,
    pub(crate) flow: Mutex<Flow>,
    pub(crate) ended: watch::Sender<Option<Ended>>,
    /// Branch of the INVITE.
    pub(crate) branch: String,
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
    fn set_remote(&self, stream: &Stream) {
        let description = lock(&self.description);
        self.media.set_remote(RemoteMedia {
            address: stream.remote,
            codec: stream.codec,
            payload_type: stream.payload_type,
            dtmf: stream.dtmf,
            send: description.direction.sends() && stream.peer_listens(),
        });
    }

    fn end(&self, by: Ended) {
        self.media.stop();
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(by);
            first
        });
    }

    async fn flow_to_peer(&self) -> Flow {
        let (hop, current) = (lock(&self.dialog).next_hop().to_owned(), lock(&self.flow).clone());
        let flow = match self.core.address(&hop).await {
            Ok(to) => self.core.wire.flow(to).await.unwrap_or(current),
            Err(_) => current,
        };
        lock(&self.flow).clone_from(&flow);
        flow
    }

    async fn ask(&self, mut request: Request) -> Result<Answer, CallError> {
        let flow = self.flow_to_peer().await;
        let (response, time) =
            client_transaction::ask(&self.core, &mut request, flow, self.options.auth.as_ref()).await?;
        let mut dialog = lock(&self.dialog);
        dialog.cseq = dialog.cseq.max(request.headers.cseq());
        Ok(answer(response.message, time))
    }

    /// Sends a re-INVITE, with or without an offer.
    async fn reinvite(&self, offer: bool) -> Result<(), CallError> {
        let request = {
            let mut request = lock(&self.dialog).request(Method::Invite);
            request.headers.push("Allow", ALLOW);
            if offer {
                with_sdp(&mut request, &mut lock(&self.description));
            }
            request
        };
        let flow = self.flow_to_peer().await;
        let mut invite = Invite::start(self.core.clone(), request, flow.clone(), self.options.auth.clone()).await;
        let response =
            invite.finish().await.ok_or_else(|| CallError::new(408, "no answer from the target"))?.message;
        if !response.is_success() {
            return Err(CallError::from(&response));
        }
        let stream = sdp::read(&response.body);
        let ack = {
            let mut dialog = lock(&self.dialog);
            dialog.cseq = dialog.cseq.max(invite.number());
            dialog.moved(&response.headers);
            let mut ack = dialog.request(Method::Ack);
            ack.headers.set("CSeq", format!("{} ACK", invite.number()));
            if let (Ok(stream), false) = (&stream, offer) {
                let mut description = lock(&self.description);
                description.agree(stream);
                with_sdp(&mut ack, &mut description);
            }
            ack.headers.push_front("Via", self.core.via().0);
            ack
        };
        self.core.acknowledge(invite.transaction.branch(), ack.to_bytes(), flow).await;
        self.set_remote(&stream?);
        Ok(())
    }
}

impl Call {
    /// Starts the task that answers the peer's requests in the dialog.
    pub(crate) fn start(
        handle: Arc<Handle>,
        inner: Inner,
        answer_time: Duration,
        registration: Registration<DialogKey, Request>,
        requests: mpsc::UnboundedReceiver<Arrived<Request>>,
    ) -> Self {
        let (inner, stop) = (Arc::new(inner), CancellationToken::new());
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(inner.clone(), registration, requests)));
        Self { inner, answer_time, _handle: handle, _stop: stop.drop_guard() }
    }

    /// Applies the peer's description to the media.
    pub(crate) fn set_remote(&self, stream: &Stream) {
        self.inner.set_remote(stream);
    }

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
        self.inner.media.remote().map_or(Codec::Pcmu, |remote| remote.codec)
    }

    /// The peer's RTP address.
    pub fn remote_rtp(&self) -> Option<std::net::SocketAddr> {
        self.inner.media.remote()?.address
    }

    /// The call's Call-ID.
    pub fn call_id(&self) -> String {
        lock(&self.inner.dialog).call_id.clone()
    }

    /// Sends raw G.711 in [`Self::codec`], 20 ms per packet; the last packet is filled up with silence. Returns when
    /// the last packet is sent; false if the call ended before.
    pub async fn send_audio(&self, audio: impl Into<Bytes>) -> bool {
        self.inner.media.say(audio.into()).await
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
                Digits::Rfc4733 if self.inner.media.remote().is_some_and(|remote| remote.dtmf.is_none()) => {
                    return Err(CallError::new(488, "the peer accepts no telephone-events: send digits by INFO"));
                }
                Digits::Rfc4733 => {
                    if !self.inner.media.press(code).await {
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
        self.inner.media.received()
    }

    /// Waits until this many bytes of audio are received; false after `timeout` or if the call ended.
    pub async fn wait_received(&self, bytes: usize, timeout: Duration) -> bool {
        self.inner.media.wait(0, timeout, |heard, _| (heard.len() >= bytes).then_some(())).await.is_some()
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
        self.inner.media.wait(from, timeout, search).await
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
        self.inner.media.wait(from, timeout, look).await.is_some()
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
        self.inner.reinvite(true).await
    }

    /// Sends a re-INVITE without SDP: the peer offers, the phone answers in the ACK.
    pub async fn renegotiate_late(&self) -> Result<(), CallError> {
        self.inner.reinvite(false).await
    }

    /// Sends a request in the dialog, such as UPDATE or INFO.
    pub async fn request(&self, method: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer, CallError> {
        let mut request = lock(&self.inner.dialog).request(Method::parse(method));
        fill(&mut request, headers, body);
        self.inner.ask(request).await
    }

    /// Hangs up; returns the final status of the BYE and the time until it arrived.
    pub async fn bye(&self) -> Result<(u16, Duration), CallError> {
        self.inner.end(Ended::ByUs);
        let request = lock(&self.inner.dialog).request(Method::Bye);
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
        self.inner.media.stats()
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

/// An answer to a re-INVITE that is not yet acknowledged; it is repeated until it is (RFC 3261 section 13.3.1.4).
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
    _registration: Registration<DialogKey, Request>,
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
                    inner.set_remote(&stream);
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
        let mut dialog = lock(&inner.dialog);
        dialog.moved(&request.headers);
        dialog.contact().to_owned()
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
            inner.set_remote(&stream);
            (ok.with_body(SDP, body), false)
        }
        Err(_) => (request.respond(488), false),
    }
}
