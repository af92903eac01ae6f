//! The leader's changes of the voters.

use twinbox_roles_core::{Command, Status};

use crate::world::{Focus, World};

impl World {
    /// Joining members become voters one by one; leaving ones stop voting, then they are removed.
    pub(crate) fn reconcile_voters(&mut self, leader: usize, term: u64) {
        if self.focus != Focus::Members {
            return;
        }
        let Some(process) = self.members[leader].process.as_ref().filter(|p| p.leads.is_some()) else { return };
        let state = process.state.clone();
        let now = self.local(leader);
        let ledger = process.leads.as_ref().and_then(|leads| leads.ledger.as_ref());
        let may_change = ledger.is_some_and(|ledger| ledger.may_change_voters(now, &state));
        if let Some(joining_member) = self.joining.filter(|_| may_change) {
            if self.change_voters(leader, term, |voters| voters.extend([joining_member])) {
                self.joining = None;
                self.note(|| "the joining member votes".to_owned());
            }
            return;
        }
        for member in 0..self.members.len() {
            let (name, raft_id) = (self.members[member].name.clone(), self.members[member].raft_id);
            let leaving =
                state.members.get(&name).is_some_and(|m| m.status == Status::Leaving && m.raft_id == raft_id);
            let removed = state.was_removed(raft_id);
            let known = state.members.values().any(|m| m.raft_id == raft_id);
            if self.voters.contains(&member) && !known && !removed {
                let admit = self.admit(member);
                self.propose(leader, admit);
            }
            if self.voters.contains(&member) && (leaving || removed) {
                if member == leader {
                    // Another member must lead first.
                    let stays = |m: &usize| state.members.get(&self.members[*m].name).is_some_and(|m| m.activated);
                    let reached = |m: &usize| *m != leader && self.connected(leader, *m);
                    match self.voters.iter().copied().find(|heir| stays(heir) && reached(heir)) {
                        Some(heir) => {
                            self.stand(heir);
                            return;
                        }
                        None => continue,
                    }
                }
                if !may_change {
                    continue;
                }
                if self.change_voters(leader, term, |voters| voters.retain(|voter| *voter != member)) {
                    self.note(|| format!("{name} does not vote any more"));
                    self.learners.insert(member);
                }
                return;
            }
            if self.learners.contains(&member) && leaving {
                self.propose(leader, Command::Removed { name, raft_id });
                return;
            }
            if removed {
                self.learners.remove(&member);
            }
        }
    }
}
