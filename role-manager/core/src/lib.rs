//! The role manager's rules without its machinery: who is in service, who is publisher, who holds which duty,
//! and how long anybody may believe so.
//!
//! * [`State`] is what the majority has agreed on; [`State::apply`] is the replicated state machine.
//! * [`plan`] decides what is to change, from a [`View`] of what is agreed and what the leader knows.
//! * [`Holder`] and [`Ledger`] are the two sides of a lease; [`Timing`] holds every duration and formula.
//! * [`RolesView`] is what people see.
//!
//! No clock, no IO, no Raft library: time is handed in, and everything can be tested by table and simulation.

mod lease;
mod plan;
mod state;
mod timing;
mod tokens;
mod view;
mod words;

pub use lease::{Grant, Holder, KeepAlive, Ledger, NoGrant};
pub use plan::{LeaseFact, Policy, Presence, Seen, View, plan};
pub use state::{Assignment, Command, Member, Order, OrderId, Outcome, Refusal, State};
pub use timing::{Bound, Timing};
pub use tokens::{Invited, Token, TokenHash, Used};
pub use view::{DutyState, DutyView, Known, MemberView, RolesView};
pub use words::{Duty, HealthReport, MemberKind, ServiceHealth, Status};
