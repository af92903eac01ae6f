//! Identity of the caller, as asserted by the trunk (RFC 3325, rule S3).

use twinbox_ids::Pii;

use crate::{Request, addr::NameAddr, uri::Uri};

/// The caller of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The number, as dialled digits if possible.
    pub number: Option<Pii<String>>,
    /// The display name.
    pub name: Option<Pii<String>>,
}

/// Reads the caller: P-Asserted-Identity, else From. Use only for a request from a trunk: other senders can forge
/// these headers. A caller that requested privacy stays unknown.
pub fn caller(request: &Request) -> Caller {
    let headers = &request.headers;
    let private = headers.all("Privacy").flat_map(|v| v.split(';')).map(str::trim);
    if private.into_iter().any(|p| p.eq_ignore_ascii_case("id") || p.eq_ignore_ascii_case("user")) {
        return Caller::default();
    }
    let asserted = headers.list("P-Asserted-Identity").filter_map(known).next();
    asserted.or_else(|| known(headers.get("From")?)).unwrap_or_default()
}

fn known(value: &str) -> Option<Caller> {
    let address = NameAddr::parse(value)?;
    let uri = Uri::parse(address.uri)?;
    if uri.host.eq_ignore_ascii_case("anonymous.invalid") {
        return None;
    }
    let number = uri.number().filter(|n| !n.eq_ignore_ascii_case("anonymous"))?;
    let name = address.display.map(|d| d.chars().filter(|c| !c.is_control()).take(80).collect::<String>());
    let name = name.filter(|n| !n.trim().is_empty());
    Some(Caller { number: Some(number.into()), name: name.map(Pii::new) })
}
