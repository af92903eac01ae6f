//! The leader's changes of its group: the real decisions ([`MembershipStep`](twinbox_roles_member::MembershipStep)),
//! carried out over the abstract Raft of this cluster.

use twinbox_roles_core::Command;
use twinbox_roles_member::{MembershipFacts, RaftGroup, RaftPeer, VoterStep};

use crate::{
    member::{Member, Process},
    world::{Focus, World},
};

impl World {
    /// The leader takes the next step to the wanted voters and members.
    pub(crate) fn reconcile_voters(&mut self, leader: usize, term: u64) {
        if self.focus != Focus::Members {
            return;
        }
        self.follow_joined(leader);
        let group = self.raft_group(leader, term);
        let (now, own) = (self.local(leader), self.members[leader].raft_id);
        let Some(Process { leadership, membership, state, .. }) = self.awake(leader) else { return };
        if leadership.term().is_none() {
            return;
        }
        let may_change_voters = leadership.may_change_voters(now, state);
        let facts = MembershipFacts { group: &group, state, own, may_change_voters };
        if let Some(step) = membership.next(now, facts, |id| leadership.has_handed_over(id)) {
            self.change_group(leader, term, step);
        }
    }

    /// A joining member that was admitted without a vote follows, and another one may join.
    fn follow_joined(&mut self, leader: usize) {
        let Some(joining) = self.joining else { return };
        let raft_id = self.members[joining].raft_id;
        let is_admitted =
            |process: &mut Process| process.state.members.values().any(|member| member.raft_id == raft_id);
        if !self.voters.contains(&joining) && self.awake(leader).is_some_and(is_admitted) {
            self.joining = None;
            self.learners.insert(joining);
        }
    }

    /// Raft's group as this leader knows it. Members in touch with it have the log.
    fn raft_group(&self, leader: usize, term: u64) -> RaftGroup {
        let last_index = self.log.known_in(term) as u64;
        let followers = self.learners.iter().chain(&self.joining).copied();
        let id = |member: usize| self.members[member].raft_id;
        let peers = self.voters.iter().copied().chain(followers.clone());
        let peer = |member: usize| {
            let Member { name, kind, .. } = &self.members[member];
            (id(member), RaftPeer { name: name.clone(), kind: *kind })
        };
        let matched = |member: usize| {
            let process = self.members[member].process.as_ref().filter(|p| p.hangs_until <= self.now);
            let in_touch = process.is_some() && (member == leader || self.connected(leader, member));
            let has_entries = self.voters.contains(&member) || process.is_some_and(|p| p.applied > 0);
            (id(member), if in_touch && has_entries { last_index } else { 0 })
        };
        RaftGroup {
            voters: self.voter_ids(),
            learners: followers.map(id).collect(),
            joint: false,
            matched: peers.clone().map(matched).collect(),
            peers: peers.map(peer).collect(),
            last_index,
        }
    }

    fn change_group(&mut self, leader: usize, term: u64, step: VoterStep) {
        let text = format!("{step:?}");
        let stores = |id: &u64| self.members.iter().position(|member| member.raft_id == *id);
        let is_done = match step {
            // Each change of voters is whole at once here.
            VoterStep::FinishJoint { .. } => false,
            VoterStep::Promote { id, instead_of } => {
                let (added, replaced) = (stores(&id), instead_of.iter().filter_map(stores).collect());
                self.revote(leader, term, added, replaced)
            }
            VoterStep::Demote { ids, instead } => {
                let (added, demoted) = (instead.as_ref().and_then(stores), ids.iter().filter_map(stores).collect());
                self.revote(leader, term, added, demoted)
            }
            VoterStep::HandOver { to } => stores(&to).is_some_and(|to| self.stand(to)),
            VoterStep::Admit { id } => {
                if let Some(command) = stores(&id).map(|member| self.admit(member)) {
                    self.propose(leader, command);
                }
                false
            }
            VoterStep::Remove { id, name } => {
                self.propose(leader, Command::Removed { name, raft_id: id });
                false
            }
            VoterStep::Forget { ids } => {
                let forgotten: Vec<usize> = ids.iter().filter_map(stores).collect();
                self.learners.retain(|member| !forgotten.contains(member));
                self.joining = self.joining.filter(|member| !forgotten.contains(member));
                true
            }
        };
        if is_done {
            let name = self.members[leader].name.clone();
            self.note(|| format!("{name} changes the group: {text}"));
        }
    }

    /// These members vote from now on, and those follow without a vote. Returns whether a majority agrees.
    fn revote(&mut self, leader: usize, term: u64, added: Option<usize>, demoted: Vec<usize>) -> bool {
        let is_done = self.change_voters(leader, term, |voters| {
            voters.retain(|voter| !demoted.contains(voter));
            voters.extend(added);
        });
        if is_done {
            self.learners.extend(demoted);
            self.learners.retain(|member| Some(*member) != added);
            self.joining = self.joining.filter(|member| Some(*member) != added);
        }
        is_done
    }
}
