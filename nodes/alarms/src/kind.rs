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
    NodeStarted = "node-started", "A node's process started.";
    NodeStopping = "node-stopping", "A node received a stop request.";
    MemberStatus = "member-status", "The status of a member has changed.";
    MemberAdded = "member-added", "A member was added or enrolled.";
    MemberRemoved = "member-removed", "A member was removed.";
    RoleMoved = "role-moved", "The publisher role has moved.";
    DutyMoved = "duty-moved", "A duty has moved.";
    CallsInherited = "calls-inherited", "A node became heir of the calls of an ended node.";
    MajorityLost = "majority-lost", "A node no longer reaches a majority.";
    MajorityBack = "majority-back", "A node reaches a majority again.";
    SplitHealed = "split-healed", "A split ended; both sides are one cluster again.";
    WentAlone = "went-alone", "A node went on alone, without a majority that is lost for good.";
    SettingChanged = "setting-changed", "A setting of the cluster was changed.";
    AcknowledgedAlone = "acknowledged-alone", "Messages were acknowledged with one copy only.";
    ServiceFailed = "service-failed", "A critical service has failed.";
    ServiceRestarted = "service-restarted", "A critical service was restarted.";
    CertificateRenewed = "certificate-renewed", "A certificate was renewed.";
    AlarmRaised = "alarm-raised", "An alarm was raised.";
    AlarmCleared = "alarm-cleared", "An alarm was cleared.";
    AlarmAcknowledged = "alarm-acknowledged", "An administrator acknowledged an alarm.";
    LeftOut = "left-out", "Events arrived faster than they can be stored; some were left out.";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The text is not a kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no event '{0}': see docs/alarms.md")]
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
    fn every_kind_has_its_own_name() {
        for kind in Kind::ALL {
            assert_eq!(kind.word().parse(), Ok(*kind));
        }
        assert!("nothing".parse::<Kind>().is_err());
    }
}
