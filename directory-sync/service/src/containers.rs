//! Change sequence numbers of OpenLDAP: whether a server's data are older than a cookie, and whether a container has
//! moved. The move of a container changes the names of all entries below it, but marks none of them as changed.

use ldap3::Scope;

use crate::{DirectoryConnection, LdapError, ServerDescription, search::Search};

/// Digits of a time to the second at the beginning of a change sequence number.
const SECONDS: usize = 14;

/// Change sequence number: time, count, server, modification, as in `20260101120000.000000Z#000000#001#000000`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Csn(String);

impl Csn {
    fn parse(text: &str) -> Option<Self> {
        let fine = text.split('#').count() == 4
            && text.get(..SECONDS).is_some_and(|time| time.bytes().all(|byte| byte.is_ascii_digit()))
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'#' | b'.'));
        fine.then(|| Self(text.to_owned()))
    }

    fn server(&self) -> &str {
        self.0.split('#').nth(2).unwrap_or_default()
    }

    fn seconds(&self) -> &str {
        self.0.get(..SECONDS).unwrap_or_default()
    }
}

/// The numbers in a cookie such as `rid=000,csn=A;B`; none in a cookie of another server's form.
fn csns(cookie: &[u8]) -> Vec<Csn> {
    let text = std::str::from_utf8(cookie).unwrap_or_default();
    let numbers = text.split(',').filter_map(|part| part.strip_prefix("csn="));
    numbers.flat_map(|numbers| numbers.split(';')).filter_map(Csn::parse).collect()
}

/// Relation of a server's data to a cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Age {
    /// The same.
    Same,
    /// Newer, or not known.
    Newer,
    /// Older: a backup was restored, or the server lags behind.
    Older,
}

fn age(cookie: &[Csn], server: &[Csn]) -> Age {
    if cookie.is_empty() || server.is_empty() {
        return Age::Newer;
    }
    let latest = |known: &Csn| server.iter().find(|csn| csn.server() == known.server());
    if cookie.iter().any(|known| latest(known).is_none_or(|latest| latest.0 < known.0)) {
        return Age::Older;
    }
    if cookie.len() == server.len() && cookie.iter().all(|known| server.contains(known)) {
        Age::Same
    } else {
        Age::Newer
    }
}

/// Compares a server's data with a cookie.
pub(crate) async fn compare(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    base: &str,
    cookie: &[u8],
) -> Result<Age, LdapError> {
    let Some(context) = description.context_of(base) else { return Ok(Age::Newer) };
    let entry = connection.read(context, &["contextCSN"]).await?;
    let server: Vec<Csn> =
        entry.iter().flat_map(|entry| entry.texts("contextCSN")).filter_map(Csn::parse).collect();
    Ok(age(&csns(cookie), &server))
}

/// Whether a server's data in one of these bases are older than its cookie. Numbers that this account may not read tell nothing.
pub(crate) async fn is_older(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    bases: &[String],
    cookies: &[Vec<u8>],
) -> Result<bool, LdapError> {
    for (base, cookie) in bases.iter().zip(cookies) {
        match compare(connection, description, base, cookie).await {
            Ok(Age::Older) => return Ok(true),
            Ok(Age::Same | Age::Newer) | Err(LdapError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The reason for a full search if a container that existed at the time of the cookie has changed since.
pub(crate) async fn moved(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    base: &str,
    cookie: &[u8],
) -> Result<Option<String>, LdapError> {
    let known = csns(cookie);
    let Some(oldest) = known.iter().min_by(|a, b| a.0.cmp(&b.0)) else { return Ok(None) };
    // A container that was moved into the base comes from elsewhere in the context.
    let context = description.context_of(base).unwrap_or(base);
    let found = match changed(connection, description, context, oldest, &known).await {
        Err(LdapError::Refused { code: 32, .. }) if context != base => {
            changed(connection, description, base, oldest, &known).await
        }
        found => found,
    };
    match found {
        Ok(false) => Ok(None),
        Ok(true) => Ok(Some("a container has changed: the entries below it may have moved".to_owned())),
        Err(error @ LdapError::Refused { .. }) => Ok(Some(format!("changed containers cannot be read: {error}"))),
        Err(error) => Err(error),
    }
}

async fn changed(
    connection: &DirectoryConnection,
    description: &ServerDescription,
    base: &str,
    oldest: &Csn,
    known: &[Csn],
) -> Result<bool, LdapError> {
    let search = Search {
        base: base.to_owned(),
        scope: Scope::Subtree,
        filter: format!("(&(entryCSN>={})(hasSubordinates=TRUE))", oldest.0),
        attributes: vec!["entryCSN".to_owned(), "createTimestamp".to_owned()],
        controls: Vec::new(),
    };
    let page = description.divides_results().then_some(500);
    let mut found = false;
    connection
        .search_in_pages(&search, page, |entry| {
            let csn = entry.text("entryCSN").and_then(Csn::parse);
            found |= csn.is_none_or(|csn| is_moved(&csn, entry.text("createTimestamp"), oldest, known));
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Whether a container with this number and time of creation may have moved since the known numbers.
fn is_moved(csn: &Csn, created: Option<&str>, oldest: &Csn, known: &[Csn]) -> bool {
    let before = known.iter().find(|known| known.server() == csn.server());
    let is_newer = before.is_none_or(|before| csn.0 > before.0);
    let before = before.unwrap_or(oldest);
    let is_old = created.and_then(|time| time.get(..SECONDS)).is_none_or(|time| time <= before.seconds());
    is_newer && is_old
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csn(second: u8, server: u8) -> Csn {
        Csn::parse(&format!("202601011200{second:02}.000000Z#000000#{server:03}#000000")).expect("a number")
    }

    #[test]
    fn numbers_are_found_in_cookies_of_openldap_only() {
        let cookie = format!("rid=000,csn={};{}", csn(1, 0).0, csn(2, 1).0);
        assert_eq!(csns(cookie.as_bytes()), [csn(1, 0), csn(2, 1)]);
        assert!(csns(b"1234").is_empty());
        assert!(csns(b"csn=20260101)(uid=*#0#0#0").is_empty(), "no text that would change a filter");
    }

    #[test]
    fn data_older_than_a_cookie_are_told_from_newer_ones() {
        for (cookie, server, expected) in [
            (vec![csn(5, 0)], vec![csn(5, 0)], Age::Same),
            (vec![csn(5, 0)], vec![csn(6, 0)], Age::Newer),
            (vec![csn(5, 0)], vec![csn(4, 0)], Age::Older),
            (vec![csn(5, 0), csn(5, 1)], vec![csn(9, 0), csn(4, 1)], Age::Older),
            (vec![csn(5, 0), csn(5, 1)], vec![csn(9, 0)], Age::Older),
            (vec![csn(5, 0)], vec![csn(5, 0), csn(1, 1)], Age::Newer),
            (vec![], vec![csn(5, 0)], Age::Newer),
            (vec![csn(5, 0)], vec![], Age::Newer),
        ] {
            assert_eq!(age(&cookie, &server), expected, "{cookie:?} {server:?}");
        }
    }

    #[test]
    fn only_old_containers_with_newer_changes_may_have_moved() {
        let known = [csn(5, 0), csn(20, 1)];
        for (changed, created, expected) in [
            (csn(6, 0), Some("20250101000000Z"), true),
            (csn(5, 0), Some("20250101000000Z"), false),
            (csn(19, 1), Some("20250101000000Z"), false),
            (csn(6, 0), Some("20260101120006Z"), false),
            (csn(6, 0), None, true),
            (csn(6, 2), Some("20250101000000Z"), true),
        ] {
            assert_eq!(is_moved(&changed, created, &known[0], &known), expected, "{changed:?} {created:?}");
        }
    }
}
