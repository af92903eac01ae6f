//! Names by which the gateway looks up the mailbox of a mail address.

use twinbox_mail::Address;
use twinbox_mailstore::{MailError, Mailbox, Mailstore, UserAddress};

/// The local part that every mail server must know, and the one recipient without a domain (RFC 5321 section 4.5.1).
pub(crate) const POSTMASTER: &str = "postmaster";

/// A name of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MailName {
    /// Its number.
    Number(String),
    /// An address or alias of its user.
    Address(UserAddress),
}

/// The mailbox that a mail address leads to, where `domain` is that of the mailboxes, in lower case.
pub(crate) async fn find(
    mailstore: &Mailstore,
    address: &Address,
    domain: &str,
) -> Result<Option<Mailbox>, MailError> {
    for name in names(address, domain) {
        let found = match name {
            MailName::Number(number) => mailstore.find_by_number(&number).await?,
            MailName::Address(address) => mailstore.find_by_address(&address).await?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The mailbox that takes mail for postmaster at the domain of the mailboxes.
pub async fn find_postmaster(mailstore: &Mailstore, domain: &str) -> Result<Option<Mailbox>, MailError> {
    match Address::parse(&format!("{POSTMASTER}@{domain}")) {
        Ok(address) => find(mailstore, &address, domain).await,
        Err(_) => Ok(None),
    }
}

/// The names of the mailbox with this address, the most exact first, where `domain` is that of the mailboxes, in lower
/// case. There an alias comes before the whole address: it is a name of a mailbox here, and another user's own address must not
/// take its mail. A suffix of the local part that begins with `+` (RFC 5233) is for the sender's use: the mailbox is that of
/// the address without it, unless a user has the address as it is.
pub(crate) fn names(address: &Address, domain: &str) -> Vec<MailName> {
    let local = address.local();
    let mut names = names_of(local, address.domain(), domain);
    if let Some((plain, _)) = local.split_once('+') {
        names.extend(names_of(plain, address.domain(), domain));
    }
    names
}

fn names_of(local: &str, at: &str, domain: &str) -> Vec<MailName> {
    let is_ours = at == domain;
    // A number in a mail address is exactly its digits: `10-01` may be an alias.
    if is_ours && !local.is_empty() && local.bytes().all(|b| b.is_ascii_digit()) {
        return vec![MailName::Number(local.to_owned())];
    }
    let whole = UserAddress::address(&format!("{local}@{at}")).ok();
    let alias = Some(local).filter(|_| is_ours).and_then(|local| UserAddress::alias(local).ok());
    alias.into_iter().chain(whole).map(MailName::Address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_address_are_the_number_the_alias_and_the_whole_address() {
        let domain = "voicemail.example";
        for (address, expected) in [
            ("1001@voicemail.example", &["number 1001"][..]),
            ("1001+urgent@Voicemail.Example", &["1001+urgent", "1001+urgent@voicemail.example", "number 1001"]),
            ("Anna.L@voicemail.example", &["anna.l", "anna.l@voicemail.example"]),
            (
                "Anna+x+y@voicemail.example",
                &["anna+x+y", "anna+x+y@voicemail.example", "anna", "anna@voicemail.example"],
            ),
            ("10-01@voicemail.example", &["10-01", "10-01@voicemail.example"]),
            // Only whole addresses count in other domains, a number as well.
            ("Anna@elsewhere.example", &["anna@elsewhere.example"]),
            ("anna+x@elsewhere.example", &["anna+x@elsewhere.example", "anna@elsewhere.example"]),
            ("1001@sub.voicemail.example", &["1001@sub.voicemail.example"]),
            // No user has these.
            ("+15550100@voicemail.example", &["+15550100", "+15550100@voicemail.example"]),
            ("\"two words\"@voicemail.example", &[]),
            ("jörg@voicemail.example", &[]),
        ] {
            let address = Address::parse(address).expect("an address");
            let names: Vec<String> = names(&address, domain)
                .into_iter()
                .map(|name| match name {
                    MailName::Number(number) => format!("number {number}"),
                    MailName::Address(address) => address.as_str().to_owned(),
                })
                .collect();
            assert_eq!(names, expected, "{address}");
        }
    }
}
