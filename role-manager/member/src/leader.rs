//! The leader's work in addition to Raft: the ledger for as long as this member leads, and the planner's proposals.

use std::{collections::BTreeSet, time::Duration};

use twinbox_ids::{Incarnation, NodeName};
use twinbox_roles_core::{
    CallCounts, Command, CommandOutcome, Duty, Exits, Grant, KeepAlive, Ledger, NoGrant, Order, PlannerPolicy,
    State, Timing, View, plan, proposal,
};

use crate::{Contacts, KeepAliveExtras, LeaseDenied, RaftGroup, reports::MemberReports};

/// Interval at which a leader plans again if it knows of no earlier change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Minimum time between two resignations of a leader whose planner has panicked; in between it goes on leading. A plan
/// that panics on every member would otherwise leave no leader long enough to renew leases.
const RESIGN_AGAIN: Duration = Duration::from_secs(10);
/// Minimum time between two transfers of leadership to a better voter.
const TRANSFER_AGAIN: Duration = Duration::from_secs(10);
/// Maximum number of remembered commands that were set aside.
const MAX_SET_ASIDE: usize = 64;

/// Reason for which a keep-alive is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotGranted {
    /// This member does not lead, or not with a majority.
    NotLeader,
    /// The ledger refuses.
    No(NoGrant),
}

impl From<NotGranted> for LeaseDenied {
    fn from(reason: NotGranted) -> Self {
        match reason {
            NotGranted::NotLeader | NotGranted::No(NoGrant::NoQuorum { .. }) => Self::NoLeader,
            NotGranted::No(reason) => Self::Refused(reason.to_string()),
        }
    }
}

/// Raft's leadership, as this member knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftFacts {
    /// The present term.
    pub term: u64,
    /// Whether this member leads.
    pub leads: bool,
    /// Whether a majority has followed this leader in its term.
    pub has_quorum: bool,
    /// Term of the last applied entry; 0 when there is none.
    pub applied_term: u64,
}

/// Result of a proposal, as far as its leader knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposalOutcome {
    /// It was applied, with this outcome.
    Applied(CommandOutcome),
    /// It panicked when it was applied, and was set aside (rule R11).
    SetAside,
    /// It failed, or its time has ended: it may still be applied.
    Unknown,
}

/// An event of the member.
#[derive(Debug)]
pub enum LeaderEvent<'a> {
    /// Raft's leadership or the applied state may have changed. Comes before each use of the ledger.
    Raft {
        /// Raft's leadership.
        facts: RaftFacts,
        /// The applied state.
        state: &'a State,
        /// The exit proofs that this member knows.
        exits: &'a Exits,
        /// The last contacts with the other members: when this one begins to lead, the time without an acting holder is
        /// counted from them.
        contacts: &'a Contacts,
    },
    /// An exit proof for this incarnation of a node has arrived (rule R1).
    Exited {
        /// The node.
        node: &'a NodeName,
        /// The incarnation that has exited.
        incarnation: Incarnation,
    },
    /// Call counts to start from if this member leads later, instead of those known before (rule C4).
    CallCounts(CallCounts),
    /// This node has inherited from that incarnation by proof alone: when it leads, it gives the calls to no other node.
    Inherited {
        /// The node of the ended incarnation.
        node: &'a NodeName,
        /// The ended incarnation.
        incarnation: Incarnation,
    },
    /// The planner may have something to do, by this view of [`LeaderStep::view`].
    Plan(&'a View),
    /// The result of [`LeaderAction::Propose`].
    Proposed(ProposalOutcome),
    /// The planner starts, or starts again after a panic.
    PlannerStarted {
        /// Raft id of the live voter after this one, if this member leads. The order is a ring: two members with
        /// panicking planners must not hand over to each other past a third with a working one.
        successor: Option<u64>,
    },
    /// No change of the group is due: another voter may be the better leader (rule R10).
    Rest {
        /// Its wall clock, in milliseconds since 1970.
        wall_ms: u64,
        /// The applied state.
        state: &'a State,
        /// Raft's group, after the last change.
        group: &'a RaftGroup,
    },
}

/// An action for the member to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaderAction {
    /// This member leads from now on.
    Begin {
        /// The term in which it leads.
        term: u64,
    },
    /// Plan now.
    Replan,
    /// Propose this command, and report [`LeaderEvent::Proposed`]; nothing else is proposed before.
    Propose(Command),
    /// Transfer leadership to the voter with this Raft id: a leader with a failed planner must not go on renewing leases
    /// and move nothing (rule R11).
    Resign(u64),
    /// Transfer leadership to the voter with this Raft id, which is the better leader.
    Transfer(u64),
}

/// The leader's side of leases and duties, while this member leads; what it starts from, while another does.
#[derive(Debug, Clone)]
pub struct LeaderStep {
    node: NodeName,
    incarnation: Incarnation,
    timing: Timing,
    policy: PlannerPolicy,
    ledger: Option<Ledger>,
    reports: MemberReports,
    /// Call counts of the incarnations in the leader's last grant.
    call_counts: CallCounts,
    /// Raft ids of the members in the last state that this step has seen; `None` before the first one.
    members: Option<BTreeSet<u64>>,
    /// The command whose outcome is awaited.
    proposed: Option<Command>,
    /// Time before which nothing is proposed, after a proposal without success.
    resume_at: Duration,
    /// A command did nothing or was set aside: planned commands are proposed one by one until none is left.
    one_by_one: bool,
    /// Planned commands that were set aside, without the time of their plan: they are not proposed again.
    set_aside: Vec<Command>,
    /// The planner has been started: if it starts again, it has panicked.
    planner_started: bool,
    /// Time at which this member resigned because its planner had panicked.
    resigned_at: Option<Duration>,
    /// Time of the last transfer to a better leader.
    transferred_at: Option<Duration>,
}

impl LeaderStep {
    /// A member that does not lead yet.
    pub fn new(node: NodeName, incarnation: Incarnation, timing: Timing, policy: PlannerPolicy) -> Self {
        Self {
            node,
            incarnation,
            timing,
            policy,
            ledger: None,
            reports: MemberReports::default(),
            call_counts: CallCounts::default(),
            members: None,
            proposed: None,
            resume_at: Duration::ZERO,
            one_by_one: false,
            set_aside: Vec::new(),
            planner_started: false,
            resigned_at: None,
            transferred_at: None,
        }
    }

    /// Handles an event at this time of the boot clock.
    pub fn step(&mut self, now: Duration, event: LeaderEvent<'_>) -> Option<LeaderAction> {
        match event {
            LeaderEvent::Raft { facts, state, exits, contacts } => {
                return self.follow_raft(now, facts, state, (exits, contacts));
            }
            LeaderEvent::Exited { node, incarnation } => {
                return self.ledger.as_mut()?.exited(now, node, incarnation).then_some(LeaderAction::Replan);
            }
            LeaderEvent::CallCounts(counts) => self.call_counts = counts,
            LeaderEvent::Inherited { node, incarnation } => {
                self.call_counts.forget(node, incarnation);
                self.ledger.as_mut()?.inherited(node, incarnation);
            }
            LeaderEvent::Plan(view) => return self.plan(now, view),
            LeaderEvent::Proposed(outcome) => self.take_outcome(now, outcome),
            LeaderEvent::PlannerStarted { successor } => return self.start_planner(now, successor),
            LeaderEvent::Rest { wall_ms, state, group } => return self.transfer(now, wall_ms, state, group),
        }
        None
    }

    /// Handles a node's request for its leases. `quorum_contact` is the last time at which a majority followed this
    /// leader in its term; `voters` are Raft's own, by their Raft ids.
    pub fn keep_alive(
        &mut self,
        now: Duration,
        quorum_contact: Option<Duration>,
        voters: impl IntoIterator<Item = u64>,
        state: &State,
        request: &KeepAlive,
        extras: &KeepAliveExtras,
    ) -> Result<Grant, NotGranted> {
        let (ledger, quorum_contact) = self.ledger.as_mut().zip(quorum_contact).ok_or(NotGranted::NotLeader)?;
        ledger.voters(voters);
        let grant = ledger.keep_alive(now, quorum_contact, state, request).map_err(NotGranted::No)?;
        self.reports.note(request, extras);
        Ok(grant)
    }

    /// The planner's input; none while this member does not lead. `wall_ms` is its wall clock, in milliseconds since
    /// 1970.
    pub fn view(&mut self, now: Duration, wall_ms: u64, state: &State) -> Option<View> {
        self.ledger.as_mut().map(|ledger| ledger.view(now, wall_ms, state))
    }

    /// The term in which this member leads, has a majority, and has applied all earlier entries.
    pub fn term(&self) -> Option<u64> {
        self.ledger.as_ref().map(Ledger::term)
    }

    /// The command whose outcome is awaited.
    pub fn proposed(&self) -> Option<&Command> {
        self.proposed.as_ref()
    }

    /// Whether proposals pause, since the last one had no success.
    pub fn is_paused(&self, now: Duration) -> bool {
        now < self.resume_at
    }

    /// Time at which to plan again, if nothing changes before.
    pub fn next(&self, now: Duration) -> Duration {
        if self.is_paused(now) {
            return self.resume_at;
        }
        let next = self.ledger.as_ref().and_then(|ledger| ledger.next_change(now));
        next.unwrap_or(Duration::MAX).min(now + LOOK_AGAIN)
    }

    /// Whether the cluster has been at rest for a while: nothing to plan, every duty under a lease.
    fn at_rest(&mut self, now: Duration, wall_ms: u64, state: &State) -> bool {
        let Some(view) = self.view(now, wall_ms, state) else { return false };
        let since = now.saturating_sub(self.timing.new_leader_wait());
        let leased = |duty: &Duty| view.leases.get(duty).is_some_and(|fact| fact.held && !fact.frozen);
        self.ledger.as_ref().is_some_and(|ledger| ledger.is_settled(since))
            && state.known_duties().all(|duty| leased(&duty))
            && plan(&view, &self.policy).is_empty()
    }

    /// Whether voters may be added or removed now (rule R7).
    pub fn may_change_voters(&self, now: Duration, state: &State) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.may_change_voters(now, state))
    }

    /// Whether this member leads, and that member is live.
    pub fn is_live(&self, now: Duration, name: &NodeName) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.is_live(now, name))
    }

    /// Whether this store's node has reported that another node has all its data.
    pub fn has_handed_over(&self, raft_id: u64) -> bool {
        self.reports.has_handed_over(raft_id)
    }

    /// The timing profile of the cluster.
    pub(crate) fn timing(&self) -> &Timing {
        &self.timing
    }

    /// An order with the ledger's facts about the member that it names; none while this member does not lead.
    pub(crate) fn informed(&self, now: Duration, wall_ms: u64, state: &State, order: Order) -> Option<Order> {
        self.ledger.as_ref().map(|ledger| ledger.with_facts(now, wall_ms, state, order))
    }

    /// Call counts of the incarnations in the leader's last grant, without those that this node has inherited.
    pub fn call_counts(&self) -> &CallCounts {
        &self.call_counts
    }

    /// Whether this incarnation had calls in its last report, as far as known to this member.
    pub fn had_calls(&self, node: &NodeName, incarnation: Incarnation) -> bool {
        let in_ledger = || self.ledger.as_ref().is_some_and(|ledger| ledger.had_calls(node, incarnation));
        self.call_counts.had_calls(node, incarnation) || in_ledger()
    }

    /// Starts or ends the ledger with Raft's leadership.
    fn follow_raft(
        &mut self,
        now: Duration,
        facts: RaftFacts,
        state: &State,
        (exits, contacts): (&Exits, &Contacts),
    ) -> Option<LeaderAction> {
        if self.has_passed_a_pair(state) {
            self.forget_own_earlier_calls();
        }
        let RaftFacts { term, leads, has_quorum, applied_term } = facts;
        if leads && self.term() == Some(term) {
            return None;
        }
        self.ledger = None;
        self.one_by_one = false;
        // Only with an entry of its own term applied does a leader know every earlier move.
        if !(leads && has_quorum && applied_term == term) {
            return None;
        }
        // The present time is later than the first quorum answer, which is the safe side.
        let mut ledger = Ledger::new(term, now, state, self.timing, exits);
        ledger.adopt_call_counts(&self.call_counts);
        let agreed = state.members.iter().filter_map(|(name, member)| Some((name, member.incarnation?)));
        let held = state.duties.values().map(|duty| (&duty.epoch.node, duty.incarnation));
        for (node, incarnation) in agreed.chain(held) {
            if let Some(at) = contacts.last_with(node, incarnation) {
                ledger.note_earlier_contact(node, incarnation, at);
            }
        }
        self.ledger = Some(ledger);
        self.reports = MemberReports::default();
        Some(LeaderAction::Begin { term })
    }

    /// Whether the members are a pair, or may have been one since the last look: entries that are applied together show
    /// no state between them. From one group of more than two to another, or from a single node, a pair is at least two
    /// changes away, and a Raft id that was removed never returns.
    fn has_passed_a_pair(&mut self, state: &State) -> bool {
        let members: BTreeSet<u64> = state.members.values().map(|member| member.raft_id).collect();
        let changes = self.members.as_ref().map_or(0, |known| known.symmetric_difference(&members).count());
        self.members = Some(members);
        state.is_bare_pair() || changes > 1
    }

    /// In a pair the other node may have inherited the calls of earlier incarnations of this one by proof alone, without
    /// telling anyone. No other node may get them from this member, even if the pair has grown since (rule C4).
    fn forget_own_earlier_calls(&mut self) {
        self.call_counts.forget_earlier(&self.node, self.incarnation);
        if let Some(ledger) = self.ledger.as_mut() {
            ledger.forget_earlier(&self.node, self.incarnation);
        }
    }

    /// The next command by the present knowledge: one log entry. No more than one, because during its commit a holder
    /// may get a grant for a duty that the rest of the plan assumed to be free.
    fn plan(&mut self, now: Duration, view: &View) -> Option<LeaderAction> {
        if self.proposed.is_some() || self.is_paused(now) {
            return None;
        }
        let ledger = self.ledger.as_mut()?;
        let is_set_aside = |command: &Command| self.set_aside.contains(&command.timeless());
        let next = proposal(plan(view, &self.policy), &view.state, self.one_by_one, is_set_aside);
        let Some(command) = next else {
            self.one_by_one = false;
            return None;
        };
        // From here on the ledger extends no lease of a duty that this command moves, whatever its outcome (R3).
        ledger.proposing(&command);
        self.proposed = Some(command.clone());
        Some(LeaderAction::Propose(command))
    }

    fn take_outcome(&mut self, now: Duration, outcome: ProposalOutcome) {
        let Some(command) = self.proposed.take() else { return };
        if let (ProposalOutcome::Applied(_), Some(ledger)) = (&outcome, self.ledger.as_mut()) {
            ledger.applied(&command);
        }
        let pause = now + self.timing.keep_alive;
        match outcome {
            ProposalOutcome::Applied(CommandOutcome::Done) => {}
            // In a batch, a part that can never be applied must not block the others.
            ProposalOutcome::Applied(_) => (self.one_by_one, self.resume_at) = (true, pause),
            ProposalOutcome::SetAside => {
                if self.set_aside.len() >= MAX_SET_ASIDE {
                    self.set_aside.remove(0);
                }
                self.set_aside.push(command.timeless());
                self.one_by_one = true;
            }
            ProposalOutcome::Unknown => self.resume_at = pause,
        }
    }

    fn start_planner(&mut self, now: Duration, successor: Option<u64>) -> Option<LeaderAction> {
        // The planner that awaited an outcome has ended.
        (self.proposed, self.resume_at) = (None, now);
        let has_panicked = std::mem::replace(&mut self.planner_started, true);
        let lately = self.resigned_at.is_some_and(|at| now.saturating_sub(at) < RESIGN_AGAIN);
        let successor = successor.filter(|_| has_panicked && !lately)?;
        self.resigned_at = Some(now);
        Some(LeaderAction::Resign(successor))
    }

    fn transfer(&mut self, now: Duration, wall_ms: u64, state: &State, group: &RaftGroup) -> Option<LeaderAction> {
        let lately = self.transferred_at.is_some_and(|at| now.saturating_sub(at) <= TRANSFER_AGAIN);
        // Only while there is nothing to move: every new leader has to wait before it moves anything.
        if lately || group.joint || !self.at_rest(now, wall_ms, state) {
            return None;
        }
        let is_live = |name: &NodeName| self.is_live(now, name);
        let better = self.reports.better_leader(state, &self.node, group, is_live)?;
        self.transferred_at = Some(now);
        Some(LeaderAction::Transfer(better))
    }
}
