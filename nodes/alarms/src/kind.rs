//! Kinds of events.

use std::{fmt, str::FromStr};

macro_rules! kinds {
    ($($name:ident = $word:literal, $summary:literal;)+) => {
        /// Kind of an event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = $summary] $name,)+
        }

        impl Kind {
            /// All kinds, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Name of the kind as text.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// Meaning of the event in one sentence.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$name => $summary,)+ }
            }
        }
    };
}

kinds! {
    NodeStarted = "node-started", "A node's process runs.";
    NodeStopping = "node-stopping", "A node was told to stop.";
    MemberStatus = "member-status", "The status of a member has changed.";
    MemberAdded = "member-added", "A member was added, or let in.";
    MemberRemoved = "member-removed", "A member was removed.";
    RoleMoved = "role-moved", "The publisher role has moved.";
    DutyMoved = "duty-moved", "A duty has moved.";
    CallsInherited = "calls-inherited", "A node answers for the calls of another that is dead.";
    MajorityLost = "majority-lost", "A node is not in touch with a majority any more.";
    MajorityBack = "majority-back", "A node is in touch with a majority again.";
    SplitHealed = "split-healed", "Two sides of a split have come together.";
    WentAlone = "went-alone", "A node went on alone, without a majority that is lost for good.";
    SettingChanged = "setting-changed", "A setting of the cluster was changed.";
    Alone = "acknowledged-alone", "Messages were acknowledged with one copy only.";
    ServiceFailed = "service-failed", "A critical service has failed.";
    ServiceRestarted = "service-restarted", "A critical service was started again.";
    CertificateRenewed = "certificate-renewed", "A certificate was renewed.";
    AlarmRaised = "alarm-raised", "An alarm was raised.";
    AlarmCleared = "alarm-cleared", "An alarm is over.";
    AlarmAcknowledged = "alarm-acknowledged", "Somebody has acknowledged an alarm.";
    LeftOut = "left-out", "Events came faster than they can be kept; some were left out.";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The text is not a kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no event '{0}'")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        let found = Self::ALL.iter().find(|kind| kind.word() == word);
        found.copied().ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_word() {
        for kind in Kind::ALL {
            assert_eq!(kind.word().parse(), Ok(*kind));
        }
        assert!("nothing".parse::<Kind>().is_err());
    }
}
