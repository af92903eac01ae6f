//! Reading flags and Message-IDs.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Client, FetchedFlags, FetchedId, ImapError,
    folder::quoted,
    response::{Fetch, Untagged},
    session::protocol,
    uids,
    wire::MAX_RESPONSE,
};

/// Data that name a mail: its Message-ID and the field [`OWN_ID`](crate::OWN_ID).
const NAMES: &str = "(UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID X-TWINBOX-ID)]<0.1000>)";

/// Number of UIDs that the first command for Message-IDs covers.
const FIRST_WIDTH: u32 = 500;

/// Factor by which an empty range widens the next: UIDs may be sparse.
const WIDEN_EMPTY: u32 = 8;

/// Most mails in the answer to one command for Message-IDs.
const MAX_MAILS: u32 = 2_000;

/// Most commands of one reading of Message-IDs: a server may claim any UIDNEXT.
const MAX_COMMANDS: usize = 10_000;

/// Most UIDs of an answer to a search that are used.
const MAX_FOUND: usize = 10_000;

/// Mails for whose data the answer to a search has room: one response of the largest size may come with others.
const SEARCHED: usize = MAX_RESPONSE / 2_048;

impl Client {
    /// Reads flags of these UIDs in the selected folder; with `changed_since` only those that changed after this
    /// modification sequence (RFC 7162 §3.1.4), if the server has CONDSTORE. Without `changed_since`, a UID that is not
    /// returned is not in the folder. Other UIDs than those asked for are never returned. The order is ascending.
    pub async fn flags(
        &mut self,
        uids: &BTreeSet<u32>,
        changed_since: Option<u64>,
    ) -> Result<Vec<FetchedFlags>, ImapError> {
        let step = "FETCH of flags";
        let since = changed_since.filter(|modseq| self.capabilities.condstore && *modseq > 0);
        let modifier = since.map(|modseq| format!(" (CHANGEDSINCE {modseq})")).unwrap_or_default();
        let mut found = BTreeMap::new();
        for batch in uids::batches(uids) {
            let command = format!("UID FETCH {} (UID FLAGS){modifier}", batch.text);
            let answer = self.command(step, &command, None, batch.count).await?;
            let asked = |data: &Untagged| matches!(data, Untagged::Fetch(Fetch { uid: Some(uid), .. }) if uids.contains(uid));
            self.notice(answer.untagged.iter().filter(|data| !asked(data)));
            let mut bare = BTreeSet::new();
            for data in answer.untagged.iter().filter(|data| asked(data)) {
                match data {
                    Untagged::Fetch(Fetch { uid: Some(uid), flags: Some(flags), .. }) => {
                        found.insert(*uid, *flags);
                    }
                    Untagged::Fetch(Fetch { uid: Some(uid), .. }) => {
                        bare.insert(*uid);
                    }
                    _ => {}
                }
            }
            // A mail without flags in the answer must not count as removed.
            if since.is_none() && bare.iter().any(|uid| !found.contains_key(uid)) {
                return Err(protocol(step, "a mail has no flags"));
            }
        }
        Ok(found.into_iter().map(|(uid, flags)| FetchedFlags { uid, flags }).collect())
    }

    /// Reads Message-IDs and flags of mails in the selected folder from this UID up to UIDNEXT of the last `select`, in
    /// ascending order. At most `most` are returned: if as many are, ask again from the last UID plus one.
    pub async fn message_ids(&mut self, from_uid: u32, most: usize) -> Result<Vec<FetchedId>, ImapError> {
        let step = "FETCH of Message-IDs";
        let Some((uid_next, exists)) = self.folder.as_ref().map(|folder| (folder.uid_next, folder.exists)) else {
            return Err(protocol(step, "no folder is selected"));
        };
        let mut found: BTreeMap<u32, FetchedId> = BTreeMap::new();
        // A request for one mail reads no others.
        let (mut first, mut width) = (from_uid.max(1), if most == 1 { 1 } else { FIRST_WIDTH });
        // No range has more mails than the folder.
        let widest = if exists > MAX_MAILS { MAX_MAILS } else { u32::MAX };
        let mut commands = 0;
        while first < uid_next && found.len() < most {
            commands += 1;
            if commands > MAX_COMMANDS {
                return Err(ImapError::TooLarge { step });
            }
            let last = first.saturating_add(width - 1).min(uid_next - 1);
            let command = format!("UID FETCH {first}:{last} {NAMES}");
            let asked = usize::try_from(width.min(exists).min(MAX_MAILS)).unwrap_or(usize::MAX);
            let answer = self.command(step, &command, None, asked).await?;
            let before = found.len();
            for data in &answer.untagged {
                match named(data).filter(|fetched| (first..=last).contains(&fetched.uid)) {
                    Some(fetched) => add(&mut found, fetched),
                    None => self.notice([data]),
                }
            }
            width = next_width(width, found.len() - before).min(widest);
            first = last.saturating_add(1);
        }
        Ok(found.into_values().take(most).collect())
    }

    /// Reads names and flags of one mail of the selected folder, also of one that was appended after the last
    /// `select`; `None`: the server shows no such mail.
    pub async fn identity(&mut self, uid: u32) -> Result<Option<FetchedId>, ImapError> {
        let answer = self.command("FETCH of a Message-ID", &format!("UID FETCH {uid} {NAMES}"), None, 1).await?;
        let mut found = BTreeMap::new();
        for data in &answer.untagged {
            match named(data).filter(|fetched| fetched.uid == uid) {
                Some(fetched) => add(&mut found, fetched),
                None => self.notice([data]),
            }
        }
        Ok(found.remove(&uid))
    }

    /// UIDs of mails in the selected folder whose Message-ID contains this text, in ascending order (RFC 3501 §6.4.4).
    pub async fn find(&mut self, message_id: &str) -> Result<Vec<u32>, ImapError> {
        let text = quoted(message_id).ok_or(ImapError::NotSendable { what: "Message-ID" })?;
        self.search(&format!("HEADER MESSAGE-ID {text}")).await
    }

    /// As [`Self::find`], by the header field [`OWN_ID`](crate::OWN_ID): for servers that rewrite Message-IDs.
    pub async fn find_own(&mut self, own_id: &str) -> Result<Vec<u32>, ImapError> {
        let text = quoted(own_id).ok_or(ImapError::NotSendable { what: "X-Twinbox-Id" })?;
        self.search(&format!("HEADER X-TWINBOX-ID {text}")).await
    }

    /// UIDs of mails that a search finds, in ascending order.
    pub(crate) async fn search(&mut self, criteria: &str) -> Result<Vec<u32>, ImapError> {
        let answer = self.command("SEARCH", &format!("UID SEARCH {criteria}"), None, SEARCHED).await?;
        self.notice(&answer.untagged);
        let mut found = BTreeSet::new();
        for data in &answer.untagged {
            if let Untagged::Search(uids) = data {
                found.extend(uids.iter().copied().take(MAX_FOUND));
            }
        }
        Ok(found.into_iter().take(MAX_FOUND).collect())
    }
}

/// The mail of an answer, if it says UID and flags.
fn named(data: &Untagged) -> Option<FetchedId> {
    match data {
        Untagged::Fetch(Fetch { uid: Some(uid), flags: Some(flags), message_id, own_id }) => {
            Some(FetchedId { uid: *uid, flags: *flags, message_id: message_id.clone(), own_id: own_id.clone() })
        }
        _ => None,
    }
}

/// Adds a mail; of several answers about one, each may have a part of its data.
fn add(found: &mut BTreeMap<u32, FetchedId>, fetched: FetchedId) {
    let known = found.remove(&fetched.uid);
    let (message_id, own_id) = known.map(|known| (known.message_id, known.own_id)).unwrap_or_default();
    let (message_id, own_id) = (fetched.message_id.or(message_id), fetched.own_id.or(own_id));
    found.insert(fetched.uid, FetchedId { message_id, own_id, ..fetched });
}

/// Number of UIDs of the next command, so that an answer has about as many mails as the first could have.
fn next_width(width: u32, found: usize) -> u32 {
    let full = usize::try_from(FIRST_WIDTH).unwrap_or(usize::MAX);
    match found {
        0 => width.saturating_mul(WIDEN_EMPTY),
        found if found < full / 2 => width.saturating_mul(2),
        found if found > full => (width / 2).max(1),
        _ => width,
    }
}
