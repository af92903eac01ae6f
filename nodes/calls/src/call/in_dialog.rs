//! Requests within the dialog of a call, and the ACK that starts the conversation.

use std::time::Duration;

use twinbox_conversation::{Conversation, Input as ConversationInput};
use twinbox_media::Remote;
use twinbox_sip::{
    Method, Request,
    sdp::{self, Sdp, Stream},
    session::{self, TimerOutcome},
    uri::Uri,
};

use super::{Bye, Call, KeyPath, Reason, after, answer};
use crate::{
    access::IncomingRequest,
    admit::{ALLOW, capabilities},
    lock,
    stats::count,
};

impl Call {
    pub(super) fn handle_request(&mut self, incoming: IncomingRequest) {
        let request = &incoming.request;
        let (from_peer, in_order) = {
            let mut dialog = lock(&self.dialog);
            let from_peer = request.headers.tag("From") == Some(dialog.remote_tag.as_str());
            (from_peer, from_peer && dialog.received(request))
        };
        if !from_peer {
            count(&self.parts.stats.refused_no_dialog);
            return self.parts.respond(&incoming.id, request.respond(481));
        }
        if !in_order {
            // Older than a previous request (RFC 3261 section 12.2.2).
            let mut response = request.respond(500);
            response.reason = "CSeq out of order".to_owned();
            return self.parts.respond(&incoming.id, response);
        }
        lock(&self.dialog).retarget(&request.method, &request.headers, incoming.is_from_trunk());
        self.note_allow(&request.headers);
        match request.method {
            Method::Bye => self.caller_hung_up(incoming),
            Method::Invite | Method::Update => self.renegotiate(&incoming),
            Method::Info => self.info(&incoming),
            Method::Notify => self.notified(&incoming),
            Method::Options => self.parts.respond(&incoming.id, capabilities(request.respond(200))),
            _ => {
                count(&self.parts.stats.refused_method);
                self.parts.respond(&incoming.id, request.respond(405).with("Allow", ALLOW));
            }
        }
    }

    /// Rule A1: the `200` is sent when the recording is stored as required, at the latest at the end of the
    /// conversation; [`Call::end`] sends it.
    fn caller_hung_up(&mut self, incoming: IncomingRequest) {
        let IncomingRequest { id, request, at, .. } = incoming;
        if self.bye.is_some() {
            return self.parts.respond(&id, request.respond(200));
        }
        let timeout = self.parts.config().bye_timeout();
        self.bye = Some(Bye { id, request, at, answered: false });
        self.bye_due = after(timeout.saturating_sub(self.parts.since(at)));
        self.over = true;
        self.hang_up(Reason::Done);
    }

    /// The time limit for the answer to BYE has expired while the recording is still being stored.
    pub(super) fn bye_overdue(&mut self) {
        let Some(bye) = &mut self.bye else { return };
        if std::mem::replace(&mut bye.answered, true) {
            return;
        }
        count(&self.parts.stats.byes_unacknowledged);
        tracing::warn!("message not stored in time; BYE is answered 500, filing continues");
        self.parts.stats.bye_time.record(self.parts.since(bye.at));
        self.parts.respond(&bye.id, bye.request.respond(500));
    }

    /// Re-INVITE and UPDATE, with and without a description: hold, resume, a moved phone, a session refresh.
    fn renegotiate(&mut self, incoming: &IncomingRequest) {
        let request = &incoming.request;
        let (parts, id) = (self.parts.clone(), &incoming.id);
        if self.conversation_over() {
            // The conversation has ended; only the BYE of this side is pending, until the ACK.
            return parts.respond(id, request.respond(481));
        }
        let has_offer = request.method == Method::Invite || !request.body.is_empty();
        if has_offer && (self.answer_due || self.refresh.as_ref().is_some_and(|refresh| refresh.offers)) {
            // The offer of this side is unanswered (RFC 3261 section 14.2, RFC 3311 section 5.2).
            return parts.respond(id, request.respond(491));
        }
        let timer = match session::negotiate(request, answer::policy(&parts.config())) {
            TimerOutcome::TooSmall(min) => {
                count(&parts.stats.refused_session_timer);
                return parts.respond(id, request.respond(422).with("Min-SE", min.to_string()));
            }
            TimerOutcome::Timer(timer) => Some(timer),
            TimerOutcome::None => None,
        };
        let offer = match answer::offered(request) {
            Ok(offer) => offer,
            Err(response) => {
                count(&parts.stats.refused_offer);
                return parts.respond(id, *response);
            }
        };
        let accepted = answer::accept(&parts, request, &incoming.flow, timer);
        if offer.is_none() && request.method == Method::Update {
            self.set_session(timer);
            return parts.respond(id, accepted);
        }
        let (trusted, before) = (incoming.is_from_trunk(), self.local.clone());
        self.local.address =
            answer::media_address_again(&parts.config(), &incoming.flow, offer.as_ref(), before.address);
        let described =
            answer::describe(&mut self.local, offer.as_ref(), &self.described).map_err(|error| error.warning());
        let described = described.and_then(|(stream, body)| match stream {
            Some(stream) if !trusted && self.moves_media(&stream) => {
                Err("399 twinbox \"only a trunk moves media to another host\"".to_owned())
            }
            _ => Ok((stream, body)),
        });
        match described {
            Ok((stream, body)) => {
                self.set_session(timer);
                // Set before the media: the audio may come from the signalling host.
                if trusted {
                    self.flow = incoming.flow.clone();
                }
                self.described = body.clone();
                match stream {
                    Some(stream) => self.set_stream(stream),
                    None => (self.answer_due, self.answer_stays) = (true, !trusted),
                }
                self.confirmed &= request.method != Method::Invite;
                self.ack_due = after(answer::ACK_WITHIN);
                parts.respond(id, accepted.with_body(sdp::CONTENT_TYPE, body));
            }
            Err(warning) => {
                // The session is unchanged (RFC 3261 section 14.2).
                self.local = before;
                count(&parts.stats.refused_offer);
                parts.respond(id, request.respond(488).with("Warning", warning));
            }
        }
    }

    /// Whether a description moves the call's audio to a host that is neither its current one nor the caller's Contact.
    fn moves_media(&self, stream: &Stream) -> bool {
        let Some(host) = stream.remote.map(|remote| remote.ip()) else { return false };
        let contact = || Uri::parse(&lock(&self.dialog).remote_target).and_then(|uri| uri.host.parse().ok());
        self.media_host != Some(host) && contact() != Some(host)
    }

    /// Applies the negotiated stream to the media. A caller that only sends from the start is recorded. A caller that listened
    /// before, or names the null address, has put the call on hold; music on hold does not belong to the message. One that
    /// sends nothing is on hold too: no silence and no missing media would end its call.
    pub(super) fn set_stream(&mut self, stream: Stream) {
        let listened = self.stream.as_ref().is_some_and(Stream::peer_listens);
        self.held = !stream.peer_listens() && (self.held || listened || stream.null);
        let held = self.held;
        let on_hold = held || !stream.peer_speaks();
        let limit = Duration::from_secs(u64::from(self.parts.config().max_hold_s));
        self.hold_due = match self.hold_due.take() {
            _ if !on_hold || limit.is_zero() => None,
            since @ Some(_) => since,
            None => after(limit),
        };
        self.media_host = stream.remote.map(|remote| remote.ip()).or(self.media_host);
        self.media.set_remote(Remote {
            rtcp: stream.rtcp,
            rtcp_mux: stream.rtcp_mux,
            signalling: Some(self.flow.remote().ip()),
            any_host: self.trunk.config.media_from_any_host,
            payload_type: stream.payload_type,
            other: stream.other,
            dtmf: stream.dtmf,
            own_dtmf: stream.own_dtmf,
            send: stream.peer_listens(),
            receive: stream.peer_speaks() && !held,
            ..Remote::new(stream.remote, stream.codec)
        });
        self.stream = Some(stream);
    }

    /// The SIP server has stopped: no ACK can arrive, and nothing tells that it is late.
    pub(super) fn stopped(&mut self) {
        self.confirmed = true;
        self.hang_up(Reason::OutOfService);
    }

    /// Handles the ACK: it contains the answer to an offer of this side, if any; the first ACK starts the conversation.
    pub(super) fn acknowledged(&mut self, ack: &Request) {
        self.confirmed = true;
        if self.conversation_over() {
            return;
        }
        if std::mem::take(&mut self.answer_due) {
            let content_type = ack.headers.get("Content-Type").unwrap_or_default();
            let answer = sdp::in_body(content_type, &ack.body)
                .and_then(|body| Sdp::parse(body).ok()?.answers(&self.described).ok());
            match answer {
                Some(stream) if self.answer_stays && self.moves_media(&stream) => {
                    tracing::warn!(
                        "ignored an answer that moves media to another host: no trunk requested the offer"
                    );
                }
                Some(stream) => self.set_stream(stream),
                None => {
                    count(&self.parts.stats.refused_offer);
                    tracing::info!("ACK has no usable answer to the offer; the call ends");
                    return self.hang_up(Reason::NoAnswer);
                }
            }
        }
        if let Some(start) = self.start.take() {
            let (conversation, outputs) = Conversation::start(*start);
            self.conversation = Some(conversation);
            self.perform(outputs);
            for key in std::mem::take(&mut self.early_keys) {
                self.advance(ConversationInput::Digit(key));
            }
        }
    }

    /// Digits by INFO: `application/dtmf-relay` (`Signal=5`) and `application/dtmf` (`5`).
    fn info(&mut self, incoming: &IncomingRequest) {
        let request = &incoming.request;
        if request.headers.get("Info-Package").is_some() {
            return self.parts.respond(&incoming.id, request.respond(469).with("Recv-Info", ""));
        }
        let digit = match request.content_type().as_deref() {
            Some("application/dtmf-relay") => signal(&request.body),
            Some("application/dtmf") => plain(&request.body),
            // Without a body, INFO only tests whether the call exists (RFC 2976 section 2.2).
            None => None,
            Some(_) => {
                let accept = "application/dtmf-relay, application/dtmf";
                return self.parts.respond(&incoming.id, request.respond(415).with("Accept", accept));
            }
        };
        self.parts.respond(&incoming.id, request.respond(200));
        if let Some(digit) = digit {
            self.key_pressed(KeyPath::Info, digit);
        }
    }
}

fn signal(body: &[u8]) -> Option<char> {
    let text = std::str::from_utf8(body.get(..body.len().min(256))?).ok()?;
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case("signal").then(|| value.trim())
    })?;
    key(value)
}

fn plain(body: &[u8]) -> Option<char> {
    key(std::str::from_utf8(body.get(..body.len().min(16))?).ok()?.trim())
}

/// A key by its name, or by its event number, which some senders use (`10` is star, `11` is pound).
fn key(text: &str) -> Option<char> {
    match text {
        "10" => return Some('*'),
        "11" => return Some('#'),
        _ => {}
    }
    let mut chars = text.chars();
    let key = chars.next()?.to_ascii_uppercase();
    (chars.next().is_none() && matches!(key, '0'..='9' | '*' | '#' | 'A'..='D')).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::{plain, signal};

    #[test]
    fn digits_are_read_from_both_kinds_of_body() {
        for (body, digit) in [
            ("Signal=5\r\nDuration=160\r\n", Some('5')),
            ("Duration=160\nsignal = *\n", Some('*')),
            ("Signal=11\r\n", Some('#')),
            ("Signal=d", Some('D')),
            ("Signal=55", None),
            ("Signal=", None),
            ("", None),
            ("Signal=\u{661}", None),
        ] {
            assert_eq!(signal(body.as_bytes()), digit, "{body:?}");
        }
        assert_eq!(
            (plain(b"7\r\n"), plain(b"10"), plain(b"x"), plain(&[0xff])),
            (Some('7'), Some('*'), None, None)
        );
    }
}
