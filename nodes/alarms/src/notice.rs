//! Notice to an outside receiver: an alarm and its transition.

use twinbox_ids::Timestamp;

use crate::{
    Code, Severity,
    alarm::{Alarm, Transition},
};

/// SNMP arc of Twinbox's objects, and the number in syslog's structured data. Twinbox has no IANA number yet:
/// this arc is below net-snmp's arc for unregistered software.
pub const ENTERPRISE: [u32; 11] = [1, 3, 6, 1, 4, 1, 8072, 9999, 9999, 2177, 1];

/// Notice to an outside receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Name of the cluster.
    pub cluster: String,
    /// Present state of the alarm.
    pub alarm: Alarm,
    /// Transition to report.
    pub transition: Transition,
}

impl Notice {
    /// Deduplication key: the same for every sending node and every attempt (rule E1).
    pub fn key(&self) -> String {
        format!("{}-{}", self.alarm.id, self.transition.0)
    }

    /// `raised` or `cleared`.
    pub fn what(&self) -> &'static str {
        if self.transition.is_raised() { "raised" } else { "cleared" }
    }

    /// Severity of the alarm; `Warning` for an unknown code.
    pub fn severity(&self) -> Severity {
        self.alarm.code.map_or(Severity::Warning, Code::severity)
    }

    /// Action for the administrator; empty for an unknown code.
    pub fn remedy(&self) -> &'static str {
        self.alarm.code.map_or("", Code::remedy)
    }

    /// Time of the transition in RFC 3339 format.
    pub fn at(&self) -> String {
        rfc3339(self.alarm.at(self.transition))
    }

    /// Body of the webhook request.
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

/// Time in RFC 3339 format, in UTC, with milliseconds.
pub fn rfc3339(at: Timestamp) -> String {
    let at = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    format!("{at:.3}")
}
