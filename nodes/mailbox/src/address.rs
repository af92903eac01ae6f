//! Mail addresses of users, one of their own and aliases; and the claim that gives an address to one mailbox (rule
//! D6).

use std::{collections::BTreeSet, fmt};

use twinbox_ids::MailboxId;
use twinbox_replication_core::{Edit, Record};

use crate::{
    schema::{address::HOLDER, mailbox as tag},
    value::{read_text, set_text},
};

/// Maximum number of aliases of a user.
pub const MOST_ALIASES: usize = 16;

/// Maximum length of an address, in bytes.
const LONGEST: usize = 254;
/// Maximum length of a local part, in bytes (RFC 5321 section 4.5.3.1.1).
const LONGEST_LOCAL: usize = 64;

/// Name of a user in mail: a whole address, or a local part in the domain of the mailboxes. In lower case, since case
/// tells no two users apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserAddress(String);

/// A text is not an address or an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It is not a mail address.
    #[error("not a mail address: write it as anna@example.com, in ASCII and without a display name")]
    Address,
    /// It is neither a mail address nor a local part.
    #[error("not an alias: write a name such as anna, or a whole address such as anna@example.com")]
    Alias,
    /// It has digits only.
    #[error("an alias of digits could be the number of a mailbox: use a letter in it")]
    Digits,
    /// There are too many aliases.
    #[error("a user has at most {most} aliases", most = MOST_ALIASES)]
    TooMany,
}

impl UserAddress {
    /// Reads a whole address.
    pub fn address(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        let local = text.split('@').next().unwrap_or_default();
        let fine = is_mail_address(text) && local.len() <= LONGEST_LOCAL;
        fine.then(|| Self(text.to_ascii_lowercase())).ok_or(InvalidAddress::Address)
    }

    /// Reads an alias: a local part, or a whole address.
    pub fn alias(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        match text.contains('@') {
            true => Self::address(text).map_err(|_| InvalidAddress::Alias),
            // A lone '-' stands for no alias.
            false if !is_plain(text) || text.len() > LONGEST_LOCAL || text == "-" => Err(InvalidAddress::Alias),
            false if text.bytes().all(|byte| byte.is_ascii_digit()) => Err(InvalidAddress::Digits),
            false => Ok(Self(text.to_ascii_lowercase())),
        }
    }

    /// Reads aliases separated by spaces or commas; each counts once.
    pub fn aliases(text: &str) -> Result<Vec<Self>, InvalidAddress> {
        let mut aliases = Vec::new();
        for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
            let alias = Self::alias(word)?;
            if !aliases.contains(&alias) {
                aliases.push(alias);
            }
        }
        if aliases.len() > MOST_ALIASES { Err(InvalidAddress::TooMany) } else { Ok(aliases) }
    }

    /// An alias at the domain of the mailboxes as its local part, so that an alias has one form.
    pub fn within(self, domain: &str) -> Self {
        let local =
            self.0.split_once('@').filter(|(_, at)| at.eq_ignore_ascii_case(domain)).map(|(local, _)| local);
        local.and_then(|local| Self::alias(local).ok()).unwrap_or(self)
    }

    /// The address or local part, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The edits of an address's record that claim it for a mailbox.
    pub fn claim(mailbox: MailboxId) -> Vec<Edit> {
        vec![Edit::Claim(HOLDER, mailbox.to_bytes().to_vec())]
    }

    /// The edits of an address's record that withdraw the claim.
    pub fn release(mailbox: MailboxId) -> Vec<Edit> {
        vec![Edit::Unclaim(HOLDER, mailbox.to_bytes().to_vec())]
    }

    /// The mailboxes that claim the address, the earliest claim first: the first of them that still lists the address
    /// has it.
    pub fn claimants(record: &Record) -> Vec<MailboxId> {
        let all = record.claim(HOLDER).into_iter().chain(record.losers(HOLDER));
        all.filter_map(MailboxId::from_slice).collect()
    }
}

/// Addresses are private: they never go to a log.
impl fmt::Debug for UserAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

/// The addresses of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserAddresses {
    /// Address of the user's own mailbox elsewhere.
    pub mail: Option<UserAddress>,
    /// Further names under which mail reaches the mailbox here; at most [`MOST_ALIASES`].
    pub aliases: Vec<UserAddress>,
}

/// A change to the addresses of a user; `None` leaves a value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressChange {
    /// The own address; `Some(None)`: none.
    pub mail: Option<Option<UserAddress>>,
    /// All aliases.
    pub aliases: Option<Vec<UserAddress>>,
}

impl AddressChange {
    /// The change with aliases at the domain of the mailboxes as local parts; see [`UserAddress::within`].
    pub fn within(self, domain: &str) -> Self {
        let aliases = self.aliases.map(|aliases| {
            let mut reduced: Vec<UserAddress> = Vec::new();
            for alias in aliases.into_iter().map(|alias| alias.within(domain)) {
                if !reduced.contains(&alias) {
                    reduced.push(alias);
                }
            }
            reduced
        });
        Self { mail: self.mail, aliases }
    }
}

impl UserAddresses {
    /// All addresses, each once.
    pub fn all(&self) -> BTreeSet<&UserAddress> {
        self.mail.iter().chain(&self.aliases).collect()
    }

    /// Takes addresses out.
    pub fn remove(&mut self, addresses: &[UserAddress]) {
        self.mail = self.mail.take().filter(|mail| !addresses.contains(mail));
        self.aliases.retain(|alias| !addresses.contains(alias));
    }

    /// These addresses after a change.
    pub fn changed(&self, change: &AddressChange) -> Self {
        Self {
            mail: change.mail.clone().unwrap_or_else(|| self.mail.clone()),
            aliases: change.aliases.clone().unwrap_or_else(|| self.aliases.clone()),
        }
    }

    /// The edits of the mailbox's record that make these of the addresses `before`.
    pub fn edits_since(&self, before: &Self) -> Vec<Edit> {
        let mut edits = Vec::new();
        if self.mail != before.mail {
            edits.push(set_text(tag::MAIL, self.mail.as_ref().map(UserAddress::as_str).unwrap_or_default()));
        }
        if self.aliases != before.aliases {
            edits.push(set_text(tag::ALIASES, &self.aliases_text()));
        }
        edits
    }

    /// The aliases, separated by spaces.
    pub fn aliases_text(&self) -> String {
        self.aliases.iter().map(UserAddress::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Reads the addresses of a mailbox's record. An address that this release cannot read is left out.
    pub(crate) fn read(record: &Record) -> Self {
        let text = |tag| record.bytes(tag).and_then(read_text).unwrap_or_default();
        let aliases = text(tag::ALIASES);
        Self {
            mail: UserAddress::address(&text(tag::MAIL)).ok(),
            aliases: aliases.split(' ').filter_map(|alias| UserAddress::alias(alias).ok()).collect(),
        }
    }
}

/// Checks that a text is a plain mail address: no display name, no list, nothing that could end a header or an SMTP
/// command.
pub fn is_mail_address(text: &str) -> bool {
    text.len() <= LONGEST && text.split_once('@').is_some_and(|(local, domain)| is_plain(local) && is_plain(domain))
}

fn is_plain(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b"@<>()[],;:\\\"".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_aliases_are_read_in_lower_case() {
        let long = format!("{}@example.com", "a".repeat(65));
        for (text, address, alias) in [
            ("Anna@Example.COM", Ok("anna@example.com"), Ok("anna@example.com")),
            (" anna+vm@example.com ", Ok("anna+vm@example.com"), Ok("anna+vm@example.com")),
            ("1001@example.com", Ok("1001@example.com"), Ok("1001@example.com")),
            ("Anna.L", Err(InvalidAddress::Address), Ok("anna.l")),
            ("1001", Err(InvalidAddress::Address), Err(InvalidAddress::Digits)),
            ("a b", Err(InvalidAddress::Address), Err(InvalidAddress::Alias)),
            ("-", Err(InvalidAddress::Address), Err(InvalidAddress::Alias)),
            ("", Err(InvalidAddress::Address), Err(InvalidAddress::Alias)),
            ("a@b@c", Err(InvalidAddress::Address), Err(InvalidAddress::Alias)),
            ("Anna <a@b>", Err(InvalidAddress::Address), Err(InvalidAddress::Alias)),
            ("jörg@example.com", Err(InvalidAddress::Address), Err(InvalidAddress::Alias)),
            (&long, Err(InvalidAddress::Address), Err(InvalidAddress::Alias)),
        ] {
            let read = UserAddress::address(text);
            assert_eq!(read.as_ref().map(UserAddress::as_str).map_err(|error| *error), address, "{text:?}");
            let read = UserAddress::alias(text);
            assert_eq!(read.as_ref().map(UserAddress::as_str).map_err(|error| *error), alias, "{text:?}");
        }
    }

    #[test]
    fn lists_of_aliases_are_bounded_and_name_each_once() {
        let texts = |text: &str| {
            let aliases = UserAddress::aliases(text);
            aliases.map(|all| all.iter().map(|alias| alias.as_str().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(texts("Anna, a.l anna"), Ok(vec!["anna".to_owned(), "a.l".to_owned()]));
        assert_eq!(texts(""), Ok(vec![]));
        assert_eq!(texts("anna 1001"), Err(InvalidAddress::Digits));
        let many = |n: usize| (0..n).map(|n| format!("a{n}")).collect::<Vec<_>>().join(" ");
        assert_eq!(texts(&many(16)).map(|all| all.len()), Ok(16));
        assert_eq!(texts(&many(17)), Err(InvalidAddress::TooMany));
    }

    #[test]
    fn alias_at_the_domain_of_the_mailboxes_is_its_local_part() {
        for (alias, expected) in [
            ("anna@voicemail.example", "anna"),
            ("anna@old.example", "anna@old.example"),
            ("anna", "anna"),
            ("1001@voicemail.example", "1001@voicemail.example"),
        ] {
            let alias = UserAddress::alias(alias).expect("an alias");
            assert_eq!(alias.within("Voicemail.Example").as_str(), expected);
        }
    }

    #[test]
    fn private_addresses_are_not_printed() {
        let addresses = UserAddresses { mail: UserAddress::address("anna@example.com").ok(), aliases: vec![] };
        assert!(!format!("{addresses:?}").contains("anna"));
    }
}
