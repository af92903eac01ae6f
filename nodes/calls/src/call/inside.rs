//! Requests within the dialog of a call, and the ACK that starts the conversation.

use std::time::Duration;

use twinbox_conversation::Conversation;
use twinbox_media::{Codec, Remote};
use twinbox_sip::{
    Method, Request,
    sdp::{self, Sdp, Stream},
    session::{self, Outcome},
    uri::Uri,
};

use super::{Bye, Call, Reason, Way, after, answer};
use crate::{
    admit::{ALLOW, capabilities},
    door::{Arrival, lock},
    stats::count,
};

impl Call {
    pub(super) fn request(&mut self, arrival: Arrival) {
        let request = &arrival.request;
        let (ours, in_order) = {
            let mut dialog = lock(&self.dialog);
            let ours = request.headers.tag("From") == Some(dialog.remote_tag.as_str());
            (ours, ours && dialog.received(request))
        };
        if !ours {
            count(&self.door.stats.refused_no_dialog);
            return self.door.respond(&arrival.id, request.respond(481));
        }
        if !in_order {
            // Older than a previous request (RFC 3261 section 12.2.2).
            let mut response = request.respond(500);
            response.reason = "CSeq out of order".to_owned();
            return self.door.respond(&arrival.id, response);
        }
        lock(&self.dialog).retarget(&request.method, &request.headers, self.door.of_a_trunk(&arrival.flow));
        self.note_allow(&request.headers);
        match request.method {
            Method::Bye => self.caller_hung_up(arrival),
            Method::Invite | Method::Update => self.renegotiate(&arrival),
            Method::Info => self.info(&arrival),
            Method::Notify => self.notified(&arrival),
            Method::Options => self.door.respond(&arrival.id, capabilities(request.respond(200))),
            _ => {
                count(&self.door.stats.refused_method);
                self.door.respond(&arrival.id, request.respond(405).with("Allow", ALLOW));
            }
        }
    }

    /// Rule A1: the `200` is sent when the recording is stored as required, at the latest at the end of the
    /// conversation; [`Call::end`] sends it.
    fn caller_hung_up(&mut self, arrival: Arrival) {
        let Arrival { id, request, at, .. } = arrival;
        if self.bye.is_some() {
            return self.door.respond(&id, request.respond(200));
        }
        let patience = self.door.config.bye_patience();
        self.bye = Some(Bye { id, request, at, answered: false });
        self.bye_due = after(patience.saturating_sub(at.elapsed()));
        self.over = true;
        self.hang_up(Reason::Done);
    }

    /// Re-INVITE and UPDATE, with and without a description: hold, resume, a moved phone, a session refresh.
    fn renegotiate(&mut self, arrival: &Arrival) {
        let request = &arrival.request;
        let (door, id) = (self.door.clone(), &arrival.id);
        if self.silent() {
            // The conversation has ended; only the BYE of this side is pending, until the ACK.
            return door.respond(id, request.respond(481));
        }
        let asks = request.method == Method::Invite || !request.body.is_empty();
        if asks && (self.answer_due || self.refresh.as_ref().is_some_and(|refresh| refresh.offers)) {
            // The offer of this side is unanswered (RFC 3261 section 14.2, RFC 3311 section 5.2).
            return door.respond(id, request.respond(491));
        }
        let timer = match session::negotiate(request, answer::policy(&door.config)) {
            Outcome::TooSmall(min) => {
                count(&door.stats.refused_session_timer);
                return door.respond(id, request.respond(422).with("Min-SE", min.to_string()));
            }
            Outcome::Timer(timer) => Some(timer),
            Outcome::None => None,
        };
        let offer = match answer::offered(request) {
            Ok(offer) => offer,
            Err(response) => {
                count(&door.stats.refused_offer);
                return door.respond(id, *response);
            }
        };
        let accepted = answer::accept(&door, request, &arrival.flow, timer);
        if offer.is_none() && request.method == Method::Update {
            self.set_session(timer);
            return door.respond(id, accepted);
        }
        let trusted = door.of_a_trunk(&arrival.flow);
        let described =
            answer::describe(&mut self.local, offer.as_ref()).map_err(|error| format!("305 twinbox \"{error}\""));
        let described = described.and_then(|(stream, body)| match stream {
            Some(stream) if !trusted && self.leads_elsewhere(&stream) => {
                Err("399 twinbox \"only a trunk moves media to another host\"".to_owned())
            }
            _ => Ok((stream, body)),
        });
        match described {
            Ok((stream, body)) => {
                self.set_session(timer);
                // Set before the media: the audio may come from the signalling host.
                if trusted {
                    self.flow = arrival.flow.clone();
                }
                self.described = body.clone();
                match stream {
                    Some(stream) => self.set_stream(stream, true),
                    None => (self.answer_due, self.answer_stays) = (true, !trusted),
                }
                self.confirmed &= request.method != Method::Invite;
                door.respond(id, accepted.with_body(sdp::CONTENT_TYPE, body));
            }
            Err(warning) => {
                // The session is unchanged (RFC 3261 section 14.2).
                self.local.version -= 1;
                count(&door.stats.refused_offer);
                door.respond(id, request.respond(488).with("Warning", warning));
            }
        }
    }

    /// Whether a description moves the call's audio to a host that is neither its current one nor the caller's Contact.
    fn leads_elsewhere(&self, stream: &Stream) -> bool {
        let Some(host) = stream.remote.map(|remote| remote.ip()) else { return false };
        let contact = || Uri::parse(&lock(&self.dialog).remote_target).and_then(|uri| uri.host.parse().ok());
        self.media_host != Some(host) && contact() != Some(host)
    }

    /// Applies the negotiated stream to the media. A caller that only sends from the start is recorded. A caller that
    /// does so later has put the call on hold; music on hold does not belong to the message.
    pub(super) fn set_stream(&mut self, stream: Stream, later: bool) {
        let codec = match stream.codec {
            sdp::Codec::Pcmu => Codec::Pcmu,
            sdp::Codec::Pcma => Codec::Pcma,
        };
        let held = later && !stream.peer_listens();
        let nobody = !stream.peer_listens() && (held || !stream.peer_speaks());
        let most = Duration::from_secs(u64::from(self.door.config.max_hold_s));
        self.hold_due = match self.hold_due.take() {
            _ if !nobody || most.is_zero() => None,
            since @ Some(_) => since,
            None => after(most),
        };
        self.media_host = stream.remote.map(|remote| remote.ip()).or(self.media_host);
        self.media.set_remote(Remote {
            rtcp: stream.rtcp,
            rtcp_mux: stream.rtcp_mux,
            signalling: Some(self.flow.remote().ip()),
            any_host: self.trunk.config.media_from_any_host,
            payload_type: stream.payload_type,
            dtmf: stream.dtmf,
            send: stream.peer_listens(),
            receive: stream.peer_speaks() && !held,
            ..Remote::new(stream.remote, codec)
        });
        self.stream = Some(stream);
    }

    /// Handles the ACK: it contains the answer to an offer of this side, if any; the first ACK starts the conversation.
    pub(super) fn acknowledged(&mut self, ack: &Request) {
        self.confirmed = true;
        if self.silent() {
            return;
        }
        if std::mem::take(&mut self.answer_due) {
            let content_type = ack.headers.get("Content-Type").unwrap_or_default();
            let answer = sdp::in_body(content_type, &ack.body).and_then(|body| Sdp::parse(body).ok()?.audio().ok());
            match answer {
                Some(stream) if self.answer_stays && self.leads_elsewhere(&stream) => {
                    tracing::warn!(
                        "an answer that moves media to another host is ignored: no trunk asked for our offer"
                    );
                }
                Some(stream) => self.set_stream(stream, self.conversation.is_some()),
                None => {
                    count(&self.door.stats.refused_offer);
                    tracing::info!("our offer was not answered with anything usable");
                    return self.hang_up(Reason::NoAnswer);
                }
            }
        }
        if let Some(start) = self.start.take() {
            let (conversation, outputs) = Conversation::start(*start);
            self.conversation = Some(conversation);
            self.perform(outputs);
        }
    }

    /// Digits by INFO: `application/dtmf-relay` (`Signal=5`) and `application/dtmf` (`5`).
    fn info(&mut self, arrival: &Arrival) {
        let request = &arrival.request;
        if request.headers.get("Info-Package").is_some() {
            return self.door.respond(&arrival.id, request.respond(469).with("Recv-Info", ""));
        }
        let digit = match request.content_type().as_deref() {
            Some("application/dtmf-relay") => signal(&request.body),
            Some("application/dtmf") => plain(&request.body),
            // Without a body, INFO only tests whether the call exists (RFC 2976 section 2.2).
            None => None,
            Some(_) => {
                let accept = "application/dtmf-relay, application/dtmf";
                return self.door.respond(&arrival.id, request.respond(415).with("Accept", accept));
            }
        };
        self.door.respond(&arrival.id, request.respond(200));
        if let Some(digit) = digit {
            self.pressed(Way::Info, digit);
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
