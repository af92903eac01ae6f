//! Registration with a trunk (RFC 3261 section 10): every node registers its own Contact, refreshes it, and removes it
//! when it stops. All nodes take calls, so all are registered; no duty is needed.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use twinbox_sip::{Headers, Method, Request, Response, uri::HostPort};

use crate::{access::Trunk, outgoing::SendError, sip_server::SipServer, wire::Flow};

/// First pause after a failure; doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Maximum pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// Timeout for removing registrations when the node stops.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(1);
/// Poll interval for the drain state.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A registration, with the values that must not change (RFC 3261 section 10.2.4).
struct Registrant {
    server: Arc<SipServer>,
    trunk: Arc<Trunk>,
    call_id: String,
    cseq: u32,
}

/// Keeps all configured registrations until the SIP server closes. That of a trunk that was removed or changed is
/// removed before another begins: both may have one address of record.
pub(crate) async fn follow(server: Arc<SipServer>) {
    let (mut trunks, mut kept) =
        (server.access.subscribe(), Vec::<(Arc<Trunk>, CancellationToken, JoinHandle<()>)>::new());
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
                let task = server.tasks.spawn(Registrant::new(&server, trunk).run(stop.clone()));
                kept.push((trunk.clone(), stop, task));
            }
        }
        tokio::select! {
            _ = trunks.changed() => {}
            () = server.stop.cancelled() => return,
        }
    }
}

/// Removes all registrations, with a timeout.
pub(crate) async fn withdraw(server: &Arc<SipServer>) {
    let access = server.access();
    let registered = access.iter().filter(|t| t.config.register.is_some());
    let all = registered.map(|trunk| {
        let mut registrant = Registrant::new(server, trunk);
        async move { registrant.register(0).await.map(drop) }
    });
    let _ = tokio::time::timeout(WITHDRAW_TIMEOUT, futures::future::join_all(all)).await;
}

impl Registrant {
    fn new(server: &Arc<SipServer>, trunk: &Arc<Trunk>) -> Self {
        let call_id = format!("{:032x}", rand::random::<u128>());
        Self { server: server.clone(), trunk: trunk.clone(), call_id, cseq: 0 }
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
        let (mut pause, mut logged) = (FIRST_PAUSE, false);
        loop {
            let draining = self.server.admission.draining();
            let seconds = if draining { 0 } else { wanted };
            let wait = match self.register(seconds).await {
                Ok(granted) => {
                    if !logged {
                        tracing::info!(trunk = %self.trunk.config.name, seconds = granted, "registered");
                    }
                    (pause, logged) = (FIRST_PAUSE, true);
                    refresh_after(granted)
                }
                Err(reason) => {
                    tracing::warn!(trunk = %self.trunk.config.name, reason, "registration failed; it is retried");
                    logged = false;
                    let now = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    now
                }
            };
            let server = self.server.clone();
            tokio::select! {
                // A draining node that is still registered tries again.
                () = tokio::time::sleep(wait), if !draining || !logged => {}
                () = drain_state_changed(&server, draining) => {}
                () = self.server.stop.cancelled() => return,
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
        match response.code {
            200..=299 => Ok(granted(&response, self.server.deps.node.as_str(), seconds)),
            code => Err(format!("refused with {code}")),
        }
    }

    async fn send(&mut self, seconds: u32) -> Result<Response, String> {
        let config = &self.trunk.config;
        let (Some(registration), Some(proxy)) = (&config.register, config.proxy.as_deref()) else {
            return Err("the trunk has no proxy".to_owned());
        };
        let proxy = HostPort::parse(proxy).ok_or("the trunk's proxy is not a host")?;
        let to_text = |error: SendError| error.to_string();
        let targets = self.server.targets(proxy.host, proxy.port, config.transport).await.map_err(to_text)?;
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
            headers.push(
                "Contact",
                format!("{};expires={seconds}", self.server.registered_contact(&registration.aor, flow)),
            );
            headers.push("Expires", seconds.to_string());
            Request { method: Method::Register, uri: domain(&registration.aor), headers, body: Default::default() }
        };
        // The registrar is the addressed host, whatever the trunk's source addresses are.
        let credentials = self.trunk.credentials.as_ref();
        self.server.send_to_any(&targets, &make, credentials, None).await.map_err(to_text)
    }
}

/// Waits until the drain state changes.
async fn drain_state_changed(server: &SipServer, draining: bool) {
    while server.admission.draining() == draining {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The Request-URI of a REGISTER: the address of record without its user (RFC 3261 section 10.2).
fn domain(aor: &str) -> String {
    let (scheme, rest) = aor.split_once(':').unwrap_or(("sip", aor));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}:{}", host.split([';', '?']).next().unwrap_or(host))
}

/// Granted duration: `expires` of this node's Contact, which a registrar may list among others, else Expires, else the
/// requested duration.
fn granted(response: &Response, node: &str, requested: u32) -> u32 {
    let value = |contact: &str, key: &str| {
        let mut params = contact.split([';', '>']).filter_map(|param| param.trim().split_once('='));
        params.find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.to_owned())
    };
    let ours =
        response.headers.list("Contact").filter(|c| value(c, crate::admit::NODE_PARAM).as_deref() == Some(node));
    let listed = ours.filter_map(|contact| value(contact, "expires")?.parse().ok()).min();
    let header = || response.headers.get("Expires").and_then(|v| v.trim().parse().ok());
    listed.or_else(header).unwrap_or(requested).min(requested.max(60))
}

fn min_expires(response: &Response) -> Option<u32> {
    response.headers.get("Min-Expires").and_then(|v| v.trim().parse().ok()).filter(|min| *min <= 86_400)
}

/// Time until the refresh: well before the expiry, but at least five seconds.
fn refresh_after(granted: u32) -> Duration {
    Duration::from_secs(u64::from(granted) * 4 / 5).max(Duration::from_secs(5))
}

#[cfg(test)]
#[path = "../tests/unit/register.rs"]
mod tests;
