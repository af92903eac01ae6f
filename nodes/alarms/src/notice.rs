//! What a receiver outside is told: an alarm, and what happened to it.

use twinbox_ids::Timestamp;

use crate::{
    Code, Severity,
    alarm::{Alarm, Transition},
};

/// The arc of SNMP under which Twinbox's objects are, and its number in syslog's structured data. Twinbox has no number
/// of its own at IANA yet: this is beneath net-snmp's arc for whoever has none.
pub const ENTERPRISE: [u32; 11] = [1, 3, 6, 1, 4, 1, 8072, 9999, 9999, 2177, 1];

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Of which cluster.
    pub cluster: String,
    /// The alarm as it is now.
    pub alarm: Alarm,
    /// What happened to it.
    pub transition: Transition,
}

impl Notice {
    /// The same whoever tells it and however often: receivers can tell by it that they know already (rule E1).
    pub fn key(&self) -> String {
        format!("{}-{}", self.alarm.id, self.transition.0)
    }

    /// `raised` or `cleared`.
    pub fn what(&self) -> &'static str {
        if self.transition.is_raised() { "raised" } else { "cleared" }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.alarm.code.map_or(Severity::Warning, Code::severity)
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        self.alarm.code.map_or("", Code::remedy)
    }

    /// When it happened, as RFC 3339 writes it.
    pub fn at(&self) -> String {
        rfc3339(self.alarm.at(self.transition))
    }

    /// The body of a webhook's request.
    pub fn json(&self) -> serde_json::Value {
        let alarm = &self.alarm;
        serde_json::json!({
            "key": self.key(),
            "cluster": self.cluster,
            "what": self.what(),
            "at": self.at(),
            "alarm": {
                "id": alarm.id.to_string(),
                "code": alarm.word,
                "severity": self.severity().word(),
                "subject": alarm.subject,
                "node": alarm.node.to_string(),
                "detail": alarm.detail,
                "summary": alarm.code.map_or("", Code::summary),
                "remedy": self.remedy(),
                "count": alarm.count,
            },
        })
    }
}

/// A time as RFC 3339 writes it, in UTC, to the millisecond.
pub fn rfc3339(at: Timestamp) -> String {
    let at = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    format!("{at:.3}")
}
