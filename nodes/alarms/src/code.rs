//! Table of all alarms: name, severity and remedy. `docs/alarms.md` shows this table, and a test compares them.

use std::{fmt, str::FromStr};

/// Severity of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// No caller is affected; an administrator should act in working hours.
    Warning,
    /// Protection against the next fault, or a part of the service, is lost: act today.
    Major,
    /// Calls or messages are affected: act immediately.
    Critical,
}

impl Severity {
    /// All severities, in increasing order.
    pub const ALL: [Self; 3] = [Self::Warning, Self::Major, Self::Critical];

    /// Name of the severity as text.
    pub fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Major => "major",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Rule by which an alarm ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClearingRule {
    /// The alarm reports a condition and is cleared when the condition ends.
    WhenEnded,
    /// The alarm reports an event and stays until an administrator acknowledges it. Each further occurrence is
    /// reported again.
    WhenAcknowledged,
}

impl ClearingRule {
    /// The rule as text.
    pub fn words(self) -> &'static str {
        match self {
            Self::WhenEnded => "when the condition ends",
            Self::WhenAcknowledged => "when acknowledged",
        }
    }
}

/// One row of the table.
struct Entry {
    word: &'static str,
    severity: Severity,
    clearing_rule: ClearingRule,
    summary: &'static str,
    remedy: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $severity:ident, $rule:ident, $summary:literal, $remedy:literal;)+) => {
        /// Kind of an alarm.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $summary] $(#[$doc])* $name,)+
        }

        const TABLE: &[Entry] = &[
            $(Entry {
                word: $word,
                severity: Severity::$severity,
                clearing_rule: ClearingRule::$rule,
                summary: $summary,
                remedy: $remedy,
            },)+
        ];

        impl Code {
            /// All codes, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            fn entry(self) -> &'static Entry {
                // Codes and rows come from the same list.
                &TABLE[self as usize]
            }
        }
    };
}

codes! {
    RoleMoved = "role-moved", Warning, WhenAcknowledged,
        "The publisher role has moved.",
        "None if you moved it. Otherwise the detail names the cause: check the log and the alarms of the former \
         publisher.";
    DutyMoved = "duty-moved", Warning, WhenAcknowledged,
        "A duty has moved automatically, without the publisher role.",
        "The detail names the cause: check the former holder's alarms and 'twinbox service list' there.";
    MemberLost = "member-lost", Major, WhenEnded,
        "A member is unreachable or does not work.",
        "Check that machine and the network between the members; 'twinbox cluster status' shows what is known. If the \
         member is lost for good, replace it.";
    NoMajority = "no-majority", Major, WhenEnded,
        "This node does not reach a majority of the members: calls continue, duties wait.",
        "Bring the missing members back or repair the network between them; 'twinbox cluster status' names them. If \
         they are lost for good, let this node go on alone: docs/roles.md.";
    Split = "split", Major, WhenAcknowledged,
        "The cluster was split and is whole again.",
        "The detail lists what each side did. Check duties that ran on both sides; then acknowledge.";
    Exited = "exited", Major, WhenAcknowledged,
        "A node's process has ended unexpectedly.",
        "The detail has its crash report. The process was restarted automatically; if the alarm repeats, report the \
         detail.";
    ServiceFailed = "service-failed", Critical, WhenEnded,
        "A critical service of a node does not work.",
        "'twinbox service list' on that node shows its last error; 'twinbox service restart' restarts it.";
    AcknowledgedAlone = "acknowledged-alone", Major, WhenEnded,
        "Messages are acknowledged with one copy only, because no other node answers in time.",
        "Bring another node back, or repair the network to it. Until then a lost disk means lost messages.";
    ReplicationLag = "replication-lag", Warning, WhenEnded,
        "A node lacks many changes of the other nodes.",
        "It catches up automatically. If the number does not fall, check that node's disk and the network to it.";
    EffectsWait = "effects-wait", Major, WhenEnded,
        "Nodes are cut off from each other and no third node relays: one node does not act on what another has \
         stored.",
        "Repair the network between the nodes that the detail names.";
    OriginReused = "origin-reused", Critical, WhenEnded,
        "A peer has more of this node's own changes than this node: its store was rolled back.",
        "Do not restore single nodes from backups. Remove this node and let it join again with an empty folder.";
    ChangeSetAside = "change-set-aside", Major, WhenEnded,
        "Changes from another node could not be applied and were set aside.",
        "Upgrade this node if it is older than the others; otherwise report what its log shows.";
    Space = "space", Major, WhenEnded,
        "Free space on the data disk is low.",
        "Free space on the disk of data_dir, or move it to a larger disk; below reserve_mb new messages are refused.";
    Overload = "overload", Warning, WhenEnded,
        "The remaining nodes could not carry the present load after the loss of a node.",
        "Add a node, or raise sip.max_calls where the machines allow it.";
    Cpu = "cpu", Warning, WhenEnded,
        "The processors of a node have been busy for a long time.",
        "Check what else runs on that machine; move it elsewhere or add processor cores.";
    Clock = "clock", Warning, WhenEnded,
        "A node's clock differs from the clocks of the others.",
        "Set up time synchronisation (NTP) on that machine. Until then its records carry the cluster's time.";
    CertificateExpiry = "certificate-expiry", Major, WhenEnded,
        "A certificate expires soon and was not renewed.",
        "Subject 'node' or 'authority': 'twinbox cluster ca status' names it, and 'twinbox cluster ca rotate' replaces that of \
         the CA. Subject 'mail.in' or 'links': write the new certificate and its key to the files of that section on the node; \
         the node reads them within a minute.";
    ConfigDrift = "config-drift", Warning, WhenEnded,
        "Settings that should be the same on all nodes differ.",
        "The detail names the key: set the same value in every node's file and restart the changed node. 'KEY on NODE': \
         delete the key from that node's file, or change the cluster's value with 'twinbox setting set'.";
    PassiveCalled = "passive-called", Warning, WhenAcknowledged,
        "A call reached the passive node.",
        "Configure the PBX to try the active node first (OPTIONS or the order of its trunk's addresses).";
    NameClash = "name-clash", Warning, WhenAcknowledged,
        "A number or name was assigned on both sides of a split; the earlier assignment is valid.",
        "'twinbox user list' marks the other one and shows its id: give it another number with \
         'twinbox user renumber ID NUMBER', then another address, if it lost one, with 'twinbox user set'. No message sent \
         to it is lost.";
    DeadLetter = "dead-letter", Warning, WhenAcknowledged,
        "A delivery to an outside receiver was given up.",
        "The detail names the receiver and the reason: make sure that it answers. 'twinbox outbox show ID' has what \
         happened to a notification, and 'twinbox outbox retry ID' sends it again.";
    TooManyAlarms = "too-many-alarms", Warning, WhenAcknowledged,
        "Alarms or events arrived faster than they can be stored; some were left out.",
        "The most frequent alarm names the cause. The counters of /metrics have the numbers.";
    GoneAlone = "gone-alone", Major, WhenAcknowledged,
        "An administrator let this node go on alone, without a majority that is lost for good.",
        "Add a second node and a witness: until then a lost disk means lost messages. A member that was given up and \
         comes back must join again, with an empty folder and a new token.";
    TwoGroups = "two-groups", Critical, WhenEnded,
        "A member is active in another group of this cluster: a node went on alone although other members still run.",
        "Both groups act now. Decide which one stays; stop the nodes of the other, move their folders away, and let \
         them join with new tokens.";
    MessageUnfiled = "message-unfiled", Critical, WhenEnded,
        "Messages that callers left are not stored yet; their callers got no confirmation.",
        "The detail has the reason: free space on the disk of data_dir, or repair the disk. The messages are filed \
         automatically as soon as the disk accepts writes, also after a restart.";
    FillIncomplete = "fill-incomplete", Critical, WhenAcknowledged,
        "A node had to copy the data of the others, and no remaining node has all of it: it serves with incomplete \
         data.",
        "Messages and users that only the lost nodes had are lost. If one of their disks is available, see \
         docs/roles.md; then acknowledge.";
    CallsRefused = "calls-refused", Major, WhenEnded,
        "A node refuses new calls because it is at its limit.",
        "The detail names the limiting resource: add more of it, or add a node. twinbox_admission_pressure in \
         /metrics shows its history.";
    DirectoryUnreachable = "directory-unreachable", Warning, WhenEnded,
        "A directory cannot be read: its users stay as they are.",
        "'twinbox directory test NAME' on the node shows what fails at each server. Sign-in goes on with passwords \
         that were used lately; the directory is read again automatically.";
    DirectoryHeldBack = "directory-held-back", Major, WhenEnded,
        "A directory would disable or delete more users than its settings allow: the run was stopped and nothing was \
         changed.",
        "Check the directory, its base and its filter. 'twinbox directory sync NAME --dry-run' lists the users; if \
         that is right, accept exactly these with 'twinbox directory sync NAME --accept-deletions RUN'.";
    DirectoryConflicts = "directory-conflicts", Warning, WhenEnded,
        "Entries of a directory do not become users, or not completely: two have one number, or a value cannot be \
         used.",
        "'twinbox directory sync NAME --dry-run' names each with its reason: correct the entry or the settings, or \
         bind the user with 'twinbox directory bind' or '--adopt-by'.";
    JobFailed = "job-failed", Warning, WhenAcknowledged,
        "A job of the timetable failed, took too long, or was interrupted and is not run again.",
        "The detail names the job and the reason; 'twinbox timetable history NAME' lists its runs. Run it again with \
         'twinbox timetable run NAME' when the cause is gone.";
    MailboxesNearlyFull = "mailboxes-nearly-full", Warning, WhenAcknowledged,
        "Mailboxes are nearly full: callers can soon leave no more messages.",
        "'twinbox timetable history NAME' of the job that the alarm names lists the mailboxes. Ask their owners to \
         delete messages, or raise 'messages' or 'total-minutes' of their class of service.";
    DestinationSilent = "destination-silent", Major, WhenEnded,
        "A receiver of mails or webhooks has taken nothing for 15 minutes: what goes there waits.",
        "The subject names the channel and the server, the detail the latest failure: make the server answer. 'twinbox \
         outbox list' shows what waits; it is sent automatically, or given up after some days.";
    MailboxSyncFailing = "mailbox-sync-failing", Warning, WhenEnded,
        "Mail accounts of a mail server are not synchronised with their mailboxes.",
        "'twinbox mailbox-sync list --failing' shows each with the reason, 'twinbox mailbox-sync server test NAME' what \
         fails at the server. It is tried again automatically; no message is lost meanwhile.";
    MailboxSyncHeldBack = "mailbox-sync-held-back", Warning, WhenEnded,
        "A mail account came back empty: its owner emptied it, or it was lost. Nothing was deleted here.",
        "'twinbox mailbox-sync list --failing' names the account: ask its owner. If the \
         messages were deleted on purpose, accept that with 'twinbox mailbox-sync run USER --accept-deletions'; else they \
         stay here, and can be played.";
    ReplicationRepaired = "replication-repaired", Major, WhenAcknowledged,
        "The stores of two nodes differed in what both should have: a disk lost or damaged data.",
        "What the other node had was copied; the detail says what. Check the disk of the node that the detail names; \
         'twinbox replication verify --audio' compares everything again.";
    StoreRebuilt = "store-rebuilt", Critical, WhenEnded,
        "A store of a node was damaged and could not be opened: it was set aside, and the node fills again from the \
         others.",
        "Check the disk. The detail names the folder that was set aside and what was taken over from it. When the node is \
         in service and 'twinbox replication verify --audio' finds nothing missing, remove that folder: this ends the alarm. \
         A node that is alone stays replicating: docs/replication.md has what to do then.";
    StateFillFailed = "state-fill-failed", Major, WhenEnded,
        "A node was away for longer than the logs of the others reach, and cannot copy all of their records.",
        "The log of the node has the reason: upgrade the older node, make room on its disk, or repair the connection. \
         It retries automatically, and answers callers 503 until it succeeds.";
    FillStuck = "fill-stuck", Major, WhenEnded,
        "A node that fills gets nothing from a member that is connected, and goes on with another one if there is one.",
        "The detail has the reason, and the log of that member perhaps more: upgrade or mend it, or repair the connection. \
         If it cannot be mended, remove it with 'twinbox cluster remove NAME', and give it an empty data folder. It is asked \
         again automatically; without another source the node answers callers 503 until then.";
    AudioLost = "audio-lost", Major, WhenEnded,
        "Messages, greetings or prompts are stored on a node without their audio, because no node that can be asked has it.",
        "Bring back the nodes that are away: the audio is fetched automatically, which ends the alarm. If it is lost for \
         good, delete what it belongs to: 'twinbox store check' on that node names it, with the ids that 'twinbox message delete' \
         takes. A part that was filed is played in its place.";
}

impl Code {
    /// Name of the code on the command line, in events and in metrics.
    pub fn word(self) -> &'static str {
        self.entry().word
    }

    /// Severity of the alarm.
    pub fn severity(self) -> Severity {
        self.entry().severity
    }

    /// Rule by which the alarm ends.
    pub fn clearing_rule(self) -> ClearingRule {
        self.entry().clearing_rule
    }

    /// Meaning of the alarm in one sentence.
    pub fn summary(self) -> &'static str {
        self.entry().summary
    }

    /// Action for the administrator.
    pub fn remedy(self) -> &'static str {
        self.entry().remedy
    }

    /// Number in SNMP, which never changes: from 1, in the order of the table.
    pub fn number(self) -> u32 {
        self as u32 + 1
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The text is not an alarm code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no alarm '{0}': see docs/alarms.md")]
pub struct UnknownCode(String);

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(word: &str) -> Result<Self, UnknownCode> {
        let found = Self::ALL.iter().find(|code| code.word() == word);
        found.copied().ok_or_else(|| UnknownCode(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_unique_name_and_complete_texts() {
        for code in Code::ALL {
            assert_eq!(code.word().parse(), Ok(*code));
            assert!(code.summary().ends_with('.') && code.remedy().ends_with('.'), "{code}");
        }
        assert!("nothing".parse::<Code>().is_err());
    }
}
