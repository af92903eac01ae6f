//! Appending, marking and removing mails.

use jiff::{Timestamp, fmt::strtime};

use crate::{
    AppendUid, Client, ImapError, ImapFlags,
    folder::folder as encoded,
    response::{Fetch, StatusCode, Untagged},
    session::{Piece, refusal},
};

impl Client {
    /// Appends a mail (RFC 3501 §6.3.11) with these flags and this time of arrival, in milliseconds since 1970. The
    /// result is its place if the server has UIDPLUS (RFC 4315). Fails with [`ImapError::Quota`] if the account is full
    /// (RFC 9208), with [`ImapError::NoFolder`] if the folder is missing, and with [`ImapError::Unknown`] if the
    /// connection ends after the server let the mail come: it may have been appended.
    pub async fn append(
        &mut self,
        folder: &str,
        flags: ImapFlags,
        received_unix_ms: u64,
        mail: &[u8],
    ) -> Result<Option<AppendUid>, ImapError> {
        let step = "APPEND";
        let mut command = format!("APPEND {} ", encoded(folder));
        if flags != ImapFlags::default() {
            command.push_str(&flags.list());
            command.push(' ');
        }
        if let Some(date) = date(received_unix_ms) {
            command.push_str(&format!("\"{date}\" "));
        }
        let sent = self.session.run(step, &[Piece::Text(&command), Piece::Literal(mail)], 0).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(ImapError::NotHolder) => return Err(ImapError::NotHolder),
            Err(error) if self.session.literal_begun() => {
                return Err(ImapError::Unknown { reason: error.to_string() });
            }
            Err(error) => return Err(error),
        };
        if !answer.done.is_ok() {
            self.notice(&answer.untagged);
            return Err(refusal(step, Some(folder), answer.done));
        }
        if self.folder.as_ref().is_some_and(|open| open.name == folder) {
            self.notice_own(&answer.untagged, 1);
        } else {
            self.notice(&answer.untagged);
        }
        match answer.done.code {
            Some(StatusCode::AppendUid(place)) => Ok(Some(place)),
            _ => Ok(None),
        }
    }

    /// Adds and removes flags of a mail in the selected folder (RFC 3501 §6.4.6). A mail that is not there any more is no
    /// error.
    pub async fn store_flags(&mut self, uid: u32, add: ImapFlags, remove: ImapFlags) -> Result<(), ImapError> {
        for (sign, flags) in [('+', add), ('-', remove)] {
            if flags == ImapFlags::default() {
                continue;
            }
            let command = format!("UID STORE {uid} {sign}FLAGS.SILENT {}", flags.list());
            let answer = self.command("STORE", &command, None, 1).await?;
            let own = |data: &Untagged| matches!(data, Untagged::Fetch(Fetch { uid: Some(of), .. }) if *of == uid);
            self.notice(answer.untagged.iter().filter(|data| !own(data)));
        }
        Ok(())
    }

    /// Moves a mail of the selected folder to another (RFC 6851), else copies and removes it. Fails with
    /// [`ImapError::NoFolder`] if that folder is missing.
    pub async fn move_to(&mut self, uid: u32, folder: &str) -> Result<(), ImapError> {
        let target = encoded(folder);
        if self.capabilities.move_ {
            let command = format!("UID MOVE {uid} {target}");
            let answer = self.command("MOVE", &command, Some(folder), 1).await?;
            self.notice_own(&answer.untagged, -1);
            return Ok(());
        }
        let answer = self.command("COPY", &format!("UID COPY {uid} {target}"), Some(folder), 1).await?;
        self.notice(&answer.untagged);
        self.expunge(uid).await
    }

    /// Removes a mail from the selected folder: sets `\Deleted` and expunges this mail alone (RFC 4315). Without UIDPLUS
    /// all mails with `\Deleted` would be removed: if there are others, the mail only keeps the flag.
    pub async fn expunge(&mut self, uid: u32) -> Result<(), ImapError> {
        let deleted = ImapFlags { deleted: true, ..ImapFlags::default() };
        self.store_flags(uid, deleted, ImapFlags::default()).await?;
        let command = if self.capabilities.uidplus {
            format!("UID EXPUNGE {uid}")
        } else {
            let marked = self.search("DELETED").await?;
            if marked != [uid] {
                return Ok(());
            }
            "EXPUNGE".to_owned()
        };
        let answer = self.command("EXPUNGE", &command, None, 1).await?;
        self.notice_own(&answer.untagged, -1);
        Ok(())
    }
}

/// Date and time of a command (RFC 3501 §9, `date-time`), in UTC; `None`: beyond the year 9999.
fn date(unix_ms: u64) -> Option<String> {
    let time = Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
    strtime::format("%d-%b-%Y %H:%M:%S +0000", time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_has_two_digits_for_the_day_and_an_english_month() {
        for (ms, expected) in [
            (0, Some("01-Jan-1970 00:00:00 +0000")),
            (1_795_312_859_999, Some("22-Nov-2026 02:00:59 +0000")),
            (u64::MAX, None),
            (u64::MAX / 2, None),
        ] {
            assert_eq!(date(ms).as_deref(), expected);
        }
    }
}
