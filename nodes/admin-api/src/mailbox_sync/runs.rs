//! Runs of a mailbox now: ordered from the holder of the duty, wherever it is.

use std::time::Duration;

use tonic::{Code, Status};
use tracing::info;
use twinbox_admin_kit::holder;
use twinbox_ids::{MailboxId, NodeName};
use twinbox_mailbox_sync_duty::{MailboxSyncDuty, SyncReport};
use twinbox_roles::Duty;
use twinbox_wire::{
    admin::{SyncMailboxReply, SyncMailboxRequest},
    mailbox_sync::{AccountRunReply, AccountRunRequest, RunCounts},
};

use crate::{AdminHandles, admin::mailbox};

/// Maximum wait for the end of a run in one request: an administrator's command asks again.
const ENDED_WITHIN: Duration = Duration::from_secs(5);
/// Timeout for the answer of the holder, beyond that wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Orders a run from the holder of the duty, or asks it for the outcome.
pub async fn run(node: &AdminHandles, request: AccountRunRequest) -> Result<AccountRunReply, Status> {
    let AccountRunRequest { number, accept_deletions, wait } = request;
    let mailbox = mailbox(node, &number).await?.id;
    let holder = holder::of(&node.roles, Duty::MailboxSync)?;
    if !wait {
        info!(%mailbox, accept_deletions, "administrator has a mailbox synchronised");
    }
    let order = SyncMailboxRequest { mailbox: mailbox.to_bytes().to_vec().into(), accept_deletions, wait };
    let answered = match holder == node.name {
        true => answer(&node.mailbox_sync, &order).await,
        false => ask(node, &holder, order).await,
    };
    match answered {
        Ok(reply) => Ok(shown(&holder, reply)),
        Err(status) if wait && status.code() == Code::NotFound => Err(Status::failed_precondition(format!(
            "the duty mailbox-sync moved to {holder} during the run, which goes on there: give the command again, or see \
             'twinbox mailbox-sync show {number}'"
        ))),
        Err(status) => Err(holder::refused(Duty::MailboxSync, &holder, &status)),
    }
}

async fn ask(
    node: &AdminHandles,
    holder: &NodeName,
    order: SyncMailboxRequest,
) -> Result<SyncMailboxReply, Status> {
    let mut client = holder::client(&node.members, holder)?;
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.sync_mailbox(order)).await;
    answer.unwrap_or_else(|_| Err(Status::unavailable("no answer in time"))).map(tonic::Response::into_inner)
}

/// Answers another member, or this node's administrator.
pub async fn answer(duty: &MailboxSyncDuty, request: &SyncMailboxRequest) -> Result<SyncMailboxReply, Status> {
    let mailbox = MailboxId::from_slice(&request.mailbox)
        .ok_or_else(|| Status::invalid_argument("a mailbox has an id of 16 bytes"))?;
    if !request.wait {
        let ordered = duty.sync_now(mailbox, request.accept_deletions);
        ordered.map_err(|error| Status::failed_precondition(error.to_string()))?;
    }
    let report = duty.report(mailbox, ENDED_WITHIN).await;
    let report = report.ok_or_else(|| Status::not_found("no run of this mailbox is known here"))?;
    let SyncReport { ended, outcome, appended, marked_here, flagged_there, removed_there, held_back } = report;
    let counts = vec![appended, marked_here, flagged_there, removed_there, u64::from(held_back)];
    Ok(SyncMailboxReply { ended, outcome, counts })
}

fn shown(holder: &NodeName, reply: SyncMailboxReply) -> AccountRunReply {
    let SyncMailboxReply { ended, outcome, counts: numbers } = reply;
    // A newer member may send more numbers.
    let mut known = [0; 5];
    known.iter_mut().zip(numbers).for_each(|(known, number)| *known = number);
    let [appended, marked_here, flagged_there, removed_there, held_back] = known;
    let counts = Some(RunCounts { appended, marked_here, flagged_there, removed_there, held_back });
    AccountRunReply { node: holder.to_string(), ended, outcome, counts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_of_a_newer_or_older_holder_is_shown() {
        let holder: NodeName = "b".parse().expect("a name");
        for counts in [vec![7, 2, 3, 4, 5, 6], vec![7]] {
            let reply = SyncMailboxReply { ended: true, outcome: "done".to_owned(), counts };
            let shown = shown(&holder, reply);
            assert_eq!((shown.node.as_str(), shown.counts.expect("counts").appended), ("b", 7));
        }
    }
}
