//! Membership of this node: founding or joining a group, announcing the run number, admitting others, and learning of
//! its own removal. The leader's changes of voters are in `membership_reconciler.rs`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Request;
use twinbox_ids::NodeName;
use twinbox_raft::{
    Client, Core, Peer, RaftStatus, Remembered, Start, StoreIdentity, kind, read_kind, read_name, wait,
};
use twinbox_roles_core::{Confirmations, RolesView, VoterSets};
use twinbox_wire::roles as wire;

use crate::{
    RolesConfig,
    connections::{
        convert,
        dialer::{Dialer, Lane},
    },
    failures::failure_detector::FailureDetector,
    group::{
        other_group_members::OtherGroupMembers,
        roster::{Roster, is_removed},
    },
    leading::leader::Leadership,
};

/// Interval at which a member repeats its request to be admitted or confirmed.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Interval at which this store's start is announced to members that have not confirmed it: until then they would take
/// an older copy of the store for this one (rule R8).
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which this member checks for such members when all have confirmed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Parameters of joining and staying a member.
pub(crate) struct Members {
    pub(crate) config: Arc<RolesConfig>,
    pub(crate) identity: Arc<StoreIdentity>,
    pub(crate) core: Arc<Core>,
    pub(crate) leadership: Arc<Leadership>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) detector: Arc<FailureDetector>,
    pub(crate) other_group: Arc<OtherGroupMembers>,
}

/// Verdict of another member on this member's store.
enum StoreVerdict {
    /// It remembers this start; with its Raft store, if reported, and the voters by its log.
    Confirmed(Option<u64>, VoterSets),
    /// Its group has given this member up; reason as text, with the remedy.
    GivenUp(String),
    /// No usable answer.
    Unknown,
}

/// Result of one round of join requests.
enum JoinRound {
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
            self.identity.confirm();
        }
        let mut status = self.core.status();
        loop {
            status.mark_unchanged();
            if self.core.has_joined(&self.config.node) || self.identity.is_removed() {
                return;
            }
            if self.identity.group().is_none() || self.identity.may_take_part() {
                let round = self.request_join().await;
                let fresh = self.identity.group().is_none() && self.core.is_empty();
                if matches!(round, JoinRound::NoGroup) && fresh && self.config.found {
                    self.found().await;
                }
            }
            tokio::select! {
                () = wait(&mut status) => {}
                () = sleep(RETRY_INTERVAL) => {}
            }
        }
    }

    /// Waits until the agreed state shows that this member has been removed.
    pub(crate) async fn watch_removal(&self) {
        let mut applied = self.core.applied();
        // A member that goes on alone has another store by then.
        if applied.wait_for(|applied| applied.state.was_removed(self.identity.raft_id())).await.is_ok() {
            self.identity.remove(removed_notice(&self.config.node)).await;
        }
    }

    /// The notice for a removed member that does not know it; `None` if it was not removed.
    pub(crate) fn removal_notice(&self, name: &NodeName, raft_id: u64) -> Option<String> {
        let state = self.core.applied().borrow().state.clone();
        (state.was_removed(raft_id) || is_removed(&state, name)).then(|| removed_notice(name))
    }

    async fn found(&self) {
        let own = Peer {
            name: self.config.node.clone(),
            kind: self.config.kind,
            address: self.config.own_address().to_owned(),
        };
        if let Err(error) = self.identity.adopt(StoreIdentity::new_group()).await {
            tracing::error!(%error, "cannot found the cluster");
            return;
        }
        match self.core.found(own).await {
            Ok(()) => tracing::info!("founded the group; other members may join"),
            Err(error) => tracing::error!(%error, "cannot found the cluster"),
        }
    }

    async fn request_join(&self) -> JoinRound {
        let mut round = JoinRound::NoGroup;
        for member in self.roster.others() {
            let Some(mut client) = self.client(&member.name) else { continue };
            let limit = self.config.timing.order_limit() * 3;
            let Ok(Ok(answer)) = timeout(limit, client.join(Request::new(self.join_request()))).await else {
                continue;
            };
            use wire::join_answer::Result as Answer;
            match answer.into_inner().result {
                Some(Answer::Joined(group)) => {
                    if let Err(error) = self.identity.adopt(group).await {
                        tracing::error!(%error, "cannot store the group of this member; check the disk");
                    }
                    return JoinRound::Exists;
                }
                Some(Answer::Removed(reason)) => {
                    self.identity.remove(reason).await;
                    return JoinRound::Exists;
                }
                Some(Answer::NotLeader(_)) => round = JoinRound::Exists,
                Some(Answer::Refused(reason)) => {
                    tracing::info!(peer = %member.name, %reason, "join request refused; it is retried");
                    round = JoinRound::Exists;
                }
                Some(Answer::NoGroup(_)) | None => {}
            }
        }
        round
    }

    fn join_request(&self) -> wire::JoinRequest {
        let start = self.identity.start();
        wire::JoinRequest {
            node: self.config.node.as_str().to_owned(),
            kind: kind(self.config.kind).into(),
            address: self.config.own_address().to_owned(),
            raft_id: self.identity.raft_id(),
            run: start.run,
            incarnation: Bytes::copy_from_slice(&start.incarnation.to_bytes()),
            earlier: start.earlier,
            timing: Some(convert::timing(&self.config.timing)),
        }
    }

    /// Announces the run number of this store to the others until all know it (rule R8), and again as long as there is
    /// no majority: this member may have been removed while it was away. Takes part once a majority remembers it.
    pub(crate) async fn announce_run_number(&self, view: watch::Receiver<Arc<RolesView>>) {
        let mut confirmed = BTreeSet::new();
        let mut confirmations = Confirmations::default();
        loop {
            if let Some(group) = self.identity.group() {
                // Members that act in another group must be notified that this one runs.
                let others = self.other_group.recent();
                confirmed.retain(|name| !others.contains(name));
                let missing = self.roster.others().into_iter().filter(|m| !confirmed.contains(&m.name));
                let group = &group;
                let asked = missing.map(|m| async move {
                    let answer = self.ask_verdict(&m.name, group).await;
                    (m.name, answer)
                });
                let mut given_up = None;
                for (name, verdict) in futures::future::join_all(asked).await {
                    match verdict {
                        StoreVerdict::Confirmed(store, voters) => {
                            let status = self.core.status().borrow().clone();
                            // Earlier releases do not send the Raft id with which they confirm.
                            let of_name = status.stores_of(&name).filter(|_| store.is_none());
                            confirmations.note(store.into_iter().chain(of_name), voters);
                            confirmed.insert(name);
                        }
                        StoreVerdict::GivenUp(reason) => given_up = Some((name, reason)),
                        StoreVerdict::Unknown => {}
                    }
                }
                self.handle_survivor(given_up, !confirmed.is_empty() || view.borrow().quorum).await;
                // The only voter waits for no answer, but has requested one from every reachable member.
                let status = self.core.status().borrow().clone();
                if status.is_known() && confirmations.suffice(self.identity.raft_id(), &status.voter_sets()) {
                    self.identity.confirm();
                }
            }
            if !view.borrow().quorum {
                confirmed.clear();
            }
            let all_confirmed = self.roster.others().iter().all(|member| confirmed.contains(&member.name));
            let pause = match self.identity.may_take_part() {
                false => RETRY_INTERVAL,
                true if all_confirmed => CHECK_INTERVAL,
                true => ANNOUNCE_INTERVAL,
            };
            let mut changes = self.identity.changes();
            tokio::select! {
                () = sleep(pause) => {}
                () = wait(&mut changes) => {}
            }
        }
    }

    /// A survivor of this member's group has gone on without it. If this member is alone, too, it was given up and
    /// ends. As long as others of its group run, they go on and report the conflict (only people can decide between
    /// the two groups).
    async fn handle_survivor(&self, given_up: Option<(NodeName, String)>, own_group_active: bool) {
        let Some((name, reason)) = given_up else { return };
        // The survivor runs, so this member is not alone (rule R7).
        self.detector.note_contact(&name, None);
        if own_group_active {
            self.other_group.note_own_group();
            self.other_group.note(&name);
        } else if self.other_group.is_given_up() {
            self.identity.remove(reason).await;
        }
    }

    /// Announcement of this store's run number; none while it is in no group.
    pub(crate) fn confirm_request(&self) -> Option<wire::ConfirmRequest> {
        let (group, start) = (self.identity.group()?, self.identity.start());
        Some(wire::ConfirmRequest {
            group,
            node: self.config.node.as_str().to_owned(),
            raft_id: self.identity.raft_id(),
            run: start.run,
            incarnation: Bytes::copy_from_slice(&start.incarnation.to_bytes()),
            earlier: start.earlier,
        })
    }

    async fn ask_verdict(&self, peer: &NodeName, group: &Bytes) -> StoreVerdict {
        let Some(mut client) = self.client(peer) else { return StoreVerdict::Unknown };
        let Some(request) = self.confirm_request().filter(|request| request.group == *group) else {
            return StoreVerdict::Unknown;
        };
        let answer = timeout(self.config.timing.election_max, client.confirm(Request::new(request))).await;
        let Ok(Ok(answer)) = answer else { return StoreVerdict::Unknown };
        use wire::confirm_answer::Result as Answer;
        let wire::ConfirmAnswer { result, raft_id, voters, voters_index } = answer.into_inner();
        let sets = voters.into_iter().map(|set| set.raft_ids.into_iter().collect()).collect();
        match result {
            Some(Answer::Confirmed(_)) => StoreVerdict::Confirmed(
                Some(raft_id).filter(|id| *id != 0),
                VoterSets { index: voters_index, sets },
            ),
            Some(Answer::GivenUp(reason)) => StoreVerdict::GivenUp(reason),
            Some(Answer::Behind(known)) => {
                self.identity.quarantine(format!(
                    "its store was rolled back: this is start {} of it, and {peer} knows of a start {known} that it has \
                     no record of; stop this member, remove {} (votes, no messages), and start it: it joins again then",
                    self.identity.run(),
                    self.config.dir.display()
                )).await;
                StoreVerdict::Unknown
            }
            Some(Answer::Removed(reason)) => {
                self.identity.remove(reason).await;
                StoreVerdict::Unknown
            }
            Some(Answer::Refused(reason)) => {
                tracing::debug!(%peer, %reason, "the run number of this store was not confirmed");
                StoreVerdict::Unknown
            }
            None => StoreVerdict::Unknown,
        }
    }

    /// Checks the run number that another member announces for its store.
    pub(crate) async fn check_run_number(&self, request: &wire::ConfirmRequest) -> wire::ConfirmAnswer {
        use wire::confirm_answer::Result as Answer;
        let removal = request.node.parse().ok().and_then(|name| self.removal_notice(&name, request.raft_id));
        let result = match (self.identity.group(), convert::incarnation(&request.incarnation)) {
            (Some(group), _) if group == request.group && removal.is_some() => {
                Answer::Removed(removal.unwrap_or_default())
            }
            (None, _) => Answer::Refused("the asked member is in no group".to_owned()),
            (Some(group), _) if group != request.group => self.check_other_group(request, removal.is_some()),
            (_, Err(status)) => Answer::Refused(status.message().to_owned()),
            (Some(_), Ok(incarnation)) => {
                let start = Start { run: request.run, incarnation, earlier: request.earlier.clone() };
                match self.identity.remember(request.raft_id, start).await {
                    Ok(Remembered::Confirmed) => Answer::Confirmed(wire::Empty {}),
                    Ok(Remembered::Behind { known }) => {
                        tracing::error!(
                            peer = %request.node,
                            run = request.run,
                            known,
                            "a member's store was rolled back; its own log names the folder to remove before its next start"
                        );
                        Answer::Behind(known)
                    }
                    Err(error) => Answer::Refused(error.to_string()),
                }
            }
        };
        let VoterSets { index, sets } = self.core.status().borrow().voter_sets();
        wire::ConfirmAnswer {
            result: Some(result),
            raft_id: self.identity.raft_id(),
            voters: sets.into_iter().map(|set| wire::Voters { raft_ids: set.into_iter().collect() }).collect(),
            voters_index: index,
        }
    }

    /// Handles a message of another group: of the group that this one left, or of a survivor that left this group.
    fn check_other_group(&self, request: &wire::ConfirmRequest, removed: bool) -> wire::confirm_answer::Result {
        use wire::confirm_answer::Result as Answer;
        let state = self.core.applied().borrow().state.clone();
        let left =
            <[u8; 16]>::try_from(&request.group[..]).is_ok_and(|id| state.left_group(u128::from_be_bytes(id)));
        let Ok(name) = request.node.parse::<NodeName>() else {
            return Answer::Refused("a malformed name".to_owned());
        };
        if left && removed {
            self.other_group.note(&name);
            return Answer::GivenUp(given_up_notice(&name, &self.config.node));
        }
        // A member that this group knows with another store has gone on alone; any other is a stranger.
        let known = state.members.get(&name).is_some_and(|member| member.raft_id != request.raft_id);
        if known && !left {
            self.other_group.note(&name);
        } else {
            tracing::warn!(peer = %name, "refused: member of another group of this cluster; check its configuration");
        }
        Answer::Refused("the member belongs to another group of this cluster".to_owned())
    }

    /// Handles another member's join request. Its name has been checked against its certificate.
    pub(crate) async fn serve_join(&self, request: &wire::JoinRequest) -> wire::JoinAnswer {
        use wire::join_answer::Result as Answer;
        let answer = |result| wire::JoinAnswer { result: Some(result) };
        let Some(group) = self.identity.group() else { return answer(Answer::NoGroup(wire::Empty {})) };
        if let Some(removed) =
            request.node.parse().ok().and_then(|name| self.removal_notice(&name, request.raft_id))
        {
            return answer(Answer::Removed(removed));
        }
        if self.leadership.term().is_none() {
            return answer(Answer::NotLeader(self.leader().map(String::from).unwrap_or_default()));
        }
        match self.try_join(request).await {
            Ok(()) => answer(Answer::Joined(group)),
            Err(reason) => answer(Answer::Refused(reason)),
        }
    }

    async fn try_join(&self, request: &wire::JoinRequest) -> Result<(), String> {
        let name = read_name(&request.node).map_err(|e| e.to_string())?;
        let kind = read_kind(request.kind).map_err(|e| e.to_string())?;
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
        let incarnation = convert::incarnation(&request.incarnation).map_err(|e| e.message().to_owned())?;
        let start = Start { run: request.run, incarnation, earlier: request.earlier.clone() };
        match self.identity.remember(request.raft_id, start).await {
            Ok(Remembered::Confirmed) => {}
            Ok(Remembered::Behind { known }) => {
                return Err(format!(
                    "its store was rolled back: a start {known} is known that it has no record of"
                ));
            }
            Err(error) => return Err(error.to_string()),
        }
        let id = request.raft_id;
        let mut status = self.core.status();
        let present = status.borrow_and_update().clone();
        if !present.voters.contains(&id) && !present.learners.contains(&id) {
            let peer = Peer { name: name.clone(), kind, address: request.address.clone() };
            let added = timeout(self.config.timing.order_limit(), self.core.add_learner(id, peer)).await;
            added.map_err(|_| "no majority answers".to_owned())?.map_err(|e| e.to_string())?;
        }
        // The leader's own task makes it a voter when it has caught up, or admits it without a vote.
        let voter = status.wait_for(|p| p.voters.contains(&id) && !p.joint);
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
            _ => Err("it is catching up with the log; ask again".to_owned()),
        }
    }

    pub(crate) fn leader(&self) -> Option<NodeName> {
        leader_name(&self.core.status().borrow())
    }

    fn client(&self, peer: &NodeName) -> Option<Client> {
        self.dialer.client(peer, None, Lane::Control)
    }
}

fn removed_notice(name: &NodeName) -> String {
    format!(
        "'{name}' has been removed from this cluster; to admit this machine again, move its folder aside and join \
         with a new token"
    )
}

fn given_up_notice(name: &NodeName, by: &NodeName) -> String {
    format!(
        "'{name}' was given up for lost: {by} belongs to a group that went on without it ('twinbox cluster \
         go-on-alone'); to admit this machine again, move its folder aside and join with a new token"
    )
}

/// The name of the leader, if known.
pub(crate) fn leader_name(status: &RaftStatus) -> Option<NodeName> {
    status.leader.and_then(|id| status.peer(id)).map(|peer| peer.name.clone())
}
