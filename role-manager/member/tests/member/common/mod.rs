//! Common setup of several tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twinbox_ids::{Epoch, Incarnation, NodeName};
use twinbox_roles_core::{
    CallCounts, Command, Duty, Grant, MemberKind, OnQuorumLoss, Order, OrderId, SUPPORTED_LEVELS, Setting, State,
    Status, Timing, Voters,
};

/// Start of each test, by the local clock.
pub const START: Duration = Duration::from_secs(50);
pub const DUTY: Duty = Duty::Notifier;

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Nodes `a` and `b` in service in their first incarnations; `a` has the duty.
pub fn pair() -> State {
    let mut state = State { feature_level: SUPPORTED_LEVELS.max, ..State::default() };
    for (text, raft_id) in [("a", 1), ("b", 2)] {
        state.apply(Command::Admit { name: name(text), kind: MemberKind::Node, address: String::new(), raft_id });
        state.apply(Command::SetStatus {
            name: name(text),
            revision: 1,
            status: Status::InService,
            incarnation: Some(Incarnation(1)),
            reason: String::new(),
            cause: Default::default(),
        });
    }
    state.apply(Command::SetPublisher { from: None, to: name("a"), reason: Default::default() });
    state.apply(Command::Assign {
        duty: DUTY,
        from: None,
        to: name("a"),
        incarnation: Incarnation(1),
        reason: Default::default(),
    });
    state
}

/// The same pair, of which a node goes solo when it loses the other.
pub fn assuming() -> State {
    let mut state = pair();
    let order = Order::Set(vec![Setting::OnQuorumLoss(OnQuorumLoss::Assume)]);
    state.apply(Command::Operate { id: OrderId(1), order });
    state
}

/// The voters of the pair.
pub fn voters() -> Voters {
    Voters { raft_ids: [1, 2].into(), applied: true }
}

/// The epoch in which `a` has the duty.
pub fn epoch(state: &State) -> Epoch {
    state.holder(DUTY).expect("assigned").epoch.clone()
}

/// A grant of the leader `b`.
pub fn grant(state: &State) -> Box<Grant> {
    Box::new(Grant {
        term: 1,
        lease: Timing::lan().lease,
        duties: [(DUTY, epoch(state))].into(),
        running: BTreeSet::new(),
        failed: BTreeMap::new(),
        cuts: BTreeSet::new(),
        call_counts: CallCounts::default(),
        at: START,
    })
}
