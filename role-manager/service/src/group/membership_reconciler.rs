//! Membership changes by the leader: caught-up followers become voters, voters become members, removed members are
//! dropped, and leadership moves to the best voter. The changes are those of `MembershipStep` in `role-manager/member`,
//! which the simulation runs too; that voter is chosen by `LeaderStep` there.

use std::sync::Arc;

use tokio::time::{sleep, timeout};
use twinbox_raft::{Core, Peer, ProposeError, RaftStatus, StoreIdentity, wait};
use twinbox_roles_core::Command;
use twinbox_roles_member::{MembershipFacts, MembershipStep, RaftGroup, RaftPeer, VoterStep};

use crate::{RolesConfig, boot_clock::now, group::members::RETRY_INTERVAL, leading::leader::Leadership};

/// Parameters of the task.
pub(crate) struct MembershipReconciler {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) identity: Arc<StoreIdentity>,
    pub(crate) core: Arc<Core>,
    pub(crate) leadership: Arc<Leadership>,
}

impl MembershipReconciler {
    /// Runs for as long as the process does; idle while another leads.
    pub(crate) async fn run(&self) {
        let mut status = self.core.status();
        let mut applied = self.core.applied();
        let mut membership = MembershipStep::default();
        loop {
            let current = status.borrow_and_update().clone();
            applied.mark_unchanged();
            if self.leadership.term().is_some() {
                let limit = self.config.timing.order_limit() * 2;
                match timeout(limit, self.reconcile(&current, &mut membership)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "membership change failed; it is retried"),
                    Err(_) => tracing::debug!("membership change timed out; it is retried"),
                }
                // Read again: the change just made may have removed that one's vote. It would never stand for election,
                // and Raft's leader proposes nothing more once it has requested another to lead.
                let current = status.borrow().clone();
                if let Some(to) = self.leadership.better_leader(&raft_group(&current)) {
                    let name = current.peer(to).map(|peer| &peer.name);
                    tracing::info!(to = ?name, "leadership is transferred to the preferred voter");
                    let _ = self.core.transfer_to(to).await;
                }
            }
            tokio::select! {
                () = wait(&mut status) => {}
                () = wait(&mut applied) => {}
                () = sleep(RETRY_INTERVAL), if current.leading => {}
            }
        }
    }

    async fn reconcile(&self, status: &RaftStatus, membership: &mut MembershipStep) -> Result<(), ProposeError> {
        let state = self.core.applied().borrow().state.clone();
        let name = |id: u64| status.peer(id).map(|peer| peer.name.to_string()).unwrap_or_default();
        let group = raft_group(status);
        let (own, may_change_voters) = (self.identity.raft_id(), self.leadership.may_change_voters());
        let facts = MembershipFacts { group: &group, state: &state, own, may_change_voters };
        let has_handed_over = |id| self.leadership.has_handed_over(id);
        match membership.next(now(), facts, has_handed_over) {
            Some(VoterStep::FinishJoint { keep }) => self.core.finish_joint(keep).await,
            Some(VoterStep::Promote { id, instead_of }) => {
                tracing::info!(name = name(id), id, "member becomes a voter");
                self.core.promote(id, instead_of).await
            }
            Some(VoterStep::Demote { ids, instead }) => {
                let names: Vec<_> = ids.iter().map(|id| name(*id)).collect();
                tracing::info!(?names, instead = instead.map(name), "members stop voting");
                self.core.demote(ids, instead).await
            }
            Some(VoterStep::HandOver { to }) => {
                tracing::info!(to = name(to), "leadership is transferred: this member is to stop voting");
                self.core.transfer_to(to).await
            }
            Some(VoterStep::Admit { id }) => {
                let Some(Peer { name, kind, address }) = status.peer(id).cloned() else { return Ok(()) };
                self.core.propose(Command::Admit { name, kind, address, raft_id: id }).await.map(drop)
            }
            Some(VoterStep::Remove { id, name }) => {
                tracing::info!(%name, id, "member is removed from the cluster");
                self.core.propose(Command::Removed { name, raft_id: id }).await.map(drop)
            }
            Some(VoterStep::Forget { ids }) => self.core.forget(ids).await,
            None => Ok(()),
        }
    }
}

fn raft_group(status: &RaftStatus) -> RaftGroup {
    let RaftStatus { voters, learners, joint, peers, matched, last_index, .. } = status.clone();
    let peers = peers.into_iter().map(|(id, Peer { name, kind, .. })| (id, RaftPeer { name, kind })).collect();
    RaftGroup { voters, learners, joint, peers, matched, last_index }
}
