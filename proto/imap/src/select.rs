//! Selecting a folder, with resumption from the last state seen.

use imap_codec::imap_types::response::StatusKind;

use crate::{
    Client, FetchedFlags, ImapError, ImapFlags, Resume, Selected,
    client::{Noticed, OpenFolder},
    folder::folder as encoded,
    response::{Completion, StatusCode, Untagged},
    session::{Answer, Piece, protocol, refusal},
    uids,
};

/// Name of this step in errors.
const STEP: &str = "SELECT";

/// Response codes of a refusal that does not mean that the folder is missing (RFC 5530).
const LATER: [&str; 7] =
    ["UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG", "CONTACTADMIN", "NOPERM", "AUTHORIZATIONFAILED"];

impl Client {
    /// Selects a folder for reading and writing (RFC 3501 §6.3.1). With QRESYNC (RFC 7162 §3.2.5) the server resumes from
    /// `resume` if UIDVALIDITY is the same, if the state has a modification sequence and if its UIDs fit into one
    /// command: see [`Selected::resumed`]. Fails with [`ImapError::NoFolder`] if the folder is missing.
    pub async fn select(&mut self, folder: &str, resume: Option<Resume>) -> Result<Selected, ImapError> {
        self.enable().await?;
        let state = resume.filter(|_| self.capabilities.qresync).and_then(|state| {
            let ranges = uids::ranges(&state.uids);
            let fits = (1..=uids::BATCH_RANGES).contains(&ranges.len());
            (fits && state.uid_validity > 0 && state.modseq > 0).then(|| (uids::text(&ranges), state))
        });
        let parameters = match &state {
            Some((known, state)) => format!(" (QRESYNC ({} {} {known}))", state.uid_validity, state.modseq),
            // QRESYNC is enabled and includes the modification sequences.
            None if self.capabilities.condstore && !self.capabilities.qresync => " (CONDSTORE)".to_owned(),
            None => String::new(),
        };
        let command = format!("SELECT {}{parameters}", encoded(folder));
        // A failed SELECT leaves no folder selected.
        self.folder = None;
        self.noticed = Noticed::default();
        let asked = state.as_ref().map_or(0, |(_, state)| state.uids.len());
        let state = state.as_ref().map(|(_, state)| state);
        let mut selected = self.open(folder, &command, asked, state).await?;
        if selected.uid_next == 0 {
            // Courier sends it only in STATUS. The last SELECT follows STATUS: a mail that arrives in between has a UID from
            // this UIDNEXT on and is not skipped.
            let next = self.uid_next(folder).await?;
            let before = selected.uid_validity;
            selected = self.open(folder, &command, asked, state).await?;
            if selected.uid_validity != before {
                return Err(protocol(STEP, "its UIDVALIDITY changed at that moment"));
            }
            selected.uid_next = next;
        }
        self.folder =
            Some(OpenFolder { name: folder.to_owned(), uid_next: selected.uid_next, exists: selected.exists });
        Ok(selected)
    }

    /// Exchanges one SELECT.
    async fn open(
        &mut self,
        folder: &str,
        command: &str,
        asked: usize,
        state: Option<&Resume>,
    ) -> Result<Selected, ImapError> {
        let answer = self.session.run(STEP, &[Piece::Text(command)], asked).await?;
        if !answer.done.is_ok() {
            return Err(refused(folder, answer.done));
        }
        if answer.done.code == Some(StatusCode::ReadOnly) {
            return Err(ImapError::ReadOnly { folder: folder.to_owned() });
        }
        read(&answer, state)
    }

    /// Asks for UIDNEXT of a folder (RFC 3501 §6.3.10).
    async fn uid_next(&mut self, folder: &str) -> Result<u32, ImapError> {
        let command = format!("STATUS {} (UIDNEXT)", encoded(folder));
        let answer = self.command("STATUS", &command, Some(folder), 0).await?;
        let next = answer.untagged.iter().find_map(|data| match data {
            Untagged::UidNext(next) => Some(*next),
            _ => None,
        });
        next.ok_or_else(|| protocol(STEP, "it has no UIDNEXT, and STATUS has none"))
    }

    /// Enables QRESYNC once (RFC 7162 §3.2.3).
    async fn enable(&mut self) -> Result<(), ImapError> {
        if self.enabled {
            return Ok(());
        }
        let answer = self.session.run("ENABLE", &[Piece::Text("ENABLE QRESYNC")], 0).await?;
        let enabled = answer
            .untagged
            .iter()
            .any(|data| matches!(data, Untagged::Enabled(names) if names.iter().any(|name| name == "QRESYNC")));
        self.capabilities.qresync = answer.done.is_ok() && enabled;
        self.enabled = true;
        Ok(())
    }
}

fn refused(folder: &str, done: Completion) -> ImapError {
    if done.kind == StatusKind::No && !done.is_named(&LATER) && done.code != Some(StatusCode::OverQuota) {
        return ImapError::NoFolder { folder: folder.to_owned(), text: done.text };
    }
    refusal(STEP, Some(folder), done)
}

/// Reads the answer to SELECT; UIDNEXT stays 0 if it has none.
fn read(answer: &Answer, state: Option<&Resume>) -> Result<Selected, ImapError> {
    // Data before CLOSED belongs to the folder that was selected before (RFC 7162 §3.2.11).
    let closed =
        |data: &Untagged| matches!(data, Untagged::Status(status) if status.code == Some(StatusCode::Closed));
    let begin = answer.untagged.iter().rposition(closed).map_or(0, |closed| closed + 1);
    let untagged = answer.untagged.get(begin..).unwrap_or_default();
    let mut selected = Selected::default();
    let mut vanished = Vec::new();
    for data in untagged {
        match data {
            Untagged::Exists(count) => selected.exists = *count,
            Untagged::Status(status) => match &status.code {
                Some(StatusCode::UidValidity(value)) => selected.uid_validity = *value,
                Some(StatusCode::UidNext(value)) => selected.uid_next = *value,
                Some(StatusCode::HighestModSeq(value)) => selected.highest_modseq = Some(*value),
                Some(StatusCode::NoModSeq) => selected.highest_modseq = None,
                Some(StatusCode::PermanentFlags(kept)) => {
                    let ImapFlags { seen, flagged, deleted } = *kept;
                    selected.unkept = ImapFlags { seen: !seen, flagged: !flagged, deleted: !deleted };
                }
                _ => {}
            },
            Untagged::Vanished { earlier: true, uids } => vanished.extend_from_slice(uids),
            _ => {}
        }
    }
    if selected.uid_validity == 0 {
        return Err(protocol(STEP, "it has no UIDVALIDITY"));
    }
    let Some(state) = state else {
        return Ok(selected);
    };
    selected.resumed = selected.uid_validity == state.uid_validity && selected.highest_modseq.is_some();
    if selected.resumed {
        selected.vanished = uids::members(&state.uids, &vanished).into_iter().collect();
        for data in untagged {
            if let Untagged::Fetch(fetch) = data
                && let (Some(uid), Some(flags)) = (fetch.uid, fetch.flags)
                && state.uids.contains(&uid)
            {
                selected.flags.push(FetchedFlags { uid, flags });
            }
        }
    }
    Ok(selected)
}
