//! Entries as they come off the wire, and notes on what was left out.

use std::collections::BTreeSet;

use ldap3::asn1::StructureTag;
use twinbox_directory_core::{Attributes, DISABLED_ATTRIBUTES, Entry, entry_id_of_guid, entry_id_of_uuid};
use twinbox_mailbox::EntryId;

/// Longest name of an entry, in bytes.
const LONGEST_DN: usize = 8_192;

/// Names of attributes in [`Notes`].
const MOST_NAMES: usize = 32;

/// Attributes that hold the stable id.
const ID_ATTRIBUTES: [&str; 2] = ["entryUUID", "objectGUID"];

/// Results that were left out since the connection was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Referrals to other servers that were not followed.
    pub referrals: u64,
    /// Names of attributes that were left out because their values exceed the bound.
    pub large_attributes: BTreeSet<String>,
    /// Entries that were left out because the account may not read their stable id.
    pub without_id: u64,
}

/// An entry before its id is known.
pub(crate) struct RawEntry {
    pub dn: String,
    /// Values by attribute, names in lower case.
    attributes: Vec<(String, Vec<Vec<u8>>)>,
    /// Names of attributes that were left out, in lower case: they are not absent.
    cut: Vec<String>,
}

impl RawEntry {
    /// An entry with these attributes, names in lower case.
    #[cfg(test)]
    pub fn with(attributes: &[(&str, &str)]) -> Self {
        let read = |(name, value): &(&str, &str)| ((*name).to_owned(), vec![value.as_bytes().to_vec()]);
        Self { dn: String::new(), attributes: attributes.iter().map(read).collect(), cut: Vec::new() }
    }

    /// Reads an entry; `None` if it is malformed. Attributes beyond `bound` bytes are left out, marked as cut and
    /// noted.
    pub fn read(tag: StructureTag, bound: usize, notes: &mut Notes) -> Option<Self> {
        let mut parts = tag.expect_constructed()?.into_iter();
        let dn = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
        if dn.len() > LONGEST_DN {
            return None;
        }
        let (mut attributes, mut cut) = (Vec::new(), Vec::new());
        for attribute in parts.next()?.expect_constructed()? {
            let mut parts = attribute.expect_constructed()?.into_iter();
            let name = String::from_utf8(parts.next()?.expect_primitive()?).ok()?.to_ascii_lowercase();
            let values = parts.next()?.expect_constructed()?.into_iter();
            let values: Vec<Vec<u8>> = values.map(StructureTag::expect_primitive).collect::<Option<_>>()?;
            if values.iter().map(Vec::len).sum::<usize>() <= bound {
                attributes.push((name, values));
                continue;
            }
            // Active Directory returns a part of many values as `member;range=0-1499`.
            let name = name.split_once(";range=").map_or(name.as_str(), |(name, _)| name).to_owned();
            if notes.large_attributes.len() < MOST_NAMES {
                notes.large_attributes.insert(name.clone());
            }
            cut.push(name);
        }
        Some(Self { dn, attributes, cut })
    }

    /// The values of an attribute, by its name in any case.
    pub fn values(&self, name: &str) -> &[Vec<u8>] {
        let found = self.attributes.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map_or(&[], |(_, values)| values)
    }

    /// The first value of an attribute as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values(name).first().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The values of an attribute that are text.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name).iter().filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// The stable id, if the entry has one.
    pub fn id(&self) -> Option<EntryId> {
        let uuid = self.values("entryUUID").first().and_then(|value| entry_id_of_uuid(value));
        uuid.or_else(|| self.values("objectGUID").first().and_then(|value| entry_id_of_guid(value)))
    }

    /// The entry under this id.
    pub fn with_id(self, id: EntryId) -> Entry {
        let mut attributes = Attributes::new();
        for (name, values) in self.attributes {
            for value in values {
                attributes.add(&name, value);
            }
        }
        self.cut.iter().for_each(|name| attributes.mark_cut(name));
        Entry::new(id, self.dn, attributes)
    }
}

/// Attributes to ask for: those of the settings, the stable id, and those that tell a disabled account.
pub(crate) fn wanted(attributes: &[String]) -> Vec<String> {
    let fixed = ID_ATTRIBUTES.iter().chain(DISABLED_ATTRIBUTES.iter()).map(|name| (*name).to_owned());
    let mut wanted: Vec<String> = Vec::new();
    for name in attributes.iter().cloned().chain(fixed) {
        if !wanted.iter().any(|other| other.eq_ignore_ascii_case(&name)) {
            wanted.push(name);
        }
    }
    wanted
}

/// Attributes of the stable id alone.
pub(crate) fn id_attributes() -> Vec<String> {
    ID_ATTRIBUTES.map(str::to_owned).to_vec()
}
