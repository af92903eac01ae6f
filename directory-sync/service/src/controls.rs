//! Controls: paged results (RFC 2696), content synchronization (RFC 4533), deleted objects (MS-ADTS section
//! 3.1.1.3.4.1).

use ldap3::{
    asn1::{PL, StructureTag},
    controls::{Control, RawControl},
};
use twinbox_mailbox::EntryId;

use crate::ber::{
    BOOLEAN, ENUMERATED, INTEGER, Malformed, OCTETS, Reader, SEQUENCE, SET, number, truth, write, write_number,
};

pub(crate) const PAGED: &str = "1.2.840.113556.1.4.319";
pub(crate) const SYNC_REQUEST: &str = "1.3.6.1.4.1.4203.1.9.1.1";
const SYNC_STATE: &str = "1.3.6.1.4.1.4203.1.9.1.2";
const SYNC_DONE: &str = "1.3.6.1.4.1.4203.1.9.1.3";
const SYNC_INFO: &[u8] = b"1.3.6.1.4.1.4203.1.9.1.4";
pub(crate) const SHOW_DELETED: &str = "1.2.840.113556.1.4.417";

/// Longest cookie that is kept, in bytes.
const LONGEST_COOKIE: usize = 16 << 10;

/// Mode of a synchronization request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    RefreshOnly = 1,
    RefreshAndPersist = 3,
}

/// Asks for one page of at most `size` entries.
pub(crate) fn paged(size: u32, cookie: &[u8]) -> RawControl {
    let mut parts = Vec::new();
    write_number(&mut parts, INTEGER, size);
    write(&mut parts, OCTETS, cookie);
    critical(PAGED, &parts)
}

/// Asks for the changes since `cookie`, or for all entries. The server is to refuse a cookie that is too old instead of
/// sending everything.
pub(crate) fn sync_request(mode: Mode, cookie: Option<&[u8]>) -> RawControl {
    let mut parts = Vec::new();
    write_number(&mut parts, ENUMERATED, mode as u32);
    if let Some(cookie) = cookie {
        write(&mut parts, OCTETS, cookie);
    }
    critical(SYNC_REQUEST, &parts)
}

/// Asks for deleted entries too.
pub(crate) fn show_deleted() -> RawControl {
    RawControl { ctype: SHOW_DELETED.to_owned(), crit: true, val: None }
}

fn critical(name: &str, parts: &[u8]) -> RawControl {
    let mut value = Vec::new();
    write(&mut value, SEQUENCE, parts);
    RawControl { ctype: name.to_owned(), crit: true, val: Some(value) }
}

/// The cookie of the next page; empty after the last one. `None` if the server did not divide the results.
pub(crate) fn next_page(controls: &[Control]) -> Result<Option<Vec<u8>>, Malformed> {
    const PART: &str = "the control of paged results";
    let Some(mut parts) = value_of(controls, PAGED, PART)? else { return Ok(None) };
    number(parts.expect(INTEGER, PART)?, PART)?;
    cookie(parts.expect(OCTETS, PART)?, PART).map(Some)
}

/// State of an entry within a synchronization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncState {
    pub state: EntryState,
    pub id: EntryId,
    pub cookie: Option<Vec<u8>>,
}

/// Relation of an entry to the content at the time of the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryState {
    Unchanged,
    Changed,
    Gone,
}

/// The state control of an entry.
pub(crate) fn sync_state(controls: &[Control]) -> Result<Option<SyncState>, Malformed> {
    const PART: &str = "the state of an entry";
    let Some(mut parts) = value_of(controls, SYNC_STATE, PART)? else { return Ok(None) };
    let state = match number(parts.expect(ENUMERATED, PART)?, PART)? {
        0 => EntryState::Unchanged,
        1 | 2 => EntryState::Changed,
        3 => EntryState::Gone,
        _ => return Err(Malformed(PART)),
    };
    let id = id(parts.expect(OCTETS, PART)?)?;
    let cookie = parts.optional(OCTETS, PART)?.map(|bytes| cookie(bytes, PART)).transpose()?;
    Ok(Some(SyncState { state, id, cookie }))
}

/// End of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncDone {
    pub cookie: Option<Vec<u8>>,
    /// The server named what is gone. Otherwise it named what is present.
    pub named_gone: bool,
}

/// The control at the end of a refresh.
pub(crate) fn sync_done(controls: &[Control]) -> Result<Option<SyncDone>, Malformed> {
    const PART: &str = "the end of a synchronization";
    let Some(mut parts) = value_of(controls, SYNC_DONE, PART)? else { return Ok(None) };
    let cookie = parts.optional(OCTETS, PART)?.map(|bytes| cookie(bytes, PART)).transpose()?;
    let named_gone = parts.optional(BOOLEAN, PART)?.map(|bytes| truth(bytes, PART)).transpose()?;
    Ok(Some(SyncDone { cookie, named_gone: named_gone.unwrap_or(false) }))
}

/// Message between entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SyncInfo {
    /// A newer cookie.
    Cookie(Vec<u8>),
    /// End of a phase in which the server named what is gone (or present), and perhaps of the refresh.
    PhaseEnd { named_gone: bool, cookie: Option<Vec<u8>>, refresh_done: bool },
    /// Ids of entries that are gone (or present).
    Ids { gone: bool, cookie: Option<Vec<u8>>, ids: Vec<EntryId> },
}

/// Reads an intermediate message; `None` if it is of another kind.
pub(crate) fn sync_info(message: StructureTag) -> Result<Option<SyncInfo>, Malformed> {
    const PART: &str = "a message of a synchronization";
    let PL::C(parts) = message.payload else { return Err(Malformed(PART)) };
    let (mut name, mut value) = (None, None);
    for part in parts {
        match (part.id, part.payload) {
            (0, PL::P(bytes)) => name = Some(bytes),
            (1, PL::P(bytes)) => value = Some(bytes),
            _ => return Err(Malformed(PART)),
        }
    }
    if name.as_deref() != Some(SYNC_INFO) {
        return Ok(None);
    }
    let value = value.ok_or(Malformed(PART))?;
    let (tag, content) = Reader::new(&value).element(PART)?;
    if tag == 0x80 {
        return cookie(content, PART).map(|cookie| Some(SyncInfo::Cookie(cookie)));
    }
    let mut parts = Reader::new(content);
    let cookie = parts.optional(OCTETS, PART)?.map(|bytes| cookie(bytes, PART)).transpose()?;
    let flag = parts.optional(BOOLEAN, PART)?.map(|bytes| truth(bytes, PART)).transpose()?;
    match tag {
        0xa1 | 0xa2 => {
            let refresh_done = flag.unwrap_or(true);
            Ok(Some(SyncInfo::PhaseEnd { named_gone: tag == 0xa1, cookie, refresh_done }))
        }
        0xa3 => {
            let mut members = Reader::new(parts.expect(SET, PART)?);
            let mut ids = Vec::new();
            while !members.is_empty() {
                ids.push(id(members.expect(OCTETS, PART)?)?);
            }
            Ok(Some(SyncInfo::Ids { gone: flag.unwrap_or(false), cookie, ids }))
        }
        _ => Err(Malformed(PART)),
    }
}

fn value_of<'a>(controls: &'a [Control], name: &str, part: &'static str) -> Result<Option<Reader<'a>>, Malformed> {
    let Some(Control(_, control)) = controls.iter().find(|Control(_, control)| control.ctype == name) else {
        return Ok(None);
    };
    let value = control.val.as_deref().ok_or(Malformed(part))?;
    Reader::new(value).expect(SEQUENCE, part).map(|content| Some(Reader::new(content)))
}

fn id(bytes: &[u8]) -> Result<EntryId, Malformed> {
    EntryId::from_slice(bytes).ok_or(Malformed("an entry's UUID"))
}

fn cookie(bytes: &[u8], part: &'static str) -> Result<Vec<u8>, Malformed> {
    if bytes.len() > LONGEST_COOKIE { Err(Malformed(part)) } else { Ok(bytes.to_vec()) }
}

#[cfg(test)]
mod tests {
    use ldap3::asn1::TagClass;

    use super::*;

    fn response(name: &str, value: &[u8]) -> Vec<Control> {
        vec![Control(None, RawControl { ctype: name.to_owned(), crit: false, val: Some(value.to_vec()) })]
    }

    fn information(value: Vec<u8>) -> StructureTag {
        let part = |id, bytes| StructureTag { class: TagClass::Context, id, payload: PL::P(bytes) };
        let parts = vec![part(0, SYNC_INFO.to_vec()), part(1, value)];
        StructureTag { class: TagClass::Application, id: 25, payload: PL::C(parts) }
    }

    #[test]
    fn requests_have_the_bytes_of_the_rfcs() {
        assert_eq!(paged(500, b"").val, Some(vec![0x30, 6, 2, 2, 1, 0xf4, 4, 0]));
        let request = sync_request(Mode::RefreshAndPersist, Some(b"c"));
        assert_eq!((request.crit, request.val), (true, Some(vec![0x30, 6, 0x0a, 1, 3, 4, 1, b'c'])));
    }

    #[test]
    fn states_and_ends_are_read_with_their_defaults() {
        let mut value = vec![0x30, 24, 0x0a, 1, 3, 4, 16];
        value.extend([7; 16]);
        value.extend([4, 1, b'c']);
        let state = SyncState {
            state: EntryState::Gone,
            id: EntryId(u128::from_be_bytes([7; 16])),
            cookie: Some(b"c".to_vec()),
        };
        assert_eq!(sync_state(&response(SYNC_STATE, &value)), Ok(Some(state)));
        assert_eq!(sync_state(&[]), Ok(None));
        let end = |value: &[u8]| sync_done(&response(SYNC_DONE, value));
        assert_eq!(end(&[0x30, 0]), Ok(Some(SyncDone { cookie: None, named_gone: false })));
        assert_eq!(end(&[0x30, 3, 1, 1, 0xff]), Ok(Some(SyncDone { cookie: None, named_gone: true })));
        assert!(end(&[]).is_err());
    }

    #[test]
    fn messages_of_a_synchronization_are_read() {
        assert_eq!(sync_info(information(vec![0x80, 1, b'c'])), Ok(Some(SyncInfo::Cookie(b"c".to_vec()))));
        let end = SyncInfo::PhaseEnd { named_gone: false, cookie: None, refresh_done: true };
        assert_eq!(sync_info(information(vec![0xa2, 0])), Ok(Some(end)));
        let mut value = vec![0xa3, 23, 1, 1, 0xff, 0x31, 18, 4, 16];
        value.extend([9; 16]);
        let ids = vec![EntryId(u128::from_be_bytes([9; 16]))];
        assert_eq!(sync_info(information(value)), Ok(Some(SyncInfo::Ids { gone: true, cookie: None, ids })));
        for wrong in [vec![0xa3, 0], vec![0xa3, 5, 0x31, 3, 4, 1, 1], vec![0xa4, 0], vec![]] {
            assert!(sync_info(information(wrong)).is_err());
        }
    }
}
