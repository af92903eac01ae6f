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
pub enum Course {
    /// The alarm reports a condition and is cleared when the condition ends.
    Lasts,
    /// The alarm reports an event and stays until an administrator acknowledges it. Each further occurrence is
    /// reported again.
    Happened,
}

impl Course {
    /// The rule as text.
    pub fn words(self) -> &'static str {
        match self {
            Self::Lasts => "when it is over",
            Self::Happened => "when acknowledged",
        }
    }
}

/// One row of the table.
struct Entry {
    word: &'static str,
    severity: Severity,
    course: Course,
    summary: &'static str,
    remedy: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $severity:ident, $course:ident, $summary:literal, $remedy:literal;)+) => {
        /// Kind of an alarm.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $summary] $(#[$doc])* $name,)+
        }

        const TABLE: &[Entry] = &[
            $(Entry {
                word: $word,
                severity: Severity::$severity,
                course: Course::$course,
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
    RoleMoved = "role-moved", Warning, Happened,
        "The publisher role has moved.",
        "Nothing if you moved it. Otherwise the detail names the cause: see what the former publisher's log and its \
         other alarms say.";
    DutyMoved = "duty-moved", Warning, Happened,
        "A duty has moved by itself, without the publisher role.",
        "The detail names the cause: see the former holder's alarms and 'twinbox service list' there.";
    MemberLost = "member-lost", Major, Lasts,
        "A member is not heard, or does not work.",
        "Look at that machine and at the network between; 'twinbox cluster status' says what is known. If it will not \
         come back, replace it.";
    NoMajority = "no-majority", Major, Lasts,
        "This node is not in touch with a majority of the members: calls go on, duties wait.",
        "Bring the missing members back or repair the network between them; 'twinbox cluster status' names them. If they \
         are gone for good, let this node go on alone: docs/roles.md.";
    Split = "split", Major, Happened,
        "The cluster was split and has come together again.",
        "The detail lists what each side did. Look through duties that ran on both; then acknowledge.";
    Exited = "exited", Major, Happened,
        "A node's process has ended without being told to.",
        "The detail has its last words. It has been started again by itself; if that goes on, report the detail.";
    ServiceFailed = "service-failed", Critical, Lasts,
        "A critical service of a node does not work.",
        "'twinbox service list' on that node has its last error; 'twinbox service restart' starts it anew.";
    AcknowledgedAlone = "acknowledged-alone", Major, Lasts,
        "Messages are acknowledged with one copy only, because no other node answers in time.",
        "Bring another node back, or repair the network to it. Until then a disk lost is messages lost.";
    ReplicationLag = "replication-lag", Warning, Lasts,
        "A node is far behind in what it holds.",
        "It catches up by itself. If the figure does not fall, look at that node's disk and the network to it.";
    EffectsWait = "effects-wait", Major, Lasts,
        "Nodes are cut off from each other with no third to relay: what one of them has taken in, the other does not \
         act on.",
        "Repair the network between the nodes that the detail names.";
    OriginReused = "origin-reused", Critical, Lasts,
        "A peer knows more of this node's own changes than this node: its disk has gone back in time.",
        "Do not restore single nodes from backups. Remove this node and let it join anew, empty.";
    ChangeSetAside = "change-set-aside", Major, Lasts,
        "Changes from another node could not be applied and were set aside.",
        "Upgrade this node if it is older than the others; otherwise report what its log says.";
    Space = "space", Major, Lasts,
        "Space on the data disk runs out.",
        "Free space on the disk of data_dir, or move it to a larger one; below reserve_mb new messages are refused.";
    Overload = "overload", Warning, Lasts,
        "The nodes that would survive a loss could not carry the present load.",
        "Add a node, or raise sip.max_calls where the machines allow it.";
    Cpu = "cpu", Warning, Lasts,
        "The processor of a node is busy for long.",
        "See what else runs on that machine; move it elsewhere or give the machine more cores.";
    Clock = "clock", Warning, Lasts,
        "A node's clock is far from the others'.",
        "Set up time synchronisation (NTP) on that machine. Its records carry the cluster's time meanwhile.";
    CertificateExpiry = "certificate-expiry", Major, Lasts,
        "A certificate ends soon and has not renewed itself.",
        "'twinbox cluster ca status' names it; for the authority itself: 'twinbox cluster ca rotate'.";
    ConfigDrift = "config-drift", Warning, Lasts,
        "Settings that should be the same on all nodes differ.",
        "The detail names the key: make it the same in every node's file and restart the node that was changed.";
    PassiveCalled = "passive-called", Warning, Happened,
        "A call reached the passive node.",
        "Let the PBX ask the active node first (OPTIONS or the order of its trunk's addresses).";
    NameClash = "name-clash", Warning, Happened,
        "A number or name was given twice on both sides of a split; the earlier one has it.",
        "Give the other one another number; nothing sent to it is lost. 'twinbox user list' marks it.";
    DeadLetter = "dead-letter", Warning, Happened,
        "Something could not be delivered outside and was given up.",
        "The detail names the receiver: see that it answers, then send it again.";
    TooManyAlarms = "too-many-alarms", Warning, Happened,
        "Alarms or events came faster than they can be kept; some were left out.",
        "The alarm of which there are most names the cause. The counters of /metrics have the figures.";
    GoneAlone = "gone-alone", Major, Happened,
        "An administrator has let this node go on alone, without a majority that is lost for good.",
        "Add a second node, and a witness: until then a disk lost is messages lost. Who was given up and comes back must \
         join anew, with an empty folder and a new token.";
    TwoGroups = "two-groups", Critical, Lasts,
        "A member acts in another group of this cluster: a survivor went on alone, and others live after all.",
        "Both sides act now. Decide which one stays; stop the nodes of the other, put their folders aside, and let them \
         join with new tokens.";
    MessageUnfiled = "message-unfiled", Critical, Lasts,
        "Messages that callers have left could not be stored yet: their callers were not told that they are kept.",
        "The detail has the reason: free space on the disk of data_dir, or see to the disk. They are filed by themselves as \
         soon as it takes writes; after a restart, too.";
    FillIncomplete = "fill-incomplete", Critical, Happened,
        "A node had to take over the others' data, and no node is left that has all of it: it serves with what it has.",
        "Messages and users that only the lost nodes had are gone. If one of their disks can be had, see docs/roles.md; then \
         acknowledge.";
    CallsRefused = "calls-refused", Major, Lasts,
        "A node refuses new calls, because it is at its limit.",
        "The detail names what limits it: give the machine more of that, or add a node. twinbox_admission_pressure in \
         /metrics has its course.";
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
    pub fn course(self) -> Course {
        self.entry().course
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
#[error("there is no alarm '{0}': docs/alarms.md lists them")]
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
    fn every_code_has_its_own_row() {
        for code in Code::ALL {
            assert_eq!(code.word().parse(), Ok(*code));
            assert!(code.summary().ends_with('.') && code.remedy().ends_with('.'), "{code}");
        }
        assert!("nothing".parse::<Code>().is_err());
    }
}
