//! Registration (RFC 3261 section 10): the registrar of an address of record, the granted time, and the time of the refresh.

use std::time::Duration;

use crate::Response;

/// The Request-URI of a REGISTER: the address of record without its user (RFC 3261 section 10.2).
pub fn registrar(aor: &str) -> String {
    let (scheme, rest) = aor.split_once(':').unwrap_or(("sip", aor));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}:{}", host.split([';', '?']).next().unwrap_or(host))
}

/// Granted duration in seconds: `expires` of the own Contact, else Expires, else the requested duration; never longer than the
/// latter, or than a minute if that is longer. A registrar may list Contacts of others, too; `own` is the name and value of the
/// URI parameter by which the own one is known.
pub fn granted(response: &Response, own: (&str, &str), requested: u32) -> u32 {
    let value = |contact: &str, key: &str| {
        let mut params = contact.split([';', '>']).filter_map(|param| param.trim().split_once('='));
        params.find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.to_owned())
    };
    let ours = response.headers.list("Contact").filter(|c| value(c, own.0).as_deref() == Some(own.1));
    let listed = ours.filter_map(|contact| value(contact, "expires")?.parse().ok()).min();
    let header = || response.headers.get("Expires").and_then(|v| v.trim().parse().ok());
    listed.or_else(header).unwrap_or(requested).min(requested.max(60))
}

/// The registrar's minimum duration in seconds, if it names one of at most a day.
pub fn min_expires(response: &Response) -> Option<u32> {
    response.headers.get("Min-Expires").and_then(|v| v.trim().parse().ok()).filter(|min| *min <= 86_400)
}

/// Time until the refresh: well before the expiry, but at least five seconds.
pub fn refresh_after(granted: u32) -> Duration {
    Duration::from_secs(u64::from(granted) * 4 / 5).max(Duration::from_secs(5))
}
