//! Referrals: followed only to servers that the settings name, and never from one to the next.

use ldap3::Scope;
use twinbox_directory_core::{LdapUrl, ServerSettings};

use crate::{DirectoryConnection, LdapError, connection::Failure, entry::RawEntry, password, search::Search};

/// Follows references if the settings allow it. Returns whether results came from another server.
pub(crate) async fn follow(
    connection: &DirectoryConnection,
    references: &[String],
    search: &Search,
    page: Option<u32>,
    mut each: impl FnMut(RawEntry) -> Result<(), LdapError>,
) -> Result<bool, LdapError> {
    let mut followed = false;
    for reference in references {
        let Some((url, search)) = allowed(reference, &connection.settings, search) else {
            connection.noted().referrals += 1;
            continue;
        };
        let password = password::own(&connection.settings).await?;
        let other =
            DirectoryConnection::signed_in(&url, &connection.settings, connection.bounds, password.as_deref())
                .await;
        let other = other.map_err(|failure| match failure {
            Failure::Next(reason) => LdapError::Unreachable(format!("{url}: {reason}")),
            Failure::Final(error) => error,
        })?;
        let further = other.search_in_pages(&search, page, &mut each).await?;
        connection.noted().referrals += further.len() as u64;
        followed = true;
    }
    Ok(followed)
}

/// The server and the search of a reference (RFC 4516) to a host that the settings name. The server is used as the
/// settings say, so that a referral weakens neither TLS nor the choice of the port.
fn allowed(reference: &str, settings: &ServerSettings, search: &Search) -> Option<(LdapUrl, Search)> {
    if !settings.referrals {
        return None;
    }
    let (scheme, rest) = reference.split_once("://")?;
    let (host, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let named: LdapUrl = format!("{scheme}://{host}").parse().ok()?;
    let url = settings.urls.iter().find(|url| url.host.eq_ignore_ascii_case(&named.host))?;
    let mut parts = rest.split('?');
    let base = decoded(parts.next().unwrap_or_default())?;
    let scope = match parts.nth(1).unwrap_or_default() {
        "base" => Scope::Base,
        "one" => Scope::OneLevel,
        "" | "sub" => search.scope,
        _ => return None,
    };
    // A filter of the server's own would be another search.
    if parts.next().is_some_and(|filter| !filter.is_empty()) {
        return None;
    }
    let base = if base.is_empty() { search.base.clone() } else { base };
    Some((url.clone(), Search { base, scope, ..search.clone() }))
}

fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(((high << 4) | low) as u8);
    }
    String::from_utf8(bytes).ok()
}
