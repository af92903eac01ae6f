//! The role manager's rules without its machinery: who is in service, who is publisher, who holds which duty,
//! and how long anybody may believe so.
//!
//! * [`State`] is what the majority has agreed on; [`State::apply`] is the replicated state machine.
//! * [`plan`] decides what is to change, from a [`View`] of what is agreed and what the leader knows; its policy is the
//!   table [`RULES`].
//! * [`Holder`] and [`Ledger`] are the two sides of a lease; [`Timing`] holds every duration and formula.
//! * [`Inheritance`] names the heir of the calls of a life that is over.
//! * [`Solo`] decides whether one of a pair goes on alone, [`doors`] whether a passive node answers; [`Survivor`] is one that
//!   goes on without a majority that is gone for good.
//! * [`RolesView`] is what people see.
//!
//! No clock, no IO, no Raft library: time is handed in, and everything can be tested by table and simulation.

mod cause;
mod certificates;
mod command;
mod confirmations;
mod doors;
mod exits;
mod gap;
mod heirs;
mod holder;
mod leadership;
mod leasing;
mod ledger;
mod membership;
mod operate;
mod orders;
mod plan;
mod policy;
mod refusal;
mod report;
mod settings;
mod soft;
mod solo;
mod state;
mod survivor;
mod timing;
mod tokens;
mod view;
mod words;

pub use cause::{CALL_CAUSE_LEVEL, Cause, Move, Trigger, What, Why};
pub use certificates::{
    CertificateOrder, CertificateRefusal, Certificates, Fingerprint, Operator, Rotation, Step, step_after,
};
pub use command::{BATCH_LEVEL, Command, Outcome};
pub use confirmations::{Confirmations, VoterSets};
pub use doors::{Doors, doors};
pub use exits::{Exits, least_needed};
pub use gap::LongestGap;
pub use heirs::{CALLS_FIRST_LEVEL, Ended, HEIRS_LEVEL, Inheritance, Lives, by_proof};
pub use holder::{Echo, Grant, Holder, KeepAlive, NoGrant};
pub use leadership::{Voter, better_leader};
pub use leasing::{Leasing, Pace};
pub use ledger::Ledger;
pub use membership::Voters;
pub use orders::{Facts, Order, OrderId};
pub use plan::{LeaseFact, Presence, Seen, View, plan, proposal};
pub use policy::{Act, Policy, RULES, Rule, Sign, policy_table, rule_for};
pub use refusal::Refusal;
pub use report::{FAR_BEHIND, Learned, Measures, Report, SPEAKS, SoloReport, Speaks};
pub use settings::{AlarmRule, Failback, Mode, OnQuorumLoss, Setting, SettingError, Settings};
pub use solo::{Alone, Solo, SoloRecord, SoloVerdict};
pub use state::{Assignment, Member, Split, State};
pub use survivor::{Beginning, Departure, Survivor};
pub use timing::{Bound, Timing};
pub use tokens::{Invited, Token, TokenHash, Used};
pub use view::{DutyState, DutyView, Known, MemberView, RolesView};
pub use words::{Duty, HealthReport, MemberKind, ServiceHealth, Status};
