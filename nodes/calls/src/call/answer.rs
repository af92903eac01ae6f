//! From the INVITE to its `200`: callee, media negotiation, and start of the conversation. All steps wait only for this
//! node's own store.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use tokio::sync::mpsc::{Receiver, Sender};
use twinbox_clock::wall;
use twinbox_conversation::{Caller as Speaker, Entry, GreetingKind, Settings, Start};
use twinbox_ids::CallId;
use twinbox_mailstore::Mailbox;
use twinbox_media::MediaError;
use twinbox_sip::{
    Request, Response,
    dialog::Dialog,
    identity::{self, Caller},
    redirect::{Greeting, Purpose, purpose},
    sdp::{self, Local, Sdp, SdpError, Stream},
    session::{self, Outcome, Policy, Timer},
};

use super::{Call, Input, Reason, channel, questions};
use crate::{
    CallsConfig, UnknownMailbox,
    admit::{ALLOW, FILLING, busy},
    door::{Arrival, DialogKey, Door},
    stats::count,
    wire::{Flow, local_address},
};

/// Callee of a call.
enum Callee {
    Leave(Box<Mailbox>, GreetingKind),
    SignIn(Option<Box<Mailbox>>),
    AskMailbox,
    Nobody,
}

/// Answers the INVITE. `None`: it was refused or cancelled, and has its final answer.
pub(super) async fn begin(
    door: &Arc<Door>,
    id: CallId,
    invite: Arrival,
    sender: Sender<Input>,
    mut inputs: Receiver<Input>,
    dialog_key: &mut Option<DialogKey>,
) -> Option<Call> {
    let request = &invite.request;
    let refuse = |response: Response| {
        tracing::info!(code = response.code, reason = %response.reason, "call refused");
        door.respond(&invite.id, response);
    };
    let caller = identity::caller(request);
    let callee = match find(door, request, &caller).await {
        Ok(callee) => callee,
        Err(error) => {
            count(&door.stats.refused_store);
            tracing::error!(%error, "the store does not answer");
            refuse(request.respond(500));
            return None;
        }
    };
    if matches!(callee, Callee::Nobody) && door.lacks_records() {
        count(&door.stats.refused_filling);
        refuse(busy(request, FILLING));
        return None;
    }
    if matches!(callee, Callee::Nobody) && door.config.unknown_mailbox == UnknownMailbox::NotFound {
        count(&door.stats.refused_unknown_mailbox);
        refuse(request.respond(404));
        return None;
    }
    let timer = match session::negotiate(request, policy(&door.config)) {
        Outcome::None => None,
        Outcome::Timer(timer) => Some(timer),
        Outcome::TooSmall(min) => {
            count(&door.stats.refused_session_timer);
            refuse(request.respond(422).with("Min-SE", min.to_string()));
            return None;
        }
    };
    let offer = match offered(request) {
        Ok(offer) => offer,
        Err(response) => {
            count(&door.stats.refused_offer);
            refuse(*response);
            return None;
        }
    };
    let (media_sender, events) = channel();
    let media = match door.deps.media.open(media_sender) {
        Ok(media) => media,
        Err(error) => {
            if matches!(error, MediaError::NoPort { .. }) {
                count(&door.stats.refused_no_port);
            }
            tracing::error!(%error, "no media session");
            refuse(request.respond(503).with("Retry-After", "10"));
            return None;
        }
    };
    if matches!(inputs.try_recv(), Ok(Input::Cancelled)) {
        count(&door.stats.calls_cancelled);
        refuse(request.respond(487));
        return None;
    }
    let address = media_address(&door.config, &invite.flow);
    let mut local = Local { address, port: media.local_port(), session: (id.0 >> 66) as u64, version: 0 };
    let (stream, body) = match describe(&mut local, offer.as_ref()) {
        Ok(described) => described,
        Err(error) => {
            count(&door.stats.refused_offer);
            refuse(request.respond(488).with("Warning", format!("305 twinbox \"{error}\"")));
            return None;
        }
    };
    let tag = crate::door::lock(&door.layer).tag(request);
    let Some(dialog) = Dialog::accept(request, &tag) else {
        count(&door.stats.refused_offer);
        let mut response = request.respond(400);
        response.reason = "Contact is no SIP URI".to_owned();
        refuse(response);
        return None;
    };
    *dialog_key = Some(door.open_dialog(&dialog, &invite.trunk, sender));
    let response = accept(door, request, &invite.flow, timer).with_body(sdp::CONTENT_TYPE, body.clone());
    door.respond(&invite.id, response);
    door.stats.answer_time.record(invite.at.elapsed());
    count(&door.stats.calls_answered);
    tracing::info!(trunk = %invite.trunk.config.name, purpose = callee.name(), "call answered");

    let mut call = Call {
        door: door.clone(),
        id,
        trunk: invite.trunk.clone(),
        caller,
        flow: invite.flow.clone(),
        dialog: Arc::new(Mutex::new(dialog)),
        confirmed: false,
        inputs,
        media,
        events,
        deaf: false,
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
        hold_due: None,
        keys: Default::default(),
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
        not_filed: false,
        over: false,
        reason: Reason::Done,
        stillborn: false,
    };
    call.note_allow(&request.headers);
    call.set_session(timer);
    if let Some(stream) = stream {
        call.set_stream(stream, false);
    }
    call.prepare(callee).await;
    Some(call)
}

impl Callee {
    fn name(&self) -> &'static str {
        match self {
            Self::Leave(..) => "leave",
            Self::SignIn(_) => "sign-in",
            Self::AskMailbox => "ask-mailbox",
            Self::Nobody => "apology",
        }
    }
}

async fn find(door: &Door, request: &Request, caller: &Caller) -> Result<Callee, twinbox_mailstore::MailError> {
    let mailstore = &door.deps.mailstore;
    Ok(match purpose(request, door.rules()) {
        Purpose::Leave { mailbox, greeting } => match mailstore.find_by_number(&mailbox).await? {
            Some(mailbox) => {
                let greeting = match greeting {
                    Greeting::Standard => GreetingKind::Standard,
                    Greeting::Busy => GreetingKind::Busy,
                };
                Callee::Leave(Box::new(mailbox), greeting)
            }
            None => Callee::Nobody,
        },
        Purpose::SignIn => Callee::SignIn(match &caller.number {
            Some(number) => mailstore.find_by_number(number.reveal()).await?.map(Box::new),
            None => None,
        }),
        Purpose::AskMailbox => Callee::AskMailbox,
        Purpose::Nothing => Callee::Nobody,
    })
}

pub(super) fn policy(config: &CallsConfig) -> Policy {
    Policy { interval: config.session_expires_s, min_se: config.min_se_s }
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

/// The local description: the answer to an offer, or an offer.
pub(super) fn describe(local: &mut Local, offer: Option<&Sdp>) -> Result<(Option<Stream>, String), SdpError> {
    local.version += 1;
    match offer {
        Some(offer) => offer.answer(local).map(|(stream, body)| (Some(stream), body)),
        None => Ok((None, local.offer())),
    }
}

/// The `200` to an INVITE or UPDATE, without its body.
pub(super) fn accept(door: &Door, request: &Request, flow: &Flow, timer: Option<Timer>) -> Response {
    let mut response = request.respond(200);
    for route in request.headers.all("Record-Route") {
        response.headers.push("Record-Route", route);
    }
    response.headers.push("Contact", door.contact(flow));
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

/// RTP address announced to the peer.
fn media_address(config: &CallsConfig, flow: &Flow) -> IpAddr {
    let bound = Some(config.rtp.bind).filter(|ip| !ip.is_unspecified());
    let listener = || twinbox_sip::uri::HostPort::parse(&flow.advertised()).and_then(|h| h.ip());
    let routed = || local_address(flow.remote().ip().to_canonical());
    config.rtp.advertise.or(bound).or_else(listener).or_else(routed).unwrap_or(config.rtp.bind)
}

impl Call {
    /// Collects the start parameters of the conversation.
    async fn prepare(&mut self, callee: Callee) {
        let mailstore = self.door.deps.mailstore.clone();
        let entry = match callee {
            Callee::Leave(mailbox, greeting) => {
                let mailbox = questions::view(&mailstore, &mailbox, &mut self.codecs).await;
                Entry::Leave { mailbox, greeting }
            }
            Callee::SignIn(Some(mailbox)) => {
                Entry::SignIn { mailbox: Some(questions::view(&mailstore, &mailbox, &mut self.codecs).await) }
            }
            Callee::SignIn(None) => Entry::SignIn { mailbox: None },
            Callee::AskMailbox => Entry::AskMailbox,
            Callee::Nobody => Entry::Apology,
        };
        let config = &self.door.config;
        let settings = Settings {
            key_map: config.key_map.clone(),
            max_message_ms: config.max_message_ms,
            min_message_ms: config.min_message_ms,
            end_silence_ms: config.end_silence_ms,
            digit_timeout_ms: config.digit_timeout_ms,
            pin_tries: config.pin_tries,
            min_pin_length: config.min_pin_length,
        };
        let caller = Speaker { number: self.caller.number.clone(), name: self.caller.name.clone() };
        self.start = Some(Box::new(Start { entry, caller, settings, now: wall() }));
    }
}
