//! Membership changes by the leader: caught-up followers become voters, voters become members, removed members are
//! dropped, and leadership moves to the best voter.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{sleep, timeout};
use twinbox_clock::BootInstant;
use twinbox_roles_core::{Command, Voter, better_leader};

use crate::{
    RolesConfig,
    leader::{Leadership, wait},
    members::ASK_AGAIN,
    raft::{Core, Peer, ProposeError, Pulse},
    standing::Standing,
    votes::{Step, next_step},
};

/// Minimum time between voluntary transfers of leadership.
const TRANSFER_AGAIN: Duration = Duration::from_secs(10);
/// Maximum time for which a removed member that does not answer is still notified …
const TELL_FOR: Duration = Duration::from_secs(10);
/// … and time for one that answers, after it has everything: it learns of the commit later than of the entry.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// Progress of a removed member's notification.
struct Told {
    since: BootInstant,
    /// Time since which it has everything.
    all: Option<BootInstant>,
}

/// Parameters of the task.
pub(crate) struct Tending {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) core: Arc<Core>,
    pub(crate) leadership: Arc<Leadership>,
}

impl Tending {
    /// Runs for as long as the process does; idle while another leads.
    pub(crate) async fn run(&self) {
        let mut pulse = self.core.pulse();
        let mut applied = self.core.applied();
        let mut transferred: Option<BootInstant> = None;
        let mut removed: BTreeMap<u64, Told> = BTreeMap::new();
        loop {
            let now = pulse.borrow_and_update().clone();
            applied.mark_unchanged();
            if self.leadership.term().is_some() {
                let limit = self.config.timing.order_limit() * 2;
                match timeout(limit, self.once(&now, &mut removed)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "members were not changed; trying again"),
                    Err(_) => tracing::debug!("members were not changed in time; trying again"),
                }
                // Read again: the change just made may have removed that one's vote. It would never stand for election,
                // and Raft's leader proposes nothing more once it has told another to lead.
                let now = pulse.borrow().clone();
                if transferred.is_none_or(|at| at.elapsed() > TRANSFER_AGAIN)
                    && let Some(to) = self.better_leader(&now)
                {
                    transferred = Some(BootInstant::now());
                    tracing::info!(to = ?now.peer(to).map(|p| &p.name), "leadership moves to where it does least harm");
                    let _ = self.core.transfer_to(to).await;
                }
            }
            tokio::select! {
                () = wait(&mut pulse) => {}
                () = wait(&mut applied) => {}
                () = sleep(ASK_AGAIN), if now.leading => {}
            }
        }
    }

    async fn once(&self, pulse: &Pulse, removed: &mut BTreeMap<u64, Told>) -> Result<(), ProposeError> {
        let state = self.core.applied().borrow().state.clone();
        let name = |id: u64| pulse.peer(id).map(|peer| peer.name.to_string()).unwrap_or_default();
        match next_step(pulse, &state, self.standing.raft_id(), |id| self.leadership.has_handed_over(id)) {
            Some(Step::FinishJoint { keep }) => self.core.finish_joint(keep).await,
            // A node of a pair may be acting solo: that is settled first.
            Some(Step::Promote { .. } | Step::Demote { .. }) if !self.leadership.may_change_voters() => Ok(()),
            Some(Step::Promote { id, instead_of }) => {
                tracing::info!(name = name(id), id, "becomes a voter");
                self.core.promote(id, instead_of).await
            }
            Some(Step::Demote { ids, instead }) => {
                let names: Vec<_> = ids.iter().map(|id| name(*id)).collect();
                tracing::info!(?names, instead = instead.map(name), "vote no more");
                self.core.demote(ids, instead).await
            }
            Some(Step::HandOver { to }) => {
                tracing::info!(to = name(to), "leadership moves: this member is not to vote any more");
                self.core.transfer_to(to).await
            }
            Some(Step::Admit { id, peer: Peer { name, kind, address } }) => {
                self.core.propose(Command::Admit { name, kind, address, raft_id: id }).await.map(drop)
            }
            Some(Step::Gone { id, name }) => {
                tracing::info!(%name, id, "leaves the cluster");
                self.core.propose(Command::Gone { name, raft_id: id }).await.map(drop)
            }
            Some(Step::Forget { ids }) => {
                removed.retain(|id, _| ids.contains(id));
                let now = BootInstant::now();
                let long_enough = |id: &u64| {
                    let known = removed.entry(*id).or_insert(Told { since: now, all: None });
                    let all = pulse.matched.get(id).is_some_and(|matched| *matched == pulse.last_index);
                    known.all = known.all.filter(|_| all).or(all.then_some(now));
                    known.all.is_some_and(|at| now.since(at) > TELL_AFTER) || now.since(known.since) > TELL_FOR
                };
                let ids: BTreeSet<u64> = ids.iter().copied().filter(long_enough).collect();
                if ids.is_empty() { Ok(()) } else { self.core.forget(ids).await }
            }
            None => Ok(()),
        }
    }

    /// Another voter that should lead instead (rule R10).
    fn better_leader(&self, pulse: &Pulse) -> Option<u64> {
        // Only while there is nothing to move: every new leader has to wait before it moves anything.
        if pulse.joint || !self.leadership.at_rest() {
            return None;
        }
        let state = self.core.applied().borrow().state.clone();
        let own = self.standing.raft_id();
        let peers = || pulse.voters.iter().filter_map(|id| Some((*id, pulse.peer(*id)?)));
        let names: BTreeSet<_> = peers().map(|(_, peer)| peer.name.clone()).collect();
        let voter = |(id, peer): (u64, &Peer)| {
            let caught_up = id == own || pulse.matched.get(&id).is_some_and(|matched| *matched == pulse.last_index);
            Voter {
                name: peer.name.clone(),
                fit: caught_up && self.leadership.knows_live(&peer.name),
                round_trip: self.leadership.quorum_round_trip(&peer.name, &names),
                speaks: self.leadership.speaks(&peer.name),
            }
        };
        let voters: Vec<_> = peers().map(voter).collect();
        let better = better_leader(&state, &self.config.node, &voters)?;
        peers().find(|(_, peer)| peer.name == better).map(|(id, _)| id)
    }
}
