//! A call until its final answer: the INVITE, its challenge, and CANCEL.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use twinbox_clock::BootInstant;
use twinbox_sip::{Method, Request, Response};

use crate::{
    Call, CallError, CallOptions, Direction, Handle, Offer, Target,
    call::{Inner, SDP},
    client_transaction::{ClientTransaction, answer_challenge},
    core::{ALLOW, Arrived, Core, DialogKey, Registration},
    phone_media::PhoneMedia,
    sdp::{self, Description},
    uac_dialog::{UacDialog, ack_refusal},
    wire::Flow,
};

/// Timeout for the answer to a cancelled INVITE.
const AFTER_CANCEL: Duration = Duration::from_secs(32);

/// A pending INVITE: acknowledges refusals and answers challenges automatically.
pub(crate) struct Invite {
    core: Arc<Core>,
    request: Request,
    pub(crate) transaction: ClientTransaction,
    auth: Option<(String, String)>,
}

impl Invite {
    pub(crate) async fn start(
        core: Arc<Core>,
        mut request: Request,
        flow: Flow,
        auth: Option<(String, String)>,
    ) -> Self {
        let transaction = ClientTransaction::start(&core, &mut request, flow).await;
        Self { core, request, transaction, auth }
    }

    /// The next response; hides a challenge that can be answered.
    async fn next(&mut self) -> Option<Arrived<Response>> {
        loop {
            let response = self.transaction.next().await?;
            if response.message.is_provisional() || response.message.is_success() {
                return Some(response);
            }
            let (branch, flow) = (self.transaction.branch().to_owned(), self.transaction.flow.clone());
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
            self.transaction = ClientTransaction::start(&self.core, &mut self.request, flow).await;
        }
    }

    pub(crate) async fn finish(&mut self) -> Option<Arrived<Response>> {
        loop {
            let response = self.next().await?;
            if !response.message.is_provisional() {
                return Some(response);
            }
        }
    }

    /// CSeq number of the INVITE as last sent.
    pub(crate) fn number(&self) -> u32 {
        self.request.headers.cseq()
    }
}

/// An INVITE that is not answered yet. Dropping it sends nothing; [`Dialing::cancel`] cancels it.
pub struct Dialing {
    handle: Arc<Handle>,
    options: CallOptions,
    dialog: UacDialog,
    media: PhoneMedia,
    description: Description,
    invite: Invite,
    sent: BootInstant,
    /// The newest response, not processed yet if it is final.
    newest: Option<Arrived<Response>>,
    registration: Registration<DialogKey, Request>,
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
        let failed = |e: std::io::Error| CallError::new(503, format!("the target cannot be reached: {e}"));
        let media = PhoneMedia::open(core.wire.address().ip(), options.send_silence).await.map_err(failed)?;
        let mut description = Description {
            address: media.address().map_err(failed)?,
            session: rand::random::<u32>() >> 1,
            version: 0,
            codecs: options.codecs.iter().map(|codec| (codec.payload_type(), *codec)).collect(),
            dtmf: Some(options.dtmf_payload_type),
            direction: Direction::SendRecv,
        };
        let from = options.from.clone().unwrap_or_else(|| core.contact("phone"));
        let callee = options.to.clone().unwrap_or_else(|| format!("<{}>", target.uri));
        let mut dialog =
            UacDialog::new(options.call_id.clone(), &from, &callee, &target.uri, core.contact("phone"));
        let (registration, requests) = core.expect_requests((dialog.call_id.clone(), dialog.local_tag.clone()));
        let mut request = dialog.request(Method::Invite);
        request.headers.push("Allow", ALLOW);
        for (name, value) in &options.headers {
            request.headers.push(name, value.as_str());
        }
        if options.offer == Offer::Early {
            with_sdp(&mut request, &mut description);
        }
        let flow = core.wire.flow(to).await.map_err(failed)?;
        let invite = Invite::start(core, request, flow, options.auth.clone()).await;
        let sent = invite.transaction.sent;
        Ok(Self { handle, options, dialog, media, description, invite, sent, newest: None, registration, requests })
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
    pub(crate) async fn answered_within(&mut self, timeout: Duration) -> bool {
        // A timeout loses nothing: a response that has arrived is taken by the next wait.
        let _ = tokio::time::timeout(timeout, self.ringing()).await;
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
                Err(_) => Err(CallError::new(408, "not answered in time: the call was cancelled")),
            },
        }
    }

    /// Sends CANCEL and waits for the INVITE's final answer: a failure with 487, or a call if the answer came first.
    pub async fn cancel(mut self) -> Result<Call, CallError> {
        // Before a provisional answer CANCEL is not allowed (RFC 3261 section 9.1).
        if self.ringing().await.is_some() {
            let flow = self.invite.transaction.flow.clone();
            let mut cancel = ClientTransaction::cancel(&self.invite.core, &self.invite.request, flow).await;
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
        let Some(response) = response else { return Err(CallError::new(408, "no answer from the target")) };
        if !response.message.is_success() {
            return Err(CallError::from(&response.message));
        }
        let Self {
            handle, options, mut dialog, media, mut description, invite, sent, registration, requests, ..
        } = self;
        dialog.cseq = invite.number();
        dialog.established(&response.message);
        let session = sdp::read(&response.message.body);
        let mut ack = dialog.request(Method::Ack);
        if let (Ok(stream), Offer::Late) = (&session, options.offer) {
            description.agree(stream);
            with_sdp(&mut ack, &mut description);
        }
        let branch = invite.transaction.branch().to_owned();
        let flow = next_flow(&invite.core, &dialog, &invite.transaction.flow).await;
        ack.headers.push_front("Via", invite.core.via().0);
        invite.core.acknowledge(&branch, ack.to_bytes(), flow.clone()).await;
        let (ended, _) = watch::channel(None);
        let inner = Inner {
            core: invite.core.clone(),
            options,
            dialog: Mutex::new(dialog),
            media,
            description: Mutex::new(description),
            flow: Mutex::new(flow),
            ended,
            branch,
        };
        let call = Call::start(handle, inner, response.at.since(sent), registration, requests);
        match session {
            Ok(stream) => {
                call.set_remote(&stream);
                Ok(call)
            }
            Err(error) => {
                call.bye().await?;
                Err(error)
            }
        }
    }
}

pub(crate) fn with_sdp(request: &mut Request, description: &mut Description) {
    request.headers.set("Content-Type", SDP);
    request.body = description.write().into();
}

/// Flow to the next hop; the current flow if the next hop has no address or cannot be reached.
async fn next_flow(core: &Core, dialog: &UacDialog, current: &Flow) -> Flow {
    match core.address(dialog.next_hop()).await {
        Ok(to) if to != current.peer() => core.wire.flow(to).await.unwrap_or_else(|_| current.clone()),
        _ => current.clone(),
    }
}
