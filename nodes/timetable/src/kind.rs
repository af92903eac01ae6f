//! Kinds of jobs.

use twinbox_mailbox::UserAddress;

/// Words of the reports, as `twinbox-call-records` has them.
const REPORTS: [&str; 5] = ["traffic", "users", "unanswered", "sign-ins", "fail-overs"];
/// Words of the forms of a report, as `twinbox-call-records` has them.
const FORMATS: [&str; 3] = ["table", "csv", "json"];

/// Kind of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobKind {
    /// Deletes messages whose time by their class of service is over.
    Ageing,
    /// Warns of mailboxes that are nearly full.
    QuotaWarnings,
    /// Sends the present counts to every subscriber of MWI.
    MwiResync,
    /// Synchronises users with a directory.
    DirectorySync,
    /// Makes a report from the call records.
    Report,
    /// Writes a backup to a folder or a bucket, and removes old ones.
    Backup,
}

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Ageing, Self::QuotaWarnings, Self::MwiResync, Self::DirectorySync, Self::Report, Self::Backup];

    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ageing => "ageing",
            Self::QuotaWarnings => "quota-warnings",
            Self::MwiResync => "mwi-resync",
            Self::DirectorySync => "directory-sync",
            Self::Report => "report",
            Self::Backup => "backup",
        }
    }

    /// The permanent number in records.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ageing => 1,
            Self::QuotaWarnings => 2,
            Self::MwiResync => 3,
            Self::DirectorySync => 4,
            Self::Report => 5,
            Self::Backup => 6,
        }
    }

    /// The kind with this number; `None` for one of a newer release.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// The kind with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Words of its arguments, with descriptions of their values.
    pub const fn arguments(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ageing | Self::MwiResync => &[],
            Self::QuotaWarnings => &[
                ("share", "a share of the capacity in percent, 1 to 100, such as 90"),
                ("owners", "yes to warn the owners by mail, or no"),
            ],
            Self::DirectorySync => &[("directory", "the name of a directory; all of them without it")],
            Self::Report => &[
                ("report", "traffic, users, unanswered, sign-ins or fail-overs"),
                ("format", "table, csv or json"),
                ("days", "the number of days before the run, 1 to 3650, such as 7"),
                ("last", "the time before the run, such as 24h, instead of days"),
                (
                    "folder",
                    "the folder on the node that gets the file, from the root on, such as /var/lib/twinbox/reports",
                ),
                ("to", "mail addresses separated by commas, such as ops@example.com"),
            ],
            Self::Backup => &[
                (
                    "dir",
                    "the folder on the node that gets the backup, from the root on, such as /srv/twinbox-backup, or a \
                     bucket, such as s3://backups/voicemail",
                ),
                (
                    "keep",
                    "the number of backups of each node that stay there, 1 to 10000, such as 14; all without it",
                ),
            ],
        }
    }

    /// Words of the arguments that a job needs.
    pub const fn required(self) -> &'static [&'static str] {
        match self {
            Self::Ageing | Self::QuotaWarnings | Self::MwiResync | Self::DirectorySync => &[],
            Self::Report => &["report"],
            Self::Backup => &["dir"],
        }
    }

    /// Words of the arguments of which a job needs one or more; empty if it needs none.
    pub const fn one_of(self) -> &'static [&'static str] {
        match self {
            Self::Ageing | Self::QuotaWarnings | Self::MwiResync | Self::DirectorySync | Self::Backup => &[],
            Self::Report => &["folder", "to"],
        }
    }

    /// Words of two arguments of which a job has at most one.
    pub(crate) const fn exclusive(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Ageing | Self::QuotaWarnings | Self::MwiResync | Self::DirectorySync | Self::Backup => None,
            Self::Report => Some(["days", "last"]),
        }
    }

    /// Whether a value fits an argument, as far as that is known before a run. An empty one removes the argument.
    pub(crate) fn takes(self, word: &str, value: &str) -> bool {
        match (self, word) {
            _ if value.is_empty() => true,
            (Self::QuotaWarnings, "share") => share_of(value).is_some(),
            (Self::QuotaWarnings, "owners") => matches!(value, "yes" | "no"),
            (Self::Report, "report") => REPORTS.contains(&value),
            (Self::Report, "format") => FORMATS.contains(&value),
            (Self::Report, "days") => value.parse::<u32>().is_ok_and(|days| (1..=3_650).contains(&days)),
            (Self::Report, "last") => is_duration(value),
            (Self::Report, "folder") => value.starts_with('/'),
            (Self::Report, "to") => value.split(',').all(|address| UserAddress::address(address).is_ok()),
            (Self::Backup, "dir") => {
                let bucket = value.strip_prefix("s3://");
                value.starts_with('/') || bucket.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
            }
            (Self::Backup, "keep") => value.parse::<u32>().is_ok_and(|keep| (1..=10_000).contains(&keep)),
            _ => true,
        }
    }
}

/// A share of a mailbox's capacity, 1 to 100 percent.
fn share_of(text: &str) -> Option<u8> {
    text.parse().ok().filter(|share| (1..=100).contains(share))
}

/// Whether a text is a number of minutes, hours, days or weeks, such as `24h`.
fn is_duration(text: &str) -> bool {
    let Some(digits) = text.strip_suffix(['m', 'h', 'd', 'w']) else { return false };
    digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u32>().is_ok_and(|number| number > 0)
}
