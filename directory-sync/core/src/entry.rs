//! An entry of a directory: attributes of bounded size, its stable id, and whether its account is disabled.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use twinbox_mailbox::EntryId;

/// Maximum number of attributes of an entry.
pub const MOST_ATTRIBUTES: usize = 64;
/// Maximum number of values of an attribute.
pub const MOST_VALUES: usize = 2_000;
/// Maximum length of a value, in bytes.
pub const LONGEST_VALUE: usize = 8_192;
/// Maximum length of all values of an entry, in bytes.
pub const MOST_BYTES: usize = 512 * 1024;
/// Maximum length of an attribute's name, in bytes.
const LONGEST_NAME: usize = 256;

/// Attributes that disable accounts. Two of them are operational: a search must ask for them by name.
pub const DISABLED_ATTRIBUTES: [&str; 3] = ["userAccountControl", "nsAccountLock", "pwdAccountLockedTime"];
/// Bit of `userAccountControl` that disables an account (ACCOUNTDISABLE, MS-ADTS section 2.2.16).
const ACCOUNT_DISABLE: i64 = 2;
/// The `pwdAccountLockedTime` of a permanent lock (draft-behera-ldap-password-policy section 5.3.3). Any other time is
/// a temporary lock after wrong passwords, which disables no account.
const LOCKED_FOR_EVER: &[u8] = b"000001010000Z";

/// The attributes of an entry by name in lower case. Values beyond the limits of size are left out, and the attribute is
/// marked as cut.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    values: BTreeMap<String, Vec<Vec<u8>>>,
    bytes: usize,
    cut: BTreeSet<String>,
    /// Attributes were left out: an absent one may be among them.
    overflow: bool,
}

impl Attributes {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value; `false` if it exceeds a limit, which marks the attribute as cut. An attribute of which Active
    /// Directory returns a range of values only (`memberOf;range=0-1499`) is marked as cut too.
    pub fn add(&mut self, name: &str, value: Vec<u8>) -> bool {
        let name = name.to_ascii_lowercase();
        let (name, range) = name.split_once(";range=").unwrap_or((name.as_str(), "*"));
        let new = !self.values.contains_key(name);
        if name.len() > LONGEST_NAME || (new && self.values.len() >= MOST_ATTRIBUTES) {
            self.overflow = true;
            return false;
        }
        if !range.ends_with('*') {
            self.cut.insert(name.to_owned());
        }
        let values = self.values.entry(name.to_owned()).or_default();
        let bytes = self.bytes.saturating_add(value.len());
        if value.len() > LONGEST_VALUE || values.len() >= MOST_VALUES || bytes > MOST_BYTES {
            self.cut.insert(name.to_owned());
            return false;
        }
        self.bytes = bytes;
        values.push(value);
        true
    }

    /// Marks an attribute as cut: a reader left values of it out. Without the mark its absence would empty the field.
    pub fn mark_cut(&mut self, name: &str) {
        if name.len() <= LONGEST_NAME && self.cut.len() < MOST_ATTRIBUTES {
            self.cut.insert(name.to_ascii_lowercase());
        } else {
            self.overflow = true;
        }
    }

    /// The values of an attribute, by its name in any case.
    pub fn values(&self, name: &str) -> &[Vec<u8>] {
        self.values.get(&name.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// The values that are text in UTF-8, in one line each: control characters are spaces, and those at the ends are
    /// dropped. Empty ones are left out.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let line = |text: &str| -> String { text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect() };
        let texts = self.values(name).iter().filter_map(|value| std::str::from_utf8(value).ok());
        texts.map(|text| line(text).trim().to_owned()).filter(|text| !text.is_empty()).collect()
    }

    /// Whether values of the attribute may be missing because of a limit.
    pub fn is_cut(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.cut.contains(&name) || (self.overflow && !self.values.contains_key(&name))
    }
}

/// Values are private: they never go to a log.
impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attributes", self.values.len())
    }
}

/// An entry as a server returned it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its stable id.
    pub id: EntryId,
    /// Its distinguished name.
    pub dn: String,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its account is disabled.
    pub disabled: bool,
}

impl Entry {
    /// An entry whose attributes say whether its account is disabled.
    pub fn new(id: EntryId, dn: String, attributes: Attributes) -> Self {
        let disabled = account_disabled(&attributes);
        Self { id, dn, attributes, disabled }
    }
}

/// Names are private: the id alone is printed.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({})", self.id)
    }
}

/// Whether the attributes disable the account: bit 2 of `userAccountControl` (Active Directory), `nsAccountLock` (389
/// Directory Server, FreeIPA), or a permanent `pwdAccountLockedTime` (OpenLDAP).
pub fn account_disabled(attributes: &Attributes) -> bool {
    let is_control = |text: &String| text.parse::<i64>().is_ok_and(|bits| bits & ACCOUNT_DISABLE != 0);
    attributes.texts("userAccountControl").iter().any(is_control)
        || attributes.values("nsAccountLock").iter().any(|value| value.trim_ascii().eq_ignore_ascii_case(b"true"))
        || attributes.values("pwdAccountLockedTime").iter().any(|value| value.trim_ascii() == LOCKED_FOR_EVER)
}

/// The id of an `entryUUID` (RFC 4530), a UUID as text; `None` for other bytes.
pub fn entry_id_of_uuid(value: &[u8]) -> Option<EntryId> {
    EntryId::parse(std::str::from_utf8(value).ok()?.trim()).ok()
}

/// The id of an `objectGUID`: 16 bytes, of which the first three fields of the UUID are little-endian (MS-DTYP section
/// 2.3.4.2); `None` for another length.
pub fn entry_id_of_guid(value: &[u8]) -> Option<EntryId> {
    let bytes: [u8; 16] = value.try_into().ok()?;
    Some(EntryId(u128::from_be_bytes(swapped(bytes))))
}

/// The `objectGUID` of an id: the inverse of [`entry_id_of_guid`], for filters.
pub fn guid_of_entry_id(id: EntryId) -> [u8; 16] {
    swapped(id.0.to_be_bytes())
}

/// The first three fields (4, 2 and 2 bytes) in the other byte order.
fn swapped(bytes: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}
