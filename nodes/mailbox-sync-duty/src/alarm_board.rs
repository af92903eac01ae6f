//! The alarms about accounts: one of each server, and one of each mailbox whose deletions are held back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_alarms::{Alarms, Code};
use twinbox_clock::BootInstant;
use twinbox_ids::{MailboxId, counted};

/// Failures in a row from which an account counts, unless only an administrator can end the failure.
const FAILURES: u32 = 3;
/// Pause before the text of a raised alarm is replaced.
const REPLACE_AFTER: Duration = Duration::from_secs(60);

/// A change of an alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AlarmChange {
    Raise(Code, String, String),
    Clear(Code, String),
}

impl AlarmChange {
    pub(crate) fn apply(self, alarms: &Alarms) {
        match self {
            Self::Raise(code, subject, detail) => alarms.raise(code, &subject, detail),
            Self::Clear(code, subject) => alarms.clear(code, &subject),
        }
    }
}

/// The accounts that fail or are held back.
#[derive(Debug, Default)]
pub(crate) struct AlarmBoard {
    /// By name of the server.
    servers: BTreeMap<String, FailingAccounts>,
    /// Number of looks in a row in which only refused steps waited.
    waiting: BTreeMap<MailboxId, u32>,
    /// Numbers of deletions that are held back.
    held: BTreeMap<MailboxId, u32>,
    /// Alarms to be cleared whose server or mailbox is not synchronised any more.
    over: Vec<AlarmChange>,
    /// Servers without an alarm of an earlier process.
    checked: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct FailingAccounts {
    reasons: BTreeMap<MailboxId, String>,
    /// Text of the raised alarm, and the time of the raise.
    raised: Option<(String, BootInstant)>,
}

impl AlarmBoard {
    /// Notes an account that has failed this many times in a row.
    pub(crate) fn failed(
        &mut self,
        server: &str,
        mailbox: MailboxId,
        failures: u32,
        permanent: bool,
        reason: String,
    ) {
        self.leave_others(server, mailbox);
        if permanent || failures >= FAILURES {
            self.servers.entry(server.to_owned()).or_default().reasons.insert(mailbox, reason);
        }
    }

    /// Notes an account that works except for refused steps that wait, and counts such looks in a row.
    pub(crate) fn waits(&mut self, server: &str, mailbox: MailboxId, reason: String) {
        let looks = self.waiting.entry(mailbox).or_default();
        *looks = looks.saturating_add(1);
        let looks = *looks;
        self.failed(server, mailbox, looks, false, reason);
    }

    /// Notes an account that works. The first one of a server in an epoch clears an alarm of an earlier process, unless others fail.
    pub(crate) fn well(&mut self, server: &str, mailbox: MailboxId) {
        self.leave_others(server, mailbox);
        self.waiting.remove(&mailbox);
        if let Some(failing) = self.servers.get_mut(server) {
            failing.reasons.remove(&mailbox);
        }
        // An alarm of this epoch is cleared when its last account works.
        if !self.servers.contains_key(server) && !self.checked.contains(server) {
            self.checked.insert(server.to_owned());
            self.over.push(AlarmChange::Clear(Code::MailboxSyncFailing, server.to_owned()));
        }
    }

    /// Removes an account from the other servers: it was moved, or its server was renamed.
    fn leave_others(&mut self, server: &str, mailbox: MailboxId) {
        for (_, failing) in self.servers.iter_mut().filter(|(name, _)| *name != server) {
            failing.reasons.remove(&mailbox);
        }
    }

    /// Notes the number of deletions of a mailbox that are held back. Returns the change of its alarm, if any: with 0 always the end,
    /// because the alarm may be of an earlier process. Its subject is the id of the mailbox, because alarms go to
    /// logs and receivers, which see no numbers of users.
    pub(crate) fn held_back(&mut self, mailbox: MailboxId, held: u32) -> Option<AlarmChange> {
        let code = Code::MailboxSyncHeldBack;
        if held == 0 {
            self.held.remove(&mailbox);
            return Some(AlarmChange::Clear(code, mailbox.to_string()));
        }
        if self.held.insert(mailbox, held) == Some(held) {
            return None;
        }
        let detail = format!("missing in the account: {}", counted(held, "message"));
        Some(AlarmChange::Raise(code, mailbox.to_string(), detail))
    }

    /// Forgets the mailboxes that have no account any more.
    pub(crate) fn retain(&mut self, has_account: impl Fn(MailboxId) -> bool) {
        for failing in self.servers.values_mut() {
            failing.reasons.retain(|mailbox, _| has_account(*mailbox));
        }
        self.waiting.retain(|mailbox, _| has_account(*mailbox));
        self.held.retain(|mailbox, _| {
            let keep = has_account(*mailbox);
            if !keep {
                self.over.push(AlarmChange::Clear(Code::MailboxSyncHeldBack, mailbox.to_string()));
            }
            keep
        });
    }

    /// The changes of alarms since the last call.
    pub(crate) fn changes(&mut self, now: BootInstant) -> Vec<AlarmChange> {
        let mut changes = std::mem::take(&mut self.over);
        for (server, failing) in &mut self.servers {
            let Some((_, reason)) = failing.reasons.first_key_value() else {
                changes.extend(
                    failing.raised.take().map(|_| AlarmChange::Clear(Code::MailboxSyncFailing, server.clone())),
                );
                continue;
            };
            let detail =
                format!("{} not synchronised, first reason: {reason}", counted(failing.reasons.len(), "account"));
            let is_known = |(text, at): &(String, BootInstant)| *text == detail || now.since(*at) < REPLACE_AFTER;
            if !failing.raised.as_ref().is_some_and(is_known) {
                failing.raised = Some((detail.clone(), now));
                changes.push(AlarmChange::Raise(Code::MailboxSyncFailing, server.clone(), detail));
            }
        }
        self.servers.retain(|_, failing| !failing.reasons.is_empty());
        changes
    }

    /// Clears everything that is raised.
    pub(crate) fn clear(self) -> Vec<AlarmChange> {
        let servers = self.servers.into_keys().map(|server| AlarmChange::Clear(Code::MailboxSyncFailing, server));
        let held = self.held.into_keys();
        let held = held.map(|mailbox| AlarmChange::Clear(Code::MailboxSyncHeldBack, mailbox.to_string()));
        servers.chain(held).chain(self.over).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAILBOX: MailboxId = MailboxId(1);
    const OTHER: MailboxId = MailboxId(2);

    fn start() -> BootInstant {
        BootInstant::from_nanos(1_000_000_000)
    }

    fn raise(count: usize, reason: &str) -> AlarmChange {
        let accounts = if count == 1 { "1 account" } else { "2 accounts" };
        let detail = format!("{accounts} not synchronised, first reason: {reason}");
        AlarmChange::Raise(Code::MailboxSyncFailing, "mail".to_owned(), detail)
    }

    #[test]
    fn server_with_failing_accounts_has_one_alarm() {
        let mut board = AlarmBoard::default();
        board.failed("mail", MAILBOX, 1, false, "lost".to_owned());
        assert_eq!(board.changes(start()), [], "one failure is no alarm");
        board.failed("mail", MAILBOX, 3, false, "lost".to_owned());
        board.failed("mail", OTHER, 1, true, "refused".to_owned());
        assert_eq!(board.changes(start()), [raise(2, "lost")]);
        board.well("mail", MAILBOX);
        assert_eq!(board.changes(start()), [], "the text is not replaced at once");
        let later = start() + REPLACE_AFTER;
        assert_eq!(board.changes(later), [raise(1, "refused")]);
        assert_eq!(board.changes(later), []);
        board.well("mail", OTHER);
        let clear = AlarmChange::Clear(Code::MailboxSyncFailing, "mail".to_owned());
        assert_eq!(board.changes(later), [clear]);
        assert_eq!(board.changes(later), []);
    }

    #[test]
    fn steps_that_wait_in_several_looks_raise_the_alarm_until_none_waits() {
        let mut board = AlarmBoard::default();
        for look in 1..=FAILURES {
            assert_eq!(board.changes(start()), [], "look {look}");
            board.waits("mail", MAILBOX, "steps wait".to_owned());
        }
        assert_eq!(board.changes(start()), [raise(1, "steps wait")]);
        board.well("mail", MAILBOX);
        assert_eq!(board.changes(start()).len(), 1);
        board.waits("mail", MAILBOX, "steps wait".to_owned());
        assert_eq!(board.changes(start()), [], "counted from the begin");
    }

    #[test]
    fn held_back_mailbox_has_an_alarm_of_its_own_that_ends_with_its_account() {
        let mut board = AlarmBoard::default();
        let ended = Some(AlarmChange::Clear(Code::MailboxSyncHeldBack, MAILBOX.to_string()));
        assert_eq!(board.held_back(MAILBOX, 0), ended, "an alarm of an earlier process ends");
        let Some(AlarmChange::Raise(code, subject, _)) = board.held_back(MAILBOX, 2) else { panic!("no alarm") };
        assert_eq!((code, subject.as_str()), (Code::MailboxSyncHeldBack, MAILBOX.to_string().as_str()));
        assert_eq!(board.held_back(MAILBOX, 2), None);
        board.failed("mail", MAILBOX, 9, true, "refused".to_owned());
        board.changes(start());
        board.retain(|mailbox| mailbox != MAILBOX);
        let clear = |code, subject: &str| AlarmChange::Clear(code, subject.to_owned());
        let expected =
            [clear(Code::MailboxSyncHeldBack, &MAILBOX.to_string()), clear(Code::MailboxSyncFailing, "mail")];
        assert_eq!(board.changes(start()), expected);
        assert_eq!(board.clear(), []);
    }

    #[test]
    fn account_on_another_server_leaves_the_alarm_of_the_old_one() {
        let clear = |server: &str| AlarmChange::Clear(Code::MailboxSyncFailing, server.to_owned());
        let mut board = AlarmBoard::default();
        for fails_there in [true, false] {
            board.failed("mail", MAILBOX, 1, true, "refused".to_owned());
            assert_eq!(board.changes(start()), [raise(1, "refused")]);
            if fails_there {
                board.failed("other", MAILBOX, 1, false, "lost".to_owned());
                assert_eq!(board.changes(start()), [clear("mail")]);
            } else {
                board.well("other", MAILBOX);
                assert_eq!(board.changes(start()), [clear("other"), clear("mail")]);
            }
        }
    }

    #[test]
    fn first_success_of_a_server_clears_an_alarm_of_an_earlier_process() {
        let mut board = AlarmBoard::default();
        board.failed("mail", OTHER, 1, true, "refused".to_owned());
        board.well("mail", MAILBOX);
        assert_eq!(board.changes(start()), [raise(1, "refused")], "an account fails");
        let clear = AlarmChange::Clear(Code::MailboxSyncFailing, "mail".to_owned());
        board.well("mail", OTHER);
        assert_eq!(board.changes(start()), std::slice::from_ref(&clear));
        for expected in [vec![clear], Vec::new()] {
            board.well("mail", MAILBOX);
            assert_eq!(board.changes(start()), expected);
        }
    }
}
