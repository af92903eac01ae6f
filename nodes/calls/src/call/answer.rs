//! From the INVITE to its `200`: callee, media negotiation, and start of the conversation. All steps wait only for this
//! node's own store.

use std::{
    iter::once_with,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::mpsc::{Receiver, Sender};
use twinbox_clock::wall;
use twinbox_conversation::{Caller as ConversationCaller, ConversationSettings, Entry, GreetingKind, Start};
use twinbox_ids::CallId;
use twinbox_mailstore::Mailbox;
use twinbox_media::MediaError;
use twinbox_sip::{
    Request, Response,
    dialog::Dialog,
    identity::{self, Caller},
    redirect::{Greeting, Party, Purpose, purpose},
    sdp::{self, Local, Sdp, SdpError, Stream},
    session::{self, Timer, TimerOutcome, TimerPolicy},
};
use twinbox_sip_transport::{Flow, local_address};

use super::{Call, CallParts, Input, Reason, after, channel, store_queries};
use crate::{
    CallsConfig, UnknownMailbox,
    access::IncomingRequest,
    admit::{ALLOW, FILLING, busy},
    dialogs::DialogKey,
    stats::count,
};

/// Maximum wait for the ACK. The transaction reports a missing ACK earlier, after 64 T1, unless the queue of the call is full.
pub(super) const ACK_WITHIN: Duration = Duration::from_secs(34);

/// Callee of a call.
enum Callee {
    Leave(Box<Mailbox>, GreetingKind),
    SignIn(Option<Box<Mailbox>>),
    AskMailbox,
    Unknown,
}

/// Answers the INVITE. `None`: it was refused or cancelled, and has its final answer.
pub(super) async fn begin(
    parts: &Arc<CallParts>,
    id: CallId,
    invite: IncomingRequest,
    sender: Sender<Input>,
    mut inputs: Receiver<Input>,
    dialog_key: &mut Option<DialogKey>,
) -> Option<Call> {
    let request = &invite.request;
    let refuse = |response: Response| {
        tracing::info!(code = response.code, reason = %response.reason, "call refused");
        parts.respond(&invite.id, response);
    };
    let caller = identity::caller(request);
    let note = parts.deps.mailstore.call_note(id, caller.number.clone());
    let callee = match find(parts, request, &caller).await {
        Ok(callee) => callee,
        Err(error) => {
            count(&parts.stats.refused_store);
            tracing::error!(%error, "mailbox lookup failed; the call is refused with 500");
            refuse(request.respond(500));
            return None;
        }
    };
    if matches!(callee, Callee::Unknown) && parts.lacks_records() {
        count(&parts.stats.refused_filling);
        refuse(busy(request, FILLING));
        return None;
    }
    if matches!(callee, Callee::Unknown) && parts.config().unknown_mailbox == UnknownMailbox::NotFound {
        count(&parts.stats.refused_unknown_mailbox);
        refuse(request.respond(404));
        return None;
    }
    let timer = match session::negotiate(request, policy(&parts.config())) {
        TimerOutcome::None => None,
        TimerOutcome::Timer(timer) => Some(timer),
        TimerOutcome::TooSmall(min) => {
            count(&parts.stats.refused_session_timer);
            refuse(request.respond(422).with("Min-SE", min.to_string()));
            return None;
        }
    };
    let offer = match offered(request) {
        Ok(offer) => offer,
        Err(response) => {
            count(&parts.stats.refused_offer);
            refuse(*response);
            return None;
        }
    };
    let (media_sender, events) = channel();
    let media = match parts.deps.media.open(media_sender) {
        Ok(media) => media,
        Err(error) => {
            if matches!(error, MediaError::NoPort { .. }) {
                count(&parts.stats.refused_no_port);
            }
            tracing::error!(%error, "media session cannot be opened; the call is refused with 503");
            refuse(request.respond(503).with("Retry-After", "10"));
            return None;
        }
    };
    if matches!(inputs.try_recv(), Ok(Input::Cancelled)) {
        count(&parts.stats.calls_cancelled);
        refuse(request.respond(487));
        return None;
    }
    let address = media_address(&parts.config(), &invite.flow, offer.as_ref());
    let mut local = Local { address, port: media.local_port(), session: (id.0 >> 66) as u64, version: 0 };
    let described = match address.is_unspecified() {
        true => Err(SdpError::IpVersion),
        false => describe(&mut local, offer.as_ref(), ""),
    };
    let (stream, body) = match described {
        Ok(described) => described,
        Err(error) => {
            count(&parts.stats.refused_offer);
            refuse(request.respond(488).with("Warning", error.warning()));
            return None;
        }
    };
    let tag = parts.transactions.tag(request);
    let Some(dialog) = Dialog::accept(request, &tag) else {
        count(&parts.stats.refused_offer);
        let mut response = request.respond(400);
        response.reason = "Contact is no SIP URI".to_owned();
        refuse(response);
        return None;
    };
    *dialog_key = Some(parts.dialogs.open(&dialog, &invite.trunk, sender));
    let response = accept(parts, request, &invite.flow, timer).with_body(sdp::CONTENT_TYPE, body.clone());
    let mut call = Call {
        parts: parts.clone(),
        id,
        trunk: invite.trunk.clone(),
        caller,
        note,
        flow: invite.flow.clone(),
        dialog: Arc::new(Mutex::new(dialog)),
        confirmed: false,
        inputs,
        media,
        events,
        media_dead: false,
        local,
        answer_due: stream.is_none(),
        answer_stays: false,
        stream: None,
        media_host: None,
        described: body,
        session: None,
        refresh_due: None,
        session_due: None,
        session_min: None,
        allows_update: false,
        held: false,
        hold_due: None,
        keys: Default::default(),
        early_keys: Vec::new(),
        conversation: None,
        start: None,
        timer: None,
        plays: 0,
        loading: None,
        take: None,
        stop_due: None,
        ending: None,
        codecs: Default::default(),
        question: None,
        transfer: None,
        refresh: None,
        bye: None,
        bye_due: None,
        ack_due: after(ACK_WITHIN),
        not_filed: false,
        over: false,
        reason: Reason::Done,
        ended_before_start: false,
    };
    call.note_allow(&request.headers);
    call.set_session(timer);
    if let Some(stream) = stream {
        // Before the `200`: keys of a fast caller find a session that knows their format.
        call.set_stream(stream);
    }
    parts.respond(&invite.id, response);
    parts.stats.answer_time.record(parts.since(invite.at));
    count(&parts.stats.calls_answered);
    tracing::info!(trunk = %invite.trunk.config.name, purpose = callee.name(), "call answered");
    call.prepare(callee).await;
    Some(call)
}

impl Callee {
    fn name(&self) -> &'static str {
        match self {
            Self::Leave(..) => "leave",
            Self::SignIn(_) => "sign-in",
            Self::AskMailbox => "ask-mailbox",
            Self::Unknown => "apology",
        }
    }
}

async fn find(
    parts: &CallParts,
    request: &Request,
    caller: &Caller,
) -> Result<Callee, twinbox_mailstore::MailError> {
    let mailstore = &parts.deps.mailstore;
    let purpose = purpose(request, parts.config().rules());
    let is_pilot = matches!(purpose, Purpose::SignIn(_) | Purpose::AskMailbox(_));
    for Party { number, greeting } in purpose.parties() {
        // The PBX may map a user's call to the own number to the pilot.
        if is_pilot && caller.number.as_ref().is_some_and(|own| own.reveal() == number) {
            continue;
        }
        if let Some(mailbox) = mailstore.find_by_number(number).await? {
            let greeting = match greeting {
                Greeting::Standard => GreetingKind::Standard,
                Greeting::Busy => GreetingKind::Busy,
            };
            return Ok(Callee::Leave(Box::new(mailbox), greeting));
        }
    }
    Ok(match purpose {
        Purpose::SignIn(_) => Callee::SignIn(match &caller.number {
            Some(number) => mailstore.find_by_number(number.reveal()).await?.map(Box::new),
            None => None,
        }),
        Purpose::AskMailbox(_) => Callee::AskMailbox,
        Purpose::Leave(_) | Purpose::Nothing => Callee::Unknown,
    })
}

pub(super) fn policy(config: &CallsConfig) -> TimerPolicy {
    TimerPolicy { interval: config.session_expires_s, min_se: config.min_se_s }
}

/// The offer or answer in a body; `None` without a body.
pub(super) fn offered(request: &Request) -> Result<Option<Sdp>, Box<Response>> {
    if request.body.is_empty() {
        return Ok(None);
    }
    let content_type = request.headers.get("Content-Type").unwrap_or_default();
    let Some(body) = sdp::in_body(content_type, &request.body) else {
        return Err(Box::new(request.respond(415).with("Accept", sdp::CONTENT_TYPE)));
    };
    match Sdp::parse(body) {
        Ok(sdp) => Ok(Some(sdp)),
        Err(error) => {
            let mut response = request.respond(400);
            response.reason = "Bad session description".to_owned();
            Err(Box::new(response.with("Warning", format!("399 twinbox \"{error}\""))))
        }
    }
}

/// The local description: the answer to an offer, or an offer. `described` is the one before; empty: there was none.
pub(super) fn describe(
    local: &mut Local,
    offer: Option<&Sdp>,
    described: &str,
) -> Result<(Option<Stream>, String), SdpError> {
    local.version += 1;
    match offer {
        Some(offer) => offer.answer(local).map(|(stream, body)| (Some(stream), body)),
        None => Ok((None, local.offer_again(described))),
    }
}

/// The `200` to an INVITE or UPDATE, without its body.
pub(super) fn accept(parts: &CallParts, request: &Request, flow: &Flow, timer: Option<Timer>) -> Response {
    let mut response = request.respond(200);
    for route in request.headers.all("Record-Route") {
        response.headers.push("Record-Route", route);
    }
    response.headers.push("Contact", parts.outgoing.contact(flow));
    response.headers.push("Allow", ALLOW);
    response.headers.push("Supported", "timer");
    if let Some(timer) = timer {
        response.headers.push("Session-Expires", timer.header());
        if timer.required {
            response.headers.push("Require", "timer");
        }
    }
    response
}

/// RTP address announced to the peer: one of the IP version of the offered audio, if this node has one. Unspecified if it has none at all.
pub(super) fn media_address(config: &CallsConfig, flow: &Flow, offer: Option<&Sdp>) -> IpAddr {
    let (peer, bind) = (audio_host(offer), config.rtp.bind);
    let own = || {
        let fixed = config.rtp.advertise.into_iter().chain(Some(bind).filter(|ip| !ip.is_unspecified()));
        let listener = once_with(|| twinbox_sip::uri::HostPort::parse(&flow.advertised()).and_then(|h| h.ip()));
        // The peer's own address comes late: it may be one behind a NAT. A peer without an
        // offer may have the other IP version too: then the address of the default route.
        let anywhere = offer.is_none().then_some(ANYWHERE);
        let routed =
            [Some(flow.remote().ip().to_canonical()), peer, anywhere].into_iter().map(|to| local_address(to?));
        let found = listener.chain(routed).flatten();
        // RTP comes to all addresses then, without an IPv6 socket only to those of IPv4.
        fixed.chain(found.filter(move |ip| bind.is_unspecified() && (ip.is_ipv4() || bind.is_ipv6())))
    };
    let fits = |ip: &IpAddr| peer.is_none_or(|peer| ip.is_ipv4() == peer.is_ipv4());
    own().find(fits).or_else(|| own().next()).unwrap_or(bind)
}

/// As [`media_address`], within a session: the address stays unless the audio moves to the other IP version.
pub(super) fn media_address_again(config: &CallsConfig, flow: &Flow, offer: Option<&Sdp>, now: IpAddr) -> IpAddr {
    match audio_host(offer) {
        Some(peer) if peer.is_ipv4() != now.is_ipv4() => media_address(config, flow, offer),
        Some(_) | None => now,
    }
}

/// The address of the offered audio.
fn audio_host(offer: Option<&Sdp>) -> Option<IpAddr> {
    offer.and_then(|offer| offer.audio().ok()?.remote).map(|remote| remote.ip().to_canonical())
}

/// An address that no host has (RFC 5737), by whose route this machine's own one is found. Nothing is sent there.
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

impl Call {
    /// Collects the start parameters of the conversation.
    async fn prepare(&mut self, callee: Callee) {
        let mailstore = self.parts.deps.mailstore.clone();
        let entry = match callee {
            Callee::Leave(mailbox, greeting) => {
                let mailbox = store_queries::view(&mailstore, &mailbox, &mut self.codecs).await;
                Entry::Leave { mailbox, greeting }
            }
            Callee::SignIn(Some(mailbox)) => {
                Entry::SignIn { mailbox: Some(store_queries::view(&mailstore, &mailbox, &mut self.codecs).await) }
            }
            Callee::SignIn(None) => Entry::SignIn { mailbox: None },
            Callee::AskMailbox => Entry::AskMailbox,
            Callee::Unknown => Entry::Apology,
        };
        self.note.begins(&entry);
        let config = self.parts.config();
        let settings = ConversationSettings {
            key_map: config.key_map.clone(),
            max_message_ms: config.max_message_ms,
            min_message_ms: config.min_message_ms,
            end_silence_ms: config.end_silence_ms,
            digit_timeout_ms: config.digit_timeout_ms,
            pin_tries: config.pin_tries,
            min_pin_length: config.min_pin_length,
        };
        let caller = ConversationCaller { number: self.caller.number.clone(), name: self.caller.name.clone() };
        self.start = Some(Box::new(Start { entry, caller, settings, now: wall() }));
    }
}
