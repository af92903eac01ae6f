//! Responses of a server, reduced to what matters here.

use imap_codec::{
    ResponseCodec,
    decode::Decoder,
    imap_types::{
        core::Vec1,
        fetch::MessageDataItem,
        flag::{Flag, FlagFetch, FlagPerm},
        response::{Capability, Code, CommandContinuationRequest, Data, Response, Status, StatusBody, StatusKind},
        sequence::{Sequence, SequenceSet},
        status::StatusDataItem,
    },
};

use crate::{
    error::shown,
    hidden::Hidden,
    keywords::without_keywords,
    types::{AppendUid, ImapFlags, OWN_ID},
};

/// Longest Message-ID, in bytes; a line of a mail has at most 998 (RFC 5322 §2.1.1).
const MAX_MESSAGE_ID: usize = 250;

/// One response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Untagged(Untagged),
    /// End of the command with this tag.
    Tagged(String, Completion),
    /// Request to go on, with the data of a SASL challenge.
    Continue(Vec<u8>),
    Bye(String),
}

/// Data that a server sends in answer to a command or of its own accord.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Untagged {
    Exists(u32),
    Expunge,
    /// Removed UIDs as ranges from first to last.
    Vanished {
        earlier: bool,
        uids: Vec<(u32, u32)>,
    },
    Fetch(Fetch),
    Search(Vec<u32>),
    Capability(Vec<String>),
    Enabled(Vec<String>),
    /// UIDNEXT in an answer to STATUS.
    UidNext(u32),
    /// Status that ends no command.
    Status(Completion),
    /// Data that is not needed here.
    Other,
}

/// Data of one mail.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub uid: Option<u32>,
    pub flags: Option<ImapFlags>,
    pub message_id: Option<String>,
    pub own_id: Option<String>,
}

/// Status of a command or of the connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub kind: StatusKind,
    pub code: Option<StatusCode>,
    /// Text for administrators, of limited length.
    pub text: String,
}

/// Response code (RFC 3501 §7.1, RFC 5530).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StatusCode {
    UidValidity(u32),
    UidNext(u32),
    HighestModSeq(u64),
    NoModSeq,
    /// Flags that the server keeps.
    PermanentFlags(ImapFlags),
    Closed,
    ReadOnly,
    Capability(Vec<String>),
    OverQuota,
    TryCreate,
    AppendUid(AppendUid),
    /// Another code, in upper case without its arguments.
    Named(String),
}

impl Completion {
    pub fn is_ok(&self) -> bool {
        self.kind == StatusKind::Ok
    }

    /// Whether the response code has this name.
    pub fn is_named(&self, names: &[&str]) -> bool {
        matches!(&self.code, Some(StatusCode::Named(code)) if names.contains(&code.as_str()))
    }
}

/// Importance of a response, by its first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Importance {
    /// A mail that is missing in such an answer counts as removed, and a command without its end waits.
    Needed,
    /// Its absence is noticed elsewhere.
    Useful,
    /// Not used here; the parser does not see it.
    Unused,
}

/// Decodes a complete response; its texts do not show what is hidden. The error is the text of a needed response that
/// cannot be read.
pub(crate) fn decode(message: &[u8], hidden: &Hidden) -> Result<Received, String> {
    let importance = importance(message);
    if importance == Importance::Unused {
        return Ok(Received::Untagged(Untagged::Other));
    }
    // Keywords that another program gave to a mail may break the grammar.
    let message: &[u8] = &without_keywords(message);
    if let Some(received) = parse(message, hidden) {
        return Ok(received);
    }
    // Status texts in UTF-8 and header fields with NUL break the grammar and are common.
    let plain: Vec<u8> =
        message.iter().map(|byte| if byte.is_ascii() && *byte != 0 { *byte } else { b'?' }).collect();
    match parse(&plain, hidden) {
        Some(received) => Ok(received),
        None if importance == Importance::Needed => Err(shown(&hidden.masked(&String::from_utf8_lossy(&plain)))),
        None => Ok(Received::Untagged(Untagged::Other)),
    }
}

fn parse(message: &[u8], hidden: &Hidden) -> Option<Received> {
    match ResponseCodec::new().decode(message) {
        Ok(([], response)) => Some(received(response, hidden)),
        _ => None,
    }
}

fn importance(message: &[u8]) -> Importance {
    let Some(untagged) = message.strip_prefix(b"* ") else {
        return Importance::Needed;
    };
    let word = untagged.split(|byte| matches!(byte, b' ' | b'\r' | b'\n')).next().unwrap_or_default();
    let word = String::from_utf8_lossy(word).to_ascii_uppercase();
    match word.as_str() {
        "SEARCH" | "VANISHED" | "BYE" | "PREAUTH" => Importance::Needed,
        "OK" | "NO" | "BAD" | "CAPABILITY" | "ENABLED" | "STATUS" => Importance::Useful,
        word if word.starts_with(|c: char| c.is_ascii_digit()) => Importance::Needed,
        _ => Importance::Unused,
    }
}

fn received(response: Response<'_>, hidden: &Hidden) -> Received {
    match response {
        Response::CommandContinuationRequest(CommandContinuationRequest::Base64(data)) => {
            Received::Continue(data.into_owned())
        }
        Response::CommandContinuationRequest(CommandContinuationRequest::Basic(_)) => {
            Received::Continue(Vec::new())
        }
        Response::Status(Status::Tagged(tagged)) => {
            Received::Tagged(tagged.tag.as_ref().to_owned(), completion(tagged.body, hidden))
        }
        Response::Status(Status::Untagged(body)) => Received::Untagged(Untagged::Status(completion(body, hidden))),
        Response::Status(Status::Bye(bye)) => Received::Bye(shown(&hidden.masked(bye.text.as_ref()))),
        Response::Data(data) => Received::Untagged(untagged(data)),
    }
}

fn untagged(data: Data<'_>) -> Untagged {
    match data {
        Data::Exists(count) => Untagged::Exists(count),
        Data::Expunge(_) => Untagged::Expunge,
        Data::Vanished { earlier, known_uids } => Untagged::Vanished { earlier, uids: ranges(&known_uids) },
        Data::Fetch { items, .. } => Untagged::Fetch(fetch(items)),
        Data::Search(uids, _) => Untagged::Search(uids.into_iter().map(u32::from).collect()),
        Data::Capability(capabilities) => Untagged::Capability(names(&capabilities)),
        Data::Enabled { capabilities } => {
            Untagged::Enabled(capabilities.iter().map(|name| name.to_string().to_ascii_uppercase()).collect())
        }
        Data::Status { items, .. } => {
            let next = items.iter().find_map(|item| match item {
                StatusDataItem::UidNext(next) => Some(Untagged::UidNext(next.get())),
                _ => None,
            });
            next.unwrap_or(Untagged::Other)
        }
        _ => Untagged::Other,
    }
}

fn names(capabilities: &Vec1<Capability<'_>>) -> Vec<String> {
    capabilities.as_ref().iter().map(ToString::to_string).collect()
}

fn ranges(set: &SequenceSet) -> Vec<(u32, u32)> {
    let range = |sequence: &Sequence| match sequence {
        Sequence::Single(uid) => (uid.to_non_zero_u32().get(), uid.to_non_zero_u32().get()),
        Sequence::Range(first, last) => (first.to_non_zero_u32().get(), last.to_non_zero_u32().get()),
    };
    set.0.as_ref().iter().map(range).collect()
}

fn fetch(items: Vec1<MessageDataItem<'_>>) -> Fetch {
    let mut fetch = Fetch::default();
    for item in items.as_ref() {
        match item {
            MessageDataItem::Uid(uid) => fetch.uid = Some(uid.get()),
            MessageDataItem::Flags(flags) => fetch.flags = Some(flags_of(flags)),
            MessageDataItem::BodyExt { data, .. } => {
                if let Some(header) = data.0.as_ref() {
                    fetch.message_id = field_id(header.as_ref(), "Message-ID");
                    fetch.own_id = field_id(header.as_ref(), OWN_ID);
                }
            }
            _ => {}
        }
    }
    fetch
}

fn flags_of(flags: &[FlagFetch<'_>]) -> ImapFlags {
    let mut set = ImapFlags::default();
    for flag in flags {
        match flag {
            FlagFetch::Flag(Flag::Seen) => set.seen = true,
            FlagFetch::Flag(Flag::Flagged) => set.flagged = true,
            FlagFetch::Flag(Flag::Deleted) => set.deleted = true,
            _ => {}
        }
    }
    set
}

/// Flags that a server keeps; keywords do not matter here.
fn kept(flags: &[FlagPerm<'_>]) -> ImapFlags {
    let mut set = ImapFlags::default();
    for flag in flags {
        match flag {
            FlagPerm::Flag(Flag::Seen) => set.seen = true,
            FlagPerm::Flag(Flag::Flagged) => set.flagged = true,
            FlagPerm::Flag(Flag::Deleted) => set.deleted = true,
            _ => {}
        }
    }
    set
}

/// Id with angle brackets in the first header field of this name, which may be folded (RFC 5322 §2.2.3).
fn field_id(header: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(header).ok()?;
    let mut lines = text.lines().skip_while(|line| {
        let found = line.split_once(':').map(|(found, _)| found.trim_end());
        !found.is_some_and(|found| found.eq_ignore_ascii_case(name))
    });
    let mut field = lines.next()?.to_owned();
    lines.take_while(|line| line.starts_with([' ', '\t'])).for_each(|line| field.push_str(line));
    let (_, from) = field.split_once('<')?;
    let (id, _) = from.split_once('>')?;
    let fine = !id.is_empty() && id.len() <= MAX_MESSAGE_ID && id.bytes().all(|byte| byte.is_ascii_graphic());
    fine.then(|| format!("<{id}>"))
}

fn completion(body: StatusBody<'_>, hidden: &Hidden) -> Completion {
    let text = shown(&hidden.masked(body.text.as_ref()));
    Completion { kind: body.kind, code: body.code.map(code), text }
}

fn code(code: Code<'_>) -> StatusCode {
    match code {
        Code::UidValidity(value) => StatusCode::UidValidity(value.get()),
        Code::UidNext(value) => StatusCode::UidNext(value.get()),
        Code::HighestModSeq(value) => StatusCode::HighestModSeq(value.get()),
        Code::NoModSeq => StatusCode::NoModSeq,
        Code::PermanentFlags(flags) => StatusCode::PermanentFlags(kept(&flags)),
        Code::Closed => StatusCode::Closed,
        Code::ReadOnly => StatusCode::ReadOnly,
        Code::Capability(capabilities) => StatusCode::Capability(names(&capabilities)),
        Code::OverQuota => StatusCode::OverQuota,
        Code::TryCreate => StatusCode::TryCreate,
        Code::AppendUid { uid_validity, uid } => {
            StatusCode::AppendUid(AppendUid { uid_validity: uid_validity.get(), uid: uid.get() })
        }
        Code::Other(other) => {
            let text = String::from_utf8_lossy(other.inner()).into_owned();
            let name = text.split(' ').next().unwrap_or_default();
            StatusCode::Named(shown(name).to_ascii_uppercase())
        }
        // Their arguments do not matter here.
        Code::Alert => StatusCode::Named("ALERT".to_owned()),
        Code::TooBig => StatusCode::Named("TOOBIG".to_owned()),
        _ => StatusCode::Named(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fetched(uid: u32, flags: ImapFlags, message_id: Option<&str>) -> Received {
        let message_id = message_id.map(str::to_owned);
        Received::Untagged(Untagged::Fetch(Fetch { uid: Some(uid), flags: Some(flags), message_id, own_id: None }))
    }

    fn status(kind: StatusKind, code: Option<StatusCode>, text: &str) -> Completion {
        Completion { kind, code, text: text.to_owned() }
    }

    #[test]
    fn responses_are_reduced_to_what_matters() {
        let seen = ImapFlags { seen: true, ..ImapFlags::default() };
        let no = StatusKind::No;
        for (message, expected) in [
            ("* 5 EXISTS\r\n", Received::Untagged(Untagged::Exists(5))),
            ("* 5 EXPUNGE\r\n", Received::Untagged(Untagged::Expunge)),
            (
                "* VANISHED (EARLIER) 1:3,9\r\n",
                Received::Untagged(Untagged::Vanished { earlier: true, uids: vec![(1, 3), (9, 9)] }),
            ),
            ("* 1 FETCH (UID 7 FLAGS (\\Seen \\Recent $Junk) MODSEQ (9))\r\n", fetched(7, seen, None)),
            (
                "* 1 FETCH (UID 7 FLAGS (\\Seen) BODY[HEADER.FIELDS (MESSAGE-ID)]<0> {23}\r\n\
                 Message-ID:\r\n <a@b>\r\n\r\n)\r\n",
                fetched(7, seen, Some("<a@b>")),
            ),
            (
                "* 1 FETCH (UID 7 FLAGS (\\Seen) BODY[HEADER.FIELDS (MESSAGE-ID)] {6}\r\nM\0: <a)\r\n",
                fetched(7, seen, None),
            ),
            ("* 1 FETCH (UID 7 FLAGS (a]b \\Seen \\X-y {9) MODSEQ (9))\r\n", fetched(7, seen, None)),
            (
                "* 1 FETCH (UID 7 BODY[HEADER.FIELDS (MESSAGE-ID)]<0> {29}\r\n\
                 Message-ID: FLAGS (x) <a@b>\r\n FLAGS (\\Seen \"))\r\n",
                fetched(7, seen, Some("<a@b>")),
            ),
            (
                "* OK [PERMANENTFLAGS (\\Seen a]b \\*)] limited\r\n",
                Received::Untagged(Untagged::Status(status(
                    StatusKind::Ok,
                    Some(StatusCode::PermanentFlags(seen)),
                    "limited",
                ))),
            ),
            ("* SEARCH 2 3\r\n", Received::Untagged(Untagged::Search(vec![2, 3]))),
            ("* STATUS INBOX (MESSAGES 5 UIDNEXT 21)\r\n", Received::Untagged(Untagged::UidNext(21))),
            ("* STATUS INBOX (MESSAGES 5)\r\n", Received::Untagged(Untagged::Other)),
            ("* SEARCH\r\n", Received::Untagged(Untagged::Search(Vec::new()))),
            ("* ESEARCH (TAG \"a\") UID ALL 1\r\n", Received::Untagged(Untagged::Other)),
            ("* LIST () \"/\" INBOX\r\n", Received::Untagged(Untagged::Other)),
            (
                "t1 NO [OVERQUOTA] Postfach für Müller voll\r\n",
                Received::Tagged(
                    "t1".to_owned(),
                    status(no, Some(StatusCode::OverQuota), "Postfach f??r M??ller voll"),
                ),
            ),
            (
                "t1 NO [UNAVAILABLE] later\r\n",
                Received::Tagged(
                    "t1".to_owned(),
                    status(no, Some(StatusCode::Named("UNAVAILABLE".to_owned())), "later"),
                ),
            ),
            ("+ YWI=\r\n", Received::Continue(b"ab".to_vec())),
            ("+ \r\n", Received::Continue(Vec::new())),
            ("+ idling\r\n", Received::Continue(Vec::new())),
            ("* BYE full\r\n", Received::Bye("full".to_owned())),
        ] {
            assert_eq!(decode(message.as_bytes(), &Hidden::default()), Ok(expected), "{message}");
        }
    }

    #[test]
    fn ids_of_two_fields_are_told_apart() {
        let header = b"x-twinbox-id:\r\n\t<own@x>\r\nMESSAGE-ID : <rewritten@y>\r\n\r\n";
        assert_eq!(field_id(header, "Message-ID").as_deref(), Some("<rewritten@y>"));
        assert_eq!(field_id(header, OWN_ID).as_deref(), Some("<own@x>"));
        assert_eq!(field_id(b"X-Twinbox-Id: none\r\nMessage-ID: <a@b>\r\n", OWN_ID), None);
        assert_eq!(field_id(b"Message-ID: <a@b>\r\n", OWN_ID), None);
    }

    #[test]
    fn needed_responses_that_cannot_be_read_are_errors() {
        for message in [
            "* 1 FETCH (UID 0 FLAGS ())\r\n",
            "* 1 FETCH (UID 4294967296 FLAGS ())\r\n",
            "* 1 FETCH (UID 7 X-NEW 1)\r\n",
            "* SEARCH 0\r\n",
            "* VANISHED 0\r\n",
            "* PREAUTH hello\r\n",
            "t1 MAYBE\r\n",
            "\r\n",
        ] {
            assert!(decode(message.as_bytes(), &Hidden::default()).is_err(), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(
            start in "(\\* |\\+ |t1 )?([0-9]{1,3} )?(OK|NO|BYE|FETCH|SEARCH|VANISHED|STATUS|THREAD|LIST|QUOTA)? ?",
            rest in "[()\\[\\]{}<>\"\\\\ *:,0-9A-Za-zü\0\r\n+=/-]{0,60}",
        ) {
            let _ = decode(format!("{start}{rest}\r\n").as_bytes(), &Hidden::default());
        }
    }
}
