//! Registration with a trunk (RFC 3261 section 10): every node registers its own Contact, refreshes it, and removes it
//! when it stops. All nodes take calls, so all are registered; no duty is needed.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use twinbox_ids::Backoff;
use twinbox_overload::admission::Admission;
use twinbox_sip::{
    Headers, Method, Request, Response,
    registration::{granted, min_expires, refresh_after, registrar},
    uri::HostPort,
};
use twinbox_sip_transport::Flow;

use crate::{
    access::{CallsSettings, Trunk},
    admit::NODE_PARAM,
    outgoing::Outgoing,
    transactions::SendError,
};

/// Pauses after failures.
const RETRY: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(120));
/// Timeout for removing registrations when the node stops.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(1);
/// Poll interval for the drain state.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The registrations of this node with its trunks.
pub(crate) struct Registrations {
    pub(crate) settings: Arc<CallsSettings>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// A registration, with the values that must not change (RFC 3261 section 10.2.4).
struct Registrant {
    registrations: Arc<Registrations>,
    trunk: Arc<Trunk>,
    call_id: String,
    cseq: u32,
}

impl Registrations {
    /// Keeps all configured registrations until the SIP server closes. That of a trunk that was removed or changed is
    /// removed before another begins: both may have one address of record.
    pub(crate) async fn follow(self: Arc<Self>) {
        let (mut trunks, mut kept) =
            (self.settings.watch_access(), Vec::<(Arc<Trunk>, CancellationToken, JoinHandle<()>)>::new());
        loop {
            let access = trunks.borrow_and_update().clone();
            let (stay, gone): (Vec<_>, Vec<_>) =
                kept.into_iter().partition(|(trunk, ..)| access.iter().any(|now| Arc::ptr_eq(now, trunk)));
            gone.iter().for_each(|(_, stop, _)| stop.cancel());
            for (_, _, task) in gone {
                let _ = task.await;
            }
            kept = stay;
            for trunk in access.iter().filter(|trunk| trunk.config.register.is_some()) {
                if !kept.iter().any(|(known, ..)| Arc::ptr_eq(known, trunk)) {
                    let stop = CancellationToken::new();
                    let task = self.tasks.spawn(Registrant::new(&self, trunk).run(stop.clone()));
                    kept.push((trunk.clone(), stop, task));
                }
            }
            tokio::select! {
                _ = trunks.changed() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Removes all registrations, with a timeout.
    pub(crate) async fn withdraw(self: &Arc<Self>) {
        let access = self.settings.access();
        let registered = access.iter().filter(|t| t.config.register.is_some());
        let all = registered.map(|trunk| {
            let mut registrant = Registrant::new(self, trunk);
            async move { registrant.register(0).await.map(drop) }
        });
        let _ = tokio::time::timeout(WITHDRAW_TIMEOUT, futures::future::join_all(all)).await;
    }
}

impl Registrant {
    fn new(registrations: &Arc<Registrations>, trunk: &Arc<Trunk>) -> Self {
        let call_id = format!("{:032x}", rand::random::<u128>());
        Self { registrations: registrations.clone(), trunk: trunk.clone(), call_id, cseq: 0 }
    }

    /// Registers and refreshes until the SIP server closes, or `stop`, which removes the registration. A draining node
    /// removes it too, so that the PBX sends its calls to another node.
    async fn run(mut self, stop: CancellationToken) {
        if stop.run_until_cancelled(self.keep()).await.is_none() {
            let _ = tokio::time::timeout(WITHDRAW_TIMEOUT, self.register(0)).await;
        }
    }

    async fn keep(&mut self) {
        let wanted = self.trunk.config.register.as_ref().map_or(0, |r| r.seconds);
        let registrations = self.registrations.clone();
        let (mut retry, mut logged) = (RETRY, false);
        loop {
            let draining = registrations.admission.draining();
            let seconds = if draining { 0 } else { wanted };
            let wait = match self.register(seconds).await {
                Ok(granted) => {
                    if !logged {
                        tracing::info!(trunk = %self.trunk.config.name, seconds = granted, "registered");
                    }
                    retry.reset();
                    logged = true;
                    refresh_after(granted)
                }
                Err(reason) => {
                    tracing::warn!(trunk = %self.trunk.config.name, reason, "registration failed; it is retried");
                    logged = false;
                    retry.failed()
                }
            };
            tokio::select! {
                // A draining node that is still registered tries again.
                () = tokio::time::sleep(wait), if !draining || !logged => {}
                () = drain_state_changed(&registrations.admission, draining) => {}
                () = registrations.stop.cancelled() => return,
            }
        }
    }

    /// Sends a REGISTER for this duration; returns the granted duration, or the error. Retries once with the
    /// registrar's minimum (`423`).
    async fn register(&mut self, seconds: u32) -> Result<u32, String> {
        let response = self.send(seconds).await?;
        let response = match (response.code, min_expires(&response)) {
            (423, Some(min)) if min > seconds && seconds > 0 => self.send(min).await?,
            _ => response,
        };
        let node = self.registrations.outgoing.node.as_str();
        match response.code {
            200..=299 => Ok(granted(&response, (NODE_PARAM, node), seconds)),
            code => Err(format!("refused with {code}")),
        }
    }

    async fn send(&mut self, seconds: u32) -> Result<Response, String> {
        let (config, outgoing) = (&self.trunk.config, &self.registrations.outgoing);
        let (Some(registration), Some(proxy)) = (&config.register, config.proxy.as_deref()) else {
            return Err("the trunk has no proxy".to_owned());
        };
        let proxy = HostPort::parse(proxy).ok_or("the trunk's proxy is not a host")?;
        let to_text = |error: SendError| error.to_string();
        let targets = outgoing.targets(proxy.host, proxy.port, config.transport).await.map_err(to_text)?;
        let cseq = self.cseq + 1;
        // One more number, for the answer to a challenge.
        self.cseq += 2;
        let tag = format!("{:016x}", rand::random::<u64>());
        let make = |flow: &Flow| {
            let mut headers = Headers::default();
            headers.push("Max-Forwards", "70");
            headers.push("From", format!("<{}>;tag={tag}", registration.aor));
            headers.push("To", format!("<{}>", registration.aor));
            headers.push("Call-ID", self.call_id.as_str());
            headers.push("CSeq", format!("{cseq} REGISTER"));
            let contact = outgoing.registered_contact(&registration.aor, flow);
            headers.push("Contact", format!("{contact};expires={seconds}"));
            headers.push("Expires", seconds.to_string());
            let uri = registrar(&registration.aor);
            Request { method: Method::Register, uri, headers, body: Default::default() }
        };
        // The registrar is the addressed host, whatever the trunk's source addresses are.
        let credentials = self.trunk.credentials.as_ref();
        outgoing.send_to_any(&targets, &make, credentials, None).await.map_err(to_text)
    }
}

/// Waits until the drain state changes.
async fn drain_state_changed(admission: &Admission, draining: bool) {
    while admission.draining() == draining {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
#[path = "../tests/unit/registrations.rs"]
mod tests;
