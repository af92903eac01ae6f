//! The services of a node, and the way to restart each.

use twinbox_config::nearest;
use twinbox_roles::Duty;

use crate::CheckResult;

/// Fixed properties of a service.
pub(crate) struct ServiceSpec {
    pub name: &'static str,
    /// A node without this service is not in service: the role manager gets a report.
    pub critical: bool,
    /// A node without this service cannot take calls.
    pub carries_calls: bool,
    /// An orderly stop of the node ends this service first, while calls in progress go on.
    ends_first: bool,
    /// Way to restart the service; `Err`: reason why that is impossible.
    pub restart: Result<Restart, &'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    Calls,
    Duty(Duty),
}

/// All services, in display order.
pub(crate) const SERVICES: [ServiceSpec; 13] = [
    ServiceSpec {
        name: "calls",
        critical: true,
        carries_calls: true,
        ends_first: true,
        restart: Ok(Restart::Calls),
    },
    ServiceSpec {
        name: "media",
        critical: true,
        carries_calls: true,
        ends_first: false,
        restart: Err("its threads carry every call: drain the node ('twinbox cluster deactivate') and restart it"),
    },
    ServiceSpec {
        name: "store",
        critical: true,
        carries_calls: true,
        ends_first: false,
        restart: Err("it is opened once per process (a failed disk is never written again): restart the node"),
    },
    ServiceSpec {
        name: "replication",
        critical: true,
        carries_calls: false,
        ends_first: false,
        restart: Err("its streams restart automatically: see 'twinbox cluster status' for the peer"),
    },
    ServiceSpec {
        name: "space",
        critical: true,
        carries_calls: true,
        ends_first: false,
        restart: Err("free space on the data disk, or move node.data_dir"),
    },
    ServiceSpec {
        name: ROLE_MANAGER,
        critical: true,
        carries_calls: false,
        ends_first: true,
        restart: Err("its tasks are started again automatically; if one goes on failing, restart the node"),
    },
    duty(Duty::Notifier),
    duty(Duty::Mta),
    duty(Duty::DirectorySync),
    duty(Duty::Timetable),
    duty(Duty::MailboxSync),
    ServiceSpec {
        name: "clock",
        critical: false,
        carries_calls: false,
        ends_first: false,
        restart: Err("synchronise the machine's clock (chrony, systemd-timesyncd)"),
    },
    ServiceSpec {
        name: "cpu",
        critical: false,
        carries_calls: false,
        ends_first: false,
        restart: Err("give the machine or the container more, or find what uses it"),
    },
];

const fn duty(duty: Duty) -> ServiceSpec {
    ServiceSpec {
        name: duty.name(),
        critical: true,
        carries_calls: false,
        ends_first: true,
        restart: Ok(Restart::Duty(duty)),
    }
}

impl ServiceSpec {
    /// Judges the result of a check: a service ended by an orderly stop has not failed.
    pub fn judge(&self, checked: CheckResult, stopping: bool) -> CheckResult {
        if stopping && self.ends_first { Ok(()) } else { checked }
    }
}

/// Name of the role manager as a service and in alarms.
pub const ROLE_MANAGER: &str = "role-manager";

/// Reason why a service is not restarted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartRefused {
    /// No service has this name.
    #[error("there is no service '{name}'{}: services are {}", near(.name), names())]
    Unknown {
        /// Name as given.
        name: String,
    },
    /// The service cannot be restarted separately.
    #[error("{name} cannot be restarted separately: {why}")]
    Impossible {
        /// Name of the service.
        name: &'static str,
        /// Reason and remedy.
        why: &'static str,
    },
    /// The restart would end calls.
    #[error("restarting calls would end {calls} in progress: wait until they have ended, or give --force")]
    Calls {
        /// Number of calls in progress.
        calls: usize,
    },
    /// The node stops.
    #[error("this node is stopping: start it again instead")]
    Stopping,
    /// A restart is already in progress.
    #[error("{0} is being restarted already")]
    UnderWay(&'static str),
    /// The restart failed.
    #[error("{name} could not be restarted: {why}")]
    Failed {
        /// Name of the service.
        name: &'static str,
        /// Reason of the failure.
        why: String,
    },
}

fn near(name: &str) -> String {
    let known: Vec<&str> = SERVICES.iter().map(|about| about.name).collect();
    nearest(name, &known).map(|near| format!(" (did you mean '{near}'?)")).unwrap_or_default()
}

fn names() -> String {
    SERVICES.iter().map(|about| about.name).collect::<Vec<_>>().join(", ")
}

pub(crate) fn may_restart(name: &str) -> Result<(&'static str, Restart), RestartRefused> {
    let about = SERVICES.iter().find(|about| about.name == name);
    let about = about.ok_or_else(|| RestartRefused::Unknown { name: name.to_owned() })?;
    about.restart.map(|how| (about.name, how)).map_err(|why| RestartRefused::Impossible { name: about.name, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restartable_services_are_accepted_and_a_typo_gets_a_suggestion() {
        assert!(may_restart("calls").is_ok() && may_restart("notifier").is_ok());
        let refused = |name| may_restart(name).expect_err("refused").to_string();
        assert!(refused("notifer").contains("did you mean 'notifier'?"), "{}", refused("notifer"));
        assert!(refused("everything").contains("services are calls, media, store"));
        for about in SERVICES.iter().filter(|about| about.restart.is_err()) {
            assert!(refused(about.name).starts_with(&format!("{} cannot be restarted separately: ", about.name)));
        }
    }

    #[test]
    fn services_ended_by_an_orderly_stop_have_not_failed_but_a_broken_disk_has() {
        let ended = || Err("its task has ended".to_owned());
        for about in &SERVICES {
            assert_eq!(about.judge(ended(), false), ended(), "{}", about.name);
            let excused = matches!(about.name, "calls" | ROLE_MANAGER) || Duty::from_name(about.name).is_some();
            assert_eq!(about.judge(ended(), true).is_ok(), excused, "{}", about.name);
        }
    }
}
