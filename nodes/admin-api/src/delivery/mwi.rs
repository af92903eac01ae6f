//! Has the holder of the duty `notifier` send MWI states again.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Status};
use tracing::info;
use twinbox_admin_kit::holder;
use twinbox_ids::{MailboxId, NodeName};
use twinbox_members::MemberClients;
use twinbox_notifier::NotifierService;
use twinbox_roles::{Duty, Roles};
use twinbox_wire::{
    admin::{ResyncMwiReply, ResyncMwiRequest},
    delivery::MwiResyncReply,
};

use crate::{AdminHandles, admin::mailbox};

/// Timeout for the answer of the holder, which only marks the states.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Way to the holder of the duty `notifier`, for a resync of MWI states.
#[derive(Clone)]
pub struct MwiResync {
    /// Name of this node.
    pub name: NodeName,
    /// Role manager.
    pub roles: Roles,
    /// Connections to the other members.
    pub members: Arc<MemberClients>,
    /// The duty on this node.
    pub notifier: NotifierService,
}

impl MwiResync {
    /// Has the states of all mailboxes, or of one, sent again; returns the holder and the number of states.
    pub async fn resync(&self, mailbox: Option<MailboxId>) -> Result<(NodeName, u64), Status> {
        let holder = holder::of(&self.roles, Duty::Notifier)?;
        let states = if holder == self.name {
            on_this_node(&self.notifier, mailbox)?.states
        } else {
            self.ask(&holder, mailbox).await?
        };
        Ok((holder, states))
    }

    async fn ask(&self, holder: &NodeName, mailbox: Option<MailboxId>) -> Result<u64, Status> {
        let mailbox = mailbox.map(|mailbox| mailbox.to_bytes().to_vec()).unwrap_or_default();
        let request = ResyncMwiRequest { mailbox: mailbox.into() };
        let mut client = holder::client(&self.members, holder)?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, client.resync_mwi(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::unavailable("no answer in time")));
        answer.map(|reply| reply.into_inner().states).map_err(|status| refused(holder, &status))
    }
}

/// Has the states of all mailboxes, or of one, sent again for an administrator.
pub async fn resync(node: &AdminHandles, number: &str) -> Result<MwiResyncReply, Status> {
    let mailbox = if number.is_empty() { None } else { Some(mailbox(node, number).await?.id) };
    let way = MwiResync {
        name: node.name.clone(),
        roles: node.roles.clone(),
        members: node.members.clone(),
        notifier: node.notifier.clone(),
    };
    let (holder, states) = way.resync(mailbox).await?;
    info!(%holder, states, "administrator has MWI states sent again");
    Ok(MwiResyncReply { node: holder.to_string(), states })
}

/// Answers another member.
pub fn answer(notifier: &NotifierService, request: &ResyncMwiRequest) -> Result<ResyncMwiReply, Status> {
    let mailbox = match request.mailbox.is_empty() {
        true => None,
        false => Some(
            MailboxId::from_slice(&request.mailbox)
                .ok_or_else(|| Status::invalid_argument("a mailbox of an MWI resync has 16 bytes"))?,
        ),
    };
    on_this_node(notifier, mailbox)
}

fn on_this_node(notifier: &NotifierService, mailbox: Option<MailboxId>) -> Result<ResyncMwiReply, Status> {
    let states = notifier.resync(mailbox).ok_or_else(|| {
        Status::failed_precondition(
            "the duty notifier moves at present, which sends all states: see 'twinbox duty list'",
        )
    })?;
    Ok(ResyncMwiReply { states: u64::try_from(states).unwrap_or(u64::MAX) })
}

/// The holder's refusal, for an administrator at this node.
fn refused(holder: &NodeName, status: &Status) -> Status {
    Status::failed_precondition(match status.code() {
        Code::Unimplemented => format!(
            "{holder}, which holds the duty notifier, runs an older release: upgrade it, or move the duty, which sends \
             all states ('twinbox duty move notifier NODE')"
        ),
        _ => format!("{holder}, which holds the duty notifier, sends no states again: {}", status.message()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_names_the_holder_and_is_no_lost_connection_to_this_node() {
        let holder: NodeName = "b".parse().expect("a name");
        for (status, part) in [
            (Status::unimplemented(""), "b, which holds the duty notifier, runs an older release"),
            (Status::unavailable("no answer in time"), "no answer in time"),
        ] {
            let refused = refused(&holder, &status);
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(refused.message().contains(part), "{}", refused.message());
        }
    }
}
