//! Membership of this node: founding or joining a group, announcing the run number, admitting others, and learning of
//! its own removal. The leader's changes of voters are in `tend.rs`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Request;
use twinbox_ids::NodeName;
use twinbox_roles_core::{Confirmations, RolesView, VoterSets};
use twinbox_wire::roles as wire;

use crate::{
    RolesConfig, convert,
    dialer::{Client, Dialer, Lane},
    leader::{Leadership, wait},
    raft::{self, Core, Peer, Pulse},
    reach::Reach,
    rivals::Rivals,
    roster::{Roster, is_removed},
    standing::{Remembered, Standing},
};

/// Interval at which a member repeats its request to be admitted or confirmed.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Interval at which this store's start is announced to members that have not confirmed it: until then they would take
/// an older copy of the store for this one (rule R8).
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// Interval at which this member checks for such members when all have confirmed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Parameters of joining and staying a member.
pub(crate) struct Members {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) core: Arc<Core>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) reach: Arc<Reach>,
    pub(crate) rivals: Arc<Rivals>,
}

/// Verdict of another member on this member's store.
enum Said {
    /// It remembers this start; with its Raft store, if reported, and the voters by its log.
    Confirmed(Option<u64>, VoterSets),
    /// Its group has given this member up; reason as text, with the remedy.
    GivenUp(String),
    Nothing,
}

/// Result of one round of join requests.
enum Asked {
    /// No member that answered is in a group.
    NoGroup,
    /// A member is in a group.
    Exists,
}

impl Members {
    /// Enters a group: by the store, by joining, or by founding it.
    pub(crate) async fn enter(&self) {
        if self.core.is_empty() {
            // This store has promised nothing, so it can break nothing.
            self.standing.confirm();
        }
        let mut pulse = self.core.pulse();
        loop {
            pulse.mark_unchanged();
            if self.core.has_a_place(&self.config.node) || self.standing.is_removed() {
                return;
            }
            if self.standing.group().is_none() || self.standing.may_take_part() {
                let asked = self.ask_to_join().await;
                let fresh = self.standing.group().is_none() && self.core.is_empty();
                if matches!(asked, Asked::NoGroup) && fresh && self.config.found {
                    self.found().await;
                }
            }
            tokio::select! {
                () = wait(&mut pulse) => {}
                () = sleep(ASK_AGAIN) => {}
            }
        }
    }

    /// Waits until the agreed state shows that this member has been removed.
    pub(crate) async fn heed_removal(&self) {
        let mut applied = self.core.applied();
        // A member that goes on alone has another store by then.
        if applied.wait_for(|applied| applied.state.was_removed(self.standing.raft_id())).await.is_ok() {
            self.standing.remove(removed_words(&self.config.node)).await;
        }
    }

    /// The notice for a removed member that does not know it; `None` if it was not removed.
    pub(crate) fn removal_of(&self, name: &NodeName, raft_id: u64) -> Option<String> {
        let state = self.core.applied().borrow().state.clone();
        (state.was_removed(raft_id) || is_removed(&state, name)).then(|| removed_words(name))
    }

    async fn found(&self) {
        let own = Peer {
            name: self.config.node.clone(),
            kind: self.config.kind,
            address: self.config.own_address().to_owned(),
        };
        if let Err(error) = self.standing.adopt(Standing::new_group()).await {
            tracing::error!(%error, "cannot found the cluster");
            return;
        }
        match self.core.found(own).await {
            Ok(()) => tracing::info!("founded the cluster's group; others may join"),
            Err(error) => tracing::error!(%error, "cannot found the cluster"),
        }
    }

    async fn ask_to_join(&self) -> Asked {
        let mut asked = Asked::NoGroup;
        for member in self.roster.others() {
            let Some(mut client) = self.client(&member.name) else { continue };
            let limit = self.config.timing.order_limit() * 3;
            let Ok(Ok(answer)) = timeout(limit, client.join(Request::new(self.join_request()))).await else {
                continue;
            };
            use wire::join_answer::Result as Answer;
            match answer.into_inner().result {
                Some(Answer::Joined(group)) => {
                    if let Err(error) = self.standing.adopt(group).await {
                        tracing::error!(%error, "cannot keep which group this member belongs to");
                    }
                    return Asked::Exists;
                }
                Some(Answer::Removed(reason)) => {
                    self.standing.remove(reason).await;
                    return Asked::Exists;
                }
                Some(Answer::NotLeader(_)) => asked = Asked::Exists,
                Some(Answer::Refused(reason)) => {
                    tracing::info!(peer = %member.name, %reason, "not a member yet; asking on");
                    asked = Asked::Exists;
                }
                Some(Answer::NoGroup(_)) | None => {}
            }
        }
        asked
    }

    fn join_request(&self) -> wire::JoinRequest {
        wire::JoinRequest {
            node: self.config.node.as_str().to_owned(),
            kind: raft::kind(self.config.kind).into(),
            address: self.config.own_address().to_owned(),
            raft_id: self.standing.raft_id(),
            run: self.standing.run(),
            incarnation: Bytes::copy_from_slice(&self.standing.incarnation().to_bytes()),
            timing: Some(convert::timing(&self.config.timing)),
        }
    }

    /// Announces the run number of this store to the others until all know it (rule R8), and again as long as there is
    /// no majority: this member may have been removed while it was away. Takes part once a majority remembers it.
    pub(crate) async fn prove_age(&self, view: watch::Receiver<Arc<RolesView>>) {
        let mut confirmed = BTreeSet::new();
        let mut confirmations = Confirmations::default();
        loop {
            if let Some(group) = self.standing.group() {
                // Members that act in another group must hear that this one lives.
                let rivals = self.rivals.heard();
                confirmed.retain(|name| !rivals.contains(name));
                let missing = self.roster.others().into_iter().filter(|m| !confirmed.contains(&m.name));
                let group = &group;
                let asked = missing.map(|m| async move {
                    let answer = self.said_by(&m.name, group).await;
                    (m.name, answer)
                });
                let mut given_up = None;
                for (name, said) in futures::future::join_all(asked).await {
                    match said {
                        Said::Confirmed(store, voters) => {
                            let pulse = self.core.pulse().borrow().clone();
                            // Earlier releases do not send the Raft id with which they confirm.
                            let of_name = pulse.stores_of(&name).filter(|_| store.is_none());
                            confirmations.note(store.into_iter().chain(of_name), voters);
                            confirmed.insert(name);
                        }
                        Said::GivenUp(reason) => given_up = Some((name, reason)),
                        Said::Nothing => {}
                    }
                }
                self.heed_survivor(given_up, !confirmed.is_empty() || view.borrow().quorum).await;
                // The only voter waits for no answer, but has requested one from every reachable member.
                let pulse = self.core.pulse().borrow().clone();
                if pulse.is_known() && confirmations.suffice(self.standing.raft_id(), &pulse.voter_sets()) {
                    self.standing.confirm();
                }
            }
            if !view.borrow().quorum {
                confirmed.clear();
            }
            let all_know = self.roster.others().iter().all(|member| confirmed.contains(&member.name));
            let pause = match self.standing.may_take_part() {
                false => ASK_AGAIN,
                true if all_know => LOOK_AGAIN,
                true => TELL_AGAIN,
            };
            let mut changes = self.standing.changes();
            tokio::select! {
                () = sleep(pause) => {}
                () = wait(&mut changes) => {}
            }
        }
    }

    /// A survivor of this member's group has gone on without it. If this member is alone, too, it was given up and
    /// ends. As long as others of its group live, they go on and report the conflict (only people can decide between
    /// the two groups).
    async fn heed_survivor(&self, given_up: Option<(NodeName, String)>, group_lives: bool) {
        let Some((name, reason)) = given_up else { return };
        // The survivor lives, so this member is not alone (rule R7).
        self.reach.heard(&name, None);
        if group_lives {
            self.rivals.not_given_up();
            self.rivals.note(&name);
        } else if self.rivals.is_given_up() {
            self.standing.remove(reason).await;
        }
    }

    /// Announcement of this store's run number; none while it is in no group.
    pub(crate) fn age(&self) -> Option<wire::ConfirmRequest> {
        let group = self.standing.group()?;
        Some(wire::ConfirmRequest {
            group,
            node: self.config.node.as_str().to_owned(),
            raft_id: self.standing.raft_id(),
            run: self.standing.run(),
            incarnation: Bytes::copy_from_slice(&self.standing.incarnation().to_bytes()),
        })
    }

    async fn said_by(&self, peer: &NodeName, group: &Bytes) -> Said {
        let Some(mut client) = self.client(peer) else { return Said::Nothing };
        let Some(request) = self.age().filter(|age| age.group == *group) else { return Said::Nothing };
        let answer = timeout(self.config.timing.election_max, client.confirm(Request::new(request))).await;
        let Ok(Ok(answer)) = answer else { return Said::Nothing };
        use wire::confirm_answer::Result as Answer;
        let wire::ConfirmAnswer { result, raft_id, voters, voters_index } = answer.into_inner();
        let sets = voters.into_iter().map(|set| set.raft_ids.into_iter().collect()).collect();
        match result {
            Some(Answer::Confirmed(_)) => {
                Said::Confirmed(Some(raft_id).filter(|id| *id != 0), VoterSets { index: voters_index, sets })
            }
            Some(Answer::GivenUp(reason)) => Said::GivenUp(reason),
            Some(Answer::Behind(known)) => {
                self.standing.quarantine(format!(
                    "its store was set back: this is start {} of it, and {peer} knows of start {known}; stop this \
                     member, remove its role manager's directory, and start it again to join anew",
                    self.standing.run()
                )).await;
                Said::Nothing
            }
            Some(Answer::Removed(reason)) => {
                self.standing.remove(reason).await;
                Said::Nothing
            }
            Some(Answer::Refused(reason)) => {
                tracing::debug!(%peer, %reason, "the store's age was not confirmed");
                Said::Nothing
            }
            None => Said::Nothing,
        }
    }

    /// Checks the run number that another member announces for its store.
    pub(crate) async fn hear_age(&self, request: &wire::ConfirmRequest) -> wire::ConfirmAnswer {
        use wire::confirm_answer::Result as Answer;
        let removal = request.node.parse().ok().and_then(|name| self.removal_of(&name, request.raft_id));
        let result = match (self.standing.group(), convert::incarnation(&request.incarnation)) {
            (Some(group), _) if group == request.group && removal.is_some() => {
                Answer::Removed(removal.unwrap_or_default())
            }
            (None, _) => Answer::Refused("in no group itself".to_owned()),
            (Some(group), _) if group != request.group => self.hear_other_group(request, removal.is_some()),
            (_, Err(status)) => Answer::Refused(status.message().to_owned()),
            (Some(_), Ok(life)) => match self.standing.remember(request.raft_id, request.run, life).await {
                Ok(Remembered::Confirmed) => Answer::Confirmed(wire::Empty {}),
                Ok(Remembered::Behind { known }) => {
                    tracing::error!(peer = %request.node, run = request.run, known, "a member's store was set back");
                    Answer::Behind(known)
                }
                Err(error) => Answer::Refused(error.to_string()),
            },
        };
        let VoterSets { index, sets } = self.core.pulse().borrow().voter_sets();
        wire::ConfirmAnswer {
            result: Some(result),
            raft_id: self.standing.raft_id(),
            voters: sets.into_iter().map(|set| wire::Voters { raft_ids: set.into_iter().collect() }).collect(),
            voters_index: index,
        }
    }

    /// Handles a message of another group: of the group that this one left, or of a survivor that left this group.
    fn hear_other_group(&self, request: &wire::ConfirmRequest, removed: bool) -> wire::confirm_answer::Result {
        use wire::confirm_answer::Result as Answer;
        let state = self.core.applied().borrow().state.clone();
        let left = <[u8; 16]>::try_from(&request.group[..]).is_ok_and(|id| state.has_left(u128::from_be_bytes(id)));
        let Ok(name) = request.node.parse::<NodeName>() else {
            return Answer::Refused("a malformed name".to_owned());
        };
        if left && removed {
            self.rivals.note(&name);
            return Answer::GivenUp(given_up_words(&name, &self.config.node));
        }
        // A member that this group knows with another store has gone on alone; any other is a stranger.
        let known = state.members.get(&name).is_some_and(|member| member.raft_id != request.raft_id);
        if known && !left {
            self.rivals.note(&name);
        } else {
            tracing::warn!(peer = %name, "a member of another group with this cluster's certificate");
        }
        Answer::Refused("of another group of this cluster".to_owned())
    }

    /// Handles another member's join request. Its name has been checked against its certificate.
    pub(crate) async fn let_in(&self, request: &wire::JoinRequest) -> wire::JoinAnswer {
        use wire::join_answer::Result as Answer;
        let answer = |result| wire::JoinAnswer { result: Some(result) };
        let Some(group) = self.standing.group() else { return answer(Answer::NoGroup(wire::Empty {})) };
        if let Some(removed) = request.node.parse().ok().and_then(|name| self.removal_of(&name, request.raft_id)) {
            return answer(Answer::Removed(removed));
        }
        if self.leadership.term().is_none() {
            return answer(Answer::NotLeader(self.leader().map(String::from).unwrap_or_default()));
        }
        match self.try_let_in(request).await {
            Ok(()) => answer(Answer::Joined(group)),
            Err(reason) => answer(Answer::Refused(reason)),
        }
    }

    async fn try_let_in(&self, request: &wire::JoinRequest) -> Result<(), String> {
        let name = raft::read_name(&request.node).map_err(|e| e.to_string())?;
        let kind = raft::read_kind(request.kind).map_err(|e| e.to_string())?;
        let known = self.roster.member(&name).filter(|member| member.kind == kind);
        known.ok_or_else(|| {
            format!("the leader knows no {kind} '{name}', by its configuration or by 'twinbox cluster join'")
        })?;
        if request.timing != Some(convert::timing(&self.config.timing)) {
            return Err("its timing differs from the cluster's; set the same on all members".to_owned());
        }
        if request.address.len() > 255 || request.raft_id == 0 {
            return Err("a malformed address or Raft id".to_owned());
        }
        let life = convert::incarnation(&request.incarnation).map_err(|e| e.message().to_owned())?;
        match self.standing.remember(request.raft_id, request.run, life).await {
            Ok(Remembered::Confirmed) => {}
            Ok(Remembered::Behind { known }) => {
                return Err(format!("its store was set back: start {known} is known"));
            }
            Err(error) => return Err(error.to_string()),
        }
        let id = request.raft_id;
        let mut pulse = self.core.pulse();
        let present = pulse.borrow_and_update().clone();
        if !present.voters.contains(&id) && !present.learners.contains(&id) {
            let peer = Peer { name: name.clone(), kind, address: request.address.clone() };
            let added = timeout(self.config.timing.order_limit(), self.core.add_learner(id, peer)).await;
            added.map_err(|_| "no majority answers".to_owned())?.map_err(|e| e.to_string())?;
        }
        // The leader's own task makes it a voter when it has caught up, or admits it without a vote.
        let voter = pulse.wait_for(|p| p.voters.contains(&id) && !p.joint);
        let mut applied = self.core.applied();
        let admitted = applied.wait_for(|a| a.state.members.get(&name).is_some_and(|m| m.raft_id == id));
        let in_place = async {
            tokio::select! {
                voter = voter => voter.is_ok(),
                admitted = admitted => admitted.is_ok(),
            }
        };
        match timeout(self.config.timing.order_limit() * 2, in_place).await {
            Ok(true) => Ok(()),
            _ => Err("it is being brought up to date; ask again".to_owned()),
        }
    }

    pub(crate) fn leader(&self) -> Option<NodeName> {
        leader_name(&self.core.pulse().borrow())
    }

    fn client(&self, peer: &NodeName) -> Option<Client> {
        self.dialer.client(peer, None, Lane::Control)
    }
}

fn removed_words(name: &NodeName) -> String {
    format!(
        "'{name}' has been removed from this cluster; to let this machine in again, put its folder aside and join with a \
         new token"
    )
}

fn given_up_words(name: &NodeName, by: &NodeName) -> String {
    format!(
        "'{name}' was given up for lost: {by} belongs to a group that went on without it ('twinbox cluster go-on-alone'); \
         to let this machine in again, put its folder aside and join with a new token"
    )
}

/// The name of the leader, if known.
pub(crate) fn leader_name(pulse: &Pulse) -> Option<NodeName> {
    pulse.leader.and_then(|id| pulse.peer(id)).map(|peer| peer.name.clone())
}
