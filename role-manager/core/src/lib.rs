//! The role manager's rules without IO: members in service, the publisher, the holders of duties, and the time for
//! which a node may rely on each.
//!
//! * [`State`] is the agreed state; [`State::apply`] is the replicated state machine.
//! * [`plan`] decides the changes, from a [`View`] of the agreed state and the leader's knowledge; its policy is the
//!   table [`RULES`].
//! * [`Holder`] and [`Ledger`] are the two sides of a lease; [`Timing`] holds every duration and formula.
//! * [`Inheritance`] names the heir of the calls of an ended incarnation.
//! * [`Solo`] decides whether a node of a pair goes solo, [`doors`] whether a passive node answers; [`Survivor`] is a
//!   node that goes on alone without a majority that is permanently lost.
//! * [`RolesView`] is the view for people.
//!
//! No clock, no IO, no Raft library: time is a parameter, so everything can be tested by table and simulation.

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
