//! Registration with a trunk (RFC 3261 section 10): every node registers its own Contact, refreshes it in time, and
//! takes it back when it stops. Both nodes take calls, so both are registered; no duty is needed.

use std::{sync::Arc, time::Duration};

use twinbox_sip::{Headers, Method, Request, Response, uri::HostPort};

use crate::{access::Trunk, door::Door, outgoing::SendError, wire::Flow};

/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// Taking a registration back may not keep a node from stopping.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often it is looked whether the node drains.
const LOOK: Duration = Duration::from_millis(500);

/// One registration, with what stays the same through its life (RFC 3261 section 10.2.4).
struct Registrant {
    door: Arc<Door>,
    trunk: Arc<Trunk>,
    call_id: String,
    cseq: u32,
}

/// Begins all registrations that are configured.
pub(crate) fn start(door: &Arc<Door>) {
    for trunk in door.access.iter().filter(|t| t.config.register.is_some()) {
        let registrant = Registrant::new(door, trunk);
        door.tasks.spawn(registrant.keep());
    }
}

/// Takes all registrations back, as far as that is quick.
pub(crate) async fn withdraw(door: &Arc<Door>) {
    let registered = door.access.iter().filter(|t| t.config.register.is_some());
    let all = registered.map(|trunk| {
        let mut registrant = Registrant::new(door, trunk);
        async move { registrant.register(0).await.map(drop) }
    });
    let _ = tokio::time::timeout(FAREWELL, futures::future::join_all(all)).await;
}

impl Registrant {
    fn new(door: &Arc<Door>, trunk: &Arc<Trunk>) -> Self {
        let call_id = format!("{:032x}", rand::random::<u128>());
        Self { door: door.clone(), trunk: trunk.clone(), call_id, cseq: 0 }
    }

    /// Registers and refreshes until the door closes. A node that drains takes its registration back, so that the PBX
    /// sends its calls to the other.
    async fn keep(mut self) {
        let wanted = self.trunk.config.register.as_ref().map_or(0, |r| r.seconds);
        let (mut pause, mut told) = (FIRST_PAUSE, false);
        loop {
            let draining = self.door.admission.draining();
            let seconds = if draining { 0 } else { wanted };
            let wait = match self.register(seconds).await {
                Ok(granted) => {
                    if !told {
                        tracing::info!(trunk = %self.trunk.config.name, seconds = granted, "registered");
                    }
                    (pause, told) = (FIRST_PAUSE, true);
                    refresh_after(granted)
                }
                Err(reason) => {
                    tracing::warn!(trunk = %self.trunk.config.name, reason, "not registered");
                    told = false;
                    let now = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    now
                }
            };
            let door = self.door.clone();
            tokio::select! {
                () = tokio::time::sleep(wait), if !draining => {}
                () = changed(&door, draining) => {}
                () = self.door.stop.cancelled() => return,
            }
        }
    }

    /// One REGISTER for this time; returns what was granted, or why not. An interval that is too brief (`423`) is
    /// raised once.
    async fn register(&mut self, seconds: u32) -> Result<u32, String> {
        let response = self.ask(seconds).await?;
        let response = match (response.code, min_expires(&response)) {
            (423, Some(min)) if min > seconds && seconds > 0 => self.ask(min).await?,
            _ => response,
        };
        match response.code {
            200..=299 => Ok(granted(&response, seconds)),
            code => Err(format!("refused with {code}")),
        }
    }

    async fn ask(&mut self, seconds: u32) -> Result<Response, String> {
        let config = &self.trunk.config;
        let (Some(registration), Some(proxy)) = (&config.register, config.proxy.as_deref()) else {
            return Err("it has no proxy".to_owned());
        };
        let proxy = HostPort::parse(proxy).ok_or("its proxy is no host")?;
        let in_words = |error: SendError| error.to_string();
        let targets = self.door.targets(proxy.host, proxy.port, config.transport).await.map_err(in_words)?;
        let cseq = self.cseq + 1;
        // One more, for the answer to a challenge.
        self.cseq += 2;
        let tag = format!("{:016x}", rand::random::<u64>());
        let make = |flow: &Flow| {
            let mut headers = Headers::default();
            headers.push("Max-Forwards", "70");
            headers.push("From", format!("<{}>;tag={tag}", registration.aor));
            headers.push("To", format!("<{}>", registration.aor));
            headers.push("Call-ID", self.call_id.as_str());
            headers.push("CSeq", format!("{cseq} REGISTER"));
            headers.push("Contact", format!("{};expires={seconds}", self.door.contact(flow)));
            headers.push("Expires", seconds.to_string());
            Request { method: Method::Register, uri: domain(&registration.aor), headers, body: Default::default() }
        };
        // The registrar is the host that we call, whatever addresses the trunk calls from.
        let credentials = self.trunk.credentials.as_ref();
        self.door.send_to_any(&targets, &make, credentials, None).await.map_err(in_words)
    }
}

/// Until the node begins to drain, or to take calls again.
async fn changed(door: &Door, draining: bool) {
    while door.admission.draining() == draining {
        tokio::time::sleep(LOOK).await;
    }
}

/// The Request-URI of a REGISTER: the address of record without its user (RFC 3261 section 10.2).
fn domain(aor: &str) -> String {
    let (scheme, rest) = aor.split_once(':').unwrap_or(("sip", aor));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}:{}", host.split([';', '?']).next().unwrap_or(host))
}

/// What was granted: our own Contact's `expires`, which a registrar with several Contacts lists among others, else
/// Expires, else what was asked for.
fn granted(response: &Response, asked: u32) -> u32 {
    let node = format!("{}=", crate::admit::NODE_PARAM);
    let contacts: Vec<&str> = response.headers.list("Contact").collect();
    let expires =
        |contact: &str| contact.rsplit(';').find_map(|p| p.trim().strip_prefix("expires=")?.parse::<u32>().ok());
    let ours: Vec<u32> = contacts.iter().filter(|c| c.contains(&node)).filter_map(|c| expires(c)).collect();
    let listed = ours.into_iter().min();
    let header = || response.headers.get("Expires").and_then(|v| v.trim().parse().ok());
    listed.or_else(header).unwrap_or(asked).min(asked.max(60))
}

fn min_expires(response: &Response) -> Option<u32> {
    response.headers.get("Min-Expires").and_then(|v| v.trim().parse().ok()).filter(|min| *min <= 86_400)
}

/// A registration is refreshed well before it runs out, and not more often than every five seconds.
fn refresh_after(granted: u32) -> Duration {
    Duration::from_secs(u64::from(granted) * 4 / 5).max(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrar_is_the_domain_of_the_address() {
        for (aor, uri) in [
            ("sip:voicemail@pbx.example.com", "sip:pbx.example.com"),
            ("sip:voicemail@10.0.0.10:5070;transport=tcp", "sip:10.0.0.10:5070"),
            ("sip:pbx", "sip:pbx"),
        ] {
            assert_eq!(domain(aor), uri);
        }
    }

    #[test]
    fn it_is_refreshed_before_it_runs_out() {
        assert_eq!(refresh_after(3600), Duration::from_secs(2880));
        assert_eq!(refresh_after(1), Duration::from_secs(5));
    }
}
