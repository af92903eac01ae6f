//! Called side of a self-test call: answers, plays a tone, waits for the BYE. It uses the path of every call (socket,
//! transactions, store, session description, media thread), but does not count towards `max_calls` and appears in no
//! counter and no log.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender};
use twinbox_media::{Clip, Codec, Remote};
use twinbox_rtp::g711;
use twinbox_sip::{
    Method, Request, Response,
    dialog::Dialog,
    sdp::{self, Local},
};
use twinbox_sip_transport::Flow;

use super::{CallEntries, CallParts, Input, answer, channel};
use crate::{access::IncomingRequest, self_test::MAILBOX};

/// Maximum duration of the call, whatever the caller does.
const MAX_DURATION: Duration = Duration::from_secs(10);
/// Duration of the tone.
const TONE: Duration = Duration::from_secs(2);
const TONE_HZ: f64 = 425.0;
const LOUDNESS: f64 = 8_000.0;

/// Runs a self-test call from its INVITE to its end.
pub(super) async fn run(
    parts: Arc<CallParts>,
    invite: IncomingRequest,
    sender: Sender<Input>,
    inputs: Receiver<Input>,
) {
    let mut entries = CallEntries::new(&parts.dialogs, &invite, None);
    if let Err(refusal) = converse(&parts, &invite, sender, inputs, &mut entries).await {
        parts.respond(&invite.id, *refusal);
    }
}

async fn converse(
    parts: &Arc<CallParts>,
    invite: &IncomingRequest,
    sender: Sender<Input>,
    mut inputs: Receiver<Input>,
    entries: &mut CallEntries,
) -> Result<(), Box<Response>> {
    let request = &invite.request;
    let refuse = |code, why: &str| {
        let mut response = request.respond(code);
        response.reason = why.to_owned();
        Box::new(response)
    };
    // No mailbox has this number: this only tests whether the store answers.
    let asked = parts.deps.mailstore.find_by_number(MAILBOX).await;
    asked.map_err(|error| refuse(500, &format!("The store does not answer: {error}")))?;
    let offer = answer::offered(request)?.ok_or_else(|| refuse(488, "No session description"))?;
    let (media_sender, _events) = channel();
    let media =
        parts.deps.media.open_uncounted(media_sender).map_err(|e| refuse(503, &format!("No media: {e}")))?;
    let mut local =
        Local { address: address(parts, &invite.flow), port: media.local_port(), session: 1, version: 0 };
    let (stream, body) =
        answer::describe(&mut local, Some(&offer), "").map_err(|error| refuse(488, &error.to_string()))?;
    let stream = stream.ok_or_else(|| refuse(488, "No audio stream"))?;
    let tag = parts.transactions.tag(request);
    let mut dialog = Dialog::accept(request, &tag).ok_or_else(|| refuse(400, "Contact is no SIP URI"))?;
    entries.dialog = Some(parts.dialogs.open(&dialog, &invite.trunk, sender));
    let response = answer::accept(parts, request, &invite.flow, None).with_body(sdp::CONTENT_TYPE, body);
    parts.respond(&invite.id, response);
    let codec = stream.codec;
    media.set_remote(Remote {
        rtcp: stream.rtcp,
        rtcp_mux: stream.rtcp_mux,
        payload_type: stream.payload_type,
        dtmf: stream.dtmf,
        own_dtmf: stream.own_dtmf,
        ..Remote::new(stream.remote, codec)
    });
    media.play(1, vec![Clip::Audio { codec, data: tone(codec) }]);
    // The caller is this process; if it does not hang up in time, it has given up.
    let _ = tokio::time::timeout(MAX_DURATION, until_bye(parts, &mut dialog, &mut inputs)).await;
    super::answer_late(parts, &mut inputs);
    Ok(())
}

async fn until_bye(parts: &Arc<CallParts>, dialog: &mut Dialog, inputs: &mut Receiver<Input>) {
    while let Some(input) = inputs.recv().await {
        let IncomingRequest { id, request, .. } = match input {
            Input::Request(incoming) => *incoming,
            // The call ends automatically.
            Input::Acknowledged(_) | Input::DrainTimeout => continue,
            Input::Unacknowledged | Input::Cancelled | Input::Shutdown => return,
        };
        let bye = request.method == Method::Bye && dialog.received(&request);
        parts.respond(&id, answer_within(&request, bye));
        if bye {
            return;
        }
    }
}

fn answer_within(request: &Request, bye: bool) -> Response {
    request.respond(if bye { 200 } else { 405 })
}

/// RTP address of the socket itself, since the advertised address may belong to another machine.
fn address(parts: &CallParts, flow: &Flow) -> IpAddr {
    let bound = Some(parts.config().rtp.bind).filter(|ip| !ip.is_unspecified());
    bound.unwrap_or_else(|| flow.remote().ip().to_canonical())
}

fn tone(codec: Codec) -> Bytes {
    let rate = f64::from(twinbox_rtp::SAMPLE_RATE);
    let sample = |n: u32| (LOUDNESS * (std::f64::consts::TAU * TONE_HZ * f64::from(n) / rate).sin()) as i16;
    let samples: Vec<i16> = (0..(TONE.as_secs_f64() * rate) as u32).map(sample).collect();
    g711::encode(codec, &samples).into()
}
