//! The agreed settings of the cluster: values, text form and checks.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use twinbox_ids::NodeName;

use crate::{Duty, Trigger};

/// The longest address or alarm code, in bytes.
const WORD_LIMIT: usize = 255;
const MINUTES_A_DAY: u16 = 24 * 60;
/// Permitted keep-alive intervals, in milliseconds.
pub(crate) const KEEP_ALIVE_MS: std::ops::RangeInclusive<u64> = 50..=5_000;
/// Permitted number of consecutive missed keep-alives before a node counts as lost.
pub(crate) const MISSED: std::ops::RangeInclusive<u32> = 2..=20;

/// Distribution of calls over the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Every node answers calls.
    #[default]
    ActiveActive,
    /// Only the publisher answers calls; the others refuse them until they are needed.
    ActivePassive,
}

/// Return of the role to the preferred node once it works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failback {
    /// Never automatically, and not by `cluster failback`.
    #[default]
    None,
    /// On an administrator's `cluster failback`.
    Manual,
    /// Automatically, within a daily window. If it ends before it begins, it spans midnight.
    Scheduled {
        /// Minute of the day, UTC, at which the window opens.
        from: u16,
        /// Minute of the day, UTC, at which it closes.
        to: u16,
    },
}

impl Failback {
    /// Whether the role may return automatically at this minute of the day (UTC).
    pub fn is_open(self, minute: u16) -> bool {
        match self {
            Self::None | Self::Manual => false,
            Self::Scheduled { from, to } if from <= to => (from..to).contains(&minute),
            Self::Scheduled { from, to } => minute >= from || minute < to,
        }
    }
}

/// Behaviour of a pair without a witness when one node is unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnQuorumLoss {
    /// Duties wait.
    #[default]
    Hold,
    /// The other node takes the duties in a solo epoch (rule R7).
    Assume,
}

/// Moves the role off a node on which this alarm is raised this often within this time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmRule {
    /// The alarm's code.
    pub code: String,
    /// Number of times.
    pub times: u32,
    /// Period, in seconds.
    pub seconds: u32,
}

/// The agreed settings of the role manager.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleSettings {
    /// Distribution of calls over the nodes.
    pub mode: Mode,
    /// Return of the role to the preferred node.
    pub failback: Failback,
    /// The node that should be publisher if it can.
    pub preferred: Option<NodeName>,
    /// Active-passive: a passive node takes an authenticated trunk's call and also requests the role.
    pub force_failover_on_call: bool,
    /// Behaviour of a pair without a witness when one node is unreachable.
    pub on_quorum_loss: OnQuorumLoss,
    /// `assume` only while this `HOST:PORT` answers.
    pub arbiter: Option<String>,
    /// Triggers that differ from their default; see [`RoleSettings::is_on`].
    pub triggers: BTreeMap<Trigger, bool>,
    /// The alarm rule, if there is one.
    pub alarm_rule: Option<AlarmRule>,
    /// Duties that stay on a node as long as it serves.
    pub pins: BTreeMap<Duty, NodeName>,
    /// Interval at which a node renews its leases, in milliseconds; by default that of the timing profile.
    pub keep_alive_ms: Option<u64>,
    /// Number of consecutive missed keep-alives after which a node counts as lost; by default that of the profile.
    pub missed: Option<u32>,
}

/// One setting with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// [`RoleSettings::mode`].
    Mode(Mode),
    /// [`RoleSettings::failback`].
    Failback(Failback),
    /// [`RoleSettings::preferred`].
    Preferred(Option<NodeName>),
    /// [`RoleSettings::force_failover_on_call`].
    ForceFailoverOnCall(bool),
    /// [`RoleSettings::on_quorum_loss`].
    OnQuorumLoss(OnQuorumLoss),
    /// [`RoleSettings::arbiter`].
    Arbiter(Option<String>),
    /// One of [`RoleSettings::triggers`].
    Trigger(Trigger, bool),
    /// [`RoleSettings::alarm_rule`].
    AlarmRule(Option<AlarmRule>),
    /// [`RoleSettings::keep_alive_ms`].
    KeepAlive(Option<u64>),
    /// [`RoleSettings::missed`].
    Missed(Option<u32>),
}

/// Reason for which a setting was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum SettingError {
    /// No setting has this name.
    #[error("there is no setting '{name}'; the settings are: {names}")]
    Unknown {
        /// As given.
        name: String,
        /// Names of the existing settings.
        names: String,
    },
    /// The value is invalid for this setting.
    #[error("'{value}' is not a valid value of '{name}'; write {expected}")]
    Value {
        /// The setting.
        name: String,
        /// As given.
        value: String,
        /// Permitted values.
        expected: String,
    },
}

impl RoleSettings {
    /// Whether this trigger moves roles. All do by default; the alarm rule does nothing before one is set.
    pub fn is_on(&self, trigger: Trigger) -> bool {
        self.triggers.get(&trigger).copied().unwrap_or(true)
    }

    /// All settings with their values, in the order for people. Pins have their own orders.
    pub fn list(&self) -> Vec<Setting> {
        let mut all = vec![
            Setting::Mode(self.mode),
            Setting::Failback(self.failback),
            Setting::Preferred(self.preferred.clone()),
            Setting::ForceFailoverOnCall(self.force_failover_on_call),
            Setting::OnQuorumLoss(self.on_quorum_loss),
            Setting::Arbiter(self.arbiter.clone()),
            Setting::AlarmRule(self.alarm_rule.clone()),
            Setting::KeepAlive(self.keep_alive_ms),
            Setting::Missed(self.missed),
        ];
        all.extend(Trigger::ALL.into_iter().map(|trigger| Setting::Trigger(trigger, self.is_on(trigger))));
        all
    }

    /// Sets one setting.
    pub(crate) fn put(&mut self, setting: Setting) {
        match setting {
            Setting::Mode(mode) => self.mode = mode,
            Setting::Failback(failback) => self.failback = failback,
            Setting::Preferred(node) => self.preferred = node,
            Setting::ForceFailoverOnCall(on) => self.force_failover_on_call = on,
            Setting::OnQuorumLoss(what) => self.on_quorum_loss = what,
            Setting::Arbiter(address) => self.arbiter = address,
            Setting::Trigger(trigger, true) => drop(self.triggers.remove(&trigger)),
            Setting::Trigger(trigger, false) => drop(self.triggers.insert(trigger, false)),
            Setting::AlarmRule(rule) => self.alarm_rule = rule,
            Setting::KeepAlive(interval) => self.keep_alive_ms = interval,
            Setting::Missed(count) => self.missed = count,
        }
    }
}

impl Setting {
    /// The names of all settings.
    pub fn names() -> Vec<String> {
        RoleSettings::default().list().iter().map(Self::name).collect()
    }

    /// The name for people.
    pub fn name(&self) -> String {
        let name = match self {
            Self::Mode(_) => "mode",
            Self::Failback(_) => "failback",
            Self::Preferred(_) => "preferred",
            Self::ForceFailoverOnCall(_) => "force-failover-on-call",
            Self::OnQuorumLoss(_) => "on-quorum-loss",
            Self::Arbiter(_) => "arbiter",
            Self::Trigger(trigger, _) => return format!("trigger.{trigger}"),
            Self::AlarmRule(_) => "alarm-rule",
            Self::KeepAlive(_) => "keep-alive",
            Self::Missed(_) => "missed",
        };
        name.to_owned()
    }

    /// Permitted values, as text.
    pub fn expected(&self) -> &'static str {
        match self {
            Self::Mode(_) => "active-active or active-passive",
            Self::Failback(_) => "none, manual, or a daily window in UTC: scheduled 02:00-04:00",
            Self::Preferred(_) => "the name of a node, or none",
            Self::ForceFailoverOnCall(_) | Self::Trigger(..) => "on or off",
            Self::OnQuorumLoss(_) => "hold or assume",
            Self::Arbiter(_) => "HOST:PORT, or none",
            Self::AlarmRule(_) => "CODE TIMES SECONDS, for instance: replication-lag 3 60, or none",
            Self::KeepAlive(_) => "milliseconds from 50 to 5000, or default",
            Self::Missed(_) => "a count from 2 to 20, or default",
        }
    }

    /// Its value as text, readable by [`Setting::parse`].
    pub fn value(&self) -> String {
        fn or<T: fmt::Display>(value: Option<&T>, otherwise: &str) -> String {
            value.map_or_else(|| otherwise.to_owned(), ToString::to_string)
        }
        match self {
            Self::Mode(Mode::ActiveActive) => "active-active".to_owned(),
            Self::Mode(Mode::ActivePassive) => "active-passive".to_owned(),
            Self::Failback(Failback::None) => "none".to_owned(),
            Self::Failback(Failback::Manual) => "manual".to_owned(),
            Self::Failback(Failback::Scheduled { from, to }) => {
                format!("scheduled {}-{}", clock(*from), clock(*to))
            }
            Self::Preferred(node) => or(node.as_ref(), "none"),
            Self::ForceFailoverOnCall(on) | Self::Trigger(_, on) => if *on { "on" } else { "off" }.to_owned(),
            Self::OnQuorumLoss(OnQuorumLoss::Hold) => "hold".to_owned(),
            Self::OnQuorumLoss(OnQuorumLoss::Assume) => "assume".to_owned(),
            Self::Arbiter(address) => or(address.as_ref(), "none"),
            Self::AlarmRule(None) => "none".to_owned(),
            Self::AlarmRule(Some(rule)) => format!("{} {} {}", rule.code, rule.times, rule.seconds),
            Self::KeepAlive(interval) => or(interval.as_ref(), "default"),
            Self::Missed(count) => or(count.as_ref(), "default"),
        }
    }

    /// Parses a setting as written by people: `set NAME VALUE`.
    pub fn parse(name: &str, value: &str) -> Result<Self, SettingError> {
        let known = RoleSettings::default().list();
        let Some(example) = known.iter().find(|setting| setting.name() == name) else {
            let names = Self::names().join(", ");
            return Err(SettingError::Unknown { name: shortened(name), names });
        };
        let bad = || example.bad(value);
        let value = value.trim();
        let switch = || match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };
        let unless = |none: &str| (value != none).then_some(value);
        let setting = match example {
            Self::Mode(_) => Self::Mode(match value {
                "active-active" => Mode::ActiveActive,
                "active-passive" => Mode::ActivePassive,
                _ => return Err(bad()),
            }),
            Self::Failback(_) => Self::Failback(match (value, value.strip_prefix("scheduled ")) {
                ("none", _) => Failback::None,
                ("manual", _) => Failback::Manual,
                (_, Some(window)) => {
                    let (from, to) = window.split_once('-').ok_or_else(bad)?;
                    Failback::Scheduled { from: minute(from).ok_or_else(bad)?, to: minute(to).ok_or_else(bad)? }
                }
                _ => return Err(bad()),
            }),
            Self::Preferred(_) => Self::Preferred(unless("none").map(str::parse).transpose().map_err(|_| bad())?),
            Self::ForceFailoverOnCall(_) => Self::ForceFailoverOnCall(switch().ok_or_else(bad)?),
            Self::Trigger(trigger, _) => Self::Trigger(*trigger, switch().ok_or_else(bad)?),
            Self::OnQuorumLoss(_) => Self::OnQuorumLoss(match value {
                "hold" => OnQuorumLoss::Hold,
                "assume" => OnQuorumLoss::Assume,
                _ => return Err(bad()),
            }),
            Self::Arbiter(_) => Self::Arbiter(unless("none").map(str::to_owned)),
            Self::AlarmRule(_) => Self::AlarmRule(match unless("none") {
                Some(text) => Some(alarm_rule(text).ok_or_else(bad)?),
                None => None,
            }),
            Self::KeepAlive(_) => Self::KeepAlive(match unless("default") {
                Some(text) => Some(text.strip_suffix("ms").unwrap_or(text).trim().parse().map_err(|_| bad())?),
                None => None,
            }),
            Self::Missed(_) => Self::Missed(unless("default").map(str::parse).transpose().map_err(|_| bad())?),
        };
        // The error shows the value as written, not as parsed.
        setting.check().map_err(|_| bad())?;
        Ok(setting)
    }

    /// Checks the value on its own. Input from another member is checked like that of people.
    pub(crate) fn check(&self) -> Result<(), SettingError> {
        let sound = match self {
            Self::Failback(Failback::Scheduled { from, to }) => {
                from != to && *from < MINUTES_A_DAY && *to < MINUTES_A_DAY
            }
            Self::Arbiter(Some(address)) => is_address(address),
            Self::AlarmRule(Some(rule)) => {
                let word = !rule.code.is_empty() && rule.code.len() <= WORD_LIMIT;
                word && !rule.code.contains(char::is_whitespace) && rule.times > 0 && rule.seconds > 0
            }
            Self::KeepAlive(Some(interval)) => KEEP_ALIVE_MS.contains(interval),
            Self::Missed(Some(count)) => MISSED.contains(count),
            _ => true,
        };
        if sound { Ok(()) } else { Err(self.bad(&self.value())) }
    }

    fn bad(&self, value: &str) -> SettingError {
        SettingError::Value { name: self.name(), value: shortened(value), expected: self.expected().to_owned() }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name(), self.value())
    }
}

/// `host:port` with a port other than 0.
pub(crate) fn is_address(text: &str) -> bool {
    text.len() <= WORD_LIMIT
        && !text.contains(char::is_whitespace)
        && text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn shortened(text: &str) -> String {
    text.chars().take(WORD_LIMIT).collect()
}

fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.len() <= 2 && text != "+");
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

fn alarm_rule(text: &str) -> Option<AlarmRule> {
    let mut words = text.split_whitespace();
    let code = words.next()?.to_owned();
    let times = words.next()?.parse().ok()?;
    let seconds = words.next()?.parse().ok()?;
    words.next().is_none().then_some(AlarmRule { code, times, seconds })
}
