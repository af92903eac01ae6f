//! Purpose of a call: its mailbox and greeting, or sign-in.
//!
//! A redirected call leaves a message for a redirecting party: by RFC 4458 `target` and `cause`, else Diversion
//! (RFC 5806), else History-Info (RFC 7044, and the older RFC 4244, which is still in use). A direct call to a pilot
//! number signs in; any other direct call leaves a message for the called number. `tests/invites` has the test table.
//!
//! A History-Info without a reason may say that the call was mapped from another user (`mp`). That is a forwarded call or a
//! translated number, which only the mailboxes tell apart: such a party comes last.
//!
//! A redirecting party may be outside: someone forwards their mobile telephone to an extension, which forwards to Twinbox. So all
//! parties are named, and the first one with a mailbox gets the message.

use serde::{Deserialize, Serialize};

use crate::{
    Request,
    addr::NameAddr,
    uri::{Uri, unescape},
};

/// Choice among several redirecting parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedirectOrder {
    /// The party called first (the bottom Diversion).
    First,
    /// The party that redirected the call to Twinbox.
    Last,
}

/// Rules that decide in addition to the request.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Pilot numbers for sign-in to the caller's own mailbox.
    pub sign_in: &'a [String],
    /// Pilot numbers that ask for the mailbox.
    pub ask_mailbox: &'a [String],
    /// Choice among several redirecting parties.
    pub order: RedirectOrder,
}

/// Greeting for the reason of the redirection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// No answer, not reachable, or unconditional.
    Standard,
    /// Busy.
    Busy,
}

/// Purpose of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Leave a message in the mailbox of the first of these parties that has one; there is at least one party.
    Leave(Vec<Party>),
    /// Sign in to the caller's mailbox, unless one of these parties, from which the call was mapped, has a mailbox.
    SignIn(Vec<Party>),
    /// Sign in to a mailbox, with the same exception; its number will be asked for.
    AskMailbox(Vec<Party>),
    /// The request contains no number.
    Nothing,
}

impl Purpose {
    /// Parties of whom the first with a mailbox gets a message.
    pub fn parties(&self) -> &[Party] {
        match self {
            Self::Leave(parties) | Self::SignIn(parties) | Self::AskMailbox(parties) => parties,
            Self::Nothing => &[],
        }
    }
}

/// A party that redirected the call, or was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Its number.
    pub number: String,
    /// The greeting of its mailbox.
    pub greeting: Greeting,
}

impl Party {
    fn new(number: String, busy: bool) -> Self {
        Self { number, greeting: if busy { Greeting::Busy } else { Greeting::Standard } }
    }
}

/// Maximum number of redirecting parties, and of those from which a call was mapped, whose mailboxes are looked for.
const PARTIES: usize = 8;

/// Purpose of this INVITE.
pub fn purpose(request: &Request, rules: Rules<'_>) -> Purpose {
    let uri = Uri::parse(&request.uri);
    // Each list is in chronological order: the first redirection first.
    let (redirecting, mapped) = histories(request);
    let lists = [target(uri.as_ref()), diversions(request), redirecting];
    let ordered = |mut parties: Vec<Party>| {
        if rules.order == RedirectOrder::Last {
            parties.reverse();
        }
        parties.truncate(PARTIES);
        parties
    };
    let mut parties = ordered(lists.into_iter().find(|list| !list.is_empty()).unwrap_or_default());
    let mapped = ordered(mapped);
    match uri.and_then(|uri| uri.number()) {
        None if parties.is_empty() && mapped.is_empty() => Purpose::Nothing,
        Some(number) if parties.is_empty() && rules.sign_in.contains(&number) => Purpose::SignIn(mapped),
        Some(number) if parties.is_empty() && rules.ask_mailbox.contains(&number) => Purpose::AskMailbox(mapped),
        called => {
            let is_pilot = |number: &String| rules.sign_in.contains(number) || rules.ask_mailbox.contains(number);
            // If no redirecting party has a mailbox.
            parties.extend(called.filter(|number| !is_pilot(number)).map(|number| Party::new(number, false)));
            parties.extend(mapped);
            Purpose::Leave(parties)
        }
    }
}

/// Target by RFC 4458: `sip:voicemail@host;target=sip:1001%40host;cause=486`.
fn target(uri: Option<&Uri<'_>>) -> Vec<Party> {
    let Some(uri) = uri else { return Vec::new() };
    let number = uri.param("target").and_then(unescape).and_then(|target| number_of(&target));
    number.map(|number| Party::new(number, uri.param("cause") == Some("486"))).into_iter().collect()
}

/// Redirecting parties by RFC 5806; the topmost Diversion is the last redirection.
fn diversions(request: &Request) -> Vec<Party> {
    let mut parties: Vec<_> = request
        .headers
        .list("Diversion")
        .filter_map(|value| {
            let address = NameAddr::parse(value)?;
            let reason = address.param("reason").flatten().unwrap_or_default();
            let busy = crate::addr::unquote(reason).eq_ignore_ascii_case("user-busy");
            Some(Party::new(number_of(address.uri)?, busy))
        })
        .collect();
    parties.reverse();
    parties
}

/// Parties by History-Info, which lists every target in turn: redirecting ones, and those from which the call was mapped
/// to another user (`mp`) for no stated reason. An entry redirected the call if the next target has a `cause` (RFC 7044),
/// if the entry has its own Reason (RFC 4244), or if its contact has, before the call was mapped to another user. `rc`
/// and `np` alone keep the user.
fn histories(request: &Request) -> (Vec<Party>, Vec<Party>) {
    let entries: Vec<Entry> = request.headers.list("History-Info").take(64).filter_map(Entry::read).collect();
    let (mut redirecting, mut mapped) = (Vec::new(), Vec::new());
    for (n, pair) in entries.windows(2).enumerate() {
        let [before, to] = pair else { continue };
        // The entry may name, by index, the entry that it was mapped from.
        let from = match &to.mapped_from {
            Some(index) => entries.iter().take(n + 1).find(|e| e.index == *index).unwrap_or(before),
            None => before,
        };
        let Some(number) = &from.number else { continue };
        let is_contact = !before.is_mapped && before.mapped_from.as_ref() == Some(&from.index);
        let failed = before.reason.filter(|_| to.is_mapped && is_contact);
        match to.cause.or(from.reason).or(failed) {
            Some(cause) => redirecting.push(Party::new(number.clone(), cause == 486)),
            None if to.is_mapped => mapped.push(Party::new(number.clone(), false)),
            None => {}
        }
    }
    // A hunt group is named by each of its members.
    mapped.dedup();
    (redirecting, mapped)
}

struct Entry {
    number: Option<String>,
    index: String,
    mapped_from: Option<String>,
    /// The entry has `mp`: it is another user than the one it was mapped from.
    is_mapped: bool,
    cause: Option<u16>,
    reason: Option<u16>,
}

impl Entry {
    fn read(value: &str) -> Option<Self> {
        let address = NameAddr::parse(value)?;
        let uri = Uri::parse(address.uri)?;
        let reason = uri.header("Reason").and_then(unescape).and_then(|reason| {
            let (protocol, params) = reason.split_once(';')?;
            let cause = params.split(';').find_map(|p| p.trim().strip_prefix("cause=")?.trim().parse().ok());
            match protocol.trim() {
                "SIP" => cause,
                // Q.850: 17 is user busy.
                "Q.850" => cause.map(|c: u16| if c == 17 { 486 } else { 480 }),
                _ => None,
            }
        });
        let text = |name: &str| address.param(name).flatten().map(str::to_owned);
        let other_user = text("mp");
        Some(Self {
            number: number_of(address.uri),
            index: text("index").unwrap_or_default(),
            is_mapped: other_user.is_some(),
            // `np` also names an entry, but only `mp` and `rc` mean that the target changed.
            mapped_from: other_user.or_else(|| text("rc")),
            cause: uri.param("cause").and_then(|c| c.parse().ok()),
            reason,
        })
    }
}

fn number_of(uri: &str) -> Option<String> {
    Uri::parse(uri)?.number()
}
