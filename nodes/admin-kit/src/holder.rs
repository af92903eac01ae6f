//! The node that holds a duty, and the way there; the feature level that a duty needs.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};
use twinbox_ids::NodeName;
use twinbox_members::MemberClients;
use twinbox_roles::{Duty, Roles};
use twinbox_wire::admin::node_info_client::NodeInfoClient;

/// Time for the feature level to be raised: a cluster that was formed just now gets it within moments.
const LEVEL_WITHIN: Duration = Duration::from_secs(3);

/// Refuses what needs a duty that members of an older release do not know; `problem` begins the refusal.
pub async fn served(roles: &Roles, duty: Duty, problem: &str) -> Result<(), Status> {
    let mut view = roles.watch();
    let raised = view.wait_for(|view| view.feature_level >= duty.level());
    if matches!(timeout(LEVEL_WITHIN, raised).await, Ok(Ok(_))) {
        return Ok(());
    }
    let level = view.borrow().feature_level;
    Err(not_served(duty, problem, level))
}

fn not_served(duty: Duty, problem: &str, level: u32) -> Status {
    Status::failed_precondition(format!(
        "{problem} yet: the duty '{duty}' needs feature level {}, and the cluster is at {level}; upgrade all members, then \
         give the command again",
        duty.level()
    ))
}

/// Name of the node that holds the duty.
pub fn of(roles: &Roles, duty: Duty) -> Result<NodeName, Status> {
    let view = roles.watch().borrow().clone();
    let found = view.duties.iter().find(|state| state.duty == duty).and_then(|state| state.holder.clone());
    found.ok_or_else(|| {
        Status::failed_precondition(format!("no node holds the duty {duty}: 'twinbox duty list' shows the reason"))
    })
}

/// Client of another node.
pub fn client(members: &MemberClients, holder: &NodeName) -> Result<NodeInfoClient<Channel>, Status> {
    let way = members.nodes().into_iter().find(|(name, _)| name == holder);
    let (_, channel) = way.ok_or_else(|| Status::failed_precondition(format!("there is no way to {holder}")))?;
    Ok(NodeInfoClient::new(channel))
}

/// The holder's refusal of a run, for an administrator at this node.
pub fn refused(duty: Duty, holder: &NodeName, status: &Status) -> Status {
    Status::failed_precondition(match status.code() {
        Code::Unimplemented => format!(
            "{holder}, which holds the duty {duty}, runs an older release: upgrade it, or move the duty \
             ('twinbox duty move {duty} NODE')"
        ),
        _ => format!("{holder}, which holds the duty {duty}, runs nothing: {}", status.message()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_below_the_feature_level_names_duty_levels_and_remedy() {
        for duty in [Duty::DirectorySync, Duty::Timetable, Duty::MailboxSync] {
            let level = duty.level();
            let refused = not_served(duty, "no member does it", level - 1);
            assert_eq!(refused.code(), Code::FailedPrecondition);
            let needs = format!("'{duty}' needs feature level {level}, and the cluster is at {}", level - 1);
            for part in ["no member does it yet", &needs, "upgrade all members"] {
                assert!(refused.message().contains(part), "{}", refused.message());
            }
        }
    }

    #[test]
    fn refusal_names_the_holder_and_is_no_lost_connection_to_this_node() {
        let holder: NodeName = "b".parse().expect("a name");
        for (status, part) in [
            (Status::unimplemented(""), "b, which holds the duty directory-sync, runs an older release"),
            (Status::unavailable("no answer in time"), "no answer in time"),
        ] {
            let refused = refused(Duty::DirectorySync, &holder, &status);
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().contains(part), "{}", refused.message());
        }
    }
}
