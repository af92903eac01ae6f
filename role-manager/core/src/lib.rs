//! The role manager's rules without IO: members in service, the publisher, the holders of duties, and the time for
//! which a node may rely on each.
//!
//! * [`State`] is the agreed state; [`State::apply`] is the replicated state machine.
//! * [`plan`] decides the changes, from a [`View`] of the agreed state and the leader's knowledge; its policy is the
//!   table [`RULES`].
//! * [`Holder`] and [`Ledger`] are the two sides of a lease; [`Timing`] holds every duration and formula.
//! * [`CallHeir`] names the heir of the calls of an ended incarnation.
//! * [`Solo`] decides whether a node of a pair goes solo.
//! * [`State::as_new_group`] is the state of a node that goes on alone after the permanent loss of the majority.
//! * [`RolesView`] is the view for people.
//!
//! No clock, no IO, no Raft library: time is a parameter, so everything can be tested by table and simulation.

mod cause;
mod certificates;
mod command;
mod confirmations;
mod exits;
mod heirs;
mod holder;
mod leasing;
mod ledger;
mod membership;
mod operate;
mod orders;
mod pair;
mod plan;
mod policy;
mod refusal;
mod report;
mod settings;
mod soft;
mod state;
mod timing;
mod tokens;
mod types;
mod view;

pub use cause::{CALL_CAUSE_LEVEL, Cause, Move, MoveObject, MoveReason, Trigger};
pub use certificates::{
    CertificateOrder, CertificateRefusal, Certificates, Fingerprint, Operator, Rotation, RotationStep, step_after,
};
pub use command::{BATCH_LEVEL, Command, CommandOutcome};
pub use confirmations::{Confirmations, VoterSets};
pub use exits::{Exits, least_needed};
pub use heirs::{CALLS_FIRST_LEVEL, CallCounts, CallHeir, EndedIncarnation, HEIRS_LEVEL, heirs_by_proof};
pub use holder::{Echo, Grant, Holder, KeepAlive, NoGrant};
pub use leasing::{LeaseTiming, Leasing};
pub use ledger::Ledger;
pub use membership::{NEVER_JOINED_LEVEL, Voters};
pub use orders::{Facts, Order, OrderId};
pub use pair::{Departure, GoOnAloneFacts, NewGroup, Solo, SoloInputs, SoloRecord, SoloVerdict};
pub use plan::{LeaseFact, MemberObservation, Presence, View, plan, proposal};
pub use policy::{MoveCondition, PlannerPolicy, RULES, RoleAction, Rule, Sign, rule_for};
pub use refusal::Refusal;
pub use report::{FAR_BEHIND, FeatureLevels, Measures, PersistedBounds, Report, SUPPORTED_LEVELS, SoloReport};
pub use settings::{AlarmRule, Failback, Mode, OnQuorumLoss, RoleSettings, Setting, SettingError};
pub use state::{Assignment, Member, Split, State};
pub use timing::{Bound, Timing};
pub use tokens::{Invited, Token, TokenHash, Used};
pub use types::{Duty, HealthReport, MemberKind, ServiceHealth, Status};
pub use view::{DutyState, DutyView, LocalFacts, MemberView, RolesView};
